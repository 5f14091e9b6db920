"""A short clip of the demo scene with sound, written as any camera would: H.264 and AAC in MP4."""

# PyAV's Packet is generic without a default, so every mux and encode is "partially unknown".
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import av
import torch
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream
from torch import Tensor

from ..files import write_error
from .drawing import one_thread
from .scene import DemoScene

_SAMPLE_RATE = 48000
_NOTE_SECONDS = 0.25
_MELODY = (0, 7, 12, 16, 19, 16, 12, 7, 5, 9, 12, 17, 19, 16, 14, 11)  # semitones above C4
_BASS = (-12, -12, -7, -5)  # one for every four notes
_C4_HERTZ = 261.63
_BT709 = 1  # AVCOL_PRI_BT709 and AVCOL_TRC_BT709


def write_demo_clip(
    path: Path, *, width: int, height: int, rate: Fraction, num_frames: int
) -> None:
    """Draw the scene and play the tune, for as long as the frames last. Replaces `path`.

    Args:
        path: An MP4 file.
        width: Even, in pixels.
        height: Likewise.
        rate: Frames per second.
        num_frames: At least 1.

    Raises:
        SinkRefused, SinkFull: if it cannot be written.
    """
    options = {"movflags": "+faststart"}
    try:
        with one_thread(), av.open(str(path), "w", format="mp4", options=options) as container:
            _write(container, DemoScene(width, height, float(num_frames / rate)), rate, num_frames)
    except OSError as error:
        raise write_error(path, error) from error


def _write(container: OutputContainer, scene: DemoScene, rate: Fraction, num_frames: int) -> None:
    video = _add_video(container, scene.width, scene.height, rate)
    audio = container.add_stream("aac", rate=_SAMPLE_RATE, layout="stereo")
    audio.bit_rate = 160_000
    container.metadata["title"] = "upframe demo"
    _write_sound(container, audio, float(num_frames / rate))
    reformatter = VideoReformatter()  # one for all: what it prepares takes longer than its work
    for index in range(num_frames):
        frame = _coded(scene(float(index / rate)), reformatter)
        frame.pts, frame.time_base = index, 1 / rate
        container.mux(video.encode(frame))
    container.mux(video.encode(None))


def _add_video(container: OutputContainer, width: int, height: int, rate: Fraction) -> VideoStream:
    video = container.add_stream("libx264", rate=rate, options={"crf": "14", "preset": "medium"})
    video.width, video.height, video.pix_fmt = width, height, "yuv420p"
    context = video.codec_context
    context.color_range, context.colorspace = ColorRange.MPEG, Colorspace.ITU709
    context.color_primaries = context.color_trc = _BT709
    return video


def _coded(picture: Tensor, reformatter: VideoReformatter) -> av.VideoFrame:
    """(3, H, W) in [0, 1] as 4:2:0 BT.709 in limited range."""
    bytes_ = (picture * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    frame = av.VideoFrame.from_ndarray(bytes_.numpy(), format="rgb24")
    return reformatter.reformat(
        frame,
        format="yuv420p",
        src_color_range=ColorRange.JPEG,
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
    )


def _write_sound(container: OutputContainer, audio: AudioStream, seconds: float) -> None:
    tune = play_tune(round(seconds * _SAMPLE_RATE))
    size = audio.codec_context.frame_size or 1024
    for first in range(0, tune.shape[1], size):
        part = tune[:, first : first + size].contiguous().numpy()
        frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = _SAMPLE_RATE, first
        frame.time_base = Fraction(1, _SAMPLE_RATE)
        container.mux(audio.encode(frame))
    container.mux(audio.encode(None))


def play_tune(num_samples: int) -> Tensor:
    """Play plucked strings over a soft bass.

    Returns:
        (2, num_samples) float32, [-1, 1], 48 kHz, silent at the very end.
    """
    sound = torch.zeros(2, num_samples)
    length = round(_NOTE_SECONDS * _SAMPLE_RATE)
    for index in range(-(-num_samples // length)):
        right = 0.5 + 0.35 * math.sin(index * 0.9)
        _pluck(sound, index * length, _MELODY[index % len(_MELODY)], 0.30, right)
        if index % 4 == 0:
            _pluck(sound, index * length, _BASS[index // 4 % len(_BASS)], 0.35, 0.5)
    fade = torch.arange(num_samples, 0, -1) / (0.4 * _SAMPLE_RATE)
    return (sound * fade.clamp(0, 1)).clamp(-1, 1)


def _pluck(sound: Tensor, first: int, semitones: int, loudness: float, right: float) -> None:
    """Add a note that dies away, its overtones sooner than itself."""
    times = torch.arange(min(sound.shape[1] - first, 2 * _SAMPLE_RATE)) / _SAMPLE_RATE
    hertz = _C4_HERTZ * 2 ** (semitones / 12)
    note = torch.zeros_like(times)
    for overtone in range(1, 7):
        decay = torch.exp(-times * (2.2 + 1.6 * overtone))
        note += torch.sin(2 * math.pi * hertz * overtone * times) * decay / overtone**1.4
    note *= (times / 0.004).clamp(0, 1) * loudness
    sound[:, first : first + len(times)] += torch.tensor([1 - right, right])[:, None] * note
