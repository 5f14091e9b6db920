"""The errors of the daemon and its commands, and who acts on them.

UsageError      the command line asks for something impossible: exit 64
ConfigError     a configuration file is wrong: exit 78
AlreadyRunning  another daemon holds the state directory: exit 75
StartFailed     the daemon cannot start: exit with the code of its cause
Hung            a call into a codec or a driver does not return: exit 70
JobRefused      a job can only fail: exit with the code that `upframe run` has
WorkersLost     the processes that make a film died: exit 70
Stopped         a signal ended the work: exit 128 + its number
UnknownJob      there is no job of that id: reported to the client
Conflict        the id belongs to other work: the client must choose another
IllegalChange   the job's state does not allow it, such as cancelling a done job: reported
StoreBroken     the file is no store, or a newer version's: the daemon does not start
DaemonAbsent    no daemon listens on the control socket: the user must start it
BrokerAbsent    no MQTT broker answers at the configured address: exit 69
"""

from __future__ import annotations


class UsageError(Exception):
    """The command line is wrong; nothing was started."""


class ConfigError(Exception):
    """A configuration file has wrong keys or values: a line for each."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class AlreadyRunning(Exception):
    """Another daemon uses the state directory."""


class StartFailed(Exception):
    """The daemon cannot start."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class Hung(Exception):
    """A call into a codec or a driver does not return; only the end of the process ends it."""


class JobRefused(StartFailed):
    """A job was not accepted, since it can only fail."""


class Stopped(Exception):
    """A signal stopped the work."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.signal_number = signal_number


class WorkersLost(Exception):
    """The processes that make a film died over it, or cannot be started."""


class UnknownJob(Exception):
    """There is no job of that id."""


class Conflict(Exception):
    """Another job has that id already, with other content."""


class IllegalChange(Exception):
    """The state of a job does not allow the change, such as cancelling what is done."""


class StoreBroken(Exception):
    """The store cannot be used: damaged, locked, full, or written by a newer version."""


class DaemonAbsent(Exception):
    """No daemon answers where one was expected."""


class BrokerAbsent(Exception):
    """No MQTT broker answers where the configuration names one."""
