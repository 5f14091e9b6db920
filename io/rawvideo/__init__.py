"""Byte streams of raw video: Y4M, NUT and Matroska, in whole frames."""
