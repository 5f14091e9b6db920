"""An option exists in every front end, or the front end refuses it with the reason."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import BaseModel
from support.media.clips import make_clip

from upframe.daemon.__main__ import main, make_parser
from upframe.daemon.config import JobsConfig, LiveConfig, WatchConfig, load_config
from upframe.daemon.errors import ConfigError
from upframe.daemon.jobs.api import NewJob
from upframe.daemon.mqtt.requests import BadRequest, SubmitRequest, confined_work, parse
from upframe.daemon.specification import (
    REFUSED,
    ConversionSpec,
    RuntimeOptions,
    StreamSpec,
    part_of,
)
from upframe.daemon.watch.records import settings_digest
from upframe.filters.options import FilterOptions
from upframe.io.encode.options import EncoderOptions

CONVERSION = {*ConversionSpec.model_fields, *RuntimeOptions.model_fields}
STREAM = {*StreamSpec.model_fields, *RuntimeOptions.model_fields}
INTERPOLATE = {"enable_frame_interpolation": True}
JOB: dict[str, Any] = {
    "schema": "upframe.job/1",
    "id": "a",
    "source": "/v/a.mkv",
    "sink": "/v/b.mkv",
    "filters": INTERPOLATE,
}
WATCH = """
[[watch]]
input = "/in"
output = "/out"
filters = { enable_upscaling = true }
"""
LIVE = """
[[live]]
name = "gate"
input = "rtsp://camera/1"
output = "rtsp://relay/1"
filters = { enable_upscaling = true }
"""


def action_parser(parser: argparse.ArgumentParser, name: str) -> argparse.ArgumentParser:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return cast("argparse.ArgumentParser", action.choices[name])
    raise AssertionError(f"no {name}")


def offered(command: str, *below: str) -> set[str]:
    """The fields for which a command has options, with filters and encoder as one each."""
    parser = action_parser(make_parser([command]), command)
    for name in below:
        parser = action_parser(parser, name)
    fields = {action.dest for action in parser._actions if action.help != argparse.SUPPRESS}
    for whole, model in (("filters", FilterOptions), ("encoder", EncoderOptions)):
        if fields >= model.model_fields.keys():
            fields.add(whole)
    return fields


def fields_of(model: type[BaseModel]) -> set[str]:
    return set(model.model_fields)


OFFERED: dict[str, tuple[set[str], set[str]]] = {
    # front end: what it has, and the specification that it is compared with
    "job": (fields_of(SubmitRequest), CONVERSION | {"tls_insecure"}),
    "watch": (fields_of(WatchConfig), CONVERSION),
    "live": (fields_of(LiveConfig), STREAM | {"overwrite"}),
}


@pytest.mark.parametrize("front_end", OFFERED)
def test_a_model_has_every_option_or_a_reason(front_end: str) -> None:
    has, wanted = OFFERED[front_end]
    assert has.isdisjoint(REFUSED[front_end])
    assert wanted - has == REFUSED[front_end].keys()


def test_run_has_every_option_of_files_and_of_streams() -> None:
    positional = {"source", "sink"}  # INPUT and OUTPUT
    assert offered("run") >= (CONVERSION | STREAM) - positional


def test_jobs_submit_has_what_a_message_may_have() -> None:
    has = offered("jobs", "submit")
    assert CONVERSION | {"tls_insecure"} == (has & CONVERSION) | REFUSED["job"].keys()
    assert has.isdisjoint(REFUSED["job"])


def test_a_pipe_has_every_option_or_a_reason() -> None:
    has = offered("pipe")
    ends = {"source", "sink"}  # stdin and stdout
    assert has.isdisjoint(REFUSED["pipe"])
    assert (CONVERSION - ends) - has == REFUSED["pipe"].keys()


def test_the_control_api_takes_the_specification_itself() -> None:
    assert NewJob.model_fields["work"].annotation is ConversionSpec


def test_every_reason_is_a_text_of_its_own() -> None:
    reasons = [reason for refused in REFUSED.values() for reason in refused.values()]
    assert all(len(reason) > 10 and not reason.endswith(".") for reason in reasons)


@pytest.mark.parametrize("name", REFUSED["job"])
def test_a_message_is_told_why_an_option_is_refused(name: str) -> None:
    payload = json.dumps(JOB | {name: "x"}).encode()
    with pytest.raises(BadRequest) as caught:
        parse("submit", payload)
    assert caught.value.problem.code == "invalid"
    assert str(caught.value) == f"{name}: no option of a job: {REFUSED['job'][name]}"


@pytest.mark.parametrize(
    ("section", "name"),
    [
        *((WATCH, name) for name in REFUSED["watch"]),
        *((LIVE, name) for name in (*REFUSED["live"], *REFUSED["stream"])),
    ],
)
def test_a_section_is_told_why_an_option_is_refused(
    section: str, name: str, tmp_path: Path
) -> None:
    path = tmp_path / "upframe.toml"
    path.write_text(f'{section}{name} = "x"\n')
    where = "watch" if section is WATCH else "live"
    reason = (REFUSED[where] | dict(REFUSED["stream"] if where == "live" else {}))[name]
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    wanted = f"{path}: {where}[0].{name}: got an unknown key, wanted none: {reason}"
    assert wanted in caught.value.lines


@pytest.mark.parametrize(
    ("words", "front_end", "name"),
    [
        ("pipe --interpolate 1 --crf 20", "pipe", "encoder"),
        ("pipe --interpolate 1 --encoder-option a=b", "pipe", "encoder"),
        ("pipe --interpolate 1 --hwaccel cuda", "pipe", "hwaccel"),
        ("pipe --interpolate 1 --strict-streams", "pipe", "strict_streams"),
        ("pipe --interpolate 1 --audio-codec aac", "pipe", "audio_codec"),
        ("run rtsp://a/b out.mp4 --interpolate 1 --audio-codec aac", "stream", "audio_codec"),
        ("jobs submit a.mkv b.mkv --interpolate 1 --device cpu", "job", "device"),
        ("jobs submit a.mkv b.mkv --interpolate 1 --tls-insecure", "job", "tls_insecure"),
        ("run rtsp://a/b out.mp4 --interpolate 1 --hwaccel cuda", "stream", "hwaccel"),
        ("run rtsp://a/b out.mp4 --interpolate 1 --deinterlace on", "stream", "deinterlace"),
    ],
)
def test_a_command_says_why_an_option_is_refused(
    words: str, front_end: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == 64
    assert f" is no option of {'live' if front_end == 'stream' else 'upframe'}" in (
        text := capsys.readouterr().err
    )
    assert REFUSED[front_end][name] in text


# What no encoder has is refused wherever options are read, with the range.

WRONG = [
    ({"codec": "h265"}, "codec", "did you mean hevc?"),
    ({"codec": "hevc", "crf": 60}, "crf", "0 to 51 for hevc"),
    ({"codec": "libsvtav1", "crf": 64}, "crf", "0 to 63 for libsvtav1"),
    ({"codec": "mpeg4", "crf": 0.5}, "crf", "1 to 31 for mpeg4"),
    ({"codec": "av1", "preset": "slow"}, "preset", "one of -1, 0, 1"),
    ({"crf": 99}, "crf", "0 to 63"),
]


@pytest.mark.parametrize(("encoder", "name", "wanted"), WRONG)
def test_a_value_that_the_encoder_does_not_have_is_refused_by_every_front_end(
    encoder: dict[str, Any],
    name: str,
    wanted: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    payload = json.dumps(JOB | {"encoder": encoder}).encode()
    with pytest.raises(BadRequest, match=rf"^encoder\.{name}: ") as refused:
        parse("submit", payload)
    assert wanted in str(refused.value)
    path = tmp_path / "upframe.toml"
    values = ", ".join(f"{key} = {json.dumps(value)}" for key, value in encoder.items())
    for section, where in ((WATCH, "watch"), (LIVE, "live")):
        path.write_text(f"{section}encoder = {{ {values} }}\n")
        assert main(["serve", "--check", "--config", str(path)]) == 78
        text = capsys.readouterr()
        assert f"{where}[0].encoder.{name}: got " in text.out + text.err
        assert wanted in text.out + text.err
    flags = [text for key, value in encoder.items() for text in (f"--{key}", str(value))]
    for command in (["run", "a.mkv", "b.mkv"], ["jobs", "submit", "a.mkv", "b.mkv"]):
        assert main([*command, "--interpolate", "1", *flags]) == 64
        text = capsys.readouterr().err
        assert f"--{name}: " in text
        assert wanted in text


# container and format are two names of one option.


@pytest.mark.parametrize("name", ["container", "format"])
def test_a_container_has_two_names_everywhere(name: str, tmp_path: Path) -> None:
    request = parse("submit", json.dumps(JOB | {name: "matroska"}).encode())
    assert isinstance(request, SubmitRequest)
    assert request.container == "matroska"
    path = tmp_path / "upframe.toml"
    path.write_text(f'{WATCH}{name} = "mkv"\n{LIVE}{name} = "mpegts"\n')
    config = load_config(path)
    assert (config.watch[0].container, config.live[0].container) == ("mkv", "mpegts")
    for command in (["run", "a", "b"], ["jobs", "submit", "a", "b"], ["probe", "a", "b"], ["pipe"]):
        arguments = make_parser([command[0]]).parse_args([*command, f"--{name}", "matroska"])
        assert arguments.container == "matroska"


def test_a_container_is_not_given_twice() -> None:
    payload = json.dumps(JOB | {"container": "mp4", "format": "mkv"}).encode()
    with pytest.raises(BadRequest, match=r"^format: "):
        parse("submit", payload)


def test_a_message_may_name_no_other_container_by_the_other_name(tmp_path: Path) -> None:
    request = parse("submit", json.dumps(JOB | {"format": "tee"}).encode())
    with pytest.raises(Exception, match="container 'tee': requests may ask for"):
        confined_work(part_of(request, ConversionSpec), JobsConfig(roots=(tmp_path,)))


@pytest.mark.parametrize(
    ("container", "extension"),
    [("mkv", ".mkv"), (".mp4", ".mp4"), ("matroska", ".mkv"), ("mpegts", ".ts"), (None, None)],
)
def test_the_container_of_a_watched_folder_decides_the_extension(
    container: str | None, extension: str | None
) -> None:
    given = {"input": "/in", "output": "/out", "filters": INTERPOLATE, "container": container}
    assert WatchConfig.model_validate(given).extension == extension


# What stores and records remember does not change where nobody uses the new options.


def test_a_newer_option_at_its_default_leaves_the_digest_as_it_was() -> None:
    spec = ConversionSpec(source="/a", sink="/b", filters=FilterOptions(**INTERPOLATE))
    assert spec.digest == "f593cdf886b9f7a833aa7474a3302fd8d2e1ccefd6f331d64351a9c5ead8c114"
    for option in ({"hwaccel": "cuda"}, {"audio_codec": "aac"}):
        assert spec.model_copy(update=option).digest != spec.digest


def test_a_newer_option_at_its_default_leaves_the_settings_of_a_folder_as_they_were() -> None:
    given = {"input": "/in", "output": "/out", "filters": INTERPOLATE}
    watch = WatchConfig.model_validate(given)
    assert settings_digest(watch) == "34c1bea340cc9679"
    again = WatchConfig.model_validate(given | {"hwaccel": "auto"})
    assert settings_digest(again) == settings_digest(watch)  # the result is the same
    for option in ({"deinterlace": "on"}, {"audio_codec": "flac"}):
        other = WatchConfig.model_validate(given | option)
        assert settings_digest(other) != settings_digest(watch)


# What to do with sound has a fixed set of values, and is checked wherever it is given.


@pytest.mark.parametrize(
    ("given", "kept"),
    [("AAC", "aac"), ("libopus", "opus"), ("libmp3lame", "mp3"), ("none", "none")],
)
def test_sound_is_named_by_its_codec_or_encoder(given: str, kept: str) -> None:
    spec = ConversionSpec(source="/a", sink="/b", filters=INTERPOLATE, audio_codec=given)
    assert spec.audio_codec == kept


@pytest.mark.parametrize(("given", "hint"), [("acc", "; near it: ac3, aac"), ("x264", "")])
@pytest.mark.parametrize("command", ["run", "probe", "jobs submit"])
def test_a_codec_of_sound_that_nobody_knows_is_refused_before_any_work(
    command: str, given: str, hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = make_clip(tmp_path / "a.mkv")
    words = [*command.split(), str(clip), str(tmp_path / "b.mkv"), "--interpolate", "1"]
    assert main([*words, "--audio-codec", given]) == 64
    said = capsys.readouterr().err
    assert "must be one of auto, copy, none, aac, " in said
    assert f"got {given!r}{hint}\n" in said
