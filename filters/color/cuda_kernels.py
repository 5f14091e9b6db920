"""Triton kernels of colours: coded planes to R'G'B' and back, each value read and written once.

What is done along an axis (chroma made larger or smaller) is a band: every result is a weighted sum
of neighbours from `start` on, with weights of its own.
"""
# Triton's language has no types
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyright: reportMissingParameterType=false, reportUntypedFunctionDecorator=false

import triton
import triton.language as tl


@triton.jit
def _place(width, height, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Find the pixels of this program: rows (ROWS, 1), columns (1, COLUMNS), which are inside."""
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    return row, column, (row < height) & (column < width)


@triton.jit
def _rounded(value, top):
    """Round to nearest, halves to even, inside 0 to `top`: adding 1.5 * 2^23 leaves no fraction."""
    value = tl.minimum(tl.maximum(value, 0.0), top)
    return ((value + 12582912.0) - 12582912.0).to(tl.int32)


@triton.jit
def _outside(value, tolerance, mask):
    far = ((value < -tolerance) | (value > 1.0 + tolerance)) & mask
    return tl.sum(tl.sum(far.to(tl.int32), 1), 0)


@triton.jit
def _add(counter, count):
    """Add to a counter that all programs share, and not where that changes nothing."""
    tl.atomic_add(counter, count.to(tl.int64), mask=count > 0)


@triton.jit
def along(
    x, out, starts, weights, in_width, in_plane, width, height, top,
    TAPS: tl.constexpr, DOWN: tl.constexpr, CODES: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Apply a band to planes: along the rows' axis (DOWN) or along the columns'."""
    row, column, mask = _place(width, height, ROWS, COLUMNS)
    x += tl.program_id(2).to(tl.int64) * in_plane
    out += tl.program_id(2).to(tl.int64) * width * height
    at = row if DOWN else column
    line = at < (height if DOWN else width)
    start = tl.load(starts + at, mask=line, other=0)
    acc = tl.zeros((ROWS, COLUMNS), tl.float32)
    for tap in tl.static_range(TAPS):
        weight = tl.load(weights + at * TAPS + tap, mask=line, other=0.0)
        if DOWN:  # noqa: SIM108  (decided when it is compiled)
            offsets = (start + tap) * in_width + column
        else:
            offsets = row * in_width + (start + tap)
        acc += weight * tl.load(x + offsets, mask=mask, other=0).to(tl.float32)
    if CODES:
        tl.store(out + row * width + column, _rounded(acc, top).to(out.dtype.element_ty), mask=mask)
    else:
        tl.store(out + row * width + column, acc, mask=mask)


@triton.jit
def decoded(
    luma, chroma, out, starts, weights, table, outside, tolerance, chroma_width, width, height,
    TAPS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Enlarge chroma along the columns' axis, add luma, clip to [0, 1], count what was outside.

    `table` holds, for each of R, G and B, the weights of Y, U and V and a constant.
    """
    row, column, mask = _place(width, height, ROWS, COLUMNS)
    line = column < width
    start = tl.load(starts + column, mask=line, other=0)
    u = tl.zeros((ROWS, COLUMNS), tl.float32)
    v = tl.zeros((ROWS, COLUMNS), tl.float32)
    for tap in tl.static_range(TAPS):
        weight = tl.load(weights + column * TAPS + tap, mask=line, other=0.0)
        offsets = row * chroma_width + (start + tap)
        u += weight * tl.load(chroma + offsets, mask=mask, other=0).to(tl.float32)
        offsets += height * chroma_width
        v += weight * tl.load(chroma + offsets, mask=mask, other=0).to(tl.float32)
    y = tl.load(luma + row * width + column, mask=mask, other=0).to(tl.float32)
    for channel in tl.static_range(3):
        value = tl.load(table + 4 * channel) * y + tl.load(table + 4 * channel + 1) * u
        value += tl.load(table + 4 * channel + 2) * v + tl.load(table + 4 * channel + 3)
        _add(outside, _outside(value, tolerance, mask))
        place = out + channel * height * width + row * width + column
        tl.store(place, tl.minimum(tl.maximum(value, 0.0), 1.0), mask=mask)


@triton.jit
def coded(
    pixels, luma, chroma, table, outside, in_width, in_plane, width, height, top,
    CODES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Count what is outside [0, 1], clip it, round Y to codes and store U and V, rounded or not.

    `table` holds, for each of Y, U and V, the weights of R, G and B and a constant.
    """
    row, column, mask = _place(width, height, ROWS, COLUMNS)
    place = pixels + row * in_width + column
    r = tl.load(place, mask=mask, other=0.0).to(tl.float32)
    g = tl.load(place + in_plane, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(place + 2 * in_plane, mask=mask, other=0.0).to(tl.float32)
    count = _outside(r, 0.0, mask) + _outside(g, 0.0, mask) + _outside(b, 0.0, mask)
    _add(outside, count)
    r = tl.minimum(tl.maximum(r, 0.0), 1.0)
    g = tl.minimum(tl.maximum(g, 0.0), 1.0)
    b = tl.minimum(tl.maximum(b, 0.0), 1.0)
    for channel in tl.static_range(3):
        value = tl.load(table + 4 * channel) * r + tl.load(table + 4 * channel + 1) * g
        value += tl.load(table + 4 * channel + 2) * b + tl.load(table + 4 * channel + 3)
        to = row * width + column
        if channel == 0:
            tl.store(luma + to, _rounded(value, top).to(luma.dtype.element_ty), mask=mask)
        else:
            to += (channel - 1) * height * width
            if CODES:
                codes = _rounded(value, top).to(chroma.dtype.element_ty)
                tl.store(chroma + to, codes, mask=mask)
            else:
                tl.store(chroma + to, value, mask=mask)
