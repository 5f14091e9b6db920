"""Secrets go, whatever the text looks like, and nothing else does; no text does harm."""

import ast
import json
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.media.secrets import PLACES, READABLE, SECRETS, TARGETS, TEXTS, job_with

from upframe.io import redaction
from upframe.io.redaction import (
    excerpt,
    json_text,
    one_line,
    printable,
    redacted,
    redacted_target,
    redacted_values,
)

_MARKS = st.sampled_from(
    ["://", ":/", "@", "@ ", " ",
     ":", "/", "?", "&", "=", "key", "token", "rtsp", "rtmp", "***", "'",
     '"', "%40", "%3a", "[", "]", "\n", ";", "#", "|", "\ud800", "mode=", "…"]
)  # fmt: skip
_ANY = st.text(st.characters()) | st.lists(_MARKS | st.text(st.characters())).map("".join)
"""All of Unicode, lone surrogates with it, and much of what URLs are made of."""


@pytest.mark.parametrize(("text", "wanted"), TEXTS)
def test_takes_the_secret_and_leaves_the_rest(text: str, wanted: str) -> None:
    assert redacted(text) == wanted
    assert not any(secret in wanted for secret in SECRETS)
    assert redacted(wanted) == wanted  # also what was redacted already


@pytest.mark.parametrize("text", READABLE)
def test_leaves_what_has_no_secret(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize(("target", "wanted"), TARGETS)
def test_of_a_target_all_behind_the_host_goes(target: str, wanted: str) -> None:
    assert redacted_target(target) == wanted
    assert redacted_target(wanted) == redacted(wanted) == wanted


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("text", [text for text, _ in TEXTS])
def test_no_place_shows_a_secret(place: str, text: str) -> None:
    told = PLACES[place](text)
    assert told
    assert not any(secret in told for secret in SECRETS)


@pytest.mark.parametrize("place", PLACES)
def test_what_is_shown_is_of_use(place: str) -> None:
    assert "rtsp://***@cam/1: refused" in PLACES[place]("rtsp://admin:geheim@cam/1: refused")


@given(_ANY)
@example("r2 ://")
@example("://x")
def test_never_raises_and_twice_is_once(text: str) -> None:
    once = redacted(text)
    assert redacted(once) == once
    assert redacted_target(redacted_target(text)) == redacted_target(text)
    one_line(text, 40).encode()
    json.loads(json_text({"text": text}))


@given(
    st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=3)
    # ":/" begins a URL as paths write it: after it a white space ends what may be a password
    .filter(lambda text: not (text.startswith("/") and any(map(str.isspace, text)))),
    st.sampled_from(["rtsp", "http", "srt", "x-y", ""]),
)
def test_no_password_is_seen_whatever_it_is_made_of(password: str, scheme: str) -> None:
    shown = redacted(f"{scheme}://user:{password}@camera.example/1")
    left = shown.replace("://", "").replace("***", "").replace("@camera.example/1", "")
    assert left in (scheme, f"{scheme}user:") or password not in shown


@given(st.text(st.characters(categories=["L", "N"]), min_size=8), st.integers(0, 300))
def test_no_cut_shows_a_part_of_a_secret(password: str, length: int) -> None:
    for before in ("", "a tag of a film, found at ", "x" * 190):
        for url in (f"rtsp://user:{password}@cam/1", f"rtsp://{password}@cam/1"):
            shown = excerpt(f"{before}{url} and so on", length).removeprefix(before)
            assert not re.search("user|" + re.escape(password[:4]), shown.removesuffix("…"))


@pytest.mark.parametrize("url", ["rtsp://u:{}@cam/1", "rtsp://{}@cam/1", "http://h/?a={}"])
def test_a_secret_that_is_longer_than_what_is_looked_at_is_hidden_whole(url: str) -> None:
    assert "geheim" not in excerpt("x " + url.format("geheim" * 2000), 200)


def test_little_is_done_for_a_long_text() -> None:
    assert excerpt("a" * 10**8) == "a" * 200 + "…"
    assert len(one_line("\x1b://" * 10**6, 200)) < 2000


def test_what_was_json_is_so_afterwards() -> None:
    urls = ["http://h/?password=geheim", "rtsp://u:geheim@h", "http://h/?a=1&token=geheim"]
    once = redacted(json.dumps(urls))
    assert json.loads(once) == json.loads(redacted(once)) == [redacted(url) for url in urls]


def test_redacts_every_string_of_a_document() -> None:
    document = {"a": ["rtsp://u:geheim@h", {"b": "http://u:geheim@h/", "n": 1}], "c": None}
    assert redacted_values(document) == {
        "a": ["rtsp://***@h", {"b": "http://***@h/", "n": 1}],
        "c": None,
    }


_HOSTILE = "a\x1b[31mb\r\nZ\x9bd\x7fe\u202ef\u2066g\u2028h\x00i\ufeffj[red]k"


_DATA = ("last lines of a worker", "stored job", "MQTT state of a job", "MQTT answer")
"""Read by programs, or shown by another of the places."""


@pytest.mark.parametrize("place", sorted(PLACES.keys() - set(_DATA)))
def test_nothing_that_moves_a_terminal_gets_out(place: str) -> None:
    told = PLACES[place](_HOSTILE)
    lines = told.split("\n")
    if place == "log, journal":  # fields that are lines of their own
        lines = [line for line in lines if line.startswith("MESSAGE=")]
    assert not any(mark in line for line in lines for mark in "\x1b\r\x9b\x00\x7f")
    if "{" not in told[:2] or place == "log, JSON":  # what is no terminal reads JSON, in UTF-8
        assert not any(mark in line for line in lines for mark in "\u202e\u2066\u2028\ufeff")
    assert "[red]" in told
    assert not any(line.startswith("Z") for line in lines)


def test_escapes_are_read_as_python_writes_them() -> None:
    assert (
        printable("a\x1b[0m\n\u202e\udcff é 👨\u200d👩")
        == r"a\x1b[0m\n\u202e\udcff é 👨" + "\u200d👩"
    )


@pytest.mark.parametrize(
    "name",
    [
        "映画　第1話.mkv", "at 1.00\u202fPM.png", "10\u2009000\xa0km.mp4", "\ue0a0 private.mp4",
        "🩷 newer than Python.mp4", "❤️👨\u200d👩\u200d👧 🇩🇪 1️⃣.mp4", "مرحبا שלום.mp4",
        "e\u0301te\u0301.mp4", "नमस्ते क्\u200dष.mp4", "你好世界 한국어.mp4",
    ],
)  # fmt: skip
def test_names_of_any_script_are_shown_as_they_are(name: str) -> None:
    assert one_line(f"/srv/{name}: no such file") == f"/srv/{name}: no such file"


def test_no_message_of_ours_is_taken_for_a_secret() -> None:
    folder = Path(redaction.__file__).parents[1]
    raised = [
        "".join(part.value if isinstance(part, ast.Constant) else "x" for part in text.values)
        for name in ("daemon", "filters", "io")
        for path in folder.joinpath(name).rglob("*.py")
        for error in ast.walk(ast.parse(path.read_text()))
        if isinstance(error, ast.Raise)
        for text in ast.walk(error)
        if isinstance(text, ast.JoinedStr)
    ]
    assert len(raised) > 100
    assert [text for text in raised if redacted(text) != text] == []


def test_a_stored_job_has_no_secret_in_whatever_field() -> None:
    assert "geheim" not in json.dumps(
        redacted_values(job_with("pw=geheim").model_dump(mode="json"))
    )
