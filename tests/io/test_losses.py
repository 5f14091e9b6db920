"""The loss ledger: what a source holds and its output does not, planned and found."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import av
import pytest
from support.media import clips as samples
from support.media.sinks import FAST, constant, ffprobe, pictures, write

from upframe.io.decode.demuxer import Target, find_target
from upframe.io.encode.encoder import EncoderOptions, output_pix_fmt
from upframe.io.errors import SinkRefused, VerificationFailed
from upframe.io.losses import LossLedger, contents_of, kept_metadata, losses
from upframe.io.sink import open_file_sink, plan_output
from upframe.io.source import open_source
from upframe.io.streams.plan import plan_streams
from upframe.io.traits import Trait

TITLE = Trait("file", "tag title", "tag title 'A'", "A")
SOUND = Trait("audio #1", "stream audio", "aac", "aac")
SPOKEN = Trait("audio #1", "audio tag language", "tag language 'eng'", "eng")


def test_what_is_there_whatever_its_place_is_not_lost() -> None:
    there = [replace(SOUND, subject="audio #7"), TITLE, Trait("video", "icc", "ICC")]
    assert losses([TITLE, SOUND], there) == []


def test_each_thing_of_the_output_counts_once() -> None:
    both = [SOUND, replace(SOUND, subject="audio #2")]
    assert [str(loss) for loss in losses(both, [SOUND])] == ["audio #2 aac: not kept"]


def test_another_value_is_a_loss_that_says_what_it_became() -> None:
    other = Trait("file", "tag title", "tag title 'B'", "B")
    assert list(map(str, losses([TITLE], [other]))) == ["file: tag title 'A': became tag title 'B'"]


def test_without_a_value_being_there_is_enough() -> None:
    assert losses([Trait("frames", "hdr10+", "HDR10+")], [Trait("x", "hdr10+", "other")]) == []


def test_of_a_stream_that_is_missing_its_tags_are_not_listed() -> None:
    assert [loss.trait for loss in losses([SOUND, SPOKEN], [])] == [SOUND]
    assert [loss.trait for loss in losses([SOUND, SPOKEN], [SOUND])] == [SPOKEN]


def test_what_was_found_replaces_what_was_planned() -> None:
    ledger = LossLedger("a.mp4", [TITLE, SOUND], said=["styling"])
    assert ledger.plan(losses([TITLE], [])) == ["file: tag title 'A': not kept"]
    assert ledger.lines() == ["styling", "file: tag title 'A': not kept"]
    assert ledger.check([TITLE]) == ["audio #1 aac: not kept"]
    assert ledger.lines() == ["styling", "audio #1 aac: not kept"]


def test_a_strict_ledger_refuses_before_and_after_the_work() -> None:
    with pytest.raises(SinkRefused, match=r"--strict-streams: a\.mp4: file: tag title 'A'"):
        LossLedger("a.mp4", [TITLE], strict=True).plan(losses([TITLE], []))
    ledger = LossLedger("a.mp4", [TITLE], strict=True)
    assert ledger.plan([]) == []
    with pytest.raises(VerificationFailed, match=r"--strict-streams: a\.mp4: file: tag title 'A'"):
        ledger.check([])


def test_a_stream_without_a_packet_is_no_loss() -> None:
    assert LossLedger("a.mp4", [SOUND], strict=True).check([], {"audio #1"}) == []


def kinds(path: Path) -> list[str]:
    return [trait.kind for trait in contents_of(find_target(str(path)))]


def test_a_file_is_described_whole(tmp_path: Path) -> None:
    clip = samples.make_clip(
        tmp_path / "in.mkv", audio="aac", subtitles=[(0, 0.2, "hello")], attachment=True,
        chapters=((0.0, 0.2, "begin"), (0.2, 0.48, "end")), metadata={"title": "A film"},
    )  # fmt: skip
    found = {trait.kind: trait for trait in contents_of(find_target(str(clip)))}
    assert set(found) == {
        "tag title", "stream audio", "stream subtitle", "stream attachment", "chapters",
    }  # fmt: skip
    assert str(found["stream audio"]) == "audio #1 aac"
    assert str(found["chapters"]) == "file: 2 chapters (begin, end)"
    assert str(found["stream attachment"]) == "attachment #3 font.ttf"


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov", "a.ts", "a.avi", "a.webm", "a.mpg"])
def test_a_plain_film_has_nothing_to_lose(tmp_path: Path, name: str) -> None:
    codec = {"a.webm": "libvpx-vp9", "a.mpg": "mpeg2video"}.get(name, "libx264")
    assert kinds(samples.make_clip(tmp_path / name, codec=codec)) == []


def test_an_encoders_banner_is_no_content(tmp_path: Path) -> None:
    assert kinds(samples.make_clip(tmp_path / "a.mkv", options={"preset": "fast"})) == []
    clip = samples.make_clip(tmp_path / "b.mkv", codec="libx265")
    assert kinds(clip) == []


def test_stale_and_technical_metadata_are_no_content() -> None:
    stale = {"ENCODER": "x", "DURATION-eng": "1", "product_uid": "9", "major_brand": "isom"}
    assert kept_metadata(stale | {"title": "t", "DATE": "2020"}) == {"title": "t", "DATE": "2020"}


@pytest.mark.parametrize(
    ("pix_fmt", "codec"), [("rgba", "png"), ("rgb24", "png"), ("yuva444p10le", "prores_ks")]
)
def test_alpha_that_hides_nothing_is_no_trait(tmp_path: Path, pix_fmt: str, codec: str) -> None:
    clip = samples.make_clip(tmp_path / "a.mov", codec=codec, pix_fmt=pix_fmt, frames=2)
    assert kinds(clip) == []


def test_an_opaque_palette_is_not_transparent(tmp_path: Path) -> None:
    clip = samples.make_clip(tmp_path / "in.mkv", frames=3)
    command = ["ffmpeg", "-v", "error", "-i", str(clip), str(tmp_path / "a.gif")]
    subprocess.run(command, check=True)
    assert kinds(tmp_path / "a.gif") == []


def converted(source: Path, target: Path, *, strict: bool = False):
    """Write a source's pictures again; give the sink, to ask what was lost."""
    plan = plan_streams(str(source), str(target), strict=strict)
    opened = open_source(str(source))
    options = FAST if target.suffix in (".mp4", ".mkv", ".mov") else EncoderOptions()
    info = replace(opened.info, pix_fmt=output_pix_fmt(opened.info, options, target))
    sink = open_file_sink(target, info, options, plan=plan)
    write(sink, iter(opened))
    opened.close()
    return sink


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "out.mov"])
def test_nothing_of_a_common_film_is_lost(tmp_path: Path, name: str) -> None:
    clip = samples.make_clip(
        tmp_path / "in.mkv", audio="aac", subtitles=[(0, 0.2, "hello")],
        chapters=((0.0, 0.2, "begin"), (0.2, 0.48, "end")), metadata={"title": "A film"},
    )  # fmt: skip
    assert converted(clip, tmp_path / name, strict=True).losses() == []


