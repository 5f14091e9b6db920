"""Kernels that the filters share: C for CPUs, Triton and CUDA graphs for cards."""
