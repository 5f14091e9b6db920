"""Sound that a container holds is copied; what it cannot hold is encoded, at the same times."""

from __future__ import annotations

import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from av.audio.resampler import AudioResampler
from support.media.sinks import (
    FAST,
    constant,
    decoded_sound,
    decodes_without_errors,
    ffprobe,
    pictures,
    streams,
    write,
)
from support.media.sinks import through as through_it

from upframe.io.encode.encoder import EncoderOptions
from upframe.io.errors import SinkRefused
from upframe.io.sink import open_file_sink
from upframe.io.streams.plan import plan_streams

Samples = npt.NDArray[np.float32]

_PICTURE = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=1"]
_BURST = "aevalsrc='(random(0)-0.5)*between(mod(t,0.5),0.2,0.3)':s={rate}:d=1:c={layout}"


def through(source: Path, target: Path, *, strict: bool = False) -> list[str]:
    """Decode a file and write it again, fast where the encoder knows how to."""
    return through_it(source, target, options=options_of(target), strict=strict)


def options_of(target: Path) -> EncoderOptions:
    """Options that the default encoder of a container has."""
    fast = target.suffix in (".mp4", ".mkv", ".mov", ".ts", ".avi", ".flv")
    return FAST if fast else EncoderOptions()


def clip_of(
    path: Path,
    *encoder: str,
    rate: int = 48_000,
    layout: str = "stereo",
    offset: float = 0,
    video: str = "libx264",
) -> Path:
    """A second of video with bursts of noise, encoded by ffmpeg."""
    burst = _BURST.format(rate=rate, layout=layout)
    command = ["ffmpeg", "-v", "error", "-y", *_PICTURE, "-itsoffset", str(offset)]
    command += ["-f", "lavfi", "-i", burst, "-c:v", video, "-c:a", *encoder, "-strict", "-2"]
    subprocess.run([*command, str(path)], check=True)
    return path


def sound_of(path: Path) -> Samples:
    """The sound on the time line of the video, at 48 kHz, mixed to one channel, decoded."""
    line = np.zeros(48_000 * 8, np.float32)
    start, at, resampler, before = _start_of(path), 0.0, None, ("", 0)
    with av.open(str(path)) as opened:
        for frame in opened.decode(audio=0):
            at = at if frame.pts is None else float(frame.pts * frame.time_base) - start
            form = (frame.layout.name, frame.sample_rate)
            if resampler is None or form != before:
                resampler = AudioResampler("flt", "mono", 48_000, options={"filter_size": "1"})
            before = form
            frame.pts = None
            done = [one.to_ndarray().reshape(-1) for one in resampler.resample(frame)]
            piece = np.concatenate(done) if done else np.zeros(0, np.float32)
            place = round(at * 48_000) + 48_000
            line[place : place + len(piece)] = piece
            at += frame.samples / frame.sample_rate
    return line


def _start_of(path: Path) -> float:
    """When the video begins; AVI tells only when its first frame is decoded."""
    if path.suffix == ".avi":
        return 0.0
    with av.open(str(path)) as opened:
        video = opened.streams.video[0]
        return min(
            float(one.pts * one.time_base) for one in opened.demux(video) if one.pts is not None
        )


def samples_of(path: Path) -> npt.NDArray[np.int32]:
    """The samples of 32 bits, one row a channel."""
    with av.open(str(path)) as opened:
        channels = opened.streams.audio[0].codec_context.channels
        frames = [frame.to_ndarray() for frame in opened.decode(audio=0)]
    rows = [one.reshape(-1, channels).T if len(one) == 1 else one for one in frames]
    return np.concatenate(rows, axis=1).astype(np.int32)


