"""Coded planes to a CUDA card and back, through pinned memory, beside the computing.

Each direction has one stream in the process, so that copies wait for what they need and for nothing
else.
The ring of pinned memory is torch's own: a block comes back to it when the last tensor in it has
been let go and its copy is over, so its size is what the pipeline's channels hold. Where no memory
can be pinned, and on a CPU, the same calls copy plainly. Untested on CUDA hardware.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..kernels.cuda import remembering_faults, stream_for, warn_once


class Arrival:
    """Tensors on their way.

    Args:
        tensors: where they will be.
        done: when they are there; None where they are.
    """

    def __init__(self, tensors: tuple[Tensor, ...], done: torch.cuda.Event | None = None) -> None:
        self._tensors = tensors
        self._done = done

    @remembering_faults()
    def wait(self) -> tuple[Tensor, ...]:
        """Return the tensors once they are there; this thread waits."""
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

    def __call__(self, tensors: Sequence[Tensor]) -> Arrival:
        """Begin to copy tensors; they may be let go or overwritten at once."""
        if self._stream is None or any(tensor.is_cuda for tensor in tensors):
            return Arrival(tuple(tensor.to(self._device) for tensor in tensors))
        staged = [self._pinned.like(tensor).copy_(tensor) for tensor in tensors]
        with torch.cuda.stream(self._stream):
            arriving = tuple(one.to(self._device, non_blocking=True) for one in staged)
            return Arrival(arriving, _recorded(self._stream))


class Download:
    """Copies from a device to the CPU, by any thread."""

    def __init__(self) -> None:
        self._pinned = _Pinned()

    def __call__(self, tensors: Sequence[Tensor]) -> Arrival:
        """Begin to copy tensors, after what the current stream has still to do."""
        device = next((tensor.device for tensor in tensors if tensor.is_cuda), None)
        if device is None:
            return Arrival(tuple(tensor.cpu() for tensor in tensors))
        stream = stream_for("download", device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            arriving = tuple(self._begin(tensor, stream) for tensor in tensors)
            return Arrival(arriving, _recorded(stream))

    def _begin(self, tensor: Tensor, stream: torch.cuda.Stream) -> Tensor:
        if not tensor.is_cuda:
            return tensor
        tensor.record_stream(stream)
        return self._pinned.like(tensor).copy_(tensor, non_blocking=True)


class _Pinned:
    """Gives memory that a card can reach by itself, as long as there is some."""

    def __init__(self) -> None:
        self._is_to_be_had = True

    def like(self, tensor: Tensor) -> Tensor:
        """Make an empty tensor on the CPU, contiguous."""
        if self._is_to_be_had:
            try:
                return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            except RuntimeError as error:
                self._is_to_be_had = False
                first = str(error).splitlines()[0]
                warn_once(f"frames are copied without pinned memory, which is slower: {first}")
        return torch.empty(tensor.shape, dtype=tensor.dtype)


def _recorded(stream: torch.cuda.Stream) -> torch.cuda.Event:
    """Mark what a stream has to do so far; who waits for it sleeps."""
    event = torch.cuda.Event(blocking=True)
    event.record(stream)
    return event
