"""A before/after picture: what the source shows, what the result shows, what was put between."""

# PyAV's Packet is generic without a default, so every mux and encode is "partially unknown".
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from itertools import islice
from pathlib import Path

import av
import torch
from torch import Tensor
from torch.nn import functional

from ..files import write_error
from ..pictures.lettering import put_label
from .drawing import one_thread

_GAP = 4  # pixels of the page between panels
_PAGE = 0.11  # grey
_ZOOM = 6  # how many pixels wide a pixel of the source becomes in the detail


def read_pictures(path: Path, first: int, count: int) -> list[Tensor]:
    """Decode some pictures of a video.

    Args:
        path: A video file.
        first: Number of the first picture, counted from 0.
        count: How many, at most; fewer where the video ends.

    Returns:
        Each (3, H, W) float32, [0, 1], R'G'B'.
    """
    with av.open(str(path)) as container:
        frames = islice(container.decode(video=0), first, first + count)
        return [_to_tensor(frame) for frame in frames]


def compare(source: Tensor, results: list[Tensor]) -> Tensor:
    """Put the picture together.

    Above, one frame: its left half from the source, enlarged pixel by pixel, its right half from
    the result. In the middle, its finest detail three ways. Below, the place where most moves: the
    frame, the one that was inserted after it, and the next.

    Args:
        source: (3, h, w), [0, 1]: a frame of the source.
        results: Three of (3, H, W), [0, 1]: the same frame in the result, and the two after it.

    Returns:
        (3, …, …) float32, [0, 1].
    """
    if len(results) != 3:
        raise ValueError(f"the result must have 3 frames there, got {len(results)}")
    size = (results[0].shape[1], results[0].shape[2])
    scale = max(1, size[1] // 640)
    with one_thread():
        return _stack(
            _halves(enlarge(source, size, "nearest-exact"), results[0], source, scale),
            _details(source, results[0], scale),
            _moments(results, scale),
        )


def write_png(path: Path, picture: Tensor) -> None:
    """Write (3, H, W), [0, 1], as an 8-bit PNG. Replaces `path`.

    Raises:
        SinkRefused, SinkFull: if it cannot be written.
    """
    pixels = (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    frame = av.VideoFrame.from_ndarray(pixels.numpy(), format="rgb24")
    try:
        with av.open(str(path), "w", format="image2", options={"update": "1"}) as container:
            stream = container.add_stream("png", rate=1)
            stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "rgb24"
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    except OSError as error:
        raise write_error(path, error) from error


def enlarge(picture: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Resize (3, H, W) to (height, width) by ``nearest-exact`` or ``bicubic``."""
    return functional.interpolate(picture[None], size, mode=mode)[0].clamp(0, 1)


def busiest(activity: Tensor, height: int, width: int) -> tuple[int, int]:
    """Find the window of a size in which most goes on.

    Args:
        activity: (H, W), non-negative.
        height: Of the window, at most H.
        width: Likewise, at most W.

    Returns:
        Row and column of its upper left corner.
    """
    sums = functional.avg_pool2d(activity[None, None], (height, width), stride=1)[0, 0]
    best = int(sums.argmax())
    return best // sums.shape[1], best % sums.shape[1]


def _halves(before: Tensor, after: Tensor, source: Tensor, scale: int) -> Tensor:
    half = after.shape[2] // 2
    picture = torch.cat((before[:, :, :half], after[:, :, half:]), 2)
    picture[:, :, half - scale : half + scale] = 1
    put_label(picture, f"source {_size_of(source)}", top=0, left=0, scale=scale)
    label = f"upframe {_size_of(after)}"
    right = picture.shape[2] - (6 * len(label) + 5) * scale
    put_label(picture, label, top=0, left=max(half, right), scale=scale)
    return picture


def _details(source: Tensor, result: Tensor, scale: int) -> Tensor:
    """A small part of the source, enlarged by repeating pixels, by bicubic, and by the filter."""
    width = _panel_width(result.shape[2])
    columns = min(source.shape[2], width // (_ZOOM * scale))
    rows = min(source.shape[1], columns * 3 // 5)
    top, left = busiest(functional.avg_pool2d(_edges(source), 3, 1, 1)[0], rows, columns)
    part = source[:, top : top + rows, left : left + columns]
    zoom = result.shape[2] / source.shape[2]
    area = [round(edge * zoom) for edge in (top, left, top + rows, left + columns)]
    fine = result[:, area[0] : area[2], area[1] : area[3]]
    size = (round(width * rows / columns), width)
    panels = {
        "pixels of the source": enlarge(part, size, "nearest-exact"),
        "bicubic": enlarge(part, size, "bicubic"),
        "upframe": enlarge(fine, size, "bicubic"),
    }
    return _row(panels, result.shape[2], scale)


def _moments(results: list[Tensor], scale: int) -> Tensor:
    """The place where the first and the last frame differ most, in all three."""
    width = _panel_width(results[0].shape[2])
    height = min(results[0].shape[1], width * 4 // 5)
    moved = (results[2] - results[0]).abs().mean(0)
    top, left = busiest(
        moved[: moved.shape[0] * 4 // 5], min(height, moved.shape[0] * 4 // 5), width
    )
    names = ("a frame", "inserted after it", "the next frame")
    panels = {
        name: result[:, top : top + height, left : left + width].clone()
        for name, result in zip(names, results, strict=True)
    }
    return _row(panels, results[0].shape[2], scale)


def _row(panels: dict[str, Tensor], width: int, scale: int) -> Tensor:
    height = next(iter(panels.values())).shape[1]
    row = torch.full((3, height, width), _PAGE)
    for index, (name, panel) in enumerate(panels.items()):
        left = index * (panel.shape[2] + _GAP)
        put_label(panel, name, top=0, left=0, scale=scale)
        row[:, :, left : left + panel.shape[2]] = panel
    return row


def _stack(*rows: Tensor) -> Tensor:
    gap = torch.full((3, _GAP, rows[0].shape[2]), _PAGE)
    parts = [part for row in rows for part in (row, gap)]
    return torch.cat(parts[:-1], 1)


def _panel_width(width: int) -> int:
    return (width - 2 * _GAP) // 3


def _edges(picture: Tensor) -> Tensor:
    """How much neighbouring pixels differ: (1, H, W)."""
    gray = picture.mean(0, keepdim=True)
    across = functional.pad((gray[:, :, 1:] - gray[:, :, :-1]).abs(), (0, 1))
    down = functional.pad((gray[:, 1:] - gray[:, :-1]).abs(), (0, 0, 0, 1))
    return across + down


def _size_of(picture: Tensor) -> str:
    return f"{picture.shape[2]}x{picture.shape[1]}"


def _to_tensor(frame: av.VideoFrame) -> Tensor:
    pixels = torch.from_numpy(frame.to_ndarray(format="rgb24"))  # pyright: ignore[reportUnknownArgumentType]
    return pixels.permute(2, 0, 1).float() / 255
