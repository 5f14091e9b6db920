"""A function's kernels recorded as CUDA graphs, one for each size, and started by one call.

A graph reads from and writes into memory of its own. Its result is therefore overwritten by the
next call with the same size: it must be read by work on the calling stream, and a thread that
shares it with others holds its `turn` until that work has been started.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor

from ..device import note_recorded
from ..errors import is_out_of_memory
from .cuda import KernelSelfTest, disagrees, stream_for

MOST_GRAPHS = 4
MOST_BYTES = 3 << 29
"""Of device memory that all graphs of one function may hold."""
_SEEN_BEFORE = 2
"""Calls with a size before it is recorded: what comes once or twice is not worth it."""

_Size = tuple[tuple[int, ...], torch.dtype]


class Graphs:
    """A function of one tensor, recorded for the sizes that come again and again.

    The least recently used recordings go where they are too many or hold too much memory.

    Args:
        function: returns a new tensor; its control flow does not depend on values.
        record: records it for inputs of the same size.
        most: recordings.
        most_bytes: of device memory, of all of them.
        needed_bytes: estimates that of one, from its input; more than `most_bytes` is not recorded.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        record: Callable[[Callable[[Tensor], Tensor], Tensor], CudaRecording] | None = None,
        *,
        most: int = MOST_GRAPHS,
        most_bytes: int = MOST_BYTES,
        needed_bytes: Callable[[Tensor], int] | None = None,
    ) -> None:
        self._function = function
        self._record = record or CudaRecording
        self._most = most
        self._most_bytes = most_bytes
        self._needed_bytes = needed_bytes
        self._held: OrderedDict[_Size, CudaRecording] = OrderedDict()
        self._seen: OrderedDict[_Size, int] = OrderedDict()
        self._too_large: set[_Size] = set()
        self._is_off = False
        self.turn = threading.RLock()
        """Of the thread that calls, and still reads what that gave."""

    def __call__(self, x: Tensor) -> Tensor:
        """Run the function, or its recording."""
        size = (tuple(x.shape), x.dtype)
        with self.turn:
            recording = self._held.get(size) or self._new(size, x)
            if recording is None:
                return self._run(x)
            self._held.move_to_end(size)
            return recording(x)

    @property
    def num_bytes(self) -> int:
        """Device memory that the recordings hold."""
        return sum(recording.num_bytes for recording in self._held.values())

    def clear(self) -> None:
        """Free all recordings and their memory."""
        self._held.clear()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def _run(self, x: Tensor) -> Tensor:
        """Run the function; drop all recordings where it does not fit next to them."""
        try:
            return self._function(x)
        except RuntimeError as error:
            if not (self._held and is_out_of_memory(error)):
                raise
        self.clear()  # outside of the clause: the error references every tensor of the attempt
        return self._function(x)

    def _new(self, size: _Size, x: Tensor) -> CudaRecording | None:
        if self._is_off or size in self._too_large or not self._comes_again(size):
            return None
        if self._needed_bytes is not None and self._needed_bytes(x) > self._most_bytes:
            self._too_large.add(size)
            return None
        try:
            return self._recorded(size, x)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        self.clear()
        self._too_large.add(size)
        return None

    def _comes_again(self, size: _Size) -> bool:
        self._seen[size] = self._seen.pop(size, 0) + 1
        if len(self._seen) > 8 * self._most:
            self._seen.popitem(last=False)
        return self._seen[size] > _SEEN_BEFORE

    def _recorded(self, size: _Size, x: Tensor) -> CudaRecording | None:
        """Record, prove that it does what the function does, make room."""
        made: list[CudaRecording] = []

        def trial() -> str | None:
            made.append(self._record(self._function, x))
            return disagrees(made[0](x), self._function(x))

        self._is_off = not KernelSelfTest("frames are computed without CUDA graphs").passed(trial)
        if self._is_off:
            return None
        if made[0].num_bytes > self._most_bytes:
            self._too_large.add(size)
            return None
        self._held[size] = made[0]
        while len(self._held) > self._most or self.num_bytes > self._most_bytes:
            self._held.popitem(last=False)
        return made[0]


_capture = threading.Lock()
"""On the one stream for it, one thread may record."""


class CudaRecording:
    """A CUDA graph of a function for one size, and the memory it reads from and writes into."""

    num_bytes: int
    """Of device memory that it holds."""

    def __init__(self, function: Callable[[Tensor], Tensor], x: Tensor) -> None:
        with _capture:
            self._capture(function, x)
        note_recorded(x.device, self.num_bytes)
        weakref.finalize(self, note_recorded, x.device, -self.num_bytes)

    def _capture(self, function: Callable[[Tensor], Tensor], x: Tensor) -> None:
        self._given = x.clone()
        stream = stream_for("capture", x.device)
        self._last = current = torch.cuda.current_stream(x.device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            function(self._given)  # whatever is chosen at a first call must not be recorded
        current.wait_stream(stream)
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved(x.device)
        self._graph = torch.cuda.CUDAGraph()
        # other threads copy and allocate meanwhile: that is no part of the graph
        with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
            self._result = function(self._given)
        self.num_bytes = torch.cuda.memory_reserved(x.device) - before + self._given.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        """Copy the input in and start the graph, both on the current stream.

        The result lies where the last one lay.
        """
        current = torch.cuda.current_stream(x.device)
        if current != self._last:  # another thread's, where the last result may still be read
            current.wait_stream(self._last)
            self._last = current
        self._given.copy_(x)
        self._graph.replay()
        return self._result
