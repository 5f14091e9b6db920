"""What is done another way on a CUDA card: kernels, graphs, copies beside the computing."""
