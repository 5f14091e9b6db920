"""How many colours were outside what pictures can show."""

from __future__ import annotations

import threading

import torch
from torch import Tensor


class OutsideGamut:
    """Counts values outside [0, 1], from several threads; waits for a device only at the end."""

    def __init__(self) -> None:
        self._count: Tensor | int = 0
        self._outside: Tensor | None = None
        self._lock = threading.Lock()

    def must_clip(self, values: Tensor, tolerance: float) -> bool:
        """Count what is outside by more than `tolerance`; tell whether anything may be at all."""
        if values.device.type == "cpu":  # on others, finding out would wait for the device
            low, high = (float(value) for value in values.aminmax())
            if low >= 0 and high <= 1:
                return False
        outside = (values < -tolerance).count_nonzero() + (values > 1 + tolerance).count_nonzero()
        with self._lock:
            self._count = self._count + outside
        return True

    def on(self, device: torch.device) -> Tensor:
        """Give what kernels may add to: (1,), int64."""
        if self._outside is None:
            self._outside = torch.zeros(1, dtype=torch.int64, device=device)
        return self._outside

    def count(self) -> int:
        """Give the sum so far."""
        return int(self._count) + (0 if self._outside is None else int(self._outside))
