"""Which encoder a live output gets, and how it is set for low latency.

H.264 with 8 bits in 4:2:0 where the user names no other: what every receiver, browser and camera
wall plays. By NVENC where that opens, else by x264, whose settings are those of go2rtc's templates:
no B-frames, no lookahead, an IDR frame whenever one is asked for.
"""

from __future__ import annotations

from ...filters.frame import StreamInfo
from ..encode.bitstream import bitstream_options, joined_options
from ..encode.codecs import CodecChoice, choose_codec, default_codec
from ..encode.containers import Container
from ..encode.options import EncoderOptions
from ..encoder import quality_parameters
from ..errors import SinkRefused

USUAL_PIX_FMT = "yuv420p"

_CRF = 23.0
_NVENC = ("h264_nvenc", "hevc_nvenc", "av1_nvenc")
_X264 = {"preset": "veryfast", "tune": "zerolatency", "forced-idr": "1"}
_TUNED: dict[str, dict[str, str]] = {
    "libx264": _X264,
    "libx264rgb": _X264,
    "libx265": {
        "preset": "ultrafast",
        "tune": "zerolatency",
        "forced-idr": "1",
        "x265-params": "info=0",  # else every keyframe carries 2 kB of its settings
    },
    "libsvtav1": {"preset": "10", "svtav1-params": "pred-struct=1:lookahead=0"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "row-mt": "1"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"},
}
_TUNED_NVENC = {
    "preset": "p4", "tune": "ll", "forced-idr": "1", "delay": "0", "zerolatency": "1",
    "rc": "vbr", "b": "0",  # the quality alone decides; else it would be 2 Mbit/s
}  # fmt: skip
_QUALITY = {
    "libx264": _CRF, "libx264rgb": _CRF, "libx265": 28.0, "libsvtav1": 35.0, "libvpx-vp9": 31.0,
    "libvpx": 10.0,
}  # fmt: skip


def live_pix_fmt(info: StreamInfo, options: EncoderOptions, format: str) -> str:  # noqa: A002
    """Tell which pixel format the pictures of a live output must have.

    Args:
        info: of the input.
        options: the user's.
        format: the muxer, FFmpeg's name.

    Raises:
        SinkRefused: for an encoder or a pixel format that is not to be had.
    """
    return live_choices(info, options, format)[-1].pix_fmt


def live_choices(
    info: StreamInfo,
    options: EncoderOptions,
    format: str,  # noqa: A002
) -> list[CodecChoice]:
    """List the encoders to try, the best first; all take the same pictures.

    Raises:
        SinkRefused: for an encoder or a pixel format that is not to be had.
    """
    container = Container(format)
    if options.codec is not None:
        return [choose_codec(info.format, container, options.codec, options.pix_fmt)]
    usual = StreamInfo(info.width, info.height, USUAL_PIX_FMT, info.time_base)
    last = default_codec(usual.format, container)
    names = ("h264_nvenc", last) if last == "libx264" else (last,)
    pix_fmt = options.pix_fmt or USUAL_PIX_FMT
    choices: list[CodecChoice] = []
    for name in names:
        try:
            choices.append(choose_codec(usual.format, container, name, pix_fmt))
        except SinkRefused:
            if name == last:
                raise
    wanted = choices[-1].pix_fmt
    return [choice for choice in choices if choice.pix_fmt == wanted]


def live_parameters(codec: str, info: StreamInfo, options: EncoderOptions) -> dict[str, str]:
    """Write all options of a live encoder as FFmpeg takes them; the user's win."""
    ours = dict(_TUNED.get(codec, {}))
    if codec in _NVENC:
        ours = dict(_TUNED_NVENC)
        ours["cq"] = f"{_CRF if options.crf is None else options.crf:g}"
    else:
        default = _QUALITY.get(codec)
        ours |= quality_parameters(codec, default if options.crf is None else options.crf)
    if options.preset is not None:
        ours["preset"] = options.preset
    ours["bf"] = "0"
    ours = joined_options(ours, bitstream_options(codec, info))
    return joined_options(ours, options.options)
