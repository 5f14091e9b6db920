"""Triton kernels: convolutions of whole batches that end with their activation.

A program computes some channels of consecutive pixels of the result, whichever pictures of the
batch these belong to: a product of matrices for each tap. Small tiles keep a large card busy where
a coarse block has few pixels.

Only on CUDA is this file imported, for Triton may be missing. Not yet seen on a GPU: on a CPU the
kernels run in Triton's interpreter, and compile for sm_80 and sm_90.
"""
# Triton's language has no types
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyright: reportMissingParameterType=false, reportUntypedFunctionDecorator=false

import triton
import triton.language as tl

SLOPE = tl.constexpr(0.2)
"""Of negative results."""


@triton.jit
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


@triton.jit
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
