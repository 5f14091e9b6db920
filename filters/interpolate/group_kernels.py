"""Values in groups, as the Triton kernels of the interpolation network read and write them.

Four values of 16 bits travel as one number of 64 ("a group"). Pictures of groups lie in squares of
two by two pixels, one after the other, each square in reading order: what a block's last layer
gives lies so by itself, and the four neighbours that a sample mixes are often one piece of memory.
Coordinates and sums are fp32; borders repeat.

Imported with :mod:`.glue_kernels` only.
"""
# Triton's language has no types
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyright: reportMissingParameterType=false, reportUntypedFunctionDecorator=false

import triton
import triton.language as tl

STEPS = tl.constexpr(65535.0)
"""From black to white."""
MIDDLE = tl.constexpr(32768.0)


@triton.jit
def to_group(a, b, c, d):
    """Round four values to halves and put them into one group."""
    p = a.to(tl.float16).to(tl.int16, bitcast=True).to(tl.int64) & 0xFFFF
    q = b.to(tl.float16).to(tl.int16, bitcast=True).to(tl.int64) & 0xFFFF
    r = c.to(tl.float16).to(tl.int16, bitcast=True).to(tl.int64) & 0xFFFF
    s = d.to(tl.float16).to(tl.int16, bitcast=True).to(tl.int64)
    return p | (q << 16) | (r << 32) | (s << 48)


@triton.jit
def scaled_group(values, by):
    """Multiply four values and put them into one group."""
    return to_group(values[0] * by, values[1] * by, values[2] * by, values[3] * by)


@triton.jit
def three_and_one(values, by, fourth):
    """Do so with three, and put another one into the fourth place."""
    return to_group(values[0] * by, values[1] * by, values[2] * by, fourth)


@triton.jit
def row_of_four(a, b, c, d, PIXELS: tl.constexpr):
    """Put four groups of each pixel side by side, (PIXELS, 4): written in whole pieces."""
    return tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), (PIXELS, 4))


@triton.jit
def tile_pixels(width, height, TILE_X: tl.constexpr, TILE_Y: tl.constexpr):
    """Give this program's pixels, y and x, and which of them there are."""
    across = tl.cdiv(width, TILE_X)
    index = tl.arange(0, TILE_X * TILE_Y)
    x = tl.program_id(0) % across * TILE_X + index % TILE_X
    y = tl.program_id(0) // across * TILE_Y + index // TILE_X
    return y, x, (y < height) & (x < width)


@triton.jit
def place(y, x, width):
    """Where a pixel lies in squares of two by two."""
    return ((y >> 1) * (width >> 1) + (x >> 1)) * 4 + (y & 1) * 2 + (x & 1)


@triton.jit
def between(position, length):
    """Give both neighbours of a position and the weight of the second; borders repeat."""
    position = tl.where(position > 0, position, 0.0)  # also for NaN, which no comparison takes
    position = tl.minimum(position, (length - 1).to(tl.float32))
    first = position.to(tl.int32)
    return first, tl.minimum(first + 1, length - 1), position - first.to(tl.float32)


@triton.jit
def halves(g, right, down, place: tl.constexpr):
    """Mix one value of four groups: halves."""
    a = (g[0] >> (16 * place)).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    b = (g[1] >> (16 * place)).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    c = (g[2] >> (16 * place)).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    d = (g[3] >> (16 * place)).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    top = a + (b - a) * right
    return top + (c + (d - c) * right - top) * down


@triton.jit
def levels(g, right, down, place: tl.constexpr):
    """Mix one value of four groups: steps from black to white."""
    a = (g[0] >> (16 * place)).to(tl.int16).to(tl.float32)
    b = (g[1] >> (16 * place)).to(tl.int16).to(tl.float32)
    c = (g[2] >> (16 * place)).to(tl.int16).to(tl.float32)
    d = (g[3] >> (16 * place)).to(tl.int16).to(tl.float32)
    top = a + (b - a) * right
    return (top + (c + (d - c) * right - top) * down + MIDDLE) * (1.0 / STEPS)


@triton.jit
def find_around(y, x, height, width):
    """Find the four pixels around a position, and how far right and down of the first it is."""
    top, bottom, down = between(y, height)
    near, far, right = between(x, width)
    return (
        place(top, near, width), place(top, far, width),
        place(bottom, near, width), place(bottom, far, width), right, down,
    )  # fmt: skip


@triton.jit
def loaded(picture, around, mask, EACH: tl.constexpr):
    """Load the first group of the four pixels of `find_around`, of EACH groups."""
    return (
        tl.load(picture + around[0] * EACH, mask=mask, other=0),
        tl.load(picture + around[1] * EACH, mask=mask, other=0),
        tl.load(picture + around[2] * EACH, mask=mask, other=0),
        tl.load(picture + around[3] * EACH, mask=mask, other=0),
    )


@triton.jit
def sample_features(picture, around, mask, EACH: tl.constexpr):
    """Sample four halves."""
    g = loaded(picture, around, mask, EACH)
    right, down = around[4], around[5]
    return (
        halves(g, right, down, 0), halves(g, right, down, 1),
        halves(g, right, down, 2), halves(g, right, down, 3),
    )  # fmt: skip


@triton.jit
def sample_colors(picture, around, mask):
    """Sample R, G, B, alpha."""
    g = loaded(picture, around, mask, 1)
    right, down = around[4], around[5]
    return (
        levels(g, right, down, 0), levels(g, right, down, 1),
        levels(g, right, down, 2), levels(g, right, down, 3),
    )  # fmt: skip


@triton.jit
def read_coarse(picture, y, x, height, width, mask, CELL: tl.constexpr, EACH: tl.constexpr):
    """Give four halves, at a pixel, of a picture that is CELL times as coarse."""
    wide = width // CELL
    if CELL == 1:
        g = tl.load(picture + place(y, x, wide) * EACH, mask=mask, other=0)
        same, none = (g, g, g, g), tl.zeros(g.shape, tl.float32)
        return (
            halves(same, none, none, 0), halves(same, none, none, 1),
            halves(same, none, none, 2), halves(same, none, none, 3),
        )  # fmt: skip
    else:
        down = (y.to(tl.float32) + 0.5) * (1.0 / CELL) - 0.5
        right = (x.to(tl.float32) + 0.5) * (1.0 / CELL) - 0.5
        return sample_features(picture, find_around(down, right, height // CELL, wide), mask, EACH)


@triton.jit
def found_by(detail, n, y, x, height, width, mask, CELL: tl.constexpr, EACH: tl.constexpr):
    """Give what one block has found of the flow at a pixel of the frame, in pixels."""
    detail += n * (height // CELL) * (width // CELL) * EACH
    p, q, r, s = read_coarse(detail, y, x, height, width, mask, CELL, EACH)
    return p * CELL, q * CELL, r * CELL, s * CELL


@triton.jit
def sum_flow(
    first, second, third, n, y, x, height, width, mask, FIRST: tl.constexpr, BLOCKS: tl.constexpr
):
    """Sum up what up to three blocks have found, whose cells are FIRST, FIRST / 2, FIRST / 4."""
    p, q, r, s = found_by(first, n, y, x, height, width, mask, FIRST, 4)
    if BLOCKS > 1:
        dp, dq, dr, ds = found_by(second, n, y, x, height, width, mask, FIRST // 2, 4)
        p, q, r, s = p + dp, q + dq, r + dr, s + ds
    if BLOCKS > 2:
        dp, dq, dr, ds = found_by(third, n, y, x, height, width, mask, FIRST // 4, 4)
        p, q, r, s = p + dp, q + dq, r + dr, s + ds
    return p, q, r, s
