"""Watched folders: what arrives, when it is whole, and what becomes of it afterwards.

The surest way to hand a file over is to write it elsewhere on the same file system and to rename
it into the watched folder when it is complete. Everything else works too, only later.
"""
