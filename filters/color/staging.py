"""Coded planes to a CUDA device and back, through pinned memory, concurrently with the computing.

Each direction has one stream in the process, so that copies wait only for what they need.
Pinned memory is pooled by torch: a block returns to the pool when its last tensor is freed and its
copy has ended, so the pool is as large as the pipeline's queues. If memory cannot be pinned, and on
a CPU, the same calls make plain copies.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..kernels.cuda import remembering_faults, stream_for, warn_once


class Transfer:
    """Tensors that are being copied; `done` is the end of the copy, None if it has ended."""

    def __init__(self, tensors: tuple[Tensor, ...], done: torch.cuda.Event | None = None) -> None:
        self._tensors = tensors
        self._done = done

    @remembering_faults()
    def wait(self) -> tuple[Tensor, ...]:
        """Wait for the copy, and return the tensors."""
        if self._done is not None:
            self._done.synchronize()
            self._done = None
        return self._tensors

    def follow(self) -> tuple[Tensor, ...]:
        """Return the tensors at once; the current stream waits, and keeps them while it reads."""
        if self._done is not None:
            stream = torch.cuda.current_stream(self._tensors[0].device)
            stream.wait_event(self._done)
            for tensor in self._tensors:
                tensor.record_stream(stream)
        return self._tensors


class Upload:
    """Copies from the CPU to a device, by any thread."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = stream_for("upload", device) if device.type == "cuda" else None
        self._pinned = _Pinned()

    def __call__(self, tensors: Sequence[Tensor]) -> Transfer:
        """Begin to copy tensors, which may be freed or overwritten at once."""
        if self._stream is None:
            return Transfer(tuple(tensor.to(self._device) for tensor in tensors))
        if any(tensor.is_cuda for tensor in tensors):  # another stream's, which keeps them no more
            copies = tuple(tensor.to(self._device) for tensor in tensors)
            return Transfer(copies, _recorded(torch.cuda.current_stream(self._device)))
        staged = [self._pinned.like(tensor).copy_(tensor) for tensor in tensors]
        with torch.cuda.stream(self._stream):
            copies = tuple(one.to(self._device, non_blocking=True) for one in staged)
            return Transfer(copies, _recorded(self._stream))


class Download:
    """Copies from a device to the CPU, by any thread."""

    def __init__(self) -> None:
        self._pinned = _Pinned()

    def __call__(self, tensors: Sequence[Tensor]) -> Transfer:
        """Begin to copy tensors, after the work that is queued on the current stream."""
        device = next((tensor.device for tensor in tensors if tensor.is_cuda), None)
        if device is None:
            return Transfer(tuple(tensor.cpu() for tensor in tensors))
        stream = stream_for("download", device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            copies = tuple(self._begin(tensor, stream) for tensor in tensors)
            return Transfer(copies, _recorded(stream))

    def _begin(self, tensor: Tensor, stream: torch.cuda.Stream) -> Tensor:
        if not tensor.is_cuda:
            return tensor
        tensor.record_stream(stream)
        return self._pinned.like(tensor).copy_(tensor, non_blocking=True)


class _Pinned:
    """Allocates memory that a device can read by itself, while there is some."""

    def __init__(self) -> None:
        self._is_available = True

    def like(self, tensor: Tensor) -> Tensor:
        """Make an empty tensor on the CPU, contiguous."""
        if self._is_available:
            try:
                return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            except RuntimeError as error:
                self._is_available = False
                first = str(error).splitlines()[0]
                warn_once(f"frames are copied without pinned memory, which is slower: {first}")
        return torch.empty(tensor.shape, dtype=tensor.dtype)


def _recorded(stream: torch.cuda.Stream) -> torch.cuda.Event:
    """Record the work queued on a stream so far; threads that wait for it sleep."""
    event = torch.cuda.Event(blocking=True)
    event.record(stream)
    return event
