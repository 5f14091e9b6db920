"""Live streams: one connection in, one encoder, one publication; clocks and rules as plain values.

Nothing here waits for the next attempt or decides when to make one: that is the daemon's.
"""
