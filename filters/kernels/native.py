"""The compiled kernels, and the argument structures of `rife.c` and `srvgg.c`, field by field."""

from __future__ import annotations

import ctypes
import logging
import os
import re
import sys
from ctypes import Structure, c_float, c_int, c_int64, c_void_p
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger("upframe.filters.native.compiled")


def structure(declaration: str, **nested: type[Structure]) -> type[Structure]:
    """Make a structure of its declaration in C: of pointers to void, int, int64 and float.

    Such as ``void *values; int height, width; float weights[12]``; `nested` are other structures by
    their names in it.
    """
    fields: list[tuple[str, Any]] = []
    for line in declaration.split(";"):
        kind, names = line.split(maxsplit=1)
        for name, count in re.findall(r"(\w+)(?:\[(\d+)\])?", names):
            value = nested.get(kind) or _TYPES[kind]
            fields.append((name, value * int(count) if count else value))
    return type("Structure", (Structure,), {"_fields_": fields})


_TYPES = {"void": c_void_p, "int": c_int, "int64": c_int64, "float": c_float}

Detail = structure("void *values; int height, width, channels")
"""Output of a block: (height/2, width/2, 4, channels)."""
PackedSources = structure(
    "Detail features; void *image; int channels; void *sources", Detail=Detail
)
"""An image, (channels, height, width), and its features to sources of the features' size."""
Joining = structure(
    "void *left, *right, *flow; Detail state; int height, width, cell; float timestep; void *input",
    Detail=Detail,
)
"""The input of a block: (height/cell, width/cell, 15 or 28)."""
Adding = structure("Detail detail; int cell, begins, height, width; void *flow", Detail=Detail)
"""The change of the flow that a block found."""
Blending = structure(
    "void *left, *right, *flow; Detail detail; int cell, channels, height, width; void *image",
    Detail=Detail,
)
"""The in-between, (channels, height, width)."""
Activation = structure("void *values, *slopes; int height, width, channels")
"""Values, (height, width, channels), and the slope of each channel."""
DetailShuffle = structure(
    "void *image, *detail; int height, width, scale; float weights[12]; void *result"
)
"""An image and the detail of each pixel to a larger image."""


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
    "pack", "first", "add", "next", "blend", "code", "activate", "lay", "shrink", "convolve",
    "stack",
)  # fmt: skip


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


def run(name: str, job: Structure, *, is_bf16: bool = False) -> int:
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
            again = "install again; computing without them, more slowly"
            text = "the compiled kernels are of version %s, not %s: %s"
            logger.warning(text, found, VERSION, again)
            return None
        for name in _FUNCTIONS:
            function = getattr(library, f"upframe_{name}")
            function.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
            function.restype = ctypes.c_int
    except (OSError, AttributeError) as error:  # of another machine, or an older version
        logger.warning("the compiled kernels cannot be used, computing without them: %s", error)
        return None
    return library