def test_losses_are_planned_said_and_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = samples.make_clip(
        tmp_path / "in.mkv", attachment=True, metadata={"title": "A film", "SHOT_BY": "me"}
    )
    wanted = [
        "file: tag SHOT_BY 'me': not kept",
        "attachment #1 font.ttf: left out, mp4 holds no attachments",
    ]
    plan = plan_streams(str(clip), str(tmp_path / "out.mp4"))
    target = str(tmp_path / "out.mp4")
    assert plan_output(constant(), FAST, target, None, plan).losses == wanted
    sink = open_file_sink(tmp_path / "out.mp4", constant(), FAST, plan=plan)
    assert sink.losses() == wanted
    assert "file: tag SHOT_BY 'me': not kept" in caplog.text
    write(sink, pictures(constant()))
    assert sink.losses() == wanted


def test_strict_streams_refuse_a_tag_that_would_be_lost(tmp_path: Path) -> None:
    clip = samples.make_clip(tmp_path / "in.mkv", metadata={"SHOT_BY": "me"})
    plan = plan_streams(str(clip), str(tmp_path / "out.mp4"), strict=True)
    with pytest.raises(SinkRefused, match=r"--strict-streams: out\.mp4: file: tag SHOT_BY 'me'"):
        open_file_sink(tmp_path / "out.mp4", constant(), FAST, plan=plan)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mkv"]


