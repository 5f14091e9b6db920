"""A file that is read as a camera sends."""

from __future__ import annotations

import base64
import threading
import time
from contextlib import closing
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from support.live.looped import LoopedFile
from support.media.clips import combed_frame, index_of, make_clip
from support.media.messages import captions, hdr10_plus, make_clip_with_messages
from support.servers.camera import DEADLINE_SECONDS
from support.servers.hls import hls_server

from upframe.io.errors import InputLost, SourceMissing
from upframe.io.live.live_input import ConnectedInput, PacedFile
from upframe.io.live.values import DecodedFrame, SoundPacket
from upframe.io.pictures.pixels import color_of, picture_of

NO_B_FRAMES = {"tune": "zerolatency", "g": "6"}


def events_of(paced: ConnectedInput, count: int | None = None) -> list[DecodedFrame | SoundPacket]:
    """The next frames, with the sound between them; all of them to the end where None."""
    found: list[DecodedFrame | SoundPacket] = []
    events = iter(paced)
    while sum(isinstance(each, DecodedFrame) for each in found) != count:
        try:
            found.append(next(events))
        except InputLost as error:
            if count is None and error.reason == "ended":
                break
            raise
    return found


def frames_of(paced: ConnectedInput, count: int | None = None) -> list[DecodedFrame]:
    return [event for event in events_of(paced, count) if isinstance(event, DecodedFrame)]


def numbers_of(frames: list[DecodedFrame]) -> list[int]:
    frame_pictures = [
        picture_of(each.frame, color_of(each.frame), 0, 0, Fraction(1, 25)) for each in frames
    ]
    return [index_of(picture) for picture in frame_pictures]


@pytest.mark.parametrize("options", [NO_B_FRAMES, {"bf": "2", "g": "6"}])
def test_every_frame_comes_and_then_the_end(options: dict[str, str], tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", options=options)
    with closing(PacedFile(clip, speed=20)) as paced:
        paced.connect()
        form = paced.probe()
        frames = frames_of(paced)
    assert (form.info.rate, form.info.width, form.codec) == (25, 64, "h264")
    assert numbers_of(frames) == list(range(12))
    times = [frame.seconds or Fraction(0) for frame in frames]
    assert {after - before for before, after in pairwise(times)} == {Fraction(1, 25)}
    assert paced.counts["frames_decoded"] == 12


def test_frames_come_no_sooner_than_their_time(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=20, options=NO_B_FRAMES)
    with closing(PacedFile(clip)) as paced:
        paced.connect()
        began = time.monotonic()
        paced.probe()
        frames = frames_of(paced)
    assert len(frames) == 20
    for number, frame in enumerate(frames):
        assert frame.arrived - began >= number / 25 - 0.01


def test_they_are_stamped_by_the_clock_that_was_given(tmp_path: Path) -> None:
    """Ten seconds of the stream in one: the arrivals are as far apart as the frames are."""
    clip = make_clip(tmp_path / "clip.mp4", frames=30, options=NO_B_FRAMES)
    with closing(PacedFile(clip, speed=10, now=lambda: time.monotonic() * 10)) as paced:
        paced.connect()
        paced.probe()
        frames = frames_of(paced)
    assert frames[-1].arrived - frames[0].arrived >= 29 / 25 - 0.1


def test_a_loop_goes_on_in_time_with_its_sound(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", options={"bf": "2", "g": "6"}, audio="aac")
    with closing(LoopedFile(clip, speed=20)) as paced:
        paced.connect()
        paced.probe()
        events = events_of(paced, 40)
    frames = [event for event in events if isinstance(event, DecodedFrame)]
    assert numbers_of(frames) == [number % 12 for number in range(40)]
    times = [frame.seconds or Fraction(0) for frame in frames]
    assert all(abs(b - a - Fraction(1, 25)) < Fraction(1, 500) for a, b in pairwise(times))
    sound = [event.seconds or Fraction(0) for event in events if isinstance(event, SoundPacket)]
    assert max(sound) - min(sound) > 1
    assert max(b - a for a, b in pairwise(sorted(sound))) < Fraction(1, 10)


def test_interlaced_frames_are_deinterlaced_and_all_there(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.ts", codec="mpeg2video", interlaced=True, options={"g": "6"})
    with closing(PacedFile(clip, speed=20)) as paced:
        paced.connect()
        form = paced.probe()
        frames = frames_of(paced)
    assert form.info.field_order == "progressive"
    assert len(frames) == 12
    assert not any(frame.frame.interlaced_frame for frame in frames)
    combed = combed_frame(5)
    assert (frames[5].frame.width, frames[5].frame.height) == (combed.width, combed.height)
    times = [frame.seconds or Fraction(0) for frame in frames]
    assert {after - before for before, after in pairwise(times)} == {Fraction(1, 25)}


def test_a_stop_ends_the_waiting(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=30, options=NO_B_FRAMES)
    with closing(PacedFile(clip, speed=0.01)) as paced:  # two minutes
        paced.connect()
        ended: list[str] = []

        def read() -> None:
            try:
                for _ in paced:
                    pass
            except InputLost as error:
                ended.append(error.reason)

        thread = threading.Thread(target=read)
        thread.start()
        paced.stop()
        thread.join(DEADLINE_SECONDS)
        assert ended == ["ended"]


def test_a_file_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="no such file"):
        PacedFile(tmp_path / "none.mp4").connect()


def test_a_speed_of_nothing_is_refused(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    with pytest.raises(ValueError, match="above 0, got 0"):
        PacedFile(clip, speed=0).connect()


def test_a_frame_says_the_shape_of_its_pixels(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", sample_aspect_ratio=Fraction(16, 15))
    with closing(PacedFile(clip, speed=20)) as paced:
        paced.connect()
        assert paced.probe().info.sample_aspect_ratio == Fraction(16, 15)
        assert {frame.sample_aspect_ratio for frame in frames_of(paced)} == {Fraction(16, 15)}


def test_a_finished_playlist_on_a_server_is_read_like_a_file(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.ts")
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.48,\nclip.ts\n#EXT-X-ENDLIST\n"
    pages = {"/a/list.m3u8": playlist, "/a/clip.ts": clip.read_bytes()}
    token = base64.b64encode(b"me:secret").decode()
    with hls_server(pages, login=token) as server:
        with closing(PacedFile(server.url("/a/list.m3u8", "me:secret@"), speed=20)) as paced:
            paced.connect()
            paced.probe()
            assert numbers_of(frames_of(paced)) == list(range(12))
        with (
            closing(PacedFile(server.url("/a/none.m3u8", "me:secret@"))) as paced,
            pytest.raises(SourceMissing) as caught,
        ):
            paced.connect()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_frames_come_with_their_captions_and_hdr10_plus(tmp_path: Path, codec: str) -> None:
    clip = make_clip_with_messages(
        tmp_path / "in.ts", codec, lambda index: [captions(index), hdr10_plus(index)]
    )
    with closing(PacedFile(clip, speed=10.0)) as paced:
        paced.connect()
        frames = [each.frame for each in frames_of(paced)]
    pictures = [picture_of(frame, color_of(frame), 0, 0, Fraction(1, 25)) for frame in frames]
    assert [picture.t35 for picture in pictures] == [(captions(i), hdr10_plus(i)) for i in range(8)]
