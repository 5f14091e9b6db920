"""Decoding: from an input's bytes to frames of one format, none skipped, none invented."""
