"""Triton kernels: 3x3 convolutions of pixels in channels_last layout, and what follows them.

A program walks down a strip of columns. Each row that it reads serves the three rows of the result
that see it, so that a pixel is read three times (for the three columns that see it) instead of
nine. In ``resident`` all nine weights stay in shared memory: 64 channels to at most 64. In
``streamed`` they are read again for every row, so any number of channels does.

This file is only imported on CUDA, since Triton may be missing. Untested on CUDA hardware: on a CPU
the kernels run in Triton's interpreter, and they compile for sm_80 and sm_90.
"""
# Triton's language has no types
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyright: reportMissingParameterType=false, reportUntypedFunctionDecorator=false
# pyright: reportUnknownLambdaType=false, reportPrivateUsage=false, reportUnusedVariable=false

import triton
import triton.language as tl


@triton.jit
def _activated(acc, bias, slope, size: tl.constexpr):
    """Add the bias; scale what is negative by the channel's slope."""
    n = tl.arange(0, size)
    y = acc + tl.load(bias + n)[None, :]
    return tl.where(y > 0, y, y * tl.load(slope + n)[None, :])


@triton.jit
def _residual(pointer, row, columns, width, stride, mask, size: tl.constexpr):
    n = tl.arange(0, size)
    place = pointer + row.to(tl.int64) * width * stride
    values = tl.load(place + columns[:, None] * stride + n[None, :], mask=mask, other=0.0)
    return values.to(tl.float32)


