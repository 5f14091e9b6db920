"""Which layout of the convolution kernels is the fastest on this card, next to cuDNN.

    python bench/cuda/launches.py [--width 1920 --height 1080]

Prints a line for each layout and each kind of layer of the upscalers: milliseconds (the best of
some runs), TFLOP/s, and how far it is off. The best lines belong into `filters/kernels/cuda.py`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # shows only that it runs

from torch import nn

from upframe.filters.kernels.convolution import Convolution, empty_channels_last
from upframe.filters.kernels.cuda import Launch, faults

LAYERS = ((64, 64), (64, 48), (64, 32), (96, 32), (128, 32), (160, 32), (192, 64))
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RUNS = 5 if torch.cuda.is_available() else 1


def layouts(num_in: int, num_out: int) -> Iterator[Launch]:
    for columns, warps in ((64, 4), (128, 8), (256, 8)):
        if num_in == 64 >= num_out:
            for stages in (1, 2):
                yield Launch(True, columns, num_in, warps, stages)
        for stages in (2, 3, 4):
            yield Launch(False, columns, 64 if num_in % 64 == 0 else 32, warps, stages)


def milliseconds(work: Callable[[], object]) -> float:
    work()
    if DEVICE.type == "cpu":
        return float("nan")
    best = float("inf")
    for _ in range(RUNS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(5):
            work()
        end.record()
        end.synchronize()
        best = min(best, begin.elapsed_time(end) / 5)
    return best


def compare(num_in: int, num_out: int, height: int, width: int, only: int | None) -> None:
    layer = nn.Conv2d(num_in, num_out, 3, padding=1).to(DEVICE, torch.float16)
    layer = layer.to(memory_format=torch.channels_last)
    x = torch.randn(1, num_in, height, width, device=DEVICE, dtype=torch.float16)
    x = x.contiguous(memory_format=torch.channels_last)
    wanted = nn.functional.leaky_relu(layer(x), 0.2)
    flop = 2 * 9 * num_in * num_out * height * width

    def show(name: str, ms: float, off: float) -> None:
        speed = f"{ms:8.3f} ms {flop / ms / 1e9:6.0f} TFLOP/s"
        print(f"{num_in:4}→{num_out:<3} {name:40} {speed} {off:.4f}", flush=True)

    with torch.backends.cudnn.flags(benchmark=True):
        show("cuDNN alone", milliseconds(lambda: layer(x)), 0.0)
        show("cuDNN, then leaky", milliseconds(lambda: nn.functional.leaky_relu_(layer(x), 0.2)), 0)
    out = empty_channels_last(num_out, height, width, x)
    convolution = Convolution(layer, 0.2)
    for launch in list(layouts(num_in, num_out))[:only]:
        convolution.launch = launch
        kind = "resident" if launch.is_resident else f"streamed by {launch.block}"
        name = f"{kind}, {launch.columns} columns, {launch.num_stages} stages"
        try:
            ms = milliseconds(lambda: convolution.into(x, out))
        except faults() as error:  # too much shared memory, too many registers: the next one
            print(f"{num_in:4}→{num_out:<3} {name:40} {type(error).__name__}")
            continue
        show(name, ms, float((out - wanted).abs().max()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=1920)
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--only", type=int, help="layouts of each layer")
    arguments = parser.parse_args()
    if DEVICE.type == "cuda":
        print(torch.cuda.get_device_name(DEVICE))
    with torch.inference_mode():
        for num_in, num_out in LAYERS:
            compare(num_in, num_out, arguments.height, arguments.width, arguments.only)


if __name__ == "__main__":
    main()
