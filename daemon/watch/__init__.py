"""Watched folders: find files, wait until they are complete, submit jobs, dispose of inputs.

The most reliable way to add a file is to write it elsewhere on the same file system and to rename
it into the watched folder when it is complete. All other ways work too, with a delay.
"""
