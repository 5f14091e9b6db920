"""Weights of 3x3 convolutions for `winograd.c`.

They are turned in float64. To bf16 they are rounded each after the errors of those before it: with
the 36 values of a kernel come 36 sums of pixels that are much alike where the picture is smooth, so
that a value can make good most of what rounding another one spoilt. Measured on features of RRDBNet
that takes 2 dB off the errors of the weights. In fp32 rounding costs nothing that would show.

Source: Frantar et al. 2022, GPTQ, for rounding one after the other by the inverse covariance;
here the covariance is that of a model, the same for all kernels.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

LANES = 16
"""Channels that the kernel takes at once."""
_TOGETHER = {torch.float32: 1, torch.bfloat16: 2}
"""Channels that one instruction multiplies and adds."""
_MOST_VECTORS = 4
"""Of `LANES` outputs, for which there are registers at once."""
_POINTS = (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))
_EDGE = 4
_SUMS = 36
_CORRELATION = 0.6
"""Of a pixel and the next one. In features it is 0.84 to 0.94, but what is not smooth counts too.
RRDBNet's results came 0.5 dB closer to fp32 than by plain rounding, on four crops of a film; values
from 0.4 to 0.9 differ by less than chance."""


def turned(weight: Tensor) -> Tensor:
    """Turn (out, in, 3, 3), fp32 or bf16, by G g G^T, into what the kernel reads, of its dtype.

    Channels are filled up with zeros, out to a multiple of 16. The outputs of a panel lie together,
    see `panel_of`.

    Returns:
        (36, in * out): in fp32 (in, panel) for each panel, one after the other. In bf16 in is
        filled up to a multiple of 32, of which first come the even ones, then the odd ones, and
        pairs of them lie together: (in/2, panel, 2).
    """
    num_out, num_in = weight.shape[:2]
    matrix, together = _weights_matrix(), _TOGETHER[weight.dtype]
    kernels = weight.double().permute(2, 3, 1, 0).reshape(9, -1)
    exact = torch.kron(matrix, matrix) @ kernels
    values = _rounded(exact) if weight.dtype == torch.bfloat16 else exact
    groups = -(-num_in // (LANES * together))
    padded = weight.new_zeros(_SUMS, groups * LANES * together, filled(num_out))
    padded[:, :num_in, :num_out] = values.view(_SUMS, num_in, num_out)
    split = padded.view(_SUMS, groups, LANES, together, -1).transpose(2, 3)
    ordered = split.reshape(_SUMS, -1, together, filled(num_out))
    panels = torch.split(ordered, panel_of(filled(num_out)), 3)
    return torch.cat([panel.transpose(2, 3).flatten(1) for panel in panels], 1)


def filled(num_out: int) -> int:
    """Round a number of outputs up to what the kernel takes."""
    return num_out + -num_out % LANES


def panel_of(num_out: int) -> int:
    """Choose how many outputs make a panel, for which a thread has registers.

    Where one does not do it is an even number of panels, for threads to share.
    """
    vectors = num_out // LANES
    panels = 1 if vectors <= _MOST_VECTORS else 2 * -(-vectors // (2 * _MOST_VECTORS))
    return -(-vectors // panels) * LANES


def _rounded(values: Tensor) -> Tensor:
    """Round (36, n) to bf16, kept in float64."""
    shares = _shares()
    values = values.clone()
    for index in range(_SUMS):
        exact = values[index].clone()
        values[index] = exact.to(torch.bfloat16).double()
        values[index + 1 :].addr_(shares[index, index + 1 :], values[index] - exact)
    return values


@lru_cache(maxsize=1)
def _shares() -> Tensor:
    """How the error of a value goes over to those after it: (36, 36), float64."""
    distance = torch.arange(_EDGE + 2, dtype=torch.float64)
    pixels = _CORRELATION ** (distance[:, None] - distance).abs()
    to_sums, to_pixels = _sums_matrix(), _pixels_matrix()
    along = (to_pixels.T @ to_pixels) * (to_sums @ pixels @ to_sums.T)
    inverse = np.linalg.inv(torch.kron(along, along).numpy())
    upper = torch.tensor(np.linalg.cholesky(inverse).T.tolist(), dtype=torch.float64)
    return upper / upper.diagonal()[:, None]


def _weights_matrix() -> Tensor:
    """Toom-Cook's matrix for three weights: (6, 3), float64."""
    rows: list[list[float]] = []
    for point in _POINTS:
        scale = 1.0
        for other in _others(point):
            scale *= point - other
        rows.append([point**power / scale for power in range(3)])
    return torch.tensor([*rows, [0.0, 0.0, 1.0]], dtype=torch.float64)


def _sums_matrix() -> Tensor:
    """Toom-Cook's matrix for six pixels: (6, 6), float64, as in the kernel."""
    rows = [[*_product(_others(point)), 0.0] for point in _POINTS]
    return torch.tensor([*rows, _product(_POINTS)], dtype=torch.float64)


def _pixels_matrix() -> Tensor:
    """Toom-Cook's matrix for four results: (4, 6), float64, as in the kernel."""
    columns = [[point**power for power in range(_EDGE)] for point in _POINTS]
    return torch.tensor([*columns, [0.0, 0.0, 0.0, 1.0]], dtype=torch.float64).T


def _others(point: float) -> list[float]:
    return [other for other in _POINTS if other != point]


def _product(roots: list[float] | tuple[float, ...]) -> list[float]:
    """Multiply out (x - root) of all roots: factors, lowest power first."""
    factors = [1.0]
    for root in roots:
        above, below = [0.0, *factors], [*factors, 0.0]
        factors = [high - root * low for high, low in zip(above, below, strict=True)]
    return factors
