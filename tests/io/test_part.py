"""A part of a film: exactly its frames, and what else lies in it."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
from collections.abc import Callable
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from support.media.clips import make_clip, make_sequence, numbered_frame
from support.media.fields import soft_telecine
from support.media.sinks import decodes_without_errors, ffprobe, packets, streams, through

from upframe.filters.frame import Picture
from upframe.io.encode.encoder import EncoderOptions
from upframe.io.errors import WrongOption
from upframe.io.part import Part, Window, parse_time
from upframe.io.source import open_source
from upframe.io.timecode import Timecode

LOSSLESS = EncoderOptions(codec="ffv1")
TICK = Fraction(1, 1000)


def part(start: str = "0", end: str | None = None) -> Part:
    return Part(parse_time(start), None if end is None else parse_time(end))


# Times.


def test_a_time_is_read_as_ffmpeg_writes_it() -> None:
    dice = random.Random(5)
    for _ in range(2000):
        hours, minutes, seconds = dice.randrange(100), dice.randrange(60), dice.randrange(60)
        digits = dice.choice(["", ".", *(f".{dice.randrange(10**n):0{n}}" for n in (1, 3, 6, 9))])
        share = Fraction(f"0{digits}") if len(digits) > 1 else Fraction(0)
        sign = dice.choice(["", "-"])
        factor = -1 if sign else 1
        whole = (hours * 60 + minutes) * 60 + seconds
        told = f"{sign}{hours:0{dice.choice([1, 2])}}:{minutes:02}:{seconds:02}{digits}"
        assert parse_time(told) == factor * (whole + share)
        told = f"{sign}{minutes}:{seconds:02}{digits}"
        assert parse_time(told) == factor * (60 * minutes + seconds + share)
        for unit, size in (("", 1), ("s", 1), ("ms", 1000), ("us", 1_000_000)):
            assert parse_time(f"{sign}{whole}{digits}{unit}") == factor * (whole + share) / size


@pytest.mark.parametrize(
    "text",
    ["", "-", "1:60", "60:00", "1:2:3:4", "1m", "1 s", "1:30s", "0x10", "nan", "inf", "1e3", "1,5",
     "--1", "\u0661", ":30", "1:", "9" * 5000],
)  # fmt: skip
def test_what_is_no_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"must be a time such as 90, 1:30, 00:01:30\.5 or 90500ms"
    ):
        parse_time(text)


# Pictures.


def _late(path: Path) -> Path:
    pts = [5000 + 40 * index for index in range(60)]
    return make_clip(
        path, frames=60, pts=pts, time_base=TICK, audio="aac", audio_offset_seconds=5.1
    )


def _uneven(path: Path) -> Path:
    dice = random.Random(3)
    steps = [dice.choice([20, 33, 40, 41, 90]) for _ in range(70)]
    pts = [sum(steps[:index]) for index in range(70)]
    return make_clip(path, frames=70, pts=pts, time_base=TICK, options={"g": "12"})


def _plain(path: Path) -> Path:
    return make_clip(path, frames=75, options={"g": "25", "bf": "3"}, audio="aac")


FILMS: dict[str, Callable[[Path], Path]] = {
    "b-frames.mp4": _plain,
    "uneven.mkv": _uneven,
    "late.mkv": _late,
    "late.ts": _late,
    "late.mov": _late,  # by its edit list
    "plain.ts": _plain,
    "thirds.mp4": lambda path: make_clip(path, frames=60, rate=Fraction(30_000, 1001)),
    "open.mkv": lambda path: make_clip(
        path, frames=75, codec="libx265",
        options={"x265-params": "log-level=none:open-gop=1:keyint=20:min-keyint=20:bframes=4"},
    ),
    "fields.mkv": lambda path: make_clip(path, frames=40, interlaced=True),
    "telecine.vob": soft_telecine,
}  # fmt: skip


def shown(path: Path, **options: Part) -> list[tuple[Fraction, str]]:
    """When each picture begins, and a hash of its planes."""
    with closing(open_source(str(path), **options)) as source:
        return [(one.pts * one.time_base, _hash(one)) for one in source]


def _hash(picture: Picture) -> str:
    planes = b"".join(plane.numpy().tobytes() for plane in picture.planes)
    return hashlib.sha256(planes).hexdigest()


@pytest.mark.parametrize("name", FILMS)
def test_a_part_has_exactly_the_frames_of_the_whole_from_start_to_end(
    name: str, tmp_path: Path
) -> None:
    clip = FILMS[name](tmp_path / name)
    whole = shown(clip)
    begins = Fraction(json.loads(_probed(clip))["format"]["start_time"])
    times = [seconds - begins for seconds, _ in whole]
    at = times[len(times) // 3]
    for start, end in (
        (at, times[-9]), (at - TICK, at + TICK), (Fraction(0), at), (at + TICK, None),
        (round(at, 6), round(times[-3], 6)),
    ):  # fmt: skip
        chosen = Part(start, end)
        wanted = [
            one
            for one, time in zip(whole, times, strict=True)
            if round(time, 6) >= round(start, 6) and (end is None or round(time, 6) < round(end, 6))
        ]
        assert shown(clip, part=chosen) == wanted
        with closing(open_source(str(clip), part=chosen)) as source:
            count = source.info.num_frames
        if name not in ("fields.mkv", "telecine.vob"):  # whose packets may be fields
            assert count == len(wanted)


@pytest.mark.parametrize("name", ["b-frames.mp4", "uneven.mkv", "late.mov"])
def test_a_part_is_decoded_from_just_before_it(name: str, tmp_path: Path) -> None:
    """So a film whose beginning cannot be decoded has a part that can."""
    clip = FILMS[name](tmp_path / name)
    begins = "1.8"
    wanted = shown(clip, part=part(begins))
    data = bytearray(clip.read_bytes())
    with av.open(str(clip)) as container:
        found = [packet for packet in container.demux(video=0) if packet.size]
    for packet in found[2:16]:
        for at in range(packet.pos + 40, packet.pos + min(packet.size, 180)):
            data[at] ^= 0xAA
    clip.write_bytes(data)
    with closing(open_source(str(clip))) as source:
        for _ in source:
            pass
        assert source.num_damaged > 0
    assert shown(clip, part=part(begins)) == wanted
    with closing(open_source(str(clip), part=part(begins))) as source:
        list(source)
        assert (source.num_damaged, source.warnings()) == (0, [])


def _probed(path: Path) -> bytes:
    command = ["ffprobe", "-v", "error", "-of", "json", "-show_format", str(path)]
    return subprocess.run(command, capture_output=True, check=True).stdout


@pytest.mark.parametrize("name", ["b-frames.mp4", "uneven.mkv", "late.mov", "plain.ts"])
def test_ffmpeg_decodes_the_frames_of_the_source_from_the_result(name: str, tmp_path: Path) -> None:
    clip, out = FILMS[name](tmp_path / name), tmp_path / "out.mkv"
    through(clip, out, options=LOSSLESS, part=part("0.5", "1.5"))
    begins = Fraction(json.loads(_probed(clip))["format"]["start_time"])
    wanted = [
        digest
        for seconds, digest in decoded(clip)
        if Fraction(1, 2) <= seconds - begins < Fraction(3, 2)
    ]
    assert [digest for _, digest in decoded(out)] == wanted
    if name != "uneven.mkv":  # ffmpeg complains of any such rate
        assert decodes_without_errors(out)
    starts = [float(one.get("start_time", 0)) for one in streams(out, "video")]
    assert starts[0] == pytest.approx(0, abs=0.042)  # a packet of sound may begin before


def decoded(path: Path) -> list[tuple[Fraction, str]]:
    """The time and MD5 of each frame, as a real ffmpeg decodes it."""
    command = ["ffprobe", "-v", "error", "-of", "csv=p=0", "-select_streams", "v:0"]
    command += ["-show_entries", "frame=pts_time", str(path)]
    times = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-i",
        str(path),
        "-map",
        "0:v:0",
        "-fps_mode",
        "passthrough",
    ]
    made = subprocess.run(
        [*command, "-f", "framemd5", "-"], capture_output=True, check=True, text=True
    )
    sums = [line.split()[-1] for line in made.stdout.splitlines() if not line.startswith("#")]
    return [(Fraction(time.strip(",")), one) for time, one in zip(times, sums, strict=True)]


def test_the_last_frame_keeps_its_duration_but_ends_with_the_part(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mkv", frames=5, pts=[0, 40, 80, 1000, 1040], time_base=TICK)
    for end, lasts in (("0.05", 10), ("0.5", 420), ("1", 920), ("1.03", 30), ("2", 40)):
        with closing(open_source(str(clip), part=part(end=end))) as source:
            assert [one.duration for one in source][-1] == lasts


def test_a_part_of_an_image_sequence_counts_its_frames(tmp_path: Path) -> None:
    pattern = make_sequence(tmp_path, frames=10)
    with closing(open_source(pattern, framerate=Fraction(5), part=part("0.4", "1.2"))) as source:
        assert (source.info.num_frames, source.info.duration_seconds) == (4, Fraction(4, 5))
        assert len(list(source)) == 4


@pytest.mark.parametrize(
    ("start", "end"), [("3", None), ("1:00", "2:00"), ("0.001", "0.039"), ("2.961", "3.5")]
)
def test_a_part_without_a_frame_is_refused_with_what_the_film_has(
    start: str, end: str | None, tmp_path: Path
) -> None:
    clip = make_clip(tmp_path / "a.mp4", frames=75)
    with pytest.raises(WrongOption) as caught:
        open_source(str(clip), part=part(start, end))
    assert str(caught.value).endswith(
        f"{part(start, end)} holds no frame: the film has 75 frames and lasts 3.000 s"
    )


def test_a_film_of_unknown_length_is_not_said_to_have_no_frames() -> None:
    chosen, ends = part("9"), "the part from 9 s to the end holds no frame"
    assert str(chosen.refused("a.ts", None, None)) == f"a.ts: {ends}"
    assert str(chosen.refused("a.ts", 1, None)) == f"a.ts: {ends}: the film has 1 frame"
    assert str(chosen.refused("a.ts", 0, Fraction(2))) == f"a.ts: {ends}: the film lasts 2.000 s"


# Sound.

RATE = 48_000
CLICKS = [Fraction(number, 10) + Fraction(1, 40) for number in range(30)]


def clicking(path: Path, codec: str) -> Path:
    """Three seconds of pictures, and two tracks of sound with a click each tenth of a second."""
    wave = np.zeros(3 * RATE, np.float32)
    for click in CLICKS:
        wave[int(click * RATE)] = 0.9
    with av.open(str(path), "w") as made:
        video = made.add_stream("libx264", rate=25, options={"g": "25"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        tracks = [made.add_stream(codec, rate=RATE) for _ in range(2)]
        for track in tracks:
            track.codec_context.layout = "mono"
        for index in range(75):
            made.mux(video.encode(numbered_frame(index)))
            for track in tracks:
                piece = wave[index * 1920 : (index + 1) * 1920]
                whole = track.codec_context.format.name.startswith("s16")
                piece = (piece * 32_767).astype(np.int16) if whole else piece
                frame = av.AudioFrame.from_ndarray(
                    piece.reshape(1, -1), "s16" if whole else "fltp", "mono"
                )
                frame.sample_rate, frame.pts = RATE, index * 1920
                frame.time_base = Fraction(1, RATE)
                made.mux(track.encode(frame))
        for stream in (video, *tracks):
            made.mux(stream.encode(None))
    return path


def heard(path: Path, track: int) -> list[float]:
    """When clicks are heard, in seconds from the first frame, as decoded."""
    with av.open(str(path)) as opened:
        first = next(opened.decode(video=0)).time
    found: list[float] = []
    with av.open(str(path)) as opened:
        for frame in opened.decode(audio=track):
            samples = np.abs(frame.to_ndarray().astype(np.float64)).reshape(-1)
            peak = 0.4 * {"s": 2 ** (8 * frame.format.bytes - 1)}.get(frame.format.name[0], 1)
            found += [frame.time + int(at) / RATE - first for at in np.nonzero(samples > peak)[0]]
    return found


@pytest.mark.parametrize("target", ["out.mp4", "out.mkv", "out.mov"])
@pytest.mark.parametrize(
    ("source", "codec", "audio_codec"),
    [("in.mp4", "aac", "auto"), ("in.mkv", "aac", "auto"), ("in.mkv", "pcm_s16le", "copy"),
     ("in.ts", "aac", "auto"), ("in.mkv", "aac", "alac"), ("in.mp4", "aac", "aac")],
)  # fmt: skip
def test_sound_is_cut_to_the_packet_and_keeps_its_offset_within_a_millisecond(
    source: str, codec: str, audio_codec: str, target: str, tmp_path: Path
) -> None:
    clip, out = clicking(tmp_path / source, codec), tmp_path / target
    if codec == "pcm_s16le" and target == "out.mp4":
        target, out = "out.mov", tmp_path / "out.mov"
    through(clip, out, part=part("1.01", "2"), audio_codec=audio_codec)
    assert decodes_without_errors(out)
    # of a transport stream, times count from its sound, which has priming before the pictures
    first, start = (1.0, 1.01 - 1024 / RATE) if source == "in.ts" else (1.04, 1.01)
    end = start + 0.99
    before = [click - first for click in heard(clip, 0)]
    for track in (0, 1):
        clicks = heard(out, track)
        inside = [click for click in clicks if 0.03 < click < 0.94]
        wanted = [click for click in before if 0.03 < click < 0.94]
        assert len(inside) == len(wanted) == 9
        assert max(abs(a - b) for a, b in zip(inside, wanted, strict=True)) <= 0.001
        times = [
            (float(one["pts_time"]), float(one.get("duration_time", 4096 / RATE)))
            for one in packets(out, f"a:{track}")
            if "D" not in one["flags"]
        ]
        moved = min(float(one["pts_time"]) for one in packets(out)) - first
        longest = max(lasts for _, lasts in times)
        last, lasts = max(times)
        assert last - moved < end + 0.001
        assert last + lasts - moved >= end - 0.001
        assert min(times)[0] - moved <= start + 0.001
        assert min(times)[0] - moved >= start - 3 * longest  # with an encoder's priming


# Other streams.

SAID = ((0.2, 0.8, "gone"), (0.9, 1.4, "begun before"), (1.5, 1.6, "inside"), (1.9, 2.6, "goes on"),
        (2.2, 2.4, "too late"))  # fmt: skip
CHAPTERS = ((0.0, 1.0, "one"), (1.0, 1.5, "two"), (1.5, 2.5, "three"), (2.5, 3.0, "four"))


@pytest.mark.parametrize(
    ("source", "target"), [("in.mkv", "out.mkv"), ("in.mkv", "out.mp4"), ("in.mp4", "out.mp4")]
)
def test_subtitles_and_chapters_are_those_of_the_part_clipped_to_it(
    source: str, target: str, tmp_path: Path
) -> None:
    clip = make_clip(
        tmp_path / source, frames=75, audio="aac", subtitles=SAID, chapters=CHAPTERS,
        attachment=source == "in.mkv" == target.replace("out", "in"),
    )  # fmt: skip
    out = tmp_path / target
    lines = through(clip, out, part=part("1.2", "2"), strict=True)
    assert "only the part from 1.2 s to 2 s" in lines
    origin = min(float(one["start_time"]) for one in streams(out, "audio"))
    shift = 0.0 if origin <= 0 else origin
    video = min(float(one["pts_time"]) for one in packets(out))
    told = [
        (float(one["pts_time"]) - video, float(one["duration_time"]))
        for one in packets(out, "s:0")
        if int(one["size"]) > 2
    ]
    assert told == [
        (pytest.approx(begins, abs=0.002), pytest.approx(lasts, abs=0.002))
        for begins, lasts in ((0, 0.2), (0.3, 0.1), (0.7, 0.1))
    ]
    chapters = ffprobe(out)["chapters"]
    assert [one["tags"]["title"] for one in chapters] == ["two", "three"]
    assert float(chapters[0]["start_time"]) - video == pytest.approx(0, abs=0.002)
    assert float(chapters[1]["start_time"]) - video == pytest.approx(0.3, abs=0.002)
    assert float(chapters[1]["end_time"]) - video == pytest.approx(0.8, abs=0.002 + shift)
    if target == "out.mkv":
        assert len(streams(out, "attachment")) == 1


@pytest.mark.parametrize(
    ("begins", "rate", "frames", "then"),
    [
        ("10:00:00:00", 25, 26, "10:00:01:01"), ("23:59:59:24", 25, 1, "00:00:00:00"),
        ("00:00:59;29", Fraction(30_000, 1001), 1, "00:01:00;02"),
        ("00:09:59;29", Fraction(30_000, 1001), 1, "00:10:00;00"),
        ("00:00:00;00", Fraction(30_000, 1001), 107_892, "01:00:00;00"),
        ("01:00:59;59", Fraction(60_000, 1001), 1, "01:01:00;04"),
    ],
)  # fmt: skip
def test_a_time_code_counts_on(begins: str, rate: Fraction, frames: int, then: str) -> None:
    code = Timecode.parse(begins, Fraction(rate))
    assert code is not None
    assert str(code.later(frames)) == then


def test_the_time_code_is_that_of_the_first_frame_of_the_part(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mov", frames=75, metadata={"timecode": "01:00:00:20"})
    through(clip, tmp_path / "out.mov", part=part("1.01", "2"), strict=True)
    assert streams(tmp_path / "out.mov", "video")[0]["tags"]["timecode"] == "01:00:01:21"


def test_a_chapter_without_a_length_lies_in_one_part_only() -> None:
    chapter = {"id": 1, "start": 1000, "end": 1000, "time_base": TICK, "metadata": {}}
    for start, end, count in ((0, 1, 0), (1, 2, 1), (Fraction(1, 2), 2, 1), (2, 3, 0)):
        window = Window(Fraction(start), Fraction(end))
        assert len(window.chapters([chapter])) == count  # type: ignore[list-item]
