"""Encoding: what codecs and containers can hold, the encoder, and packets with their times."""
