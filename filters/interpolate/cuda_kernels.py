"""Values in groups, as the Triton kernels of the interpolation network read and write them.

Four values of 16 bits travel as one number of 64 ("a group"). Pictures of groups lie in squares of
two by two pixels, one after the other, each square in reading order: what a block's last layer
gives lies so by itself, and the four neighbours that a sample mixes are often one piece of memory.
Coordinates and sums are fp32; borders repeat.

This file is only imported on CUDA, since Triton may be missing. Without a card its kernels run in
Triton's interpreter, and are compiled for cards that are not there.
"""

# Triton's language has no types
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyright: reportMissingParameterType=false, reportUntypedFunctionDecorator=false

import triton
import triton.language as tl

SIZES = ["height", "width"]
"""One binary for all of them, so that what is compared at one size is what runs at another."""
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
    """Return this program's pixels, y and x, and which of them there are."""
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
    """Return both neighbours of a position and the weight of the second; borders repeat."""
    # also for NaN, for which every comparison is false
    position = tl.where(position > 0, position, 0.0)
    position = tl.minimum(position, (length - 1).to(tl.float32))
    first = position.to(tl.int32)
    return first, tl.minimum(first + 1, length - 1), position - first.to(tl.float32)


@triton.jit
def word(group, place: tl.constexpr):
    """Take one of the four values of 16 bits out of a group."""
    pair = (group >> 32).to(tl.int32) if place >= 2 else group.to(tl.int32)
    return (pair >> 16).to(tl.int16) if place % 2 else pair.to(tl.int16)


@triton.jit
def value(group, place: tl.constexpr, HALVES: tl.constexpr):
    """Return one value of a group, a half or steps from black to white, as float32."""
    bits = word(group, place)
    return bits.to(tl.float16, bitcast=True).to(tl.float32) if HALVES else bits.to(tl.float32)


@triton.jit
def mixed(g, right, down, place: tl.constexpr, HALVES: tl.constexpr):
    """Mix one value of four groups."""
    a, b = value(g[0], place, HALVES), value(g[1], place, HALVES)
    c, d = value(g[2], place, HALVES), value(g[3], place, HALVES)
    top = a + (b - a) * right
    mix = top + (c + (d - c) * right - top) * down
    return mix if HALVES else (mix + MIDDLE) * (1.0 / STEPS)


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
def all_mixed(g, right, down, HALVES: tl.constexpr):
    """Mix all four values of four groups."""
    return (
        mixed(g, right, down, 0, HALVES), mixed(g, right, down, 1, HALVES),
        mixed(g, right, down, 2, HALVES), mixed(g, right, down, 3, HALVES),
    )  # fmt: skip


@triton.jit
def sample(picture, around, mask, HALVES: tl.constexpr, EACH: tl.constexpr):
    """Sample the first of EACH groups, four halves or R, G, B, alpha, at `find_around`'s place."""
    g = (
        tl.load(picture + around[0] * EACH, mask=mask, other=0),
        tl.load(picture + around[1] * EACH, mask=mask, other=0),
        tl.load(picture + around[2] * EACH, mask=mask, other=0),
        tl.load(picture + around[3] * EACH, mask=mask, other=0),
    )
    return all_mixed(g, around[4], around[5], HALVES)


@triton.jit
def sample_frame(frame, around, mask, size):
    """Sample the features and the colours of a frame of two planes of so many pixels."""
    return sample(frame, around, mask, True, 1), sample(frame + size, around, mask, False, 1)


