"""What can go wrong around filters and media, and who acts on it.

UsageError                  the command line asks for something that cannot be: exit 64
ConfigError                 a configuration file is wrong: exit 78
AlreadyRunning              another daemon has the state directory: exit 75
StartFailed                 the daemon cannot begin its work: exits with what a worker said
Stopped                     a signal ended the work: exit 128 + its number
"""

from __future__ import annotations


class UsageError(Exception):
    """What was asked for makes no sense, and nothing was begun."""


class ConfigError(Exception):
    """A configuration file has wrong keys or values: a line for each."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class AlreadyRunning(Exception):
    """Another daemon has the state directory."""


class StartFailed(Exception):
    """The daemon could not begin its work."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class Stopped(Exception):
    """A signal asked us to stop, and we did."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.signal_number = signal_number