@triton.jit
def _finish(
    acc, row, columns, wanted, width, height, bias, slope, out, out_stride,
    near, near_stride, far, far_stride, gain, far_gain,
    base, base_channel, base_row, base_column,
    OUT: tl.constexpr, PADDED: tl.constexpr, SCALE: tl.constexpr, RESIDUALS: tl.constexpr,
):  # fmt: skip
    """Store a row of the result: as it is, plus residuals, or laid out as squares on a picture."""
    y = _activated(acc, bias, slope, PADDED)
    n = tl.arange(0, PADDED)
    mask = (columns < tl.where(wanted, width, 0))[:, None] & (n < OUT)[None, :]
    if SCALE > 0:
        channel = n // (SCALE * SCALE)
        down = n % (SCALE * SCALE) // SCALE
        across = n % SCALE
        place = base + row.to(tl.int64) * base_row
        offsets = columns[:, None] * base_column + channel[None, :] * base_channel
        y += tl.load(place + offsets, mask=mask, other=0.0).to(tl.float32)
        out_width = width * SCALE
        plane = channel * (height * SCALE) * out_width
        to = out + row.to(tl.int64) * SCALE * out_width
        offsets = (plane + down * out_width + across)[None, :] + (columns * SCALE)[:, None]
        tl.store(to + offsets, y, mask=mask)
    else:
        if RESIDUALS > 0:
            y = y * gain + _residual(near, row, columns, width, near_stride, mask, PADDED)
        if RESIDUALS > 1:
            y = y * far_gain + _residual(far, row, columns, width, far_stride, mask, PADDED)
        to = out + row.to(tl.int64) * width * out_stride
        offsets = columns[:, None] * out_stride + n[None, :]
        tl.store(to + offsets, y.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _pixels(x, row, columns, first, width, height, stride, BLOCK: tl.constexpr, UP: tl.constexpr):
    """Load channels `first`, … of some pixels of a row; zeros beyond the edges: (columns, BLOCK).

    With UP 1 every pixel of x stands for a square of two by two.
    """
    end = tl.where((row >= 0) & (row < height), width, 0)
    inside = (columns >= 0) & (columns < end)
    k = first + tl.arange(0, BLOCK)
    place = x + (row >> UP).to(tl.int64) * (width >> UP) * stride
    offsets = (columns >> UP)[:, None] * stride + k[None, :]
    return tl.load(place + offsets, mask=inside[:, None], other=0.0)


@triton.jit
def _weights(w, index, first, IN: tl.constexpr, BLOCK: tl.constexpr, OUT: tl.constexpr):
    """Load the weights of channels `first`, … of tap `index`: (BLOCK, OUT)."""
    k = first + tl.arange(0, BLOCK)
    return tl.load(w + (index * IN + k)[:, None] * OUT + tl.arange(0, OUT)[None, :])


@triton.jit
def resident(
    x, w, bias, slope, out, near, far, base, width, height, rows,
    x_stride, out_stride, near_stride, far_stride, base_channel, base_row, base_column,
    gain, far_gain,
    IN: tl.constexpr, OUT: tl.constexpr, PADDED: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr, SCALE: tl.constexpr, RESIDUALS: tl.constexpr, UP: tl.constexpr,
):  # fmt: skip
    """Convolve, with all weights at hand: IN == BLOCK. See `convolution.Convolution`."""
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
    above = tl.zeros((COLUMNS, PADDED), tl.float32)
    here = tl.zeros((COLUMNS, PADDED), tl.float32)
    for step in range(rows + 2):
        row = first + (step - 1)
        below = tl.zeros((COLUMNS, PADDED), tl.float32)
        v = _pixels(x, row, columns - 1, 0, width, height, x_stride, BLOCK, UP)
        above = tl.dot(v, w20, above)
        here = tl.dot(v, w10, here)
        below = tl.dot(v, w00, below)
        v = _pixels(x, row, columns, 0, width, height, x_stride, BLOCK, UP)
        above = tl.dot(v, w21, above)
        here = tl.dot(v, w11, here)
        below = tl.dot(v, w01, below)
        v = _pixels(x, row, columns + 1, 0, width, height, x_stride, BLOCK, UP)
        above = tl.dot(v, w22, above)
        here = tl.dot(v, w12, here)
        below = tl.dot(v, w02, below)
        _finish(
            above, row - 1, columns, (row > first) & (row <= height), width, height,
            bias, slope, out, out_stride, near, near_stride, far, far_stride, gain, far_gain,
            base, base_channel, base_row, base_column, OUT, PADDED, SCALE, RESIDUALS,
        )  # fmt: skip
        above = here
        here = below


@triton.jit
def streamed(
    x, w, bias, slope, out, near, far, base, width, height, rows,
    x_stride, out_stride, near_stride, far_stride, base_channel, base_row, base_column,
    gain, far_gain,
    IN: tl.constexpr, OUT: tl.constexpr, PADDED: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr, SCALE: tl.constexpr, RESIDUALS: tl.constexpr, UP: tl.constexpr,
):  # fmt: skip
    """Convolve, the weights read again for every row. See `convolution.Convolution`."""
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    first = tl.program_id(1) * rows
    above = tl.zeros((COLUMNS, PADDED), tl.float32)
    here = tl.zeros((COLUMNS, PADDED), tl.float32)
    PARTS: tl.constexpr = IN // BLOCK
    for step in range(rows + 2):
        row = first + (step - 1)
        below = tl.zeros((COLUMNS, PADDED), tl.float32)
        for part in range(3 * PARTS):
            across = part // PARTS
            channel = part % PARTS * BLOCK
            v = _pixels(x, row, columns + (across - 1), channel, width, height, x_stride, BLOCK, UP)
            above = tl.dot(v, _weights(w, 6 + across, channel, IN, BLOCK, PADDED), above)
            here = tl.dot(v, _weights(w, 3 + across, channel, IN, BLOCK, PADDED), here)
            below = tl.dot(v, _weights(w, across, channel, IN, BLOCK, PADDED), below)
        _finish(
            above, row - 1, columns, (row > first) & (row <= height), width, height,
            bias, slope, out, out_stride, near, near_stride, far, far_stride, gain, far_gain,
            base, base_channel, base_row, base_column, OUT, PADDED, SCALE, RESIDUALS,
        )  # fmt: skip
        above = here
        here = below


@triton.jit
def first_of_three(
    x, w, bias, slope, out, width, num_pixels, channel_stride, row_stride, column_stride,
    height, PADDED: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """Convolve a picture of three channels, of any strides, to PADDED channels_last."""
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    k = tl.arange(0, 32)  # 27 weights: channel, row, column
    row = (pixel // width)[:, None] + (k % 9 // 3 - 1)[None, :]
    column = (pixel % width)[:, None] + (k % 3 - 1)[None, :]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    offsets = row.to(tl.int64) * row_stride + column * column_stride
    offsets += (k // 9 * channel_stride)[None, :]
    mask = inside & (k < 27)[None, :] & (pixel < num_pixels)[:, None]
    v = tl.load(x + offsets, mask=mask, other=0.0).to(w.dtype.element_ty)
    n = tl.arange(0, PADDED)
    acc = tl.dot(v, tl.load(w + k[:, None] * PADDED + n[None, :]))
    y = _activated(acc, bias, slope, PADDED).to(out.dtype.element_ty)
    place = out + pixel.to(tl.int64)[:, None] * PADDED + n[None, :]
    tl.store(place, y, mask=(pixel < num_pixels)[:, None])
