"""The README's option tables, made from the parsers; run this file to bring them up to date."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any, cast

from upframe.daemon.__main__ import make_parser

README = Path(__file__).parents[2] / "README.md"
_TABLE = re.compile(r"(<!-- options of (\w+)(?: that (\w+) has not)? -->\n).*?(<!-- end -->)", re.S)


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser behind `upframe COMMAND`."""
    for action in make_parser([command])._actions:
        if isinstance(action, argparse._SubParsersAction):
            return cast("argparse.ArgumentParser", action.choices[command])
    raise AssertionError("upframe has no commands")


def options_of(command: str) -> dict[str, argparse.Action]:
    """Every option of a command by the way it is shown: ``--crf CRF``."""
    actions = [action for action in parser_of(command)._actions if action.option_strings]
    return {
        _spelling(action): action
        for action in actions
        if action.dest not in ("help", "help_all")
        and action.help != argparse.SUPPRESS  # it is refused
    }


def option_strings(parser: argparse.ArgumentParser) -> set[str]:
    """Every option of a parser and of the actions below it."""
    found: set[str] = set()
    for action in parser._actions:
        found.update(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            below = cast("dict[str, argparse.ArgumentParser]", action.choices)
            found.update(*(option_strings(each) for each in below.values()))
    return found


def with_tables(text: str) -> str:
    """The README with every table of options made anew."""

    def table(match: re.Match[str]) -> str:
        skip = set(options_of(match[3])) if match[3] else set[str]()
        return match[1] + options_table(match[2], skip) + match[4]

    return _TABLE.sub(table, text)


def options_table(command: str, skip: set[str]) -> str:
    rows = [
        f"| `{spelling}` | {_meaning(action)} |"
        for spelling, action in options_of(command).items()
        if spelling not in skip
    ]
    return "\n".join(["| option | meaning (default) |", "|---|---|", *rows]) + "\n"


def _spelling(action: argparse.Action) -> str:
    names = ", ".join(action.option_strings)
    if action.nargs == 0:
        return names
    choices = cast("tuple[Any, ...] | None", action.choices)
    value = action.metavar if choices is None else "{" + ",".join(map(str, choices)) + "}"
    return f"{names} {value}"


def _meaning(action: argparse.Action) -> str:
    text = (action.help or "").replace("%%", "%").replace("|", "\\|")
    return re.sub(r"\s+", " ", text)


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text()))