def lag_of(got: Samples, wanted: Samples) -> float:
    """By how many milliseconds a sound is later than another."""
    spectrum = np.fft.rfft(got) * np.conj(np.fft.rfft(wanted))
    place = int(np.argmax(np.fft.irfft(spectrum)))
    return (place if place < len(got) // 2 else place - len(got)) / 48


# Copied: the muxer decides, not a list of codecs.

_COPIED = [
    ("in.avi", "wmav2", {}),
    ("in.asf", "wmav2", {}),
    ("in.mkv", "wmav2", {}),
    ("in.avi", "adpcm_ms", {}),
    ("in.avi", "adpcm_ima_wav", {}),
    ("in.mov", "adpcm_ima_qt", {}),
    ("in.avi", "pcm_alaw", {"rate": 8000}),
    ("in.avi", "pcm_mulaw", {"rate": 8000}),
    ("in.mov", "pcm_mulaw", {"rate": 8000}),
    ("in.mov", "pcm_alaw", {"rate": 8000, "layout": "mono"}),
]


@pytest.mark.parametrize("target", ["out.mkv", "out.avi", "out.mov", "out.mp4"])
@pytest.mark.parametrize(("source", "codec", "more"), _COPIED)
def test_sound_is_copied_wherever_ffmpeg_copies_it(
    tmp_path: Path, source: str, codec: str, more: dict[str, int], target: str
) -> None:
    if (source, codec, target) == ("in.avi", "wmav2", "out.avi"):
        pytest.skip("ffmpeg leaves a hole in the video, which AVI cannot store")
    clip = clip_of(tmp_path / source, codec, video="mpeg4", **more)
    reference = tmp_path / f"ffmpeg{target[3:]}"
    command = ["ffmpeg", "-v", "error", "-y", "-i", str(clip), "-c", "copy", str(reference)]
    done = subprocess.run(command, check=False, capture_output=True)
    kept = done.returncode == 0 and streams(reference, "audio")[0].get("codec_name") == codec
    (line,) = through(clip, tmp_path / target)
    assert (line == f"audio #1 {codec}: copied") == kept, line
    (sound,) = streams(tmp_path / target, "audio")
    if kept:
        assert sound["codec_name"] == codec
        assert decoded_sound(tmp_path / target) == decoded_sound(clip)
    # AVI stores no offset, such as that of the picture behind the first block of WMA
    limit = 50 if (codec, target) == ("wmav2", "out.avi") else 1
    assert abs(lag_of(sound_of(tmp_path / target), sound_of(clip))) <= limit


def test_wma_cannot_be_in_webm_whatever_the_trial_writes(tmp_path: Path) -> None:
    clip = clip_of(tmp_path / "in.asf", "wmav2", video="mpeg4")
    (line,) = through(clip, tmp_path / "out.webm")
    assert line.startswith("audio #1 wmav2: converted to libopus, webm cannot hold it")


# Samples of 24 bits.

_24_BITS = {
    "truehd": ("in.mkv", "truehd", "-sample_fmt", "s32"),
    "mlp": ("in.mkv", "mlp", "-sample_fmt", "s32"),
    "flac": ("in.mkv", "flac", "-sample_fmt", "s32"),
    "alac": ("in.mov", "alac", "-sample_fmt", "s32p"),
    "wavpack": ("in.mkv", "wavpack", "-sample_fmt", "s32p"),
    "tta": ("in.mkv", "tta", "-sample_fmt", "s32"),
    "pcm_s24le in MKV": ("in.mkv", "pcm_s24le"),
    "pcm_s24be in MOV": ("in.mov", "pcm_s24be"),
}


@pytest.mark.parametrize("target", ["out.mp4", "out.mov", "out.mkv"])
@pytest.mark.parametrize("codec", _24_BITS)
def test_sound_of_24_bits_keeps_every_sample_and_older_players(
    tmp_path: Path, codec: str, target: str
) -> None:
    if (codec, target) == ("tta", "out.mkv"):
        pytest.skip("its copy in Matroska lacks the number of samples, as that of ffmpeg")
    name, *encoder = _24_BITS[codec]
    wide = tmp_path / "wide.mkv"
    clip_of(wide, "pcm_s24le")
    command = ["ffmpeg", "-v", "error", "-i", str(wide), "-c:v", "copy", "-c:a", *encoder]
    clip = tmp_path / name
    subprocess.run([*command, "-bits_per_raw_sample", "24", "-strict", "-2", str(clip)], check=True)
    (line,) = through(clip, tmp_path / target, strict=True)
    assert "copied" in line or "without loss" in line
    (sound,) = streams(tmp_path / target, "audio")
    assert sound["codec_tag_string"] != "ipcm"
    assert sound["codec_name"] in (encoder[0], "flac", "alac", "pcm_s24le")
    assert np.array_equal(samples_of(tmp_path / target), samples_of(clip))
    assert (samples_of(clip) & 0xFFFF).any()  # more than 16 are used


def test_samples_of_24_bits_in_32_are_found_to_be_such(tmp_path: Path) -> None:
    clip_of(tmp_path / "24.mkv", "pcm_s24le")
    command = ["ffmpeg", "-v", "error", "-i", str(tmp_path / "24.mkv"), "-c:v", "copy"]
    clip = tmp_path / "in.mkv"
    subprocess.run([*command, "-c:a", "pcm_s32le", str(clip)], check=True)
    (line,) = through(clip, tmp_path / "out.mp4", strict=True)
    assert "converted to flac" in line
    assert np.array_equal(samples_of(tmp_path / "out.mp4"), samples_of(clip))


def _of_32_bits(path: Path, *, silent_seconds: float = 0) -> Path:
    """PCM of 32 bits that uses all of them, from some time on."""
    noise = f"aevalsrc='(random(0)-0.5)*gt(t,{silent_seconds})':d=1:s=48000:c=mono"
    command = ["ffmpeg", "-v", "error", *_PICTURE, "-f", "lavfi", "-i", noise, "-c:a", "pcm_s32le"]
    subprocess.run([*command, str(path)], check=True)
    return path


def test_all_32_bits_are_rounded_in_mp4_and_this_is_a_loss(tmp_path: Path) -> None:
    clip = _of_32_bits(tmp_path / "in.mkv")
    plan = plan_streams(str(clip), str(tmp_path / "out.mp4"))
    assert "32 bits rounded to 24 bits" in plan.warnings[0]
    with pytest.raises(SinkRefused, match="32 bits rounded to 24 bits"):
        plan_streams(str(clip), str(tmp_path / "out.mp4"), strict=True)
    assert "copied" in plan_streams(str(clip), str(tmp_path / "out.mov"), strict=True).lines()[0]
    through(clip, tmp_path / "out.mp4")
    before, after = (
        np.frombuffer(decoded_sound(path)[0], "<i4") for path in (clip, tmp_path / "out.mp4")
    )
    assert np.abs(before.astype(np.int64) - after).max() < 256


def test_32_bits_that_begin_later_are_counted_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = _of_32_bits(tmp_path / "in.mkv", silent_seconds=0.5)
    through(clip, tmp_path / "out.mp4")
    assert "samples had 32 bits, of which 24 were kept" in caplog.text


# Encoded.


@pytest.mark.parametrize(
    ("source", "encoder", "target", "codec"),
    [
        ("in.mp4", ["aac"], "out.webm", "opus"),
        ("in.mkv", ["ac3"], "out.webm", "opus"),
        ("in.asf", ["wmav2"], "out.mp4", "aac"),
        ("in.mkv", ["libvorbis"], "out.ts", "aac"),
        ("in.asf", ["wmav2"], "out.flv", "aac"),
        ("in.mkv", ["libopus"], "out.avi", "aac"),
        ("in.mkv", ["pcm_s16le"], "out.ts", "aac"),
        ("in.mkv", ["libopus"], "out.mpg", "mp2"),
    ],
)
@pytest.mark.parametrize("offset", [0.0, 0.2])
def test_sound_that_the_container_cannot_hold_is_encoded_and_stays_in_its_place(
    tmp_path: Path, source: str, encoder: list[str], target: str, codec: str, offset: float
) -> None:
    if target == "out.avi" and offset:
        pytest.skip("AVI stores no offset")
    video = "mpeg4" if source == "in.asf" else "libx264"
    clip = clip_of(tmp_path / source, *encoder, offset=offset, video=video)
    (line,) = through(clip, tmp_path / target)
    assert "converted to" in line
    assert "encoded again at " in line
    (sound,) = streams(tmp_path / target, "audio")
    assert (sound["codec_name"], sound["sample_rate"], sound["channels"]) == (codec, "48000", 2)
    before, after = sound_of(clip), sound_of(tmp_path / target)
    # AVI stores no offset, such as that of Opus after its priming
    assert abs(lag_of(after, before)) <= (7 if target == "out.avi" else 1)
    assert _end_of(after) == pytest.approx(_end_of(before), abs=0.03)
    assert decodes_without_errors(tmp_path / target)


def _end_of(sound: Samples) -> float:
    loud = np.flatnonzero(np.abs(sound) > 0.02)
    return float(loud[-1]) / 48_000


def test_that_it_is_encoded_again_is_a_loss(tmp_path: Path) -> None:
    clip = clip_of(tmp_path / "in.mp4", "aac")
    plan = plan_streams(str(clip), str(tmp_path / "out.webm"))
    (warning,) = plan.warnings
    assert "webm cannot hold it" in warning
    assert "encoded again at 160 kbit/s" in warning
    with pytest.raises(SinkRefused, match=r"--strict-streams: out.webm: audio #1 aac: converted"):
        plan_streams(str(clip), str(tmp_path / "out.webm"), strict=True)


@pytest.mark.parametrize(
    ("rate", "layout", "target", "wanted", "said"),
    [
        (44_100, "stereo", "out.webm", ("48000", 2), "resampled from 44100 to 48000 Hz"),
        (44_100, "stereo", "out.ts", ("44100", 2), "at 192 kbit/s"),
        (48_000, "mono", "out.webm", ("48000", 1), "at 80 kbit/s"),
        (48_000, "5.1(side)", "out.webm", ("48000", 6), "at 480 kbit/s"),
        (48_000, "7.1", "out.webm", ("48000", 8), "at 640 kbit/s"),
        (48_000, "5.1", "out.ts", ("48000", 6), "at 576 kbit/s"),
        (48_000, "5.1", "out.mpg", ("48000", 2), "mixed down from 5.1 to stereo"),
        (96_000, "stereo", "out.ts", ("96000", 2), "at 192 kbit/s"),
        (8_000, "mono", "out.ts", ("8000", 1), "at 96 kbit/s"),
    ],
)
def test_rate_and_channels_are_kept_where_the_encoder_has_them(
    tmp_path: Path, rate: int, layout: str, target: str, wanted: tuple[str, int], said: str
) -> None:
    clip = clip_of(tmp_path / "in.mkv", "flac", rate=rate, layout=layout)
    (line,) = through(clip, tmp_path / target)
    assert said in line
    (sound,) = streams(tmp_path / target, "audio")
    assert (sound["sample_rate"], sound["channels"]) == wanted
    assert abs(lag_of(sound_of(tmp_path / target), sound_of(clip))) <= 1


def test_many_sounds_are_decided_one_by_one(tmp_path: Path) -> None:
    one, two = clip_of(tmp_path / "1.mkv", "aac"), clip_of(tmp_path / "2.mkv", "libopus")
    command = ["ffmpeg", "-v", "error", "-i", str(one), "-i", str(two), "-map", "0"]
    command += ["-map", "1:a", "-c", "copy", "-metadata:s:a:0", "language=eng"]
    subprocess.run([*command, str(tmp_path / "in.mkv")], check=True)
    first, second = through(tmp_path / "in.mkv", tmp_path / "out.webm")
    assert first.startswith("audio #1 aac (eng): converted to libopus")
    assert second == "audio #2 opus: copied"
    english, _ = streams(tmp_path / "out.webm", "audio")
    assert english["tags"]["language"] == "eng"


def test_a_hole_in_the_sound_stays_one(tmp_path: Path) -> None:
    clip = clip_of(tmp_path / "whole.mkv", "aac")
    holed = tmp_path / "in.mkv"
    with av.open(str(clip)) as source, av.open(str(holed), "w") as written:
        targets = {one.index: written.add_stream_from_template(one, True) for one in source.streams}
        for packet in source.demux():
            seconds = float((packet.pts or 0) * packet.time_base)
            if packet.size and not (packet.stream.type == "audio" and 0.4 < seconds < 0.65):
                packet.stream = targets[packet.stream_index]
                written.mux(packet)
    through(holed, tmp_path / "out.webm")
    before, after = sound_of(holed), sound_of(tmp_path / "out.webm")
    assert abs(lag_of(after, before)) <= 1
    assert abs(lag_of(after[48_000 + 31_200 :], before[48_000 + 31_200 :])) <= 1
    assert np.abs(after[48_000 + 22_000 : 48_000 + 30_000]).max() < 0.01


def test_sound_whose_channels_change_on_the_way_is_encoded_to_its_end(tmp_path: Path) -> None:
    """As broadcasts do between a film and its advertisements."""
    pieces = b"".join(
        clip_of(tmp_path / f"{layout[0]}.ac3", "ac3", "-vn", layout=layout).read_bytes()
        for layout in ("stereo", "5.1(side)")
    )
    (tmp_path / "both.ac3").write_bytes(pieces)
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=2"]
    command += ["-i", str(tmp_path / "both.ac3"), "-c:a", "copy", str(tmp_path / "in.mkv")]
    subprocess.run(command, check=True)
    through(tmp_path / "in.mkv", tmp_path / "out.webm")
    before, after = sound_of(tmp_path / "in.mkv"), sound_of(tmp_path / "out.webm")
    assert abs(lag_of(after, before)) <= 1
    assert _end_of(after) == pytest.approx(_end_of(before), abs=0.03)


# --audio-codec


def planned(clip: Path, target: str, audio_codec: str) -> str:
    """The line of the plan."""
    (line,) = plan_streams(str(clip), str(clip.parent / target), audio_codec=audio_codec).lines()
    return line


def test_audio_codec_decides_what_becomes_of_sound(tmp_path: Path) -> None:
    clip = clip_of(tmp_path / "in.mkv", "aac")
    assert planned(clip, "out.mp4", "auto") == "audio #1 aac: copied"
    assert planned(clip, "out.mp4", "aac") == "audio #1 aac: copied"
    assert planned(clip, "out.mp4", "copy") == "audio #1 aac: copied"
    assert planned(clip, "out.mp4", "none") == "audio #1 aac: left out, as --audio-codec none asks"
    line = planned(clip, "out.mp4", "opus")
    assert line.startswith("audio #1 aac: converted to libopus, as --audio-codec opus asks; ")
    line = planned(clip, "out.webm", "copy")
    assert line.startswith("audio #1 aac: left out, webm cannot hold it")


@pytest.mark.parametrize(
    ("codec", "target"),
    [
        ("aac", "out.mp4"),
        ("ac3", "out.mp4"),
        ("alac", "out.mov"),
        ("eac3", "out.mp4"),
        ("flac", "out.mkv"),
        ("mp2", "out.ts"),
        ("mp3", "out.mp4"),
        ("opus", "out.mkv"),
        ("pcm_s16le", "out.mov"),
        ("pcm_s24le", "out.mov"),
        ("wmav2", "out.wmv"),
    ],
)
def test_every_codec_that_can_be_named_is_encoded_in_its_place(
    tmp_path: Path, codec: str, target: str
) -> None:
    clip = clip_of(tmp_path / "in.mkv", "pcm_f32le")
    plan = plan_streams(str(clip), str(tmp_path / target), audio_codec=codec)
    info, options = constant(), options_of(tmp_path / target)
    write(open_file_sink(tmp_path / target, info, options, plan=plan), pictures(info, 25))
    (sound,) = streams(tmp_path / target, "audio")
    assert sound["codec_name"] == codec
    assert abs(lag_of(sound_of(tmp_path / target), sound_of(clip))) <= 1


@pytest.mark.parametrize(
    ("codec", "target"), [("aac", "out.webm"), ("wmav2", "out.mp4"), ("flac", "out.ts")]
)
def test_a_codec_that_the_container_cannot_hold_is_refused(
    tmp_path: Path, codec: str, target: str
) -> None:
    clip = clip_of(tmp_path / "in.mkv", "libopus")
    with pytest.raises(SinkRefused, match=f"^--audio-codec {codec}: audio #1: "):
        plan_streams(str(clip), str(tmp_path / target), audio_codec=codec)


def test_a_container_without_sound_leaves_it_out(tmp_path: Path) -> None:
    clip = clip_of(tmp_path / "in.mkv", "aac")
    assert planned(clip, "out.gif", "auto").startswith("audio #1 aac: left out, gif cannot hold it")


def test_sound_that_begins_before_the_picture_does_so_when_it_is_encoded(tmp_path: Path) -> None:
    clip = clip_of(tmp_path / "in.mkv", "aac", offset=-0.1)
    through(clip, tmp_path / "out.webm")
    assert abs(lag_of(sound_of(tmp_path / "out.webm"), sound_of(clip))) <= 1
    lasts = [Fraction(ffprobe(one)["format"]["duration"]) for one in (clip, tmp_path / "out.webm")]
    assert abs(lasts[0] - lasts[1]) < Fraction(3, 100)
