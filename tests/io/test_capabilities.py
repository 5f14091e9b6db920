"""What FFmpeg says it can do, asked without opening anything."""

from __future__ import annotations

import os
import socket
from contextlib import closing
from pathlib import Path

import pytest
from support.media.clips import make_clip

from upframe.io.capabilities import (
    has_codec,
    has_container,
    has_protocol,
    library_versions,
    why_encoder_fails,
)
from upframe.io.encode.options import EncoderOptions
from upframe.io.sink import open_file_sink
from upframe.io.source import open_source


def test_tells_encoders_from_decoders() -> None:
    assert has_codec("libx264", "w")
    assert not has_codec("libx264", "r")
    assert not has_codec("no_such_codec", "w")


def test_tells_muxers_from_demuxers() -> None:
    assert has_container("mp4", "w")
    assert not has_container("ipod", "r")
    assert not has_container("no_such_container", "r")


def test_knows_protocols() -> None:
    assert has_protocol("file")
    assert has_protocol("tcp")
    assert not has_protocol("no-such-protocol")


def test_asking_for_a_protocol_connects_to_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert has_protocol("tcp", f"127.0.0.1:{server.getsockname()[1]}")
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()


def test_says_why_an_encoder_does_not_open() -> None:
    assert why_encoder_fails("mpeg4") is None
    assert why_encoder_fails("no_such_codec") == "not in this build"


def test_names_every_library() -> None:
    versions = library_versions()
    assert {"av", "ffmpeg", "libavcodec", "libavformat", "libswscale"} <= versions.keys()
    assert all(number[0].isdigit() for number in versions.values())


def policies() -> set[int]:
    """How the threads of this process are scheduled."""
    return {os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")}


@pytest.mark.parametrize("codec", ["libsvtav1", "libvpx-vp9", "libx264", "libx265"])
def test_no_encoder_makes_threads_real_time_ones(codec: str, tmp_path: Path) -> None:
    """SVT-AV1 does so as root: conversions on two cores then waited for each other without end."""
    assert policies() == {os.SCHED_OTHER}
    assert why_encoder_fails(codec) is None
    assert policies() == {os.SCHED_OTHER}
    clip = make_clip(tmp_path / "in.mp4", frames=12)
    with closing(open_source(str(clip))) as source:
        options = EncoderOptions(codec=codec)
        sink = open_file_sink(tmp_path / "out.mkv", source.info, options)
        for picture in source:
            sink.write(picture)
            assert policies() == {os.SCHED_OTHER}
        sink.finish()
    assert policies() == {os.SCHED_OTHER}
