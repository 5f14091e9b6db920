"""The parser of the command line: errors with what was probably meant, help short and whole.

It loads no command, so that help and errors come at once.
"""

from __future__ import annotations

import argparse
import copy
import difflib
import importlib
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, NoReturn

from .errors import UsageError

_PIPE = (
    "ffmpeg -i in.mkv{} -f yuv4mpegpipe -strict -1 - | upframe pipe --interpolate 1 "
    "| ffmpeg -i - -i in.mkv -map 0:v -map '1:a?' -c:a copy out.mkv"
)
PIPE_EXAMPLE = _PIPE.format("")
"""A film through `upframe pipe`, with its sound."""
_INPUT = "the input is the first argument and the output the second: upframe run in.mkv out.mkv"
_CUT = "ffmpeg cuts a part out before: ffmpeg -ss 60 -i film.mkv -t 10 -c copy part.mkv"
_FILTER = f"ffmpeg's filters run in a pipe: {_PIPE.format(' -vf crop=640:360')}"
_KEPT = "sound, subtitles and all other streams are kept without an option"
_RATE = "--interpolate EXP doubles the frame rate EXP times; --framerate is for image sequences"
_NOISE = "--progress none shows less, and `upframe --debug run …` shows everything"
_OF_FFMPEG: Mapping[str, str] = {
    "-i": _INPUT, "-o": _INPUT, "--input": _INPUT, "--output": _INPUT,
    "-y": "--overwrite replaces an existing output",
    "-n": "an existing output is kept, unless --overwrite is given",
    "-ss": _CUT, "-t": _CUT, "-to": _CUT,
    "-vf": _FILTER, "-filter:v": _FILTER, "-filter_complex": _FILTER, "-lavfi": _FILTER,
    "-c:v": "did you mean --codec?", "-vcodec": "did you mean --codec?",
    "-c": "did you mean --codec? " + _KEPT, "-f": "did you mean --container?",
    "-map": _KEPT, "-c:a": _KEPT, "-acodec": _KEPT, "-c:s": _KEPT, "-an": _KEPT, "-sn": _KEPT,
    "-r": _RATE, "--fps": _RATE, "-v": _NOISE, "-loglevel": _NOISE, "-hide_banner": _NOISE,
    "--debug": "it stands before the command: upframe --debug run …",
}  # fmt: skip
"""What replaces the options that users of ffmpeg are used to."""

_DASHES = "-\u2013\u2014\u2212"  # a text processor makes one long dash of two short ones


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors end with our exit code for usage, not argparse's 2."""

    def __init__(self, **options: Any) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(add_help=False, formatter_class=formatter, **options)
        text = "Show this help and exit."
        self.add_argument("-h", "--help", action="help", default=argparse.SUPPRESS, help=text)
        self._often: tuple[str, ...] = ()

    def show_often(self, *names: str) -> None:
        """Let `--help` show only the options that fill these fields, and add `--help-all`."""
        self._often = (*names, "help_all")
        text = "Show all options and exit."
        self.add_argument("--help-all", action=_WholeHelp, nargs=0, help=text)

    def error(self, message: str) -> NoReturn:
        """Raise instead of exiting, so that one place decides what is printed."""
        raise UsageError(f"{message} (see '{self.prog} --help')")

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]: the overloads
        self, args: Any = None, namespace: Any = None
    ) -> Any:
        """Parse, and refuse here what is not known: the error names the help of this command."""
        words: list[str] = list(sys.argv[1:] if args is None else args)
        if (word := self._unknown_option(words)) is not None:
            self.error(f"there is no option {word.partition('=')[0]}{self._meant(word)}")
        parsed, left = super().parse_known_args(words, namespace)
        if left:
            meant = self._meant(left[0]) if left[0][:1] in _DASHES else ""
            self.error(f"unrecognized arguments: {' '.join(left)}{meant}")
        return parsed, left

    def format_help(self) -> str:
        """Return the help, of the options that are used most if `show_often` was called."""
        if not self._often:
            return super().format_help()
        brief = Parser(prog=self.prog, usage=self.usage, epilog=self.epilog)
        brief.description = self.description
        often = (each for name in self._often for each in self._actions if each.dest == name)
        for action in map(copy.copy, (*self._get_positional_actions(), *often)):
            text = " ".join((action.help or "").split())
            action.help = re.split(r"\.(?: |$)", text, maxsplit=1)[0] + "."  # its first sentence
            brief._add_action(action)
        return brief.format_help()

    def whole_help(self) -> str:
        """Return the help of all options."""
        return super().format_help()

    def _unknown_option(self, words: Sequence[str]) -> str | None:
        """Find a mistyped option before argparse takes its value for an argument."""
        endings = (argparse.PARSER, argparse.REMAINDER)
        stops = any(action.nargs in endings for action in self._get_positional_actions())
        for word in words:
            name, known = word.partition("=")[0], self._option_string_actions
            if word == "--" or (stops and not word.startswith("-")):
                return None
            is_value = not name.startswith("-") or " " in name or re.fullmatch(r"-[\d.]*", name)
            if is_value or name in known:
                continue
            if not (name.startswith("--") and any(flag.startswith(name) for flag in known)):
                return word
        return None

    def _meant(self, word: str) -> str:
        name = word.partition("=")[0]
        if name in _OF_FFMPEG:
            return f"; {_OF_FFMPEG[name]}"
        shown = (each for each in self._actions if each.help is not argparse.SUPPRESS)
        flags = [flag for action in shown for flag in action.option_strings]
        return near("--" + name.lstrip(_DASHES).replace("_", "-").lower(), flags)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += near(str(value), map(str, action.choices or ()))
            raise