@pytest.mark.parametrize("strict", [False, True])
def test_a_loss_that_nobody_planned_is_found(
    tmp_path: Path, strict: bool, caplog: pytest.LogCaptureFixture
) -> None:
    clip = samples.make_clip(tmp_path / "in.mkv", metadata={"title": "A film"})
    plan = plan_streams(str(clip), str(tmp_path / "out.mp4"), strict=strict)
    sink = open_file_sink(tmp_path / "out.mp4", constant(), FAST, plan=plan)
    sink._media._output.metadata.clear()  # as a muxer would that is otherwise than in the trial
    lost = "file: tag title 'A film': not kept"
    if strict:
        with pytest.raises(VerificationFailed, match=lost):
            write(sink, pictures(constant()))
        assert not (tmp_path / "out.mp4").exists()
        return
    write(sink, pictures(constant()))
    assert sink.losses() == [lost]
    assert f"lost, though it was to be kept: {lost}" in caplog.text


@pytest.mark.parametrize("name", ["out.avi", "out.ts", "out.flv"])
def test_what_other_containers_lose_is_known_before_and_found_after(
    tmp_path: Path, name: str
) -> None:
    clip = samples.make_clip(
        tmp_path / "in.mp4", audio="aac", chapters=((0.0, 0.48, "all"),),
        metadata={"title": "A film", "artist": "Somebody"},
    )  # fmt: skip
    plan = plan_streams(str(clip), str(tmp_path / name))
    sink = open_file_sink(tmp_path / name, constant(), FAST, plan=plan)
    before = sink.losses()
    assert "file: 1 chapters (all): not kept" in before
    write(sink, pictures(constant()))
    assert sink.losses() == before


def test_a_still_keeps_no_tag_of_a_film(tmp_path: Path) -> None:
    clip = samples.make_clip(tmp_path / "in.mp4", audio="aac", frames=2, metadata={"title": "A"})
    sink = converted(clip, tmp_path / "out_%02d.png")
    assert sink.losses() == [
        "file: tag title 'A': not kept",
        "audio #1 aac: left out, a still image holds no other stream",
    ]


def test_languages_are_compared(tmp_path: Path) -> None:
    clip = samples.make_clip(tmp_path / "plain.mkv", audio="aac")
    command = ["ffmpeg", "-v", "error", "-i", str(clip), "-c", "copy"]
    command += ["-metadata:s:a:0", "language=fra", str(tmp_path / "in.mkv")]
    subprocess.run(command, check=True)
    assert converted(tmp_path / "in.mkv", tmp_path / "out.mp4", strict=True).losses() == []
    lines = converted(tmp_path / "in.mkv", tmp_path / "out.flv").losses()
    assert "audio #1 tag language 'fra': not kept" in lines


def test_what_is_in_memory_is_described_too(tmp_path: Path) -> None:
    clip = samples.make_clip(tmp_path / "in.mkv", audio="aac", metadata={"title": "A"})
    found = contents_of(Target("bytes", BytesIO(clip.read_bytes())))
    assert [trait.kind for trait in found] == ["tag title", "stream audio"]


def test_a_file_whose_frames_cannot_be_decoded_is_described_by_its_header(tmp_path: Path) -> None:
    clip = samples.make_clip(tmp_path / "in.mkv", audio="aac", frames=3)
    with av.open(str(clip)) as opened:
        (first, *_) = [one for one in opened.demux(video=0) if one.size]
        place = first.pos or 0
    raw = bytearray(clip.read_bytes())
    raw[place + 8 : place + 200] = bytes(192)
    clip.write_bytes(raw)
    assert "stream audio" in kinds(clip)


@pytest.mark.parametrize("name", ["out.mp4", "out.mov", "out.mkv"])
def test_the_tags_of_a_phone_are_kept(tmp_path: Path, name: str) -> None:
    clip = samples.make_clip(
        tmp_path / "in.mov", container_options={"movflags": "use_metadata_tags"},
        metadata={"com.apple.quicktime.make": "Apple", "com.android.version": "15"},
    )  # fmt: skip
    assert converted(clip, tmp_path / name, strict=True).losses() == []
    tags = {key.lower(): value for key, value in ffprobe(tmp_path / name)["format"]["tags"].items()}
    assert (tags["com.apple.quicktime.make"], tags["com.android.version"]) == ("Apple", "15")
