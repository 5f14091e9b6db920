"""ICC profiles: their names, and pictures converted to sRGB where a file cannot hold a profile."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from typing import Any, cast

import numpy as np
from av.video.frame import VideoFrame

from ...filters.frame import Picture
from ..redaction import excerpt
from ..traits import Trait
from .image_files import Embedded, space_of
from .pixels import frame_of, matrix_of, picture_of

log = logging.getLogger("upframe.io.profiles")

_FULL_RANGE, _LIMITED = 2, 1  # FFmpeg's numbers


def profile_name(profile: bytes) -> str:
    """Return a profile's own name, such as ``Display P3``; empty where it has none."""
    from PIL import ImageCms  # here, since few inputs have a profile

    try:
        opened = ImageCms.ImageCmsProfile(BytesIO(profile))
        return ImageCms.getProfileDescription(opened).strip()
    except (OSError, ImageCms.PyCMSError):
        return ""


def embedded_traits(found: Embedded | None) -> Iterator[Trait]:
    """Yield the ICC profile and the EXIF data of an image file."""
    if found is not None and found.icc_profile is not None:
        text = f"ICC profile '{excerpt(profile_name(found.icc_profile), 60)}'"
        yield Trait("file", "icc", text, hashlib.sha256(found.icc_profile).hexdigest())
    if found is not None and found.exif is not None:
        yield Trait("file", "exif", "EXIF data")


def srgb_conversion(profile: bytes | None, name: str) -> ToSrgb | None:
    """Return a conversion for files that cannot hold a profile; log that it will be done.

    None, or sRGB itself, needs none. `name` is of the container or the image format, for people.
    """
    called = "" if profile is None else profile_name(profile)
    if profile is None or called.startswith("sRGB"):
        return None
    try:
        conversion = ToSrgb(profile)
    except ValueError as error:
        log.warning("ICC profile %r cannot be applied, colours stay as coded: %s", called, error)
        return None
    log.warning("%s cannot hold ICC profile %r: converted to sRGB, in 8 bits", name, called)
    return conversion


class ToSrgb:
    """Converts gray or RGB pictures from the colours of a profile to sRGB, by LittleCMS, in 8 bits.

    Raises:
        ValueError: if it describes other colours, or LittleCMS refuses it.
    """

    def __init__(self, profile: bytes) -> None:
        from PIL import ImageCms

        modes = {"RGB": "RGB", "GRAY": "L"}
        if (space := space_of(profile)) not in modes:
            raise ValueError(f"it describes {space}, wanted RGB or GRAY")
        self._mode = modes[space]
        try:
            opened = ImageCms.ImageCmsProfile(BytesIO(profile))
            srgb = cast("Any", ImageCms).createProfile("sRGB")
            self._transform: Any = ImageCms.buildTransform(opened, srgb, self._mode, "RGB")
        except (OSError, ImageCms.PyCMSError) as error:
            raise ValueError(str(error)) from error

    def __call__(self, picture: Picture) -> Picture:
        """Return a picture in sRGB: of the same format, its alpha unchanged."""
        from PIL import Image, ImageCms

        frame = frame_of(picture)
        matrix, is_gray = matrix_of(frame), len(picture.planes) == 1
        coded_range = frame.color_range or (_FULL_RANGE if is_gray else _LIMITED)
        rgb = frame.reformat(
            format="rgb24", src_colorspace=matrix, src_color_range=coded_range, threads=1
        )
        image = Image.fromarray(rgb.to_ndarray()).convert(self._mode)
        converted = np.asarray(ImageCms.applyTransform(image, self._transform))
        made = VideoFrame.from_ndarray(converted, "rgb24").reformat(
            format=frame.format.name, dst_colorspace=matrix, dst_color_range=coded_range, threads=1
        )
        planes = picture_of(made, picture.color, 0, 0, picture.time_base).planes
        return replace(picture, planes=planes)
