"""Sound, subtitles, chapters, attachments and metadata: what gets to the output, and how."""

from __future__ import annotations

import os
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import pytest
from support.media import clips as samples
from support.media.sinks import (
    FAST,
    constant,
    decoded_sound,
    decodes_without_errors,
    ffprobe,
    packets,
    pictures,
    sound_offset,
    streams,
    sync,
    through,
)

from upframe.io.encode.encoder import EncoderOptions
from upframe.io.errors import SinkRefused, SourceMissing, UnsupportedMedia
from upframe.io.sink import open_file_sink
from upframe.io.streams.plan import plan_streams

LINES = ((0.1, 0.2, "one"), (0.3, 0.42, "<i>two</i>"))


def payload(path: Path, stream: str = "a:0") -> bytes:
    """The bytes of one stream's packets, as ffmpeg copies them."""
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-map", f"0:{stream}", "-c", "copy"]
    done = subprocess.run([*command, "-f", "data", "-"], capture_output=True, check=True)
    return done.stdout


def text_of(path: Path) -> str:
    """The first subtitles as SRT, as ffmpeg converts them."""
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-map", "0:s:0", "-f", "srt", "-"]
    return subprocess.run(command, capture_output=True, check=True).stdout.decode()


@pytest.mark.parametrize("target", ["out.mp4", "out.mkv", "out.mov", "out.ts", "out.avi"])
@pytest.mark.parametrize("source", ["in.mp4", "in.mkv"])
def test_sound_is_copied_byte_for_byte(tmp_path: Path, source: str, target: str) -> None:
    clip = samples.make_clip(tmp_path / source, audio="aac", frames=25)
    lines = through(clip, tmp_path / target)
    assert lines == ["audio #1 aac: copied"]
    if target != "out.ts":  # there every packet gets a header of its own
        assert payload(clip).endswith(payload(tmp_path / target))
    # AAC begins with one packet that is decoded but not shown; only some containers can say so
    lost = len(packets(clip, "a:0")) - len(packets(tmp_path / target, "a:0"))
    assert lost == (0 if target in ("out.mp4", "out.mov") or target[-3:] == source[-3:] else 1)


def test_the_six_channels_of_a_real_film_are_copied(tmp_path: Path, data: Path) -> None:
    clip = data / "media" / "bigbuckbunny.mp4"
    plan = plan_streams(str(clip), str(tmp_path / "out.mp4"), None)
    assert (plan.lines(), plan.warnings) == (["audio #1 aac: copied"], [])


@pytest.mark.parametrize("target", ["out.mp4", "out.mkv", "out.mov", "out.ts"])
@pytest.mark.parametrize("source", ["in.mp4", "in.mkv", "in.ts"])
@pytest.mark.parametrize("offset", [0.0, 0.2])
def test_sound_keeps_its_offset_within_a_millisecond(
    tmp_path: Path, source: str, target: str, offset: float
) -> None:
    """Peers' pitfall 6."""
    clip = samples.make_clip(
        tmp_path / source, audio="aac", frames=24, rate=Fraction(24000, 1001),
        audio_offset_seconds=offset,
    )  # fmt: skip
    through(clip, tmp_path / target, options=EncoderOptions())
    assert round(abs(sync(tmp_path / target) - sync(clip)), 6) <= 0.001


@pytest.mark.parametrize("target", ["out.mp4", "out.mkv"])
def test_a_late_picture_stays_late(tmp_path: Path, target: str) -> None:
    base = Fraction(1, 1000)
    clip = samples.make_clip(
        tmp_path / "in.mp4", audio="aac", frames=12, time_base=base,
        pts=[120 + 40 * index for index in range(12)],
    )  # fmt: skip
    assert sound_offset(clip) == pytest.approx(-0.12, abs=0.001)
    through(clip, tmp_path / target)
    assert round(abs(sync(tmp_path / target) - sync(clip)), 6) <= 0.001


