"""Names of files, tags and attachments are foreign text: on terminals and in logs they are tame."""

from __future__ import annotations

import json
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from support.jobs.daemon import SMALL, daemon_in, until
from support.media import clips as samples

from upframe.daemon.__main__ import main
from upframe.daemon.config import parse_config
from upframe.daemon.errors import ConfigError
from upframe.daemon.mqtt.requests import BadRequest, parse
from upframe.io.probe import probe_source
from upframe.io.source import open_source
from upframe.io.streams.plan import plan_streams

EVIL = "e\x1b]0;x\x07v\x1b[31m\ri\nl\x7f\x9b\u202e\u2066[red]"
"""Of a file's name or a tag."""
SECRET = "rtsp://admin:geheim@cam/1?token=geheim"
RUN = ("--interpolate", "1", "--weights", "builtin", "--no-scene-detection")


def is_tame(text: str) -> bool:
    """No character but the newline moves anything, and no line was made by a name."""
    moving = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]")
    return moving.search(text) is None and not re.search("^l(?!osses:$)", text, re.MULTILINE)


def hostile_clip(path: Path, tag: str = EVIL, *, title: str = EVIL) -> Path:
    """A clip with sound, whose tags are all alike; of an attachment the name is."""
    with av.open(str(path), "w", format="matroska") as container:
        container.metadata["title"] = title
        video = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("flac", rate=8000, layout="mono")
        for stream in (video, sound):
            stream.metadata.update({"language": tag, "title": tag, "handler_name": tag})
        container.add_attachment(f"{tag}.ttf".replace("\0", ""), "font/ttf", b"font")
        for index in range(3):
            container.mux(video.encode(samples.numbered_frame(index)))
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 320), np.int16), "s16", "mono")
            silence.sample_rate, silence.pts = 8000, 320 * index
            container.mux(sound.encode(silence))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
    return path


