"""Self-tests of CUDA kernels on first use, with fallback to plain torch where they fail."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..device import cache_folder, note_recorded
from ..errors import is_out_of_memory

# A function's kernels recorded as CUDA graphs, one for each size, and started by one call.
#
# A graph reads from and writes into memory of its own. Its result is therefore overwritten by the
# next call with the same size: it must be read by work on the calling stream, and a thread that
# shares it with others holds its `turn` until that work has been started.

MOST_GRAPHS = 4
MOST_BYTES = 3 << 29
"""Of device memory that all graphs of one function may hold."""
_SEEN_BEFORE = 2
"""Calls with a size before it is recorded: what comes once or twice is not worth it."""

_Size = tuple[tuple[int, ...], torch.dtype]


class Graphs:
    """A function of one tensor, recorded for the sizes that come again and again.

    The least recently used recordings go where they are too many or hold too much memory. The
    function returns a new tensor; its control flow does not depend on values. There are `most`
    recordings, of `most_bytes` of device memory altogether; where `needed_bytes` estimates more for
    an input, it is not recorded.
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


_logger = logging.getLogger("upframe.filters.cuda.self_test")


_FAULTS: tuple[type[Exception], ...] = (
    ImportError,  # Triton is missing, or another version than torch's
    RuntimeError,  # a driver that is too old, no C compiler, a kernel that does not start
    OSError,  # no place for compiled kernels
    subprocess.SubprocessError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    LookupError,
)
_READINGS = 5
_RETRY_CALLS = 1000
"""Calls after which kernels are timed again that were slower; then ten times as many, and so on."""
_NOISE = 1e-7
"""Negligible mean square error: 70 dB below full scale."""
_ROUNDING = 1e-5
"""The same of values of any scale, as a share of their mean square: fp16 makes 1e-7 of it."""
OF_PICTURES = 1e-3, 1e-6
"""The same, and mean square, of whole pictures by two ways in half precision: one program in 250
that fails makes more."""

SWITCH = "UPFRAME_KERNELS"
"""Environment variable: ``0`` computes without the kernels and graphs for CUDA cards."""
_DEADLY = re.compile(
    r"CUDA.*(?:illegal|misaligned|launch failure|invalid program|assert|stack error|timed out)"
)
"""Errors after which the card is unusable for the rest of the process."""
_in_use: set[str] = set()
"""Kernels in use, as what is done without them."""


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Make a device the current one, as Triton starts its kernels there, and events lie there."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@cache
def stream_for(purpose: str, device: torch.device) -> torch.cuda.Stream:
    """Return the one stream of a process for a purpose: torch cycles through a pool of 32."""
    return torch.cuda.Stream(device)


def on_stream(purpose: str, device: torch.device) -> AbstractContextManager[object]:
    """Make the one stream of a purpose the current one, where there are streams."""
    if device.type != "cuda":
        return nullcontext()
    return torch.cuda.stream(stream_for(purpose, device))


class GuardedKernels:
    """The kernels of a module (its full name), which start on the device of their first argument.

    Raises:
        ImportError: where Triton is missing.
    """

    def __init__(self, module: str) -> None:
        self._module = import_module(module)

    def __getattr__(self, name: str) -> _Kernel:
        return _Kernel(getattr(self._module, name))


class _Kernel:
    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel

    def __getitem__(self, grid: Sequence[int]) -> Callable[..., None]:
        def start(first: Tensor, *others: object, **settings: object) -> None:
            with on_device(first.device), remembering_faults():
                self._kernel[grid](first, *others, **settings)

        return start


def fault_file() -> Path:
    """File that lists kernels that broke a card: a line each, after card and versions.

    What it lists is not tried again until one of them changes or the file is deleted.
    """
    return cache_folder() / "faulted-kernels"


def faulted() -> list[str]:
    """List what is computed without kernels on this machine because these broke a card."""
    try:
        lines = fault_file().read_text(errors="replace").splitlines() if _machine() else []
    except OSError:  # none was recorded
        return []
    return sorted({line.removeprefix(_machine()) for line in lines if line.startswith(_machine())})


