"""The encoder of the video stream: choosing it, its options, and opening it in a container."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import av
from av.codec.context import CodecContext
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext

from ...filters.frame import PixelFormat, StreamInfo
from ..capabilities import NO_NVIDIA, lacks_device, open_context
from ..errors import SinkRefused, WrongOption, reason_of
from ..pictures.pixels import set_color
from .codecs import (
    CodecChoice,
    bitstream_options,
    choose_codec,
    is_image,
    joined_options,
    still_choice,
)
from .containers import Container, container_of
from .options import QUALITIES, QUANTISERS, EncoderOptions, presets, quality_range
from .packets import VideoTiming, add_video, choose_timing

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

log = logging.getLogger("upframe.io.encoder")

_WORST_CRF = 51

_DEFAULTS: dict[str, dict[str, str]] = {
    # forced-idr: a key frame requested by the sink closes the group of pictures before it
    "libx264": {"forced-idr": "1"},
    "libx265": {"forced-idr": "1"},
    "libvpx-vp9": {"deadline": "good", "cpu-used": "4", "row-mt": "1"},
    "libvpx": {"deadline": "good", "cpu-used": "4"},
    "libsvtav1": {"preset": "8"},
    "h264_nvenc": {"forced-idr": "1"},
    "hevc_nvenc": {"forced-idr": "1"},
}
_HARDWARE = {
    "_nvenc": ("cq", {"rc": "vbr", "b": "0"}),
    "_qsv": ("global_quality", {"b": "0"}),
    "_vaapi": ("global_quality", {"rc_mode": "CQP"}),
}
"""By the ends of hardware encoders' names: the option for constant quality, and what selects it."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the video of an output is to be encoded."""

    info: StreamInfo
    """Of the pictures."""
    options: EncoderOptions
    """The user's."""
    choice: CodecChoice
    container: Container

    @property
    def has_alpha(self) -> bool:
        """Whether the pictures have alpha when they are encoded."""
        return PixelFormat.parse(self.choice.pix_fmt).has_alpha


@dataclass(frozen=True, slots=True)
class OpenEncoder:
    """The video stream of an output, its encoder open."""

    stream: VideoStream
    timing: VideoTiming


def output_pix_fmt(
    info: StreamInfo, options: EncoderOptions, target: str | Path, format: str | None = None
) -> str:
    """Return the pixel format that an output's pictures must have; log the choice.

    It is the input's where the encoder supports it, else the nearest that loses nothing.

    Raises:
        SinkRefused: for an unknown encoder, pixel format or container.
    """
    choice = codec_choice(info, options, target, format)
    for line in choice.notes:
        log.info("%s", line)
    for line in choice.losses:
        log.warning("%s", line)
    return choice.pix_fmt


def codec_choice(
    info: StreamInfo, options: EncoderOptions, target: str | Path, format: str | None = None
) -> CodecChoice:
    """Choose encoder and pixel format of an output; see :func:`output_pix_fmt`."""
    if is_image(target, format):
        choice = still_choice(_upright_format(info), target, options.codec, options.pix_fmt)
        check_known(choice.codec, still_parameters(choice.codec, options))
        return choice
    container = container_of(target, format)
    choice = choose_codec(info.format, container, options.codec, options.pix_fmt)
    check_range(choice.codec, options)
    with av.open(BytesIO(), "w", format=container.name) as output:
        _add_video(output, choice.codec, info, container)
    return choice


def encoding_of(
    info: StreamInfo, options: EncoderOptions, target: str | Path, format: str | None
) -> Encoding:
    """Choose how pictures of an output are encoded; see :func:`output_pix_fmt`."""
    container = Container("image2") if is_image(target, format) else container_of(target, format)
    return Encoding(info, options, codec_choice(info, options, target, format), container)


def check_range(codec: str, options: EncoderOptions) -> None:
    """Compare the user's options with an encoder that was chosen for its container.

    Raises:
        WrongOption: if it does not have such a quality, preset or option.
    """
    allowed, known = quality_range(codec), presets(codec)
    if options.crf is not None and allowed and not allowed[0] <= options.crf <= allowed[1]:
        low, high = allowed
        raise WrongOption(f"{codec} has no crf {options.crf:g}; it has {low} to {high}")
    if options.preset is not None and known and options.preset not in known:
        raise WrongOption(f"{codec} has no preset {options.preset!r}; it has {', '.join(known)}")
    preset = () if options.preset is None else ("preset",)
    check_known(codec, (*quality_parameters(codec, options.crf), *preset, *options.options))


def check_known(codec: str, names: Iterable[str]) -> None:
    """Refuse options that an encoder does not have; opened with them, it would ignore them.

    Raises:
        WrongOption: names the first one, and those that resemble it.
    """
    supported = CodecContext.create(codec, "w").supported_options
    known = [option.name for option in supported.private]
    for key in sorted({*names}.difference(known, (option.name for option in supported.generic))):
        near = difflib.get_close_matches(key, known, n=3)
        hint = f"near it: {', '.join(near)}" if near else f"it has {', '.join(known[:20])}"
        raise WrongOption(f"{codec} knows no option {key!r}; {hint}")


def _upright_format(info: StreamInfo) -> PixelFormat:
    """Return the format after rotation: 4:2:2 would become 4:4:0, which few programs read."""
    form = info.format
    if info.rotation % 180 == 0 or form.chroma_shift_x == form.chroma_shift_y:
        return form
    return PixelFormat.parse(form.name.replace("422", "444"))


