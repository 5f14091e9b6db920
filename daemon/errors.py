"""The errors of the daemon and its commands: of each, who acts on it or with which code it ends."""

from __future__ import annotations


class UsageError(Exception):
    """The command line asks for something impossible; nothing was started: exit 64."""


class ConfigError(Exception):
    """A configuration file has wrong keys or values, a line for each: exit 78."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class AlreadyRunning(Exception):
    """Another daemon holds the state directory: exit 75."""


class StartFailed(Exception):
    """The daemon cannot start: exit with the code of its cause."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class Hung(Exception):
    """A call into a codec or a driver does not return; only the process's end ends it: exit 70."""


class JobRefused(StartFailed):
    """A job was not accepted, since it can only fail: exit with the code of `upframe run`."""


class Stopped(Exception):
    """A signal stopped the work: exit 128 + its number."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.signal_number = signal_number


class WorkersLost(Exception):
    """The processes that make a film died over it, or cannot be started: exit 70."""


class ClusterAbsent(Exception):
    """No cluster answers, it is open to everybody, or none of its machines can work: exit 69."""


class UnknownJob(Exception):
    """There is no job of that id: reported to the client."""


class Conflict(Exception):
    """Another job has that id, with other content: the client must choose another id."""


class IllegalChange(Exception):
    """The state of a job forbids the change, as to cancel what is done: reported to the client."""


class StoreBroken(Exception):
    """The store is damaged, locked, full, or a newer version's: the daemon does not start."""


class DaemonAbsent(Exception):
    """No daemon answers where one was expected: the user must start it."""


class BrokerAbsent(Exception):
    """No MQTT broker answers where the configuration names one: exit 69."""