@pytest.mark.parametrize(
    "words",
    [
        ["run", "{clip}", "{folder}/" + EVIL + ".mp4", *RUN],
        ["run", "{clip}", "{folder}/out.mkv", *RUN, "--progress", "line"],
        ["run", "{clip}", "{folder}/out.mp4", *RUN, "--strict-streams"],
        ["run", "{clip}", "{folder}/" + EVIL + "/out.mp4", *RUN],
        ["run", "{clip}", "{clip}", *RUN],
        ["run", "{clip}", "{folder}/out." + EVIL, *RUN],
        ["run", "{clip}", "{folder}/out.mp4", *RUN, "--codec", EVIL],
        ["run", "{folder}/no" + EVIL, "{folder}/out.mp4", *RUN, "--progress", "json"],
        ["--debug", "run", "{folder}/no" + EVIL, "{folder}/out.mp4", *RUN],
        ["probe", "{clip}"],
        ["probe", "{clip}", "--json"],
        ["probe", "{clip}", "{folder}/out.mp4"],
        ["verify", "{clip}"],
        ["verify", "{clip}", "--json"],
        ["verify", "{clip}", "--against", "{folder}/" + EVIL],
        ["models", "check", "{clip}"],
        ["serve", "--config", "{folder}/" + EVIL],
        ["serve", "--config", "{clip}"],
        ["jobs", "list", "--socket", "{folder}/" + EVIL],
        [EVIL],
        ["run", EVIL],
    ],
    ids=lambda words: " ".join(words).encode("unicode_escape").decode()[:60],
)
def test_no_command_lets_a_name_move_the_terminal(
    words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    clip = hostile_clip(tmp_path / f"{EVIL}.mkv")
    main([word.format(clip=clip, folder=tmp_path) for word in words])
    out, err = capfd.readouterr()
    assert out + err
    assert is_tame(out), out
    assert is_tame(err), err
    assert ("[red]" in out + err) is (r"\x1b" in out + err or r"\u001b" in out + err)


def test_the_daemon_its_log_and_its_jobs_are_tame(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    watch: dict[str, Any] = {
        "input": tmp_path / "in", "output": tmp_path / "out", "stable_seconds": 0.2,
        "filters": SMALL,
    }  # fmt: skip
    log = {"format": "plain"}
    with daemon_in(tmp_path, watch=[watch], log=log) as daemon:
        hostile_clip(tmp_path / "in" / f"{EVIL}.mkv")
        (tmp_path / "in" / f"no{EVIL}.mkv").write_bytes(b"\x1aE\xdf\xa3 no film")
        place = ["--socket", str(daemon.socket)]

        def ended() -> list[Any]:
            main(["jobs", "list", "--json", *place])
            jobs = json.loads(capfd.readouterr().out)
            return jobs if [job["state"] for job in jobs].count("done") == 1 < len(jobs) else []

        jobs = until(ended, "the film is done", 60)
        assert main(["jobs", "list", *place]) == 0
        for job in jobs:
            assert main(["jobs", "show", job["id"], *place]) == 0
        out, err = capfd.readouterr()
    said = daemon.log_file.read_text()
    assert out
    assert "done" in out
    for text in (out, err, said):
        assert is_tame(text), text
    # every line of the log begins as a line does
    lines = [line for line in said.splitlines() if line]
    assert lines
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:", line) for line in lines), said


def test_of_long_tags_little_is_kept_and_told(tmp_path: Path) -> None:
    clip = hostile_clip(tmp_path / "in.mkv", "a" * 20_000 + "://" + "b" * 20_000)
    assert clip.stat().st_size > 100_000
    with closing(open_source(str(clip))) as source:
        found = probe_source(source)
    lines = plan_streams(str(clip), str(tmp_path / "out.mp4")).lines()
    told = [*(f"{one.language}{one.details}" for one in found.streams), *lines]
    assert len(told) >= 5
    assert max(map(len, told)) < 500


def test_no_tag_shows_a_secret(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for before in ("", "x" * 180):
        clip = hostile_clip(tmp_path / "in.mkv", f"{before} {SECRET}")
        assert main(["probe", str(clip), str(tmp_path / "out.mp4")]) == 0
        assert main(["run", str(clip), str(tmp_path / f"out{len(before)}.mp4"), *RUN]) == 0
        out, err = capfd.readouterr()
        assert "rtsp://***" in out
        assert "gehe" not in out + err


# A path or URL above 4 KB is refused, at every way in.

LONG = "rtsp://cam/" + "x" * 4096


@pytest.mark.parametrize(
    "words",
    [
        ["run", LONG, "out.mp4", *RUN], ["run", "in.mp4", LONG, *RUN], ["probe", LONG],
        ["probe", "in.mp4", LONG], ["verify", LONG], ["verify", "a.mp4", "--against", LONG],
        ["jobs", "submit", LONG, "/out.mp4", "--interpolate", "1", "--socket", "/none"],
        ["jobs", "submit", "/in.mp4", "/" + "é" * 2048, "--interpolate", "1", "--socket", "/none"],
    ],
    ids=lambda words: " ".join(words)[:30],
)  # fmt: skip
def test_no_command_takes_a_path_or_url_above_4_kb(
    words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 64
    said = capfd.readouterr().err
    assert "at most 4096 bytes, got 4" in said
    assert len(said) < 1000


@pytest.mark.parametrize("key", ["source", "sink"])
@pytest.mark.parametrize("text", [LONG, "/" + "é" * 2048, "/in/\ud800"])
def test_a_request_with_one_is_invalid(key: str, text: str) -> None:
    work = {"source": "/in/a.mp4", "sink": "/out/a.mp4", "filters": {"upscaling_scale": 2,
            "enable_upscaling": True}, "schema": "upframe.job/1", "id": "a", key: text}  # fmt: skip
    with pytest.raises(BadRequest) as refused:
        parse("submit", json.dumps(work).encode())
    assert refused.value.problem.code in ("invalid", "malformed")
    assert len(refused.value.problem.message) < 1000


@pytest.mark.parametrize("key", ["input", "output"])
def test_a_configuration_with_one_is_refused(key: str) -> None:
    stream = {"name": "x", "input": "rtsp://cam/1", "output": "/srv/x.mp4", key: LONG}
    lines = "\n".join(f'{name} = "{value}"' for name, value in stream.items())
    text = f"[[live]]\n{lines}\nfilters = {{ enable_upscaling = true }}\n"
    with pytest.raises(ConfigError, match="at most 4096 bytes"):
        parse_config(text, Path("x.toml"))
