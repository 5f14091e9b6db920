"""Media in and out: plain blocking iterators over pictures; no filter and no event loop.

`source`, `sink`, `images` and `pipes` are the two ends, `probe` and `verify` describe and check a
file. Beneath them: `decode` and `encode` for the video, `streams` for what is copied beside it,
`pictures` for pixels and tags, `rawvideo` for pipes, `live` for streams in real time.
"""