@contextmanager
def remembering_faults() -> Generator[None]:
    """Record all kernels in use when a card fails: the failing one cannot be told apart."""
    try:
        yield
    except RuntimeError as error:
        if new := _in_use.difference(faulted()) if _DEADLY.search(str(error)) else ():
            _logger.error("the card broke, from now on %s; see upframe doctor", "; ".join(new))
            try:
                fault_file().parent.mkdir(parents=True, exist_ok=True)
                with fault_file().open("a") as file:
                    file.writelines(f"{_machine()}{name}\n" for name in new)
            except OSError as fault:
                _logger.warning("that cannot be remembered: %s", fault)
        raise


@cache
def _machine() -> str:
    """Name the cards of this machine and what drives them; nothing where there are none."""
    if not torch.cuda.is_available():
        return ""
    parts = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    with suppress(OSError, LookupError):
        parts.append(Path("/proc/driver/nvidia/version").read_text().splitlines()[0])
    for name in ("upframe", "torch", "triton"):
        with suppress(PackageNotFoundError):
            parts.append(f"{name} {version(name)}")
    return ", ".join(parts) + ": "


class Slower(str):
    """A reason against kernels that may have passed later: another process used the card too."""


class KernelSelfTest:
    """Decide once whether kernels may be used, and log a warning where they may not.

    Only kernels that were slower are tried again. The log says what is done `otherwise`.
    """

    def __init__(self, otherwise: str) -> None:
        self._else = otherwise
        self._holds: bool | None = None
        self._lock = threading.Lock()
        self._wait = _RETRY_CALLS
        self._calls_left: int | None = None

    def passed(self, trial: Callable[[], str | None]) -> bool:
        """Return whether the kernels may be used; `trial` returns the reason against it, or None.

        Raises:
            torch.OutOfMemoryError: if the first trial did not fit: nothing is decided then.
        """
        with self._lock:
            if self._calls_left:
                self._calls_left -= 1
            if self._holds is None or self._calls_left == 0:
                fault = self._try(trial)
                self._holds, self._calls_left = fault is None, None
                if fault is not None:
                    _in_use.discard(self._else)
                    warn_once(f"{self._else}: {fault}")
                if isinstance(fault, Slower):
                    self._calls_left, self._wait = self._wait, 10 * self._wait
            return self._holds

    def _try(self, trial: Callable[[], str | None]) -> str | None:
        if os.environ.get(SWITCH) == "0":
            return f"{SWITCH} is 0"
        if self._else in faulted():
            return f"the card broke before; to try again, delete {fault_file()}"
        _in_use.add(self._else)
        try:
            with remembering_faults():
                return trial()
        except faults() as error:
            if is_out_of_memory(error):
                if self._holds is None:
                    raise
                return Slower("there is no memory to time the kernels again")
            first = (str(error).strip().splitlines() or ["no reason given"])[0]
            return f"{type(error).__name__}: {first}"


@cache
def warn_once(text: str) -> None:
    """Log a warning that was not logged before, whatever is built and opened again."""
    _logger.warning("%s", text)


def mismatch(fast: Tensor, plain: Tensor, exact: Tensor) -> str | None:
    """Describe a difference to the plain result that rounding does not explain, else None.

    Both are compared with the same in fp32: the mean square error of the kernels may be twice
    that of plain torch.
    """
    if fast.shape != plain.shape or fast.dtype != plain.dtype:
        return (
            f"returns {tuple(fast.shape)} {fast.dtype}, wanted {tuple(plain.shape)} {plain.dtype}"
        )
    wanted, given = _mean_square(plain, exact), _mean_square(fast, exact)
    if given <= 2 * wanted + _NOISE:  # false where either is NaN
        return None
    return f"disagrees: mean square error {given:.2g}, of plain torch {wanted:.2g}"


