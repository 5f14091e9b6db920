"""Triton kernels: everything between the convolutions of the interpolation network.

A frame is two pictures of groups (see `group_kernels`): its features, four halves; then R, G, B,
alpha in steps of 1/65535. The flow, fp32, is nowhere stored at full size: at each pixel that is
asked for, it is the sum of what the blocks so far have found.

Only on CUDA is this file imported, for Triton may be missing. Not yet seen on a GPU: on a CPU the
kernels run in Triton's interpreter, and compile for sm_80 and sm_90.
"""
# Triton's language has no types
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyright: reportMissingParameterType=false, reportUntypedFunctionDecorator=false

import triton
import triton.language as tl

from .group_kernels import (
    STEPS,
    find_around,
    found_by,
    place,
    read_coarse,
    row_of_four,
    sample_colors,
    sample_features,
    scaled_group,
    sum_flow,
    three_and_one,
    tile_pixels,
)

TABLE_COLUMNS = tl.constexpr(4)
"""Of each pair: addresses of the left frame, the right one, the result; bits of the moment."""


@triton.jit
def _frame(table, n, column: tl.constexpr):
    address = tl.load(table + n * TABLE_COLUMNS + column)
    return tl.multiple_of(address.to(tl.pointer_type(tl.int64)), 16)


@triton.jit
def _moment(table, n):
    return tl.load(table + n * TABLE_COLUMNS + 3).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
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


@triton.jit
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
    a = scaled_group(sample_features(frame, around, mask, 1), 1.0)
    colors = sample_colors(frame + height * width, around, mask)
    b = three_and_one(colors, 1.0, none + _moment(table, n))
    frame = _frame(table, n, 1)
    c = scaled_group(sample_features(frame, around, mask, 1), 1.0)
    d = three_and_one(sample_colors(frame + height * width, around, mask), 1.0, none)
    out += n * (height // CELL) * wide * 4
    places = ((y * wide + x) * 4)[:, None] + tl.arange(0, 4)[None, :]
    tl.store(out + places, row_of_four(a, b, c, d, PIXELS), mask=mask[:, None])


@triton.jit
def _sum(a, b):
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]


@triton.jit
def following(
    table, first, second, third, out, height, width,
    CELL: tl.constexpr, BLOCKS: tl.constexpr, TILE_X: tl.constexpr, TILE_Y: tl.constexpr,
):  # fmt: skip
    """Write the input of the block after BLOCKS others, eight groups a pixel.

    That is both frames moved by the flow, the newest state at twice its size, the moment, the flow:
    see `glue.NEXT_ORDER`. Of a cell only the four pixels in its middle count.
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
    for tap in tl.static_range(EDGE * EDGE):
        py = y * CELL + (START + tap // EDGE)
        px = x * CELL + (START + tap % EDGE)
        moved = sum_flow(
            first, second, third, n, py, px, height, width, mask, CELL << BLOCKS, BLOCKS
        )  # fmt: skip
        flow = _sum(flow, moved)
        around = find_around(py + moved[1], px + moved[0], height, width)
        near = _sum(near, sample_features(left, around, mask, 1))
        near_colors = _sum(near_colors, sample_colors(left + height * width, around, mask))
        around = find_around(py + moved[3], px + moved[2], height, width)
        far = _sum(far, sample_features(right, around, mask, 1))
        far_colors = _sum(far_colors, sample_colors(right + height * width, around, mask))
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


@triton.jit
def blend(
    table, first, second, third, last, height, width, CELL: tl.constexpr, CHANNELS: tl.constexpr,
    TILE_X: tl.constexpr, TILE_Y: tl.constexpr,
):  # fmt: skip
    """Write the in-betweens, (CHANNELS, H, W) float32 each, where the table says.

    Both frames are moved by all that four blocks have found and mixed by the mask of the last one.
    """
    y, x, mask = tile_pixels(width, height, TILE_X, TILE_Y)
    n = tl.program_id(1).to(tl.int64)
    found = sum_flow(first, second, third, n, y, x, height, width, mask, CELL * 8, 3)
    flow = _sum(found, found_by(last, n, y, x, height, width, mask, CELL, 2))
    last += n * (height // CELL) * (width // CELL) * 2
    share = tl.sigmoid(read_coarse(last + 1, y, x, height, width, mask, CELL, 2)[0])
    around = find_around(y + flow[1], x + flow[0], height, width)
    left = sample_colors(_frame(table, n, 0) + height * width, around, mask)
    around = find_around(y + flow[3], x + flow[2], height, width)
    right = sample_colors(_frame(table, n, 1) + height * width, around, mask)
    out = tl.load(table + n * TABLE_COLUMNS + 2).to(tl.pointer_type(tl.float32))
    for channel in tl.static_range(CHANNELS):
        value = right[channel] + (left[channel] - right[channel]) * share
        tl.store(out + (channel * height + y) * width + x, value, mask=mask)
