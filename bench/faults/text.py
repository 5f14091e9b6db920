"""Foreign text of 64 KB through every place that shows any: logs, states, answers, terminals.

    python bench/faults/text.py [--strings 100] [--rounds 7]

Correct is: no place raises, whatever the text; each takes 50 ms at most; and 64 KB of the same cost
at most three times what 32 KB do. Of each time the shortest of some is taken, in turns.
"""

from __future__ import annotations

import io
import random
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from pathlib import Path

import paths  # noqa: F401  # finds what is imported next
from figures import Outcome, at_most, none_of, run_as_script, timed
from support.media.secrets import PLACES

from upframe.daemon.__main__ import _explain  # pyright: ignore[reportPrivateUsage]
from upframe.daemon.errors import ConfigError
from upframe.daemon.mqtt.requests import BadRequest, parse
from upframe.daemon.watch.scan import printable_path
from upframe.io.redaction import (
    excerpt,
    json_text,
    one_line,
    printable,
    redacted,
    redacted_target,
)

BYTES = 65536
MOST_SECONDS = 0.05
MOST_GROWTH = 3.0
_TIMED_SECONDS = 0.002
"""Below, a growth is one of the clock's."""
_RETRIES = 3

Place = Callable[[str], object]


def _error(text: str) -> None:
    with redirect_stderr(io.StringIO()):
        _explain(ConfigError(text, text), debug=False)


def _request(text: str) -> str:
    try:
        parse("submit", json_text({"schema": text[: len(text) // 8]}, None).encode())
    except BadRequest as refused:
        return refused.problem.message
    return ""


ALL: Mapping[str, Place] = {
    **{name: place for name, place in PLACES.items() if name != "error on the command line"},
    "error on the command line": _error,
    "MQTT refusal": _request,
    "watched name": lambda text: printable_path(text.encode("utf-8", "replace").decode()),
    "redacted": redacted,
    "redacted, published": lambda text: redacted(text, published=True),
    "redacted_target": redacted_target,
    "excerpt": excerpt,
    "printable": printable,
    "one_line": one_line,
    "json_text": json_text,
}

HOSTILE = (
    *(
        "a",
        "://",
        ":/",
        "a://",
        "a:a://",
        "@",
        "@ ",
        "u:@",
        "?",
        "?a",
        "&a=b",
        "=",
        "key",
        "key=",
        "pw=",
    ),
    *(
        "key=' ",
        'key="',
        "%40",
        "%5b",
        "key%5b",
        " ",
        "\n",
        "\x1b",
        "\u202e",
        "\ud800",
        "é",
        "\U0001f600",
    ),
)
BEGINNINGS = ("", "x://?", "x://u:")
_MARKS = ("://", "@", ":", "?", "&", "=", "key=", "token", " ", "\n", "\x1b", "'", '"', "%40")


def measure(folder: Path, *, strings: int, rounds: int, seed: int) -> Outcome:
    chance = random.Random(seed)
    texts = [unicode_of(chance) for _ in range(strings)]
    texts += [_sized(BEGINNINGS[at % 3], mark, BYTES) for at, mark in enumerate(HOSTILE)]
    raised: list[str] = []
    slowest: dict[str, float] = {}
    for name, place in ALL.items():
        for text in texts:
            try:
                seconds = _seconds(place, text)
                for _ in range(_RETRIES if seconds > MOST_SECONDS else 0):
                    seconds = min(seconds, _seconds(place, text))
            except Exception as error:  # whatever it is, it is the finding
                raised.append(f"{name}: {type(error).__name__} over {text[:20]!r}")
                break
            slowest[name] = max(slowest.get(name, 0.0), seconds)
    growth = {name: growth_of(place, rounds) for name, place in ALL.items()}
    checks = [
        none_of("places that raise", raised),
        timed(
            at_most("slowest of all places", max(slowest.values()) * 1e3, MOST_SECONDS * 1e3, "ms")
        ),
        at_most(
            "64 KB by 32 KB, at most", max(g for g, _ in growth.values()), MOST_GROWTH, "times"
        ),
    ]
    details = {
        "strings": len(texts),
        "slowest, ms": {name: round(each * 1e3, 2) for name, each in slowest.items()},
        "growth": {name: [round(most, 2), over] for name, (most, over) in growth.items()},
    }
    return Outcome(checks, details)


def growth_of(place: Place, rounds: int) -> tuple[float, str]:
    """Tell by how much twice the text costs more, at most, and over which."""
    found = (0.0, "")
    for index, mark in enumerate(HOSTILE):
        for start in BEGINNINGS if place is redacted else BEGINNINGS[index % 3 :][:1]:
            half, whole = (_sized(start, mark, size) for size in (BYTES // 2, BYTES))
            times = [(_seconds(place, half), _seconds(place, whole)) for _ in range(2)]
            if min(long for _, long in times) > _TIMED_SECONDS:
                times += [
                    (_seconds(place, half), _seconds(place, whole)) for _ in range(rounds - 2)
                ]
                short, long = (min(column) for column in zip(*times, strict=True))
                found = max(found, (long / short, f"{start}{mark}"))
    return found


def unicode_of(chance: random.Random) -> str:
    """Make a string of any characters, lone surrogates and marks of URLs among them."""
    many = chance.random() * 0.5
    text = "".join(
        chance.choice(_MARKS) if chance.random() < many else chr(chance.randrange(0x110000))
        for _ in range(BYTES // 2)
    )
    return text.encode("utf-8", "surrogatepass")[:BYTES].decode("utf-8", "surrogateescape")


def _sized(start: str, mark: str, size: int) -> str:
    return (start + mark * size)[:size]


def _seconds(place: Place, text: str) -> float:
    began = time.thread_time()  # other work on the machine does not count
    place(text)
    return time.thread_time() - began


if __name__ == "__main__":
    run_as_script("text", __doc__, measure, {"strings": 5, "rounds": 3}, strings=100, rounds=7)
