"""Steps of the filters in C, for CPUs, where the installation could compile them.

What is done another way on a CUDA card: kernels, graphs, copies beside the computing.
"""
