"""What a video bitstream says about its own pictures beyond the four colour tags.

HDR10 mastering and light-level data go into the bitstream by the encoder's own parameters, since
PyAV has no other way. Units: x264 and x265 count chromaticity in 1/50000 and luminance in
1/10000 cd/m² (ITU-T H.265 D.3.28), SVT-AV1 takes plain numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from ...filters.frame import ContentLight, MasteringDisplay, StreamInfo

_CHROMATICITY_UNITS = 50_000
_LUMINANCE_UNITS = 10_000


def bitstream_options(codec: str, info: StreamInfo) -> dict[str, str]:
    """Write an encoder's options that carry chroma siting and HDR10 data."""
    options: dict[str, str] = {}
    if info.color.chroma_location and info.format.family == "yuv":
        options["chroma_sample_location"] = info.color.chroma_location
    if write := _HDR_WRITERS.get(codec):
        key, parameters = write(info)
        if parameters:
            options[key] = ":".join(parameters)
    return options


def joined_options(ours: dict[str, str], users: dict[str, str]) -> dict[str, str]:
    """Let the user's options win; their ``…-params`` lists are added behind ours."""
    joined = ours | users
    for key in ours.keys() & users.keys():
        if key.endswith("-params"):
            joined[key] = f"{ours[key]}:{users[key]}"
    return joined


def _x265(info: StreamInfo) -> tuple[str, list[str]]:
    # x265 writes its banner to stderr whatever FFmpeg's log level is
    parameters = ["log-level=error"]
    if info.mastering_display:
        parameters.append(f"master-display={_integers(info.mastering_display)}")
    if info.content_light:
        parameters.append(f"max-cll={_light(info.content_light)}")
    return "x265-params", parameters


def _x264(info: StreamInfo) -> tuple[str, list[str]]:
    parameters: list[str] = []
    if info.mastering_display:
        parameters.append(f"mastering-display={_integers(info.mastering_display)}")
    if info.content_light:
        parameters.append(f"cll={_light(info.content_light)}")
    return "x264-params", parameters


def _svt_av1(info: StreamInfo) -> tuple[str, list[str]]:
    parameters: list[str] = []
    if info.mastering_display:
        parameters.append(f"mastering-display={_decimals(info.mastering_display)}")
    if info.content_light:
        parameters.append(f"content-light={_light(info.content_light)}")
    return "svtav1-params", parameters


_HDR_WRITERS: dict[str, Callable[[StreamInfo], tuple[str, list[str]]]] = {
    "libx264": _x264,
    "libx265": _x265,
    "libsvtav1": _svt_av1,
}


def _integers(display: MasteringDisplay) -> str:
    def point(xy: tuple[Fraction, Fraction]) -> str:
        return ",".join(str(round(value * _CHROMATICITY_UNITS)) for value in xy)

    brightest, darkest = (
        round(value * _LUMINANCE_UNITS) for value in (display.max_luminance, display.min_luminance)
    )
    return _display(display, point, f"{brightest},{darkest}")


def _decimals(display: MasteringDisplay) -> str:
    def point(xy: tuple[Fraction, Fraction]) -> str:
        return ",".join(f"{float(value):.5f}" for value in xy)

    brightest, darkest = float(display.max_luminance), float(display.min_luminance)
    return _display(display, point, f"{brightest:.4f},{darkest:.4f}")


def _display(
    display: MasteringDisplay, point: Callable[[tuple[Fraction, Fraction]], str], luminance: str
) -> str:
    return (
        f"G({point(display.green)})B({point(display.blue)})R({point(display.red)})"
        f"WP({point(display.white_point)})L({luminance})"
    )


def _light(light: ContentLight) -> str:
    return f"{light.max_cll},{light.max_fall}"
