"""`upframe completion`: scripts with which bash, zsh and fish ask `upframe` what may be typed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable

from argcomplete import autocomplete
from argcomplete.completers import BaseCompleter, FilesCompleter
from argcomplete.shell_integration import shellcode

from ..parser import make_parser

_FILES = ("FILE", "FOLDER", "PATH")
"""Metavars of values that are names of files."""


def command(arguments: argparse.Namespace) -> int:
    """Print the script for a shell, and return the exit code."""
    sys.stdout.write(shellcode(["upframe"], shell=arguments.shell))
    return 0


def offer() -> None:
    """Answer a shell, whose line is in the environment, with the words that may follow; exit."""
    parser = make_parser(os.environ["COMP_LINE"].split())
    autocomplete(parser, always_complete_options=False, default_completer=_Values())


class _Values(BaseCompleter):
    """Offers what an argument without choices may be: what its help lists, or files."""

    def __call__(self, *, prefix: str, action: argparse.Action, **_: object) -> Iterable[str]:
        metavar = str(action.metavar)
        if metavar.startswith("{"):
            return metavar.strip("{}").split(",")
        is_file = metavar in _FILES or (not action.option_strings and metavar != "ID")
        return FilesCompleter()(prefix) if is_file else ()
