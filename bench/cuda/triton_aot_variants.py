"""Compile other forms of `resident` for sm_90a: does ptxas keep wgmma asynchronous? Not run."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)
import torch
import triton
import triton.language as tl
from triton.runtime.driver import driver

sys.path.insert(0, str(Path(__file__).parent))
from triton_aot import BIN, NoDriver

from upframe.filters.kernels.convolution_kernels import _finish, _pixels, _weights, resident


@triton.jit
def rotated(
    x,
    w,
    bias,
    slope,
    out,
    near,
    far,
    base,
    width,
    height,
    rows,
    x_stride,
    out_stride,
    near_stride,
    far_stride,
    base_channel,
    base_row,
    base_column,
    gain,
    far_gain,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    PADDED: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
    SCALE: tl.constexpr,
    RESIDUALS: tl.constexpr,
    UP: tl.constexpr,
):
    """Compute three rows a turn: accumulators change roles. rows + 2 is a multiple of 3."""
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    first = tl.program_id(1) * rows
    w00 = _weights(w, 0, 0, IN, BLOCK, PADDED)
    w01 = _weights(w, 1, 0, IN, BLOCK, PADDED)
    w02 = _weights(w, 2, 0, IN, BLOCK, PADDED)
    w10 = _weights(w, 3, 0, IN, BLOCK, PADDED)
    w11 = _weights(w, 4, 0, IN, BLOCK, PADDED)
    w12 = _weights(w, 5, 0, IN, BLOCK, PADDED)
    w20 = _weights(w, 6, 0, IN, BLOCK, PADDED)
    w21 = _weights(w, 7, 0, IN, BLOCK, PADDED)
    w22 = _weights(w, 8, 0, IN, BLOCK, PADDED)
    a = tl.zeros((COLUMNS, PADDED), tl.float32)
    b = tl.zeros((COLUMNS, PADDED), tl.float32)
    for turn in range((rows + 4) // 3):
        row = first + (3 * turn - 1)
        left = _pixels(x, row, columns - 1, 0, width, height, x_stride, BLOCK, UP)
        m = _pixels(x, row, columns, 0, width, height, x_stride, BLOCK, UP)
        r = _pixels(x, row, columns + 1, 0, width, height, x_stride, BLOCK, UP)
        a = tl.dot(left, w20, a)
        a = tl.dot(m, w21, a)
        a = tl.dot(r, w22, a)
        b = tl.dot(left, w10, b)
        b = tl.dot(m, w11, b)
        b = tl.dot(r, w12, b)
        c = tl.dot(left, w00)
        c = tl.dot(m, w01, c)
        c = tl.dot(r, w02, c)
        _finish(
            a,
            row - 1,
            columns,
            (row > first) & (row <= tl.minimum(height, first + rows)),
            width,
            height,
            bias,
            slope,
            out,
            out_stride,
            near,
            near_stride,
            far,
            far_stride,
            gain,
            far_gain,
            base,
            base_channel,
            base_row,
            base_column,
            OUT,
            PADDED,
            SCALE,
            RESIDUALS,
        )
        row += 1
        left = _pixels(x, row, columns - 1, 0, width, height, x_stride, BLOCK, UP)
        m = _pixels(x, row, columns, 0, width, height, x_stride, BLOCK, UP)
        r = _pixels(x, row, columns + 1, 0, width, height, x_stride, BLOCK, UP)
        b = tl.dot(left, w20, b)
        b = tl.dot(m, w21, b)
        b = tl.dot(r, w22, b)
        c = tl.dot(left, w10, c)
        c = tl.dot(m, w11, c)
        c = tl.dot(r, w12, c)
        a = tl.dot(left, w00)
        a = tl.dot(m, w01, a)
        a = tl.dot(r, w02, a)
        _finish(
            b,
            row - 1,
            columns,
            (row > first) & (row <= tl.minimum(height, first + rows)),
            width,
            height,
            bias,
            slope,
            out,
            out_stride,
            near,
            near_stride,
            far,
            far_stride,
            gain,
            far_gain,
            base,
            base_channel,
            base_row,
            base_column,
            OUT,
            PADDED,
            SCALE,
            RESIDUALS,
        )
        row += 1
        left = _pixels(x, row, columns - 1, 0, width, height, x_stride, BLOCK, UP)
        m = _pixels(x, row, columns, 0, width, height, x_stride, BLOCK, UP)
        r = _pixels(x, row, columns + 1, 0, width, height, x_stride, BLOCK, UP)
        c = tl.dot(left, w20, c)
        c = tl.dot(m, w21, c)
        c = tl.dot(r, w22, c)
        a = tl.dot(left, w10, a)
        a = tl.dot(m, w11, a)
        a = tl.dot(r, w12, a)
        b = tl.dot(left, w00)
        b = tl.dot(m, w01, b)
        b = tl.dot(r, w02, b)
        _finish(
            c,
            row - 1,
            columns,
            (row > first) & (row <= tl.minimum(height, first + rows)),
            width,
            height,
            bias,
            slope,
            out,
            out_stride,
            near,
            near_stride,
            far,
            far_stride,
            gain,
            far_gain,
            base,
            base_channel,
            base_row,
            base_column,
            OUT,
            PADDED,
            SCALE,
            RESIDUALS,
        )


@triton.jit
def plain_tile(
    x,
    w,
    bias,
    slope,
    out,
    width,
    height,
    num_tiles,
    x_stride,
    out_stride,
    IN: tl.constexpr,
    PADDED: tl.constexpr,
    COLUMNS: tl.constexpr,
    TAPS: tl.constexpr,
):
    """Compute nine taps in one K loop into one accumulator, persistent, epilogue after it."""
    strips = tl.cdiv(width, COLUMNS)
    for tile in tl.range(tl.program_id(0), num_tiles, tl.num_programs(0), flatten=True):
        row = tile // strips
        columns = tile % strips * COLUMNS + tl.arange(0, COLUMNS)
        k = tl.arange(0, IN)
        n = tl.arange(0, PADDED)
        acc = tl.zeros((COLUMNS, PADDED), tl.float32)
        for tap in range(TAPS):
            r = row + tap // 3 - 1
            c = columns + (tap % 3 - 1)
            inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
            v = tl.load(
                x + r.to(tl.int64) * width * x_stride + c[:, None] * x_stride + k[None, :],
                mask=inside[:, None],
                other=0.0,
            )
            acc = tl.dot(v, tl.load(w + (tap * IN + k)[:, None] * PADDED + n[None, :]), acc)
        y = acc + tl.load(bias + n)[None, :]
        y = tl.where(y > 0, y, y * tl.load(slope + n)[None, :])
        place = (
            out + row.to(tl.int64) * width * out_stride + columns[:, None] * out_stride + n[None, :]
        )
        tl.store(place, y.to(out.dtype.element_ty), mask=(columns < width)[:, None])


stub = NoDriver()
driver.set_active(stub)
M = torch.device("meta")


def t(*s, d=torch.float16):
    return torch.empty(*s, dtype=d, device=M)


def look(name, compiled):
    ptx = compiled.asm["ptx"]
    f = Path(tempfile.mkdtemp()) / "k.ptx"
    f.write_text(ptx)
    said = subprocess.run(
        [BIN / "ptxas", "-v", "--gpu-name", "sm_90a", f, "-o", f.with_suffix(".cubin")],
        capture_output=True,
        text=True,
    ).stderr
    sass = subprocess.run(
        [BIN / "cuobjdump", "-sass", f.with_suffix(".cubin")], capture_output=True, text=True
    ).stdout
    n = {
        k: len(re.findall(rf"\b{k}", sass))
        for k in (
            "HGMMA",
            r"WARPGROUP\.ARRIVE",
            r"WARPGROUP\.DEPBAR",
            "LDGSTS",
            "BAR",
            "STL",
            "LDL",
        )
    }
    serial = re.findall(r"\((C75\d\d)\)([^\n]{0,160})", said)
    regs = re.search(r"Used (\d+) registers", said)
    print(
        f"{name:44} shared {compiled.metadata.shared:7} regs {regs and regs[1]} {n}",
        *[s[0] for s in serial],
        flush=True,
    )
    for s in serial:
        print("      ", s[0], s[1])


A = {"IN": 64, "OUT": 64, "PADDED": 64, "BLOCK": 64, "SCALE": 0, "RESIDUALS": 0, "UP": 0}


def args(rows):
    o = t(1, 64, 1080, 1920)
    return (
        o,
        t(9, 64, 64),
        t(64, d=torch.float32),
        t(64, d=torch.float32),
        o,
        o,
        o,
        o,
        1920,
        1080,
        rows,
        64,
        64,
        64,
        64,
        2073600,
        1920,
        1,
        1.0,
        1.0,
    )


for kernel, name in ((resident, "resident"), (rotated, "rotated")):
    for cols, warps, stages in ((128, 8, 2), (128, 4, 2), (128, 8, 1), (64, 4, 2), (256, 8, 2)):
        try:
            look(
                f"{name} c{cols} w{warps} s{stages}",
                kernel.warmup(
                    *args(64), grid=(1,), COLUMNS=cols, num_warps=warps, num_stages=stages, **A
                ),
            )
        except Exception as e:
            print(name, cols, warps, stages, type(e).__name__, str(e)[-200:])
for cols, warps, stages in ((128, 4, 3), (128, 4, 4), (128, 8, 4), (256, 8, 3), (256, 8, 4)):
    o = t(1, 64, 1080, 1920)
    try:
        look(
            f"plain_tile c{cols} w{warps} s{stages}",
            plain_tile.warmup(
                o,
                t(9, 64, 64),
                t(64, d=torch.float32),
                t(64, d=torch.float32),
                o,
                1920,
                1080,
                16200,
                64,
                64,
                grid=(1,),
                IN=64,
                PADDED=64,
                COLUMNS=cols,
                TAPS=9,
                num_warps=warps,
                num_stages=stages,
            ),
        )
    except Exception as e:
        print("plain", cols, warps, stages, type(e).__name__, str(e)[-300:])