def test_a_transport_stream_that_begins_late_gives_a_file_that_begins_at_zero(
    tmp_path: Path,
) -> None:
    pts = [90_000 * 5 + 3600 * index for index in range(12)]
    clip = samples.make_clip(
        tmp_path / "in.ts", audio="aac", frames=12, pts=pts, time_base=Fraction(1, 90_000),
        audio_offset_seconds=5.0,
    )  # fmt: skip
    through(clip, tmp_path / "out.mp4")
    assert float(ffprobe(tmp_path / "out.mp4")["format"]["start_time"]) == pytest.approx(
        0, abs=0.05
    )
    lasts = [float(ffprobe(path)["format"]["duration"]) for path in (clip, tmp_path / "out.mp4")]
    assert lasts[0] == pytest.approx(lasts[1], abs=0.002)
    assert round(abs(sync(tmp_path / "out.mp4") - sync(clip)), 6) <= 0.001


def test_sound_and_picture_are_interleaved(tmp_path: Path) -> None:
    """Services 5.10: sound fed before the video leaves a jump back in the file."""
    clip = samples.make_clip(tmp_path / "in.mp4", audio="aac", frames=250, width=64, height=48)
    through(clip, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as opened:
        found = sorted(
            (packet.pos or 0, float(packet.dts * packet.time_base))
            for packet in opened.demux()
            if packet.dts is not None
        )
    latest, worst = 0.0, 0.0
    for _, time in found:
        latest, worst = max(latest, time), max(worst, latest - time)
    assert worst < 1.5


@pytest.mark.parametrize(
    ("source", "target", "line"),
    [
        ("in.mkv", "out.mp4", "converted to mov_text"),
        ("in.mkv", "out.mov", "converted to mov_text"),
        ("in.mp4", "out.mkv", "converted to subrip"),
        ("in.mkv", "out.webm", "converted to webvtt"),
        ("in.mkv", "out.mkv", "copied"),
        ("in.mp4", "out.mp4", "copied"),
    ],
)
def test_subtitles_keep_text_and_times_in_every_container(
    tmp_path: Path, source: str, target: str, line: str
) -> None:
    """Peers' pitfall 33: mp4 + subrip and mkv + mov_text die at the header, or at the very end."""
    clip = samples.make_clip(tmp_path / source, subtitles=LINES, frames=14)
    options = FAST if target != "out.webm" else EncoderOptions()
    (said,) = through(clip, tmp_path / target, options=options, strict=True)
    assert line in said
    before, after = text_of(clip), text_of(tmp_path / target)
    assert "one" in after
    assert "two" in after
    assert _times(after) == _times(before)


def _times(srt: str) -> list[str]:
    return [line for line in srt.splitlines() if "-->" in line]


def test_styled_subtitles_lose_their_style_and_say_so(tmp_path: Path) -> None:
    clip = _with_ass(tmp_path)
    plan = plan_streams(str(clip), str(tmp_path / "out.mp4"), None)
    (warning,) = plan.warnings
    assert "converted to mov_text" in warning
    assert "the styling of ass is lost" in warning
    assert "copied" in plan_streams(str(clip), str(tmp_path / "out.mkv"), None).lines()[0]
    with pytest.raises(SinkRefused, match=r"--strict-streams: out.mp4: subtitle #1 ass"):
        plan_streams(str(clip), str(tmp_path / "out.mp4"), None, strict=True)
    through(clip, tmp_path / "out.mp4")
    assert "Hello" in text_of(tmp_path / "out.mp4")


def _with_ass(tmp_path: Path) -> Path:
    clip = samples.make_clip(tmp_path / "plain.mkv", frames=14)
    script = tmp_path / "in.ass"
    script.write_text(
        "[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\n"
        "Format: Name, Fontname, Fontsize\nStyle: Default,Arial,20\n\n[Events]\n"
        "Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
        r"Dialogue: 0,0:00:00.10,0:00:00.30,Default,,0,0,0,,{\b1}Hello" + "\n"
    )
    command = ["ffmpeg", "-v", "error", "-i", str(clip), "-i", str(script), "-c", "copy"]
    subprocess.run([*command, str(tmp_path / "in.mkv")], check=True)
    return tmp_path / "in.mkv"


@pytest.mark.parametrize(
    ("codec", "target", "line"),
    [
        ("pcm_s16le", "out.mkv", "copied"),
        ("pcm_s16le", "out.mov", "copied"),
        ("flac", "out.mp4", "copied"),
        ("flac", "out.mov", "converted to alac"),
        ("pcm_s16le", "out.mp4", "copied"),
    ],
)
def test_lossless_sound_stays_lossless(tmp_path: Path, codec: str, target: str, line: str) -> None:
    clip = samples.make_clip(tmp_path / "in.mkv", audio=codec, frames=25)
    (said,) = through(clip, tmp_path / target, strict=True)
    assert line in said
    assert decoded_sound(tmp_path / target) == decoded_sound(clip)
    assert round(abs(sync(tmp_path / target, end=True) - sync(clip, end=True)), 6) <= 0.001


def test_sound_that_shall_only_be_copied_is_left_out_where_it_cannot_and_said(
    tmp_path: Path,
) -> None:
    clip = samples.make_clip(tmp_path / "in.mkv", audio="aac", frames=12)
    target = str(tmp_path / "out.webm")
    plan = plan_streams(str(clip), target, audio_codec="copy")
    (warning,) = plan.warnings
    assert warning.startswith("audio #1 aac: left out, webm cannot hold it")
    with pytest.raises(SinkRefused, match=r"--strict-streams: out.webm: audio #1 aac: left out"):
        plan_streams(str(clip), target, strict=True, audio_codec="copy")
    through(clip, tmp_path / "out.webm", options=EncoderOptions(), audio_codec="copy")
    assert streams(tmp_path / "out.webm", "audio") == []


def test_pcm_in_a_transport_stream_is_not_hidden_as_private_data(tmp_path: Path) -> None:
    clip = samples.make_clip(tmp_path / "in.mkv", audio="pcm_s16le", frames=12)
    (line,) = through(clip, tmp_path / "out.ts")
    assert "converted to aac, mpegts does not keep that it is pcm_s16le" in line
    assert streams(tmp_path / "out.ts", "audio")[0]["codec_name"] == "aac"


@pytest.mark.parametrize("target", ["out.mp4", "out.mkv", "out.mov"])
def test_chapters_are_copied(tmp_path: Path, target: str) -> None:
    chapters = ((0.0, 0.2, "begin"), (0.2, 0.48, "end"))
    clip = samples.make_clip(tmp_path / "in.mkv", chapters=chapters)
    assert through(clip, tmp_path / target) == ["2 chapters: copied"]
    got = ffprobe(tmp_path / target)["chapters"]
    assert [chapter["tags"]["title"] for chapter in got] == ["begin", "end"]
    assert [float(chapter["start_time"]) for chapter in got] == [0.0, 0.2]


def test_the_chapter_track_of_an_mp4_is_not_copied_as_data(tmp_path: Path) -> None:
    clip = samples.make_clip(tmp_path / "in.mp4", chapters=((0.0, 0.48, "all"),), frames=12)
    through(clip, tmp_path / "mid.mp4")
    lines = through(tmp_path / "mid.mp4", tmp_path / "out.mp4", strict=True)
    assert "1 chapters: copied" in lines
    assert len(ffprobe(tmp_path / "out.mp4")["streams"]) == len(ffprobe(clip)["streams"])


def test_fonts_are_copied_and_a_container_without_attachments_says_so(tmp_path: Path) -> None:
    clip = samples.make_clip(tmp_path / "in.mkv", attachment=True)
    assert "attachment #1" in through(clip, tmp_path / "out.mkv")[0]
    (font,) = streams(tmp_path / "out.mkv", "attachment")
    assert font["tags"]["filename"] == "font.ttf"
    assert font["extradata_size"] == len(b"not a font")
    plan = plan_streams(str(clip), str(tmp_path / "out.mp4"), None)
    assert "left out, mp4 holds no attachments" in plan.warnings[0]


@pytest.mark.parametrize("target", ["out.mp4", "out.mkv"])
def test_cover_pictures_are_copied(tmp_path: Path, target: str) -> None:
    clip = _with_cover(tmp_path)
    (line,) = through(clip, tmp_path / target, strict=True)
    assert line.startswith("cover #1 mjpeg")
    cover = streams(tmp_path / target, "video")[1]
    assert (cover["codec_name"], cover["disposition"]["attached_pic"]) == ("mjpeg", 1)


def test_a_cover_that_a_muxer_would_lose_silently_is_said_to_be_lost(tmp_path: Path) -> None:
    """The MOV muxer takes it, and writes nothing."""
    plan = plan_streams(str(_with_cover(tmp_path)), str(tmp_path / "out.mov"), None)
    assert "cover #1 mjpeg: left out, mov" in plan.warnings[0]


@pytest.mark.parametrize("depth", ["pcm_s24le", "pcm_bluray", "alac24", "pcm_f32le", "pcm_s32le"])
def test_wide_samples_are_never_narrowed(tmp_path: Path, depth: str) -> None:
    plain = samples.make_clip(tmp_path / "plain.mkv", audio="pcm_s16le", frames=25)
    codec = {"alac24": ["alac", "-sample_fmt", "s32p"], "pcm_bluray": ["pcm_bluray"]}
    command = ["ffmpeg", "-v", "error", "-i", str(plain), "-c:v", "copy", "-af", "volume=0.7713"]
    suffix = "m2ts" if depth == "pcm_bluray" else "mkv"
    clip = tmp_path / f"in.{suffix}"
    subprocess.run([*command, "-c:a", *codec.get(depth, [depth]), str(clip)], check=True)
    for target in ("out.mkv", "out.mp4", "out.mov", "out.avi"):
        plan = plan_streams(str(clip), str(tmp_path / target), None)
        if plan.warnings:
            continue
        through(clip, tmp_path / target, strict=True)
        assert decoded_sound(tmp_path / target) == decoded_sound(clip)
    assert decoded_sound(tmp_path / "out.mkv") == decoded_sound(clip)


def _with_cover(tmp_path: Path) -> Path:
    clip = samples.make_clip(tmp_path / "plain.mp4")
    picture = samples.make_still(tmp_path / "cover.jpg", pix_fmt="yuvj420p")
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-i",
        str(clip),
        "-i",
        str(picture),
        "-map",
        "0",
        "-map",
        "1",
    ]
    command += ["-c", "copy", "-disposition:v:1", "attached_pic", str(tmp_path / "in.mp4")]
    subprocess.run(command, check=True)
    return tmp_path / "in.mp4"


