"""Raw video on byte streams: Y4M, NUT and Matroska, whole units in and whole units out."""
