"""Triton kernels: 3x3 convolutions of pixels in channels_last layout, and what follows them.

A program walks down a strip of columns. Each row that it reads serves the three rows of the result
that see it, so that a pixel is read three times (for the three columns that see it) instead of
nine. Where weights are resident, all nine stay in shared memory: 64 channels to at most 64. Else
they are read again for every row, so any number of channels does.

This file is only imported on CUDA, since Triton may be missing. Without a card its kernels run in
Triton's interpreter, and are compiled for cards that are not there.
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
    acc, row, columns, rows, size, to, COLUMNS: tl.constexpr,
    OUT: tl.constexpr, PADDED: tl.constexpr, SCALE: tl.constexpr, RESIDUALS: tl.constexpr,
):  # fmt: skip
    """Store a row of the result: as it is, plus residuals, or laid out as squares on a picture."""
    first, last = rows
    width, height = size
    bias, slope, out, out_stride, near, near_stride, far, far_stride, gain, far_gain = to[:10]
    y = _activated(acc, bias, slope, PADDED)
    end = tl.where((row >= first) & (row < last), width, 0)
    if SCALE > 0:
        base, base_channel, base_row, base_column = to[10:]
        CHANNELS: tl.constexpr = PADDED // (SCALE * SCALE)
        channel = tl.arange(0, CHANNELS)[:, None]
        mask = (columns < end)[None, :] & (channel < 3)
        place = base + row.to(tl.int64) * base_row
        color = tl.load(place + channel * base_channel + columns[None, :] * base_column, mask=mask)
        # lines of the enlarged picture, which are stored whole
        y = tl.permute(tl.reshape(y, (COLUMNS, CHANNELS, SCALE, SCALE)), (1, 2, 0, 3))
        y = tl.reshape(y + color[:, None, :, None], (CHANNELS * SCALE, COLUMNS * SCALE))
        line = tl.arange(0, CHANNELS * SCALE)[:, None]
        x = tl.program_id(0) * (COLUMNS * SCALE) + tl.arange(0, COLUMNS * SCALE)[None, :]
        out += row.to(tl.int64) * SCALE * (width * SCALE)
        line_at = (line // SCALE * (height * SCALE) + line % SCALE) * (width * SCALE)
        tl.store(out + (line_at + x), y, mask=(x < end * SCALE) & (line < 3 * SCALE))
    else:
        n = tl.arange(0, PADDED)
        mask = (columns < end)[:, None] & (n < OUT)[None, :]
        if RESIDUALS > 0:
            y = y * gain + _residual(near, row, columns, width, near_stride, mask, PADDED)
        if RESIDUALS > 1:
            y = y * far_gain + _residual(far, row, columns, width, far_stride, mask, PADDED)
        out += row.to(tl.int64) * width * out_stride
        offsets = columns[:, None] * out_stride + n[None, :]
        tl.store(out + offsets, y.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _pixels(x, row, columns, first, size, stride, BLOCK: tl.constexpr, UP: tl.constexpr):
    """Load channels `first`, … of some pixels of a row; zeros beyond the edges: (columns, BLOCK).

    With UP 1 every pixel of x stands for a square of two by two.
    """
    width, height = size
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
def _row(
    above, here, x, w, row, columns, size, stride, IN: tl.constexpr, PADDED: tl.constexpr,
    BLOCK: tl.constexpr, UP: tl.constexpr, RESIDENT: tl.constexpr,
):  # fmt: skip
    """Add what a row gives to the three rows of the result that see it, and return these."""
    PARTS: tl.constexpr = IN // BLOCK
    below = tl.zeros(here.shape, tl.float32)
    if RESIDENT:
        left = _pixels(x, row, columns - 1, 0, size, stride, BLOCK, UP)
        middle = _pixels(x, row, columns, 0, size, stride, BLOCK, UP)
        right = _pixels(x, row, columns + 1, 0, size, stride, BLOCK, UP)
        above = tl.dot(right, w[8], tl.dot(middle, w[7], tl.dot(left, w[6], above)))
        here = tl.dot(right, w[5], tl.dot(middle, w[4], tl.dot(left, w[3], here)))
        below = tl.dot(right, w[2], tl.dot(middle, w[1], tl.dot(left, w[0], below)))
    else:
        for part in range(3 * PARTS):
            across = part // PARTS
            first = part % PARTS * BLOCK
            v = _pixels(x, row, columns + (across - 1), first, size, stride, BLOCK, UP)
            above = tl.dot(v, _weights(w, 6 + across, first, IN, BLOCK, PADDED), above)
            here = tl.dot(v, _weights(w, 3 + across, first, IN, BLOCK, PADDED), here)
            below = tl.dot(v, _weights(w, across, first, IN, BLOCK, PADDED), below)
    return above, here, below


@triton.jit(do_not_specialize=["width", "height", "rows"])
def convolve_rows(
    x, w, bias, slope, out, near, far, base, width, height, rows,
    x_stride, out_stride, near_stride, far_stride, base_channel, base_row, base_column,
    gain, far_gain,
    IN: tl.constexpr, OUT: tl.constexpr, PADDED: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr, SCALE: tl.constexpr, RESIDUALS: tl.constexpr, UP: tl.constexpr,
    RESIDENT: tl.constexpr,
):  # fmt: skip
    """Convolve, with all weights at hand where RESIDENT. See `convolution.Convolution`.

    A turn computes three rows, after which each sum is what it was before: where sums are moved, a
    card has to wait for the products that it computes asynchronously.
    """
    size = (width, height)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    first = tl.program_id(1) * rows
    wanted = (first, tl.minimum(height, first + rows))
    to = (
        bias, slope, out, out_stride, near, near_stride, far, far_stride, gain, far_gain,
        base, base_channel, base_row, base_column,
    )  # fmt: skip
    if RESIDENT:
        w = (
            _weights(w, 0, 0, IN, BLOCK, PADDED), _weights(w, 1, 0, IN, BLOCK, PADDED),
            _weights(w, 2, 0, IN, BLOCK, PADDED), _weights(w, 3, 0, IN, BLOCK, PADDED),
            _weights(w, 4, 0, IN, BLOCK, PADDED), _weights(w, 5, 0, IN, BLOCK, PADDED),
            _weights(w, 6, 0, IN, BLOCK, PADDED), _weights(w, 7, 0, IN, BLOCK, PADDED),
            _weights(w, 8, 0, IN, BLOCK, PADDED),
        )  # fmt: skip
    a = tl.zeros((COLUMNS, PADDED), tl.float32)
    b = tl.zeros((COLUMNS, PADDED), tl.float32)
    for turn in range((rows + 4) // 3):
        row = first + (3 * turn - 1)
        a, b, c = _row(a, b, x, w, row, columns, size, x_stride, IN, PADDED, BLOCK, UP, RESIDENT)
        _finish(a, row - 1, columns, wanted, size, to, COLUMNS, OUT, PADDED, SCALE, RESIDUALS)
        row += 1
        b, c, a = _row(b, c, x, w, row, columns, size, x_stride, IN, PADDED, BLOCK, UP, RESIDENT)
        _finish(b, row - 1, columns, wanted, size, to, COLUMNS, OUT, PADDED, SCALE, RESIDUALS)
        row += 1
        c, a, b = _row(c, a, x, w, row, columns, size, x_stride, IN, PADDED, BLOCK, UP, RESIDENT)
        _finish(c, row - 1, columns, wanted, size, to, COLUMNS, OUT, PADDED, SCALE, RESIDUALS)


@triton.jit(do_not_specialize=["width", "num_pixels", "height"])
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