@triton.jit
def read_coarse(picture, y, x, height, width, mask, CELL: tl.constexpr, EACH: tl.constexpr):
    """Return four halves, at a pixel, of a picture that is CELL times as coarse."""
    wide = width // CELL
    if CELL == 1:
        g = tl.load(picture + place(y, x, wide) * EACH, mask=mask, other=0)
        none = tl.zeros(g.shape, tl.float32)
        return all_mixed((g, g, g, g), none, none, True)
    else:
        down = (y.to(tl.float32) + 0.5) * (1.0 / CELL) - 0.5
        right = (x.to(tl.float32) + 0.5) * (1.0 / CELL) - 0.5
        around = find_around(down, right, height // CELL, wide)
        return sample(picture, around, mask, True, EACH)


@triton.jit
def found_by(detail, n, y, x, height, width, mask, CELL: tl.constexpr, EACH: tl.constexpr):
    """Return what one block has found of the flow at a pixel of the frame, in pixels."""
    detail += n * (height // CELL) * (width // CELL) * EACH
    p, q, r, s = read_coarse(detail, y, x, height, width, mask, CELL, EACH)
    return p * CELL, q * CELL, r * CELL, s * CELL


@triton.jit
def sum_flow(
    first, second, third, n, y, x, height, width, mask, FIRST: tl.constexpr, BLOCKS: tl.constexpr
):
    """Sum the outputs of up to three blocks, whose cells are FIRST, FIRST / 2, FIRST / 4."""
    flow = found_by(first, n, y, x, height, width, mask, FIRST, 4)
    if BLOCKS > 1:
        flow = _sum(flow, found_by(second, n, y, x, height, width, mask, FIRST // 2, 4))
    if BLOCKS > 2:
        flow = _sum(flow, found_by(third, n, y, x, height, width, mask, FIRST // 4, 4))
    return flow


# Everything between the convolutions of the interpolation network.
#
# A frame is two pictures of groups: its features, four halves; then R, G, B, alpha in steps of
# 1/65535. The flow, fp32, is nowhere stored at full size: at each pixel that is asked for it is
# the sum of what the blocks so far have found.

TABLE_COLUMNS = tl.constexpr(4)
"""Of each pair: addresses of the left frame, the right one, the result; bits of the moment."""


@triton.jit
def _frame(table, n, column: tl.constexpr):
    address = tl.load(table + n * TABLE_COLUMNS + column)
    return tl.multiple_of(address.to(tl.pointer_type(tl.int64)), 16)


@triton.jit
def _moment(table, n):
    return tl.load(table + n * TABLE_COLUMNS + 3).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=SIZES)
def pack(
    image, out, height, width, num_planes,
    CHANNELS: tl.constexpr, TILE_X: tl.constexpr, TILE_Y: tl.constexpr,
):  # fmt: skip
    """Write the colours of frames, (N, CHANNELS, H, W) float32, into the second plane of `out`."""
    y, x, mask = tile_pixels(width, height, TILE_X, TILE_Y)
    n = tl.program_id(1).to(tl.int64)
    image += n * CHANNELS * height * width
    group = tl.zeros((TILE_X * TILE_Y,), tl.int64)
    for channel in tl.static_range(CHANNELS):
        value = tl.load(image + (channel * height + y) * width + x, mask=mask, other=0.0)
        value = tl.minimum(tl.maximum(value, 0.0), 1.0) * STEPS
        steps = (value + 0.5).to(tl.int32) - 32768
        group |= (steps.to(tl.int64) & 0xFFFF) << (16 * channel)
    out += (n * num_planes + 1) * height * width
    tl.store(out + place(y, x, width), group, mask=mask)


@triton.jit(do_not_specialize=SIZES)
def begin(
    table, out, height, width,
    CELL: tl.constexpr, TILE_X: tl.constexpr, TILE_Y: tl.constexpr,
):  # fmt: skip
    """Write the first block's input, four groups a pixel: see `glue.FIRST_ORDER`."""
    PIXELS: tl.constexpr = TILE_X * TILE_Y
    wide = width // CELL
    y, x, mask = tile_pixels(wide, height // CELL, TILE_X, TILE_Y)
    n = tl.program_id(1).to(tl.int64)
    # the middle of a cell lies between its four taps
    top = (y * CELL).to(tl.float32) + (CELL / 2 - 0.5)
    left = (x * CELL).to(tl.float32) + (CELL / 2 - 0.5)
    around = find_around(top, left, height, width)
    none = tl.zeros((PIXELS,), tl.float32)
    frame = _frame(table, n, 0)
    features, colors = sample_frame(frame, around, mask, height * width)
    a = scaled_group(features, 1.0)
    b = three_and_one(colors, 1.0, none + _moment(table, n))
    features, colors = sample_frame(_frame(table, n, 1), around, mask, height * width)
    c = scaled_group(features, 1.0)
    d = three_and_one(colors, 1.0, none)
    out += n * (height // CELL) * wide * 4
    places = ((y * wide + x) * 4)[:, None] + tl.arange(0, 4)[None, :]
    tl.store(out + places, row_of_four(a, b, c, d, PIXELS), mask=mask[:, None])


@triton.jit
def _sum(a, b):
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]


@triton.jit(do_not_specialize=[*SIZES, "taps"])
def following(
    table, first, second, third, out, height, width, taps,
    CELL: tl.constexpr, BLOCKS: tl.constexpr, TILE_X: tl.constexpr, TILE_Y: tl.constexpr,
):  # fmt: skip
    """Write the input of the block after BLOCKS others, eight groups a pixel.

    That is both frames moved by the flow, the newest state at twice its size, the moment, the flow:
    see `glue.NEXT_ORDER`. Of a cell only the four pixels in its middle count: `taps`, no constant,
    since unrolled they take many times as long to compile.
    """
    EDGE: tl.constexpr = 1 if CELL == 1 else 2
    START: tl.constexpr = 0 if CELL == 1 else CELL // 2 - 1
    SHARE: tl.constexpr = 1.0 / (EDGE * EDGE)
    PIXELS: tl.constexpr = TILE_X * TILE_Y
    high = height // CELL
    wide = width // CELL
    y, x, mask = tile_pixels(wide, high, TILE_X, TILE_Y)
    n = tl.program_id(1).to(tl.int64)
    left = _frame(table, n, 0)
    right = _frame(table, n, 1)
    none = tl.zeros((PIXELS,), tl.float32)
    flow = (none, none, none, none)
    near, near_colors, far, far_colors = flow, flow, flow, flow
    for tap in range(taps):
        py = y * CELL + (START + tap // EDGE)
        px = x * CELL + (START + tap % EDGE)
        moved = sum_flow(
            first, second, third, n, py, px, height, width, mask, CELL << BLOCKS, BLOCKS
        )  # fmt: skip
        flow = _sum(flow, moved)
        around = find_around(py + moved[1], px + moved[0], height, width)
        features, colors = sample_frame(left, around, mask, height * width)
        near, near_colors = _sum(near, features), _sum(near_colors, colors)
        around = find_around(py + moved[3], px + moved[2], height, width)
        features, colors = sample_frame(right, around, mask, height * width)
        far, far_colors = _sum(far, features), _sum(far_colors, colors)
    state = first if BLOCKS == 1 else second if BLOCKS == 2 else third
    state += n * (high // 2) * (wide // 2) * 4
    logit = read_coarse(state + 1, y, x, high, wide, mask, 2, 4)[0]
    even = row_of_four(
        scaled_group(near, SHARE),
        scaled_group(far, SHARE),
        scaled_group(read_coarse(state + 2, y, x, high, wide, mask, 2, 4), 1.0),
        scaled_group(flow, SHARE / CELL), PIXELS,
    )  # fmt: skip
    nothing = tl.zeros((PIXELS,), tl.int64)
    odd = row_of_four(
        three_and_one(near_colors, SHARE, none + _moment(table, n)),
        three_and_one(far_colors, SHARE, logit),
        scaled_group(read_coarse(state + 3, y, x, high, wide, mask, 2, 4), 1.0), nothing, PIXELS,
    )  # fmt: skip
    out += n * high * wide * 8
    places = ((y * wide + x) * 8)[:, None] + tl.arange(0, 8)[None, :]
    tl.store(out + places, tl.reshape(tl.join(even, odd), (PIXELS, 8)), mask=mask[:, None])


@triton.jit(do_not_specialize=SIZES)
def blend(
    table, first, second, third, last, height, width, CELL: tl.constexpr, CHANNELS: tl.constexpr,
    TILE_X: tl.constexpr, TILE_Y: tl.constexpr,
):  # fmt: skip
    """Write the in-betweens, (CHANNELS, H, W) float32 each, to the addresses in the table.

    Both frames are moved by all that four blocks have found and mixed by the mask of the last one.
    """
    y, x, mask = tile_pixels(width, height, TILE_X, TILE_Y)
    n = tl.program_id(1).to(tl.int64)
    found = sum_flow(first, second, third, n, y, x, height, width, mask, CELL * 8, 3)
    flow = _sum(found, found_by(last, n, y, x, height, width, mask, CELL, 2))
    last += n * (height // CELL) * (width // CELL) * 2
    share = tl.sigmoid(read_coarse(last + 1, y, x, height, width, mask, CELL, 2)[0])
    around = find_around(y + flow[1], x + flow[0], height, width)
    left = sample(_frame(table, n, 0) + height * width, around, mask, False, 1)
    around = find_around(y + flow[3], x + flow[2], height, width)
    right = sample(_frame(table, n, 1) + height * width, around, mask, False, 1)
    out = tl.load(table + n * TABLE_COLUMNS + 2).to(tl.pointer_type(tl.float32))
    for channel in tl.static_range(CHANNELS):
        value = right[channel] + (left[channel] - right[channel]) * share
        tl.store(out + (channel * height + y) * width + x, value, mask=mask)


# Convolutions of whole batches that end with their activation.
#
# A program computes some channels of consecutive pixels of the result, whichever pictures of the
# batch these belong to: a product of matrices for each tap. Small tiles keep a large card busy
# where a coarse block has few pixels.

SLOPE = tl.constexpr(0.2)
"""Of negative results."""


@triton.jit(do_not_specialize=[*SIZES, "out_height", "out_width", "num_pixels"])
def convolve(
    x, w, bias, out, height, width, out_height, out_width, num_pixels, num_in, num_out, stride,
    BLOCK: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
    DOUBLING: tl.constexpr, LEAKY: tl.constexpr,
):  # fmt: skip
    """Convolve 3x3, or DOUBLING a quarter of the pixels of a transposed 4x4 of stride 2.

    Of such a one each of the four pixels that come of one sees two by two others: program_id(2)
    tells which pixel. Weights are (taps, num_in, num_out), for each of the four.
    """
    EDGE: tl.constexpr = 2 if DOUBLING else 3
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    column = pixel % out_width
    row = pixel // out_width % out_height
    image = pixel // (out_width * out_height)
    n = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    k = tl.arange(0, BLOCK)
    down = tl.program_id(2) // 2
    right = tl.program_id(2) % 2
    w += tl.program_id(2) * EDGE * EDGE * num_in * num_out
    parts = num_in // BLOCK
    acc = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for step in range(EDGE * EDGE * parts):
        tap = step // parts
        first = step % parts * BLOCK
        y = row * stride + (tap // EDGE - 1 + down)
        z = column * stride + (tap % EDGE - 1 + right)
        inside = (y >= 0) & (y < height) & (z >= 0) & (z < width) & (pixel < num_pixels)
        place = ((image * height + y) * width + z).to(tl.int64) * num_in + first
        values = tl.load(x + place[:, None] + k[None, :], mask=inside[:, None], other=0.0)
        rows = (tap * num_in + first + k) * num_out
        acc = tl.dot(values, tl.load(w + rows[:, None] + n[None, :]), acc)
    acc += tl.load(bias + n)[None, :].to(tl.float32)
    if LEAKY:
        acc = tl.where(acc > 0, acc, acc * SLOPE)
    if DOUBLING:
        row = (image * height + row) * 2 + down
        pixel_out = row * (2 * width) + column * 2 + right
    else:
        pixel_out = pixel
    place = pixel_out.to(tl.int64)[:, None] * num_out + n[None, :]
    tl.store(out + place, acc.to(out.dtype.element_ty), mask=(pixel < num_pixels)[:, None])


@triton.jit(do_not_specialize=[*SIZES, "num_pixels"])
def convolve_colors(
    image, w, bias, out, planes, height, width, num_pixels,
    CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """Convolve three planes, float32, of pictures of so many planes: 3x3, stride 2, activated."""
    wide = width // 2
    high = height // 2
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    k = tl.arange(0, 32)  # 27 weights: plane, row, column
    y = (pixel // wide % high * 2)[:, None] + (k % 9 // 3 - 1)[None, :]
    z = (pixel % wide * 2)[:, None] + (k % 3 - 1)[None, :]
    inside = (y >= 0) & (y < height) & (z >= 0) & (z < width)
    inside = inside & (k < 27)[None, :] & (pixel < num_pixels)[:, None]
    plane = (pixel // (wide * high) * planes)[:, None] + (k // 9)[None, :]
    place = (plane * height + y).to(tl.int64) * width + z
    values = tl.load(image + place, mask=inside, other=0.0).to(w.dtype.element_ty)
    n = tl.arange(0, CHANNELS)
    acc = tl.dot(values, tl.load(w + k[:, None] * CHANNELS + n[None, :]))
    acc += tl.load(bias + n)[None, :].to(tl.float32)
    acc = tl.where(acc > 0, acc, acc * SLOPE)
    place = pixel.to(tl.int64)[:, None] * CHANNELS + n[None, :]
    tl.store(out + place, acc.to(out.dtype.element_ty), mask=(pixel < num_pixels)[:, None])
