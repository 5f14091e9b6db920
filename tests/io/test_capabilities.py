"""What FFmpeg says it can do, asked without opening anything."""

from __future__ import annotations

import socket

import pytest

from upframe.io.capabilities import (
    has_codec,
    has_container,
    has_protocol,
    library_versions,
    why_encoder_fails,
)


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