class _WholeHelp(argparse.Action):
    """Prints the help of all options."""

    def __call__(self, parser: Any, *_: Any, **__: Any) -> NoReturn:
        sys.stdout.write(parser.whole_help())
        sys.exit(0)


def near(word: str, known: Iterable[str]) -> str:
    """Suggest the known words that a mistyped one resembles; an empty text if there is none."""
    found = difflib.get_close_matches(word, list(known), n=2)
    return f"; did you mean {' or '.join(found)}?" if found else ""


def no_command(words: Sequence[str], first: str, commands: Iterable[str]) -> str:
    """Explain a command line whose first word that is no option is none of the commands."""
    if first == "help":
        return "the help is shown by 'upframe --help' and 'upframe COMMAND --help'"
    if first == "-":
        return f"a stream is filtered by `upframe pipe`: {PIPE_EXAMPLE}"
    if not re.search(r"[./\\]", first):
        return f"there is no command {first!r}{near(first, commands)} (see 'upframe --help')"
    replaced = {"-i": None, "-y": "--overwrite"}
    line = [meant for word in words if (meant := replaced.get(word, word)) is not None]
    if not any(word.startswith(("--interp", "--upsc", "--enable")) for word in line):
        line += ["--interpolate", "1"]
    text = f"a command is missing; did you mean: upframe run {shlex.join(line)}"
    return f"{text} (see 'upframe run --help')"


COMMANDS: Mapping[str, str] = {
    "run": "Convert a file, an image, an image sequence or a live stream.",
    "resume": "Continue a run that was broken off.",
    "pipe": "Convert video from stdin to stdout: y4m, nut or matroska.",
    "probe": "Show what an input is, what would be done with it, and what that costs.",
    "verify": "Check a result: its frames, duration, streams, tags and sound offset.",
    "models": "List, fetch and check weights.",
    "serve": "Run the daemon: watched folders, live streams, MQTT and `upframe jobs`.",
    "jobs": "Submit, list, follow and cancel jobs of the daemon.",
    "cluster": "Look at the nodes of a Ray cluster.",
    "doctor": "Check this machine, and whether the main job runs on it.",
    "demo": "Draw a clip, and make it smoother and larger.",
    "bench": "Measure how fast the filters are on this machine.",
    "completion": "Print a script that completes commands and options in a shell.",
}
"""Each is a module with a function `command`; its arguments are in `cli.commands`."""

_EPILOG = """\
examples:
  upframe run film.mp4 smooth.mp4 --interpolate 1 --upscale 2
  upframe run still.png large.png --upscale 4
  ffmpeg -i in.mkv -f yuv4mpegpipe - | upframe pipe --interpolate 1 | ffmpeg -i - out.mkv
  upframe probe film.mp4 --interpolate 2 --upscale 2
  upframe serve --config /etc/upframe/upframe.toml

exit codes:
  0 done · 64 usage · 65 undecodable, truncated or empty input, wrong weights file
  66 input or job missing · 69 weights, device or daemon unavailable · 70 internal error
  73 output exists or cannot be created · 74 no space, I/O
  75 too large for memory or the limits, or another daemon has the state directory
  78 configuration · 130/143 stopped by a signal · 141 the reader of stdout closed early
"""


def make_parser(loaded: Iterable[str] = tuple(COMMANDS)) -> Parser:
    """Build the parser of all commands, with the arguments of those that are loaded.

    No command's module is imported for it, which would take seconds.
    """
    parser = Parser(
        prog="upframe",
        description="Makes video smoother (RIFE 4.22.lite) and larger (Real-ESRGAN), "
        "frame by frame and in flat memory.",
        epilog=_EPILOG,
    )
    text = "Show the version and exit."
    parser.add_argument(
        "--version", action="version", version=f"upframe {version('upframe')}", help=text
    )
    parser.add_argument("--debug", action="store_true", help="Log everything and show tracebacks.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        command = subparsers.add_parser(name, help=summary)
        if name in loaded:  # the models of the options take a tenth of a second
            importlib.import_module(".cli.commands", __package__).ARGUMENTS[name](command)
    return parser
