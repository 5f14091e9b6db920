"""RIFE 4.22.lite frame interpolation."""