@pytest.mark.parametrize("target", ["out.mp4", "out.mkv"])
def test_metadata_languages_and_dispositions_are_kept(tmp_path: Path, target: str) -> None:
    clip = _two_languages(tmp_path)
    through(clip, tmp_path / target)
    probed = ffprobe(tmp_path / target)
    tags = {key.lower(): value for key, value in probed["format"]["tags"].items()}
    assert (tags["title"], tags["artist"]) == ("A film", "Somebody")
    assert tags["creation_time"].startswith("2020-02-03")
    first, second = (one for one in probed["streams"] if one["codec_type"] == "audio")
    assert (first["tags"]["language"], second["tags"]["language"]) == ("eng", "fra")
    assert (first["disposition"]["default"], second["disposition"]["default"]) == (0, 1)


def test_stale_metadata_is_left_behind(tmp_path: Path) -> None:
    clip = _two_languages(tmp_path)
    through(clip, tmp_path / "out.mkv")
    tags = ffprobe(tmp_path / "out.mkv")["format"]["tags"]
    assert {key.lower() for key in tags} <= {"title", "artist", "creation_time", "encoder"}


def _two_languages(tmp_path: Path) -> Path:
    clip = samples.make_clip(tmp_path / "plain.mp4", audio="aac")
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-i",
        str(clip),
        "-map",
        "0:v",
        "-map",
        "0:a",
        "-map",
        "0:a",
    ]
    command += ["-c", "copy", "-metadata", "title=A film", "-metadata", "artist=Somebody"]
    command += ["-metadata", "creation_time=2020-02-03T04:05:06Z"]
    command += ["-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=fra"]
    command += ["-disposition:a:0", "0", "-disposition:a:1", "default", str(tmp_path / "in.mp4")]
    subprocess.run(command, check=True)
    return tmp_path / "in.mp4"


