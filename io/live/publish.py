"""The process that muxes a live output: `python -m upframe.io.live.publish --parent PID`.

Header and packets come on stdin, events go out on stdout (see :mod:`upframe.io.live.wire`). A
muxer can block without a timeout, and hold Python's lock while it does; here nobody else suffers,
and whoever started us can kill us. The end of stdin, or SIGTERM, means: complete, check, rename.
When the parent is killed, a publication ends with it at once, while a recording is completed first.
"""
