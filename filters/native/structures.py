"""What `rife.c` and `srvgg.c` are told, field by field as there."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int, c_void_p
from typing import ClassVar


class Detail(ctypes.Structure):
    """What a block gives: (height/2, width/2, 4, channels)."""

    _fields_: ClassVar = [
        ("values", c_void_p),
        ("height", c_int),
        ("width", c_int),
        ("channels", c_int),
    ]


class Packing(ctypes.Structure):
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
        ("left", c_void_p),
        ("right", c_void_p),
        ("flow", c_void_p),
        ("state", Detail),
        ("height", c_int),
        ("width", c_int),
        ("cell", c_int),
        ("timestep", c_float),
        ("input", c_void_p),
    ]


class Adding(ctypes.Structure):
    """The change of the flow that a block found."""

    _fields_: ClassVar = [
        ("detail", Detail),
        ("cell", c_int),
        ("begins", c_int),
        ("height", c_int),
        ("width", c_int),
        ("flow", c_void_p),
    ]


class Blending(ctypes.Structure):
    """The in-between, (channels, height, width)."""

    _fields_: ClassVar = [
        ("left", c_void_p),
        ("right", c_void_p),
        ("flow", c_void_p),
        ("detail", Detail),
        ("cell", c_int),
        ("channels", c_int),
        ("height", c_int),
        ("width", c_int),
        ("image", c_void_p),
    ]


class Activation(ctypes.Structure):
    """Values, (height, width, channels), and the slope of each channel."""

    _fields_: ClassVar = [
        ("values", c_void_p),
        ("slopes", c_void_p),
        ("height", c_int),
        ("width", c_int),
        ("channels", c_int),
    ]


class Laying(ctypes.Structure):
    """An image and the detail of each pixel to a larger image."""

    _fields_: ClassVar = [
        ("image", c_void_p),
        ("detail", c_void_p),
        ("height", c_int),
        ("width", c_int),
        ("scale", c_int),
        ("weights", c_float * 12),
        ("result", c_void_p),
    ]