def test_sound_longer_than_the_picture_is_copied_to_its_end(tmp_path: Path) -> None:
    clip = samples.make_clip(tmp_path / "in.mkv", audio="aac", frames=12, audio_offset_seconds=2.0)
    through(clip, tmp_path / "out.mp4")
    assert payload(clip).endswith(payload(tmp_path / "out.mp4"))
    assert decodes_without_errors(tmp_path / "out.mp4")


def test_a_still_image_says_that_the_sound_has_no_place(tmp_path: Path) -> None:
    clip = samples.make_clip(tmp_path / "in.mp4", audio="aac", frames=3)
    plan = plan_streams(str(clip), str(tmp_path / "out_%03d.png"), None)
    assert plan.warnings == ["audio #1 aac: left out, a still image holds no other stream"]


def test_bad_sources_have_their_own_errors(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="no such file"):
        plan_streams(str(tmp_path / "none.mp4"), "out.mp4", None)
    (tmp_path / "text.mp4").write_text("hello, this is no video at all\n" * 50)
    with pytest.raises(UnsupportedMedia):
        plan_streams(str(tmp_path / "text.mp4"), "out.mp4", None)


def test_a_source_that_vanishes_after_the_plan_is_missing(tmp_path: Path) -> None:
    clip = samples.make_clip(tmp_path / "in.mp4", audio="aac", frames=3)
    plan = plan_streams(str(clip), str(tmp_path / "out.mp4"), None)
    clip.unlink()
    with pytest.raises(SourceMissing):
        open_file_sink(tmp_path / "out.mp4", constant(), FAST, plan=plan)
    assert list(tmp_path.iterdir()) == []


