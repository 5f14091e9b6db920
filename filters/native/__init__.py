"""Steps of the filters in C, for CPUs, where the installation could compile them."""
