"""What is compared: the contests, what a contestant gets, and what it must be able to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from clip_frames import planar
from quality import Picture
from torch import Tensor

Network = Literal["srvgg", "rrdb", "rife"]
WEIGHTS: dict[Network, str] = {
    "srvgg": "realesr-animevideov3.pth",
    "rrdb": "RealESRGAN_x4plus_anime_6B.pth",
    "rife": "flownet.pkl",
}
OWN = "upframe"
"""Name of our own among the peers."""
SCALE = 4
"""Of both networks that enlarge."""


@dataclass(frozen=True, slots=True)
class Contest:
    """One network at one size of the frames that come in."""

    network: Network
    width: int
    height: int
    most_rounds: int = 100
    """For what takes seconds a frame."""
    calls: int = 2
    """In a row in one turn, whose mean is one sample; before them one more that is not timed."""

    @property
    def name(self) -> str:
        """As in ``srvgg-320x180``."""
        return f"{self.network}-{self.width}x{self.height}"


CONTESTS: dict[str, tuple[Contest, ...]] = {
    "cpu": (
        Contest("srvgg", 320, 180),
        Contest("rife", 640, 352),
        Contest("rife", 640, 360),
        Contest("srvgg", 640, 360, most_rounds=5, calls=1),
        Contest("rrdb", 320, 180, most_rounds=3, calls=1),
    ),
    "cuda": (
        Contest("srvgg", 1920, 1080, calls=20),
        Contest("rife", 1920, 1080, calls=40),
        Contest("rrdb", 1920, 1080, most_rounds=5, calls=3),
    ),
}
"""By the type of the device."""


@dataclass(frozen=True)
class Setting:
    """What every contestant of a contest gets."""

    contest: Contest
    frames_path: Path
    """`Frames` as a .npy file."""
    weights_folder: Path
    exports_folder: Path
    """Where ONNX files are kept."""
    device_name: str
    threads: int

    @property
    def weights_path(self) -> Path:
        """The checkpoint of the contest's network."""
        return self.weights_folder / WEIGHTS[self.contest.network]

    @property
    def device(self) -> torch.device:
        """Where to compute."""
        return torch.device(self.device_name)

    @cached_property
    def arrays(self) -> list[Picture]:
        """Every frame, (3, H, W), [0, 1]."""
        return list(planar(np.load(self.frames_path)))

    @cached_property
    def tensors(self) -> list[Tensor]:
        """The same, on the device."""
        return [torch.from_numpy(array).to(self.device) for array in self.arrays]


def _nothing() -> None:
    """Wait for nothing: the call has done it all."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """Something that does a contest's work, frame by frame in order.

    From float32 pixels in [0, 1] that lie on the device to a float32 picture there: what a
    contestant converts to, it converts within its time.
    """

    work: Callable[[int], Any]
    """Do frame `index`, counted on when the frames start again. Enlarging gives that
    frame, interpolating the moment halfway between the frame of the call before and this one."""
    picture: Callable[[Any], Picture]
    """Turn what `work` gave into (3, H, W); not timed."""
    wait: Callable[[], None] = _nothing
    """Until all that was asked for is done: work on CUDA goes on behind a call."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A contestant that is yet to be built, in a process of its own."""

    name: str
    peer: str
    """Name of the package, or ``upframe``."""
    precision: str
    build: Callable[[Setting], Contestant]
    """Importable by name."""
    note: str = ""
    is_compiled: bool = False
    """By ``torch.compile``, which takes minutes before the first frame."""
