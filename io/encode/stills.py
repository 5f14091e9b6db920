"""Still images and numbered sequences as outputs: which names mean them, which codec makes them."""

from __future__ import annotations

import re
from pathlib import Path

from ...filters.frame import PixelFormat
from ..errors import SinkRefused
from .codecs import CodecChoice, choose_codec, encoder_formats
from .containers import Container

# Extension → encoder. WebP comes in two kinds; libwebp writes stills.
_CODECS = {
    "png": "png", "jpg": "mjpeg", "jpeg": "mjpeg", "webp": "libwebp", "tif": "tiff",
    "tiff": "tiff", "bmp": "bmp",
}  # fmt: skip
_NUMBER = re.compile(r"%(0\d+)?d")


def is_image(target: str | Path, format: str | None = None) -> bool:  # noqa: A002
    """Tell whether an output is a still or a sequence of stills, by its extension.

    ``--format image2`` says so explicitly; any other format says that it is none.
    """
    if format is not None:
        return format in ("image2", "image")
    return _extension(target) in _CODECS


def is_sequence(target: str | Path) -> bool:
    """Tell whether a name holds a running number: ``frame_%05d.png``."""
    return len(_NUMBER.findall(Path(str(target)).name)) == 1


def numbered(target: Path, number: int) -> Path:
    """Name one image of a sequence."""
    name = _NUMBER.sub(lambda match: f"{number:{match[1] or ''}d}", target.name)
    return target.with_name(name.replace("%%", "%"))


def still_choice(
    source: PixelFormat, target: str | Path, codec: str | None, pix_fmt: str | None
) -> CodecChoice:
    """Choose encoder and pixel format of a still.

    Raises:
        SinkRefused: if the extension names no image format, or the encoder refuses the format.
    """
    extension = _extension(target)
    if codec is None and extension not in _CODECS:
        known = ", ".join(f".{name}" for name in _CODECS)
        raise SinkRefused(f"cannot tell the image format of {target}; wanted one of {known}")
    name = codec or _CODECS[extension]
    encoder_formats(name)  # an unknown name is refused as such
    if extension in _CODECS and name != _CODECS[extension]:
        raise SinkRefused(f".{extension} is encoded by {_CODECS[extension]}, got {name}")
    return choose_codec(source, Container("image2"), name, pix_fmt)


def _extension(target: str | Path) -> str:
    return Path(str(target)).suffix.lower().lstrip(".")
