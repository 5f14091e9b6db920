"""How much of what AMX can do the body of the compact upscaling network gets, in one run.

Needs a CPU with AMX and a C compiler. The peak is that of products of registers, in as many
threads; it and the body take turns, so that both see the same clock. Untested on such a CPU.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from upframe.filters.kernels.cpu_convolution import SWITCH, TileConv, TileStack, has_tiles

_CHANNELS, _LAYERS = 64, 16
_SIZES = ((180, 320), (360, 640))
_PEAK_ROUNDS = 200_000
_ROUNDS = 15
_NO_AMX = 69
"""Exit code where there is no AMX."""


def compiled_peak(folder: Path) -> ctypes.CDLL:
    """Compile and open the measurement of the peak."""
    made = folder / "tile_peak.so"
    source = Path(__file__).with_name("tile_peak.c")
    subprocess.run(
        ["cc", "-O2", "-shared", "-fPIC", "-fopenmp", str(source), "-o", str(made)], check=True
    )
    library = ctypes.CDLL(str(made))
    library.peak.restype = ctypes.c_double
    return library


def body() -> TileStack:
    torch.manual_seed(1)
    layers = [
        nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1, dtype=torch.bfloat16) for _ in range(_LAYERS)
    ]
    return TileStack([TileConv(layer, torch.full((_CHANNELS,), 0.2)) for layer in layers])


def measure(height: int, width: int, library: ctypes.CDLL) -> dict[str, float | str]:
    """Time the body and the peak in turns; medians."""
    threads, run = torch.get_num_threads(), body()
    x = torch.randn(1, _CHANNELS, height, width).to(torch.bfloat16)
    x = x.contiguous(memory_format=torch.channels_last)
    flop = 2 * 9 * _CHANNELS**2 * _LAYERS * height * width
    run(x)
    peaks: list[float] = []
    rates: list[float] = []
    for _ in range(_ROUNDS):
        peaks.append(library.peak(_PEAK_ROUNDS, threads))
        began = time.perf_counter()
        run(x)
        rates.append(flop / (time.perf_counter() - began))
    peak, rate = statistics.median(peaks), statistics.median(rates)
    return {
        "size": f"{width}x{height}",
        "threads": threads,
        "peak_gflops": round(peak / 1e9, 1),
        "body_gflops": round(rate / 1e9, 1),
        "share": round(rate / peak, 3),
    }


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write JSON to this file")
    arguments = parser.parse_args(given)
    os.environ.pop(SWITCH, None)  # emulated tiles are no measure
    if not has_tiles(torch.bfloat16):
        print("no AMX: this CPU, its system or the compiled kernels lack it; nothing is measured")
        return _NO_AMX
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        library = compiled_peak(Path(folder))
        found = [measure(height, width, library) for height, width in _SIZES]
    for row in found:
        print(*(f"{name} {value}" for name, value in row.items()), sep=", ")
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
