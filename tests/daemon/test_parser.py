"""What people type by mistake or by habit is answered by what they meant; help fits a screen."""

from __future__ import annotations

import shlex

import pytest
from support.parsers import shown, subcommands

from upframe.daemon.__main__ import main
from upframe.daemon.parser import COMMANDS, Parser, make_parser


def said(capsys: pytest.CaptureFixture[str], line: str) -> str:
    """The one line of error that a command line ends with."""
    assert main(shlex.split(line)) == 64
    captured = capsys.readouterr()
    assert captured.out == ""
    (text,) = captured.err.splitlines()
    return text


@pytest.mark.parametrize(
    ("line", "meant", "page"),
    [
        ("run in.mp4 out.mp4 --interpolte 1", "--interpolate", "upframe run"),
        ("run --interpolte 1 in.mp4 out.mp4", "--interpolate", "upframe run"),
        ("run --upscael=2 in.mp4 out.mp4", "--upscale", "upframe run"),
        ("run in.mp4 out.mp4 --over-write", "--overwrite", "upframe run"),
        ("run in.mp4 out.mp4 -crf 20", "--crf", "upframe run"),
        ("run in.mp4 out.mp4 -pix_fmt yuv420p", "--pix-fmt", "upframe run"),
        ("run in.mp4 out.mp4 -hwaccel cuda", "--hwaccel", "upframe run"),
        ("pipe --interplate 1", "--interpolate", "upframe pipe"),
        ("probe in.mp4 --jsno", "--json", "upframe probe"),
        ("models list --jsn", "--json", "upframe models list"),
        ("models lst", "list", "upframe models"),
        ("jobs lsit", "list", "upframe jobs"),
        ("jobs submit a.mkv b.mkv --priorty 3", "--priority", "upframe jobs submit"),
        ("jobs list --state runing", "running", "upframe jobs list"),
        ("run in.mp4 out.mp4 --progress jsno", "json", "upframe run"),
        ("completion zhs", "zsh", "upframe completion"),
        ("rnu in.mp4 out.mp4", "run", "upframe"),
        ("prob in.mp4", "probe", "upframe"),
        ("--debgu run in.mp4", "--debug", "upframe"),
    ],
)
def test_a_mistyped_word_is_answered_by_the_one_that_was_meant_and_its_page_of_help(
    line: str, meant: str, page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(capsys, line)
    assert f"did you mean {meant}" in text
    assert text.endswith(f"(see '{page} --help')")


def test_a_word_that_resembles_nothing_gets_no_suggestion(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = said(capsys, "run in.mp4 out.mp4 --xyzzy")
    assert text == "upframe: there is no option --xyzzy (see 'upframe run --help')"
    assert "did you mean" not in said(capsys, "xyzzy")


def test_a_refused_option_is_not_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--codec" not in said(capsys, "pipe --interpolate 1 --codce libx264")


def test_a_long_dash_of_a_text_processor_is_two_short_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "did you mean --interpolate" in said(capsys, "run in.mp4 out.mp4 \u2014interpolate 1")


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("run -i in.mp4 out.mp4", "the input is the first argument"),
        ("run in.mp4 -o out.mp4", "the output the second"),
        ("run in.mp4 out.mp4 -y", "--overwrite replaces an existing output"),
        ("run in.mp4 out.mp4 -ss 10", "ffmpeg -ss 60 -i film.mkv -t 10 -c copy part.mkv"),
        ("run in.mp4 out.mp4 -t 5 --interpolate 1", "ffmpeg cuts a part out before"),
        ("run in.mp4 out.mp4 -vf scale=2:2", "| upframe pipe --interpolate 1 |"),
        ("run in.mp4 out.mp4 -c:v libx265", "did you mean --codec?"),
        ("run in.mp4 out.mp4 --debug", "it stands before the command: upframe --debug run"),
        ("run in.mp4 out.mp4 -map 0", "all other streams are kept"),
        ("run - out.mp4 --interpolate 1", "`upframe pipe` is for stdin and stdout: ffmpeg -i"),
        ("run in.mp4 - --interpolate 1", "`upframe pipe` is for stdin and stdout: ffmpeg -i"),
        ("- out.mp4", "a stream is filtered by `upframe pipe`: ffmpeg -i"),
    ],
)
def test_habits_of_ffmpeg_are_answered_by_what_stands_for_them_here(
    line: str, answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answer in said(capsys, line)


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("film.mp4 out.mp4", "upframe run film.mp4 out.mp4 --interpolate 1"),
        ("film.mp4 out.mp4 --upscale 2", "upframe run film.mp4 out.mp4 --upscale 2"),
        ("-i film.mp4 -y out.mp4", "upframe run film.mp4 --overwrite out.mp4 --interpolate 1"),
        ("'my film.mp4' out.mp4 --upscale 2", "upframe run 'my film.mp4' out.mp4 --upscale 2"),
        ("rtsp://cam/1 out.mp4 --upscale 2", "upframe run rtsp://cam/1 out.mp4 --upscale 2"),
    ],
)
def test_a_line_without_a_command_means_run(
    line: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"did you mean: {meant} (see" in said(capsys, line)


def test_help_as_a_command_says_how_help_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert "upframe COMMAND --help" in said(capsys, "help run")


@pytest.mark.parametrize("line", ["jobs list --limit -5", "jobs submit a b --priority -5"])
def test_negative_numbers_are_values_not_options(line: str) -> None:
    words = line.split()
    assert make_parser(words[:1]).parse_args(words)


def test_words_after_two_dashes_and_beginnings_of_options_are_taken() -> None:
    arguments = make_parser(["run"]).parse_args(["run", "--over", "--", "-in.mp4", "-out.mp4"])
    assert (arguments.input, arguments.output) == ("-in.mp4", "-out.mp4")
    assert arguments.overwrite


def subparser(*words: str) -> Parser:
    parser = make_parser(words[:1])
    for word in words:
        parser = subcommands(parser)[word]
    return parser


def test_help_of_run_fits_a_screen_and_help_all_has_every_option(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    pages: dict[str, str] = {}
    for option in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as end:
            main(["run", option])
        assert end.value.code == 0
        pages[option] = capsys.readouterr().out
    short, whole = pages["--help"], pages["--help-all"]
    assert len(short.splitlines()) < 40
    for name in ("--interpolate", "--upscale", "--codec", "--crf", "--overwrite", "--help-all"):
        assert f"\n  {name}" in short
    flags = [flag for action in shown(subparser("run")) for flag in action.option_strings]
    assert all(flag in whole for flag in flags)
    assert "--latency" not in short


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_of_whole_sentences_and_shows_no_none(command: str) -> None:
    parser = subparser(command)
    for each in (parser, *subcommands(parser).values()):
        for action in shown(each):
            text = (action.help or "") % {"default": 1, "prog": ""}
            assert text[:1].isupper(), (action.dest, text)
            assert text.endswith("."), (action.dest, text)
        assert "None" not in each.whole_help()
