"""The compiled kernels, and the argument structures of `rife.c` and `srvgg.c`, field by field."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from ctypes import c_float, c_int, c_void_p
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import ClassVar

import torch

logger = logging.getLogger("upframe.filters.native.compiled")


def pointers(*names: str) -> list[tuple[str, type[c_void_p]]]:
    """Declare fields of a structure that hold addresses."""
    return [(name, c_void_p) for name in names]


def ints(*names: str) -> list[tuple[str, type[c_int]]]:
    """Declare fields of a structure that hold an int."""
    return [(name, c_int) for name in names]


class Detail(ctypes.Structure):
    """Output of a block: (height/2, width/2, 4, channels)."""

    _fields_: ClassVar = [("values", c_void_p), *ints("height", "width", "channels")]


class PackedSources(ctypes.Structure):
    """An image, (channels, height, width), and its features to sources of the features' size."""

    _fields_: ClassVar = [
        ("features", Detail),
        ("image", c_void_p),
        ("channels", c_int),
        ("sources", c_void_p),
    ]


class Joining(ctypes.Structure):
    """The input of a block: (height/cell, width/cell, 15 or 28)."""

    _fields_: ClassVar = [
        *pointers("left", "right", "flow"),
        ("state", Detail),
        *ints("height", "width", "cell"),
        ("timestep", c_float),
        ("input", c_void_p),
    ]


class Adding(ctypes.Structure):
    """The change of the flow that a block found."""

    _fields_: ClassVar = [
        ("detail", Detail),
        *ints("cell", "begins", "height", "width"),
        ("flow", c_void_p),
    ]


class Blending(ctypes.Structure):
    """The in-between, (channels, height, width)."""

    _fields_: ClassVar = [
        *pointers("left", "right", "flow"),
        ("detail", Detail),
        *ints("cell", "channels", "height", "width"),
        ("image", c_void_p),
    ]


class Activation(ctypes.Structure):
    """Values, (height, width, channels), and the slope of each channel."""

    _fields_: ClassVar = [*pointers("values", "slopes"), *ints("height", "width", "channels")]


class DetailShuffle(ctypes.Structure):
    """An image and the detail of each pixel to a larger image."""

    _fields_: ClassVar = [
        *pointers("image", "detail"),
        *ints("height", "width", "scale"),
        ("weights", c_float * 12),
        ("result", c_void_p),
    ]


# Find and open the compiled kernels; without them, filters compute the same with torch alone.
#
# They are plain C behind `ctypes`, which lets other threads run meanwhile, and share torch's
# threads of OpenMP: torch is imported first, so that the library's libgomp is the one that torch
# brought.

SWITCH = "UPFRAME_NATIVE"
"""Environment variable: ``0`` computes without the kernels."""
_NAME = "_kernels"
VERSION = 7
"""Of `version.c`: after an update of the sources, the old library stays until reinstallation."""
_FUNCTIONS = (
    "pack",
    "first",
    "add",
    "next",
    "blend",
    "code",
    "activate",
    "lay",
    "shrink",
    "convolve",
    "stack",
)


@lru_cache(maxsize=1)
def kernels() -> ctypes.CDLL | None:
    """Open the library, once; None where it was not compiled or is switched off."""
    if os.environ.get(SWITCH) == "0" or sys.byteorder != "little":
        return None
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(_NAME + suffix)
        if path.exists():
            return opened(path)
    logger.info("the compiled kernels are not installed: computing without them, more slowly")
    return None


def run(name: str, job: ctypes.Structure, *, is_bf16: bool = False) -> int:
    """Run a kernel of `kernels`, which must be there, in as many threads as torch uses.

    Returns:
        0, or the kernel's error code.
    """
    library = kernels()
    assert library is not None
    function = getattr(library, f"upframe_{name}")
    return function(ctypes.byref(job), is_bf16, torch.get_num_threads())


def opened(path: Path) -> ctypes.CDLL | None:
    """Open a library; None, with a warning, where it is not what this version needs."""
    try:
        library = ctypes.CDLL(str(path))
        found = library.upframe_version()
        if found != VERSION:
            logger.warning(
                "the compiled kernels are of version %s, not %s: install again; "
                "computing without them, more slowly",
                found,
                VERSION,
            )
            return None
        for name in _FUNCTIONS:
            function = getattr(library, f"upframe_{name}")
            function.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
            function.restype = ctypes.c_int
    except (OSError, AttributeError) as error:  # of another machine, or an older version
        logger.warning("the compiled kernels cannot be used, computing without them: %s", error)
        return None
    return library
