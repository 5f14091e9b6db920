"""Pictures to planar R'G'B' and back: the values, and a file for each backend."""
