"""What can go wrong with a job's record, and who acts on it.

UnknownJob          no job of that id: the asker is told so
Conflict            the id is taken by other work: the asker must choose another
IllegalChange       the state does not allow it, such as cancelling what is done: the asker is told
StoreBroken         the file is no store, or of a newer upframe: the daemon does not start
DaemonAbsent        nobody listens on the control socket: the asker must start the daemon
"""

from __future__ import annotations


class UnknownJob(Exception):
    """There is no job of that id."""


class Conflict(Exception):
    """Another job has that id already, with other content."""


class IllegalChange(Exception):
    """The table of changes does not have it."""


class StoreBroken(Exception):
    """The store cannot be used: damaged, locked, full, or written by a newer version."""


class DaemonAbsent(Exception):
    """No daemon answers where one was expected."""
