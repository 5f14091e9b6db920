"""Real-ESRGAN enlarging: SRVGGNetCompact and RRDBNet."""