def disagrees(
    given: Tensor, wanted: Tensor, most: float = _ROUNDING, noise: float = 0.0
) -> str | None:
    """Describe a difference between two ways in the same precision, else None.

    `most` is the mean square of the difference as a share of that of `wanted`, by the plain way;
    `noise` is one that is negligible in any case.
    """
    if given.shape != wanted.shape:
        return f"returns {tuple(given.shape)}, wanted {tuple(wanted.shape)}"
    error, power = _mean_square(given, wanted), float(wanted.double().square().mean())
    if error <= most * power + noise:  # false where either is NaN
        return None
    return f"disagrees: mean square error {error:.2g} of {power:.2g}"


def slower(
    fast: Callable[[], object],
    plain: Callable[[], object],
    milliseconds: Callable[[Callable[[], object]], float] | None = None,
) -> Slower | None:
    """Describe how much slower than plain torch the kernels are on this device; None if faster.

    The best of some readings each, in turn: what disturbs one way disturbs the other, too.
    """
    ways, best = (fast, plain), [float("inf")] * 2
    for way in ways:
        way()
    for _ in range(_READINGS):
        best = [min(*pair) for pair in zip(best, map(milliseconds or _elapsed, ways), strict=True)]
    if best[0] <= best[1]:
        return None
    return Slower(f"the kernels take {best[0]:.2f} ms, plain torch {best[1]:.2f} ms")


def _mean_square(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).square().mean())


def _elapsed(work: Callable[[], object]) -> float:
    """Time a run by the device's own clock, in milliseconds."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def faults() -> tuple[type[Exception], ...]:
    """List what keeps kernels from being built and started, Triton's own errors included."""
    try:
        own = cast("type[Exception]", import_module("triton.errors").TritonError)
    except (ImportError, AttributeError):
        return _FAULTS
    return (*_FAULTS, own)


# How the kernels are laid out on a card: by the registers and the shared memory that they want.

_SHARED_FOR_RESIDENT = 160_000
"""Bytes that a block must be allowed to have, as on 8.0, where it takes 156 K, and 9.0: 230 K."""
_SHARED_FOR_WIDE = 200_000
"""The same for strips of twice the width, which also want the registers of 9.0."""
_MOST_RESIDENT = 64
"""Channels in and out."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How a kernel is laid out on a card."""

    is_resident: bool
    columns: int
    block: int
    """Channels that are read at once."""
    num_warps: int
    num_stages: int


@dataclass(frozen=True, slots=True)
class Card:
    """What of a device decides how kernels are laid out."""

    num_processors: int
    shared_bytes: int
    """That one block may use."""


@cache
def card_of(device: torch.device) -> Card:
    """Look at a device; any other than CUDA is for Triton's interpreter."""
    if device.type != "cuda":
        return Card(num_processors=2, shared_bytes=1 << 30)
    facts = cast("Any", torch.cuda.get_device_properties(device))  # pyright: ignore[reportUnknownMemberType]
    return Card(facts.multi_processor_count, facts.shared_memory_per_block_optin)


def launch_of(num_in: int, num_padded: int, card: Card) -> Launch:
    """Choose the layout for a number of channels, by what compiled kernels take on sm_90."""
    if num_in == _MOST_RESIDENT >= num_padded and card.shared_bytes >= _SHARED_FOR_RESIDENT:
        return Launch(True, columns=64, block=num_in, num_warps=4, num_stages=2)
    block = 64 if num_in % 64 == 0 else 32
    stages = 3 if card.shared_bytes >= _SHARED_FOR_RESIDENT else 2
    # the nine parts of 96 channels are unrolled, which spills hundreds of values on wide strips
    is_wide = num_padded <= 32 and num_in != 96 and card.shared_bytes >= _SHARED_FOR_WIDE
    columns = 256 if is_wide else 128
    return Launch(False, columns=columns, block=block, num_warps=8, num_stages=stages)


def rows_each(width: int, height: int, columns: int, num_processors: int) -> int:
    """Choose how many rows a program walks: the least work of the processor that has most.

    A program also reads a row above and one below its own, and computes three rows at a time.
    """
    strips = -(-width // columns)

    def cost(rows: int) -> int:
        programs = strips * -(-height // rows)
        return -(-programs // num_processors) * ((rows + 4) // 3)

    bands = (max(1, waves * num_processors // strips) for waves in range(1, 9))
    return min({-(-height // min(count, height)) for count in bands}, key=cost)
