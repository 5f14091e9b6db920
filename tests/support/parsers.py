"""What the parsers of the command line hold."""

from __future__ import annotations

import argparse
from typing import cast

from upframe.daemon.parser import Parser


def subcommands(parser: Parser) -> dict[str, Parser]:
    """The parsers below one, by name."""
    found: dict[str, Parser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= cast("dict[str, Parser]", action.choices)
    return found


def shown(parser: Parser) -> list[argparse.Action]:
    """The options and arguments that the help shows, without that which is a subcommand."""
    return [
        action
        for action in parser._actions
        if action.help is not argparse.SUPPRESS and action.nargs != argparse.PARSER
    ]