def test_damaged_sound_does_not_kill_the_job(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The source's sound ends early: the video is complete, and it is said."""
    clip = samples.make_clip(tmp_path / "in.ts", audio="aac", frames=50)
    plan = plan_streams(str(clip), str(tmp_path / "out.mp4"), None)
    sink = open_file_sink(tmp_path / "out.mp4", constant(), FAST, plan=plan)
    raw = clip.read_bytes()
    clip.write_bytes(raw[: len(raw) // 2 // 188 * 188])  # the same file, cut while it is read
    for picture in pictures(constant(), 50):
        sink.write(picture)
    sink.finish()
    assert int(streams(tmp_path / "out.mp4", "video")[0]["nb_read_packets"]) == 50


def test_a_pipe_is_not_read_for_the_plan(tmp_path: Path) -> None:
    """What a look takes from a pipe is gone; nobody writes to this one, and it would wait."""
    fifo = tmp_path / "in.mkv"
    os.mkfifo(fifo)
    plan = plan_streams(str(fifo), str(tmp_path / "out.mkv"), None)
    assert plan.lines() == ["input is a pipe: only its video is taken"]


def test_sound_of_a_codec_that_nobody_knows_is_left_out(tmp_path: Path) -> None:
    clip = samples.make_clip(tmp_path / "in.mp4", audio="aac", frames=5)
    whole = clip.read_bytes()
    place = whole.index(b"\x40\x15", whole.index(b"esds"))  # MPEG-4 audio, and what of it
    clip.write_bytes(whole[:place].replace(b"mp4a", b"xq4z") + b"\xff" + whole[place + 1 :])
    (line,) = through(clip, tmp_path / "out.mp4")
    assert line.startswith("audio #1 unknown: left out")
    assert streams(tmp_path / "out.mp4", "audio") == []