def encoder_parameters(
    codec: str, info: StreamInfo, options: EncoderOptions, container: Container
) -> dict[str, str]:
    """Return all options of an encoder as FFmpeg expects them."""
    crf = QUALITIES.get(codec) if options.crf is None else options.crf
    ours = quality_parameters(codec, crf) | _DEFAULTS.get(codec, {})
    if container.name in ("avi", "asf") and codec in ("libx264", "libx265"):
        ours["bf"] = "0"  # with one timestamp a frame, or none, B-frames would be out of order
    if options.preset is not None:
        ours["preset"] = options.preset
    return joined_options(ours | bitstream_options(codec, info), options.options)


def still_parameters(codec: str, options: EncoderOptions) -> dict[str, str]:
    """Return the options of an image encoder as FFmpeg expects them.

    `crf` runs from 0 (best) to 51: JPEG's quantiser from 1 to 31 (2 by default), WebP's quality
    from 100 to 0 (95 by default), where 0 is lossless. PNG, TIFF and BMP are lossless anyway.
    """
    ours: dict[str, str] = {}
    crf = None if options.crf is None else min(options.crf, _WORST_CRF)
    if codec == "mjpeg":
        ours = _quantiser(2 if crf is None else 1 + 30 * crf / _WORST_CRF)
    elif codec == "libwebp":
        ours = {"quality": "95" if crf is None else f"{100 - 100 * crf / _WORST_CRF:.0f}"}
        ours["lossless"] = "1" if crf == 0 else "0"
    if options.preset is not None:
        ours["preset"] = options.preset
    return ours | options.options


def quality_parameters(codec: str, crf: float | None) -> dict[str, str]:
    """Return an encoder's options for constant quality; none for None.

    It is a crf, or a quantiser of 1 to 31, or what hardware calls it.
    """
    if crf is None:
        return {}
    if codec in QUANTISERS:
        return _quantiser(crf)
    for end, (key, selected_by) in _HARDWARE.items():
        if codec.endswith(end):
            return selected_by | {key: f"{crf:g}"}
    return {"crf": f"{crf:g}"}


def _quantiser(value: float) -> dict[str, str]:
    """Fix the quantiser by its bounds, since PyAV cannot set it for each frame."""
    whole = str(min(max(round(value), 1), 31))
    return {"flags": "+qscale", "qmin": whole, "qmax": whole}


def open_encoder(output: OutputContainer, encoding: Encoding) -> OpenEncoder:
    """Add the video stream to a container, in which nothing is written yet, and open its encoder.

    Raises:
        SinkRefused: if the container cannot hold the codec, or the encoder refuses the size, the
            rate or an option.
    """
    info, choice, container = encoding.info, encoding.choice, encoding.container
    if info.pix_fmt != choice.pix_fmt:
        raise ValueError(f"pictures must be {choice.pix_fmt}, got {info.pix_fmt}")
    made = _add_video(output, choice.codec, info, container)
    stream = made.stream
    if info.rotation or info.hflip:
        # PyAV mirrors after turning, a StreamInfo before: mirrored, the angle changes its sign
        angle = -info.rotation if info.hflip else info.rotation
        stream.set_display_rotation(angle, hflip=info.hflip)
    if info.stereo and output.format.name in ("matroska", "webm"):
        stream.metadata["stereo_mode"] = info.stereo  # which the muxer makes an element of
    codec = stream.codec_context
    codec.pix_fmt = choice.coded_pix_fmt
    # PyAV sets slice threads, with which x264 cuts every frame into slices
    codec.thread_type = "AUTO"
    if info.sample_aspect_ratio:
        codec.sample_aspect_ratio = info.sample_aspect_ratio
    set_color(codec, info.color)
    if output.format.name in ("mp4", "mov") and choice.codec == "libx265":
        codec.codec_tag = "hvc1"  # the tag without which Apple's players show nothing
    codec.options = encoder_parameters(choice.codec, info, encoding.options, container)
    open_codec(codec)
    return made


def _add_video(
    output: OutputContainer, codec: str, info: StreamInfo, container: Container
) -> OpenEncoder:
    timing = choose_timing(info, codec)
    if container.tick is not None and info.rate is not None and info.rate * container.tick > 1:
        raise SinkRefused(
            f"{container.name} counts time in {container.tick} s, too coarse for {info.rate} "
            "frames a second; wanted mp4 or mov"
        )
    if container.constant_rate_only and info.rate is None:
        raise SinkRefused(
            f"{container.name} holds only constant frame rates, the input's is variable; "
            "wanted mp4, mov, mkv or webm"
        )
    size = {"width": info.width, "height": info.height}
    try:
        stream = add_video(output, codec, **size, rate=timing.rate, tick=timing.time_base)
    except (ValueError, FFmpegError) as error:
        raise SinkRefused(f"{output.format.name} cannot hold {codec} video: {error}") from error
    return OpenEncoder(stream, timing)


def open_codec(codec: VideoCodecContext) -> None:
    """Open an encoder that is fully configured.

    Raises:
        SinkRefused: if it refuses the size, the pixel format or an option.
    """
    asked, size = dict(codec.options), f"{codec.width}x{codec.height}"
    check_known(codec.name, asked)
    try:
        open_context(codec)
    except (FFmpegError, ValueError, OverflowError) as error:
        if lacks_device(codec.name):
            raise SinkRefused(f"{codec.name} cannot be used: {NO_NVIDIA}") from error
        given = ", ".join(f"{key}={value}" for key, value in asked.items())
        raise SinkRefused(
            f"{codec.name} refuses {size} {codec.pix_fmt} with {given}: {reason_of(error)}"
        ) from error
