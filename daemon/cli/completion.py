"""`upframe completion`: scripts for bash, zsh and fish, made of the parsers of all commands.

A script holds every command, option and choice, so that nothing is started while a user types.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from ..parser import Parser, first_sentence, make_parser

_FILES = ("FILE", "PATH", "INPUT")
"""Metavars of values that are names of files."""


@dataclass(frozen=True, slots=True)
class Word:
    """An option, or a word that is chosen: a subcommand, or the value of an argument."""

    names: tuple[str, ...]
    text: str = ""
    takes: str = ""
    """What follows an option: nothing, `file`, `value`, or choices with spaces in between."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What may be typed after a command."""

    command: tuple[str, ...]
    """``()`` at the beginning, ``("run",)``, ``("jobs", "list")``."""
    options: tuple[Word, ...]
    choices: tuple[Word, ...]
    takes_files: bool


def command(arguments: argparse.Namespace) -> int:
    """Print the script for a shell, and return the exit code."""
    sys.stdout.write(_SCRIPTS[arguments.shell](list(offers(make_parser()))))
    return 0


def offers(parser: Parser, words: tuple[str, ...] = ()) -> Iterator[Offer]:
    """Yield what is offered after a command, and after those below it."""
    options = (
        Word(tuple(a.option_strings), first_sentence(a.help or "").replace("%%", "%"), _taken(a))
        for a in parser.options()
    )
    below, arguments = parser.subcommands(), parser.arguments()
    choices = [
        Word((name,), first_sentence(each.description or "")) for name, each in below.items()
    ]
    choices += [Word((str(one),)) for each in arguments for one in each.choices or ()]
    files = any(not each.choices and each.metavar != "ID" for each in arguments)
    yield Offer(words, tuple(options), tuple(choices), files)
    for name, each in below.items():
        yield from offers(each, (*words, name))


def _taken(action: argparse.Action) -> str:
    metavar = str(action.metavar)
    if action.nargs == 0:
        return ""
    if metavar.startswith("{"):
        return metavar.strip("{}").replace(",", " ")
    if action.choices:
        return " ".join(map(str, action.choices))
    return "file" if metavar in _FILES else "value"


def _names(words: Iterable[Word]) -> str:
    return " ".join(name for word in words for name in word.names)


_BASH = """\
_upframe() {
  local current="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" at="" word words=""
  COMPREPLY=()
  if [[ $current == "=" ]]; then
    current=""
  elif [[ $before == "=" ]]; then
    before="${COMP_WORDS[COMP_CWORD-2]}"
  fi
  for word in "${COMP_WORDS[@]:1:$((COMP_CWORD - 1))}"; do
    case "$at $word" in
      @COMMANDS@) at="${at:+$at }$word" ;;
    esac
  done
  case "$at:$before" in
@VALUES@
    *) case "$at:${current:0:1}" in
@PLACES@
    esac ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -o bashdefault -o default -F _upframe upframe
"""
"""Where it finds no word, the shell completes the names of files."""


def bash(known: list[Offer]) -> str:
    """Write the script for bash."""
    commands: list[str] = []
    values: list[str] = []
    starts: list[str] = []
    for offer in known:
        at, options = " ".join(offer.command), _names(offer.options)
        if at:
            commands.append(f'"{" ".join(offer.command[:-1])} {offer.command[-1]}"')
        for option in offer.options:
            if option.takes:
                words = "" if option.takes in ("file", "value") else option.takes
                names = "|".join(f'"{at}:{name}"' for name in option.names)
                values.append(f'    {names}) words="{words}" ;;')
        words = _names(offer.choices) or ("" if offer.takes_files else options)
        starts.append(f'      "{at}:-") words="{options}" ;;\n      "{at}:"*) words="{words}" ;;')
    script = _BASH.replace("@COMMANDS@", "|".join(commands))
    return script.replace("@VALUES@", "\n".join(values)).replace("@PLACES@", "\n".join(starts))


def zsh(known: list[Offer]) -> str:
    """Write the script for zsh, which is that for bash."""
    return "autoload -Uz bashcompinit && bashcompinit\n" + bash(known)


def fish(known: list[Offer]) -> str:
    """Write the script for fish: a line for each command and option, with its help."""
    lines: list[str] = []
    for offer in known:
        seen = [f"__fish_seen_subcommand_from {word}" for word in offer.command]
        if offer.choices:
            seen.append(f"not __fish_seen_subcommand_from {_names(offer.choices)}")
        start = f"complete -c upframe -n {shlex.quote('; and '.join(seen))}"
        lines.append(f"{start} {'-F' if offer.takes_files else '-f'}")
        lines += [f"{start} -a {one.names[0]} -d {shlex.quote(one.text)}" for one in offer.choices]
        lines += [f"{start} {_fish_option(option)}" for option in offer.options]
    return "\n".join(lines) + "\n"


def _fish_option(option: Word) -> str:
    flags = [f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in option.names]
    takes = {"": "", "file": " -r -F", "value": " -x"}.get(option.takes, f" -x -a '{option.takes}'")
    return f"{' '.join(flags)}{takes} -d {shlex.quote(option.text)}"


_SCRIPTS: Mapping[str, Callable[[list[Offer]], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
