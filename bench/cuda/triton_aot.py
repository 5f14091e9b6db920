"""Compile every Triton kernel of upframe as its launchers call it, for cards that are not here.

    triton_aot.py [--arch 80,86,89,90,120] [--dtype fp16,bf16] [--size 1920x1080] [--json FILE]

The launchers themselves run, on `meta` tensors (shapes without memory), so that signatures,
constants and specialisations (divisible by 16, equal to 1) are those of a real frame. Instead of a
launch each kernel is compiled to a cubin by the ptxas that Triton brings. No driver, no device.

Exits with 1 where a kernel does not compile, or wants more shared memory than a block of that card
may have. Prints per kernel: launches a frame, programs, warps, stages, registers, spilled bytes,
shared memory, matrix instructions, widths of global loads and stores.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)

from fractions import Fraction

import torch
import triton
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from upframe.filters.color import cuda, cuda_kernels
from upframe.filters.frame import Color, Picture, PixelFormat
from upframe.filters.interpolate import cuda as on_cuda
from upframe.filters.interpolate import cuda_kernels as glue_kernels
from upframe.filters.interpolate import cuda_layers
from upframe.filters.interpolate.network import IFNet
from upframe.filters.kernels import convolution, convolution_kernels
from upframe.filters.kernels import cuda as launching
from upframe.filters.kernels.cuda import Card
from upframe.filters.upscale.cuda import FusedRRDB, FusedSRVGG
from upframe.filters.upscale.network import RRDBNet, SRVGGNetCompact

META = torch.device("meta")
CARDS = {  # processors, bytes of shared memory a block may opt in to
    80: Card(108, 166_912),
    86: Card(84, 101_376),
    89: Card(128, 101_376),
    90: Card(132, 232_448),
    100: Card(148, 232_448),
    120: Card(170, 101_376),
}
BIN = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


class NoDriver:
    """Stands for a CUDA card of a compute capability; everything but launching works."""

    def __init__(self) -> None:
        self.arch = 90

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        return self.arch  # Triton caches by device: one cache for each architecture

    def get_current_stream(self, device: int = 0) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return META

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no driver: {name}")


@dataclass
class Row:
    case: str
    kernel: str
    arch: int
    constants: str
    launches: int = 0
    programs: list[int] = field(default_factory=list)
    warps: int = 0
    stages: int = 0
    registers: int = 0
    spill_store: int = 0
    spill_load: int = 0
    stack: int = 0
    shared: int = 0
    shared_limit: int = 0
    blocks_per_sm: float = 0
    sass: dict[str, int] = field(default_factory=dict)
    compile_s: float = 0.0
    serialized: int = 0
    """How many wgmma ptxas waits for (C7510 to C7519): half the speed or less."""
    error: str = ""


class Recorder:
    """Compiles where something is launched."""

    def __init__(self, stub: NoDriver, work: Path) -> None:
        self.stub, self.work = stub, work
        self.case = ""
        self.rows: dict[tuple[str, ...], Row] = {}
        self.num_launches = Counter[str]()

    def wrap(self, module: Any, names: list[str]) -> Any:
        recorder = self

        class Launcher:
            def __init__(self, name: str) -> None:
                self.name, self.function = name, getattr(module, name)

            def __getitem__(self, grid: tuple[int, ...]) -> Any:
                return lambda *args, **kw: recorder.launch(self, grid, args, kw)

        return type("Kernels", (), {name: Launcher(name) for name in names})

    def launch(self, launcher: Any, grid: tuple[int, ...], args: Any, kw: Any) -> None:
        self.num_launches[self.case] += 1
        shown = " ".join(f"{k}={v}" for k, v in kw.items() if k not in ("num_warps", "num_stages"))
        ints = ",".join(str(a) for a in args if isinstance(a, int) and not isinstance(a, bool))
        key = (self.case, launcher.name, shown, self._specialised(args))
        row = self.rows.get(key)
        programs = 1
        for n in grid:
            programs *= n
        if row is None:
            row = self.rows[key] = Row(self.case, launcher.name, self.stub.arch, shown)
            row.shared_limit = CARDS[self.stub.arch].shared_bytes
            try:
                began = time.perf_counter()
                compiled = launcher.function.warmup(*args, grid=grid, **kw)
                row.compile_s = time.perf_counter() - began
                self.inspect(compiled, row)
            except Exception as error:
                row.error = f"{type(error).__name__}: {str(error).strip().splitlines()[-1][:200]}"
        row.launches += 1
        row.programs.append(programs)
        del ints

    @staticmethod
    def _specialised(args: Any) -> str:
        kinds = []
        for a in args:
            if isinstance(a, torch.Tensor):
                kinds.append(f"{a.dtype}")
            elif isinstance(a, int):
                kinds.append("1" if a == 1 else "16" if a % 16 == 0 else "i")
            else:
                kinds.append("f")
        return ",".join(kinds)

    def inspect(self, compiled: Any, row: Row) -> None:
        meta = compiled.metadata
        row.warps, row.stages, row.shared = meta.num_warps, meta.num_stages, meta.shared
        cubin, ptx = compiled.asm["cubin"], compiled.asm["ptx"]
        stem = self.work / f"k{len(self.rows)}"
        stem.with_suffix(".cubin").write_bytes(cubin)
        stem.with_suffix(".ptx").write_text(ptx if isinstance(ptx, str) else ptx.decode())
        if row.arch in (90, 100):
            said = subprocess.run(
                [
                    BIN / "ptxas",
                    "-v",
                    "--gpu-name",
                    f"sm_{row.arch}a",
                    stem.with_suffix(".ptx"),
                    "-o",
                    os.devnull,
                ],
                capture_output=True,
                text=True,
                check=False,
            ).stderr
            row.serialized = int("are serialized" in said)
        usage = subprocess.run(
            [BIN / "cuobjdump", "-res-usage", stem.with_suffix(".cubin")],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        if found := re.search(r"REG:(\d+) STACK:(\d+)", usage):
            row.registers, row.stack = int(found[1]), int(found[2])
        sass = subprocess.run(
            [BIN / "cuobjdump", "-sass", stem.with_suffix(".cubin")],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        counts = Counter[str]()
        for line in sass.splitlines():
            got = re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", line)
            if not got:
                continue
            op = got[1]
            counts["instructions"] += 1
            head = op.split(".")[0]
            if head in (
                "HGMMA",
                "HMMA",
                "QGMMA",
                "IMMA",
                "LDSM",
                "LDGSTS",
                "UTMALDG",
                "BAR",
                "WARPGROUP",
                "FFMA",
                "MUFU",
                "ATOMG",
                "REDG",
                "RED",
                "SHFL",
            ):
                counts[head] += 1
            if head in ("LDG", "STG", "LDS", "STS", "LDGSTS", "LDL", "STL"):
                bits = re.search(r"\.(U?8|S8|U?16|S16|64|128)(?:\.|$)", op)
                counts[f"{head}.{bits[1] if bits else '32'}"] += 1
        row.sass = dict(counts)
        row.spill_store = sum(v for k, v in counts.items() if k.startswith("STL"))
        row.spill_load = sum(v for k, v in counts.items() if k.startswith("LDL"))
        regs = max(row.registers, 1)
        regs = -(-regs // 8) * 8
        by_regs = 65536 // (regs * 32 * row.warps)
        sm_shared = {
            80: 167_936,
            86: 102_400,
            89: 102_400,
            90: 233_472,
            100: 233_472,
            120: 102_400,
        }[row.arch]
        by_shared = sm_shared // (row.shared + 1024) if row.shared else 32
        threads = {80: 64, 86: 48, 89: 48, 90: 64, 100: 64, 120: 48}[row.arch]
        row.blocks_per_sm = min(by_regs, by_shared, threads // row.warps, 32)


def install(recorder: Recorder, card: Card) -> None:
    convolution.kernels = lambda: conv_launchers  # type: ignore[assignment]
    conv_launchers = recorder.wrap(convolution_kernels, ["resident", "streamed", "first_of_three"])
    glue = ["pack", "begin", "following", "blend", "convolve", "convolve_colors"]
    glue_launchers = recorder.wrap(glue_kernels, glue)
    cuda_layers.glue_kernels = lambda: glue_launchers  # type: ignore[assignment]
    color_launchers = recorder.wrap(cuda_kernels, ["along", "decoded", "coded"])
    cuda._kernels = lambda: color_launchers  # type: ignore[assignment]
    for module in (convolution, cuda_layers, launching):
        module.card_of = lambda device: card  # type: ignore[attr-defined]
    cuda_layers._INTERPRETED_TILE = cuda_layers._TILE


def on_meta(network: torch.nn.Module, dtype: torch.dtype) -> Any:
    network = network.to(META, dtype).requires_grad_(False).eval()
    return network.to(memory_format=torch.channels_last)  # as Enlarger and load_ifnet do


ONLY = ""
BRIEF = False
NO_KERNEL = {
    "view",
    "_unsafe_view",
    "permute",
    "slice",
    "select",
    "unsqueeze",
    "squeeze",
    "expand",
    "t",
    "as_strided",
    "empty",
    "unbind",
    "detach",
    "alias",
    "new_empty",
    "empty_strided",
    "transpose",
    "reshape",
    "_reshape_alias",
    "empty_like",
    "narrow",
    "split",
    "chunk",
    "flatten",
    "movedim",
}


class Ops(TorchDispatchMode):
    """Counts what torch itself would start on a card: views and allocations are no kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counter[str]()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function._schema.name.removeprefix("aten::")
        if name not in NO_KERNEL:
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))


def case(recorder: Recorder, name: str, work: Any) -> None:
    if ONLY not in name:
        return
    recorder.case = name
    ops = Ops()
    try:
        work()  # weights are made in here, too
        if not BRIEF:
            recorder.case = f"{name} again"
            with ops:
                work()
            print(f"torch's own kernels, with those of building: {name}: {dict(ops.counts)}")
    except Exception as error:
        import traceback

        traceback.print_exc()
        row = Row(name, "(launcher)", recorder.stub.arch, "")
        row.error = f"{type(error).__name__}: {error}"
        recorder.rows[(name, "launcher")] = row


def run_cases(recorder: Recorder, dtype: torch.dtype, width: int, height: int) -> None:
    name = {torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]
    x = torch.empty(1, 3, height, width, device=META)
    with torch.inference_mode(), torch.device("meta"):
        for feat, convs, scale in ((64, 16, 4), (64, 16, 2), (32, 8, 4))[: 1 if BRIEF else None]:
            case(
                recorder,
                f"srvgg {feat}f{convs}c x{scale} {name}",
                lambda: FusedSRVGG(on_meta(SRVGGNetCompact(feat, convs, scale), dtype))(x),
            )
        for blocks, scale in ((23, 4), (23, 2))[: 1 if BRIEF else None]:
            case(
                recorder,
                f"rrdb {blocks}b x{scale} {name}",
                lambda: FusedRRDB(as_cudnn(on_meta(RRDBNet(64, blocks, 32, scale), dtype)))(x),
            )
        if dtype == torch.float16:
            for count in (1,) if BRIEF else (1, 4):
                for scale in (1.0,) if BRIEF else (1.0, 0.5):
                    case(
                        recorder,
                        f"rife b{count} s{scale}",
                        lambda: rife(recorder, width, height, count, scale),
                    )
            for pix_fmt in ("yuv420p", "yuv420p10le", "yuv444p")[: 1 if BRIEF else None]:
                case(recorder, f"colours {pix_fmt}", lambda: colours(width, height, pix_fmt))


def as_cudnn(network: Any) -> Any:
    """Make the plain convolutions return channels_last, as cuDNN does and meta does not."""
    for layer in (network.conv_first, network.conv_last):
        layer.register_forward_hook(
            lambda module, given, made: made.contiguous(memory_format=torch.channels_last)
        )
    return network


def rife(recorder: Recorder, width: int, height: int, count: int, scale: float) -> None:
    network = on_meta(IFNet(), torch.float16)
    multiple = round(32 / min(scale, 1.0))
    width, height = width + -width % multiple, height + -height % multiple
    engine = on_cuda.KernelEngine(network)
    engine._has_graphs = False
    kept = cuda_layers.FastestLayer.__call__
    cuda_layers.FastestLayer.__call__ = lambda self, x: self.kernel(x)  # type: ignore[method-assign]
    try:
        name = recorder.case
        recorder.case = f"{name} sources"
        engine.sources(torch.empty(count, 3, height, width, device=META))
        recorder.case = f"{name} middles"
        table = torch.empty(count, 4, dtype=torch.int64, device=META)
        engine._compute(height, width, 3, scale, table)
    finally:
        cuda_layers.FastestLayer.__call__ = kept  # type: ignore[method-assign]


def colours(width: int, height: int, pix_fmt: str) -> None:
    form = PixelFormat.parse(pix_fmt)
    code = torch.uint8 if form.bit_depth == 8 else torch.uint16
    sizes = [form.plane_size(width, height, index)[::-1] for index in range(3)]
    with torch.device("cpu"):  # tables are tiny and real; band_of needs numbers
        color = Color(range="tv", matrix="bt709", chroma_location="left")
    planes = tuple(torch.empty(size, dtype=code, device=META) for size in sizes)
    picture = Picture(planes, pix_fmt, color, 0, 1, Fraction(1, 25))
    band_of, identity, table = cuda.band_of, cuda.identity, cuda._table
    cuda.band_of = lambda f, size, device: _moved(band_of(f, size, torch.device("cpu")))
    cuda.identity = lambda size, device: _moved(identity(size, torch.device("cpu")))
    cuda._table = lambda m, c, device: torch.empty(3, 4, device=META)  # type: ignore[assignment]
    try:
        with torch.device("cpu"):
            cuda.YuvDecoder()._made(picture, form)
            cuda.YuvEncoder()._made(
                torch.empty(3, height, width, device=META),
                form,
                color,
                torch.empty(1, dtype=torch.int64, device=META),
            )
    finally:
        cuda.band_of, cuda.identity, cuda._table = band_of, identity, table


def _moved(band: Any) -> Any:
    return type(band)(band.starts.to(META), band.weights.to(META))


def show(rows: list[Row]) -> None:
    print(
        f"{'case':30} {'kernel':15} {'n':>4} {'progs':>7} {'w':>2}/{'s':<2} {'reg':>4} "
        f"{'spillS/L':>9} {'shared':>7} {'blk':>3}  what"
    )
    for row in rows:
        if row.error:
            print(f"{row.case:30} {row.kernel:15} sm_{row.arch} {row.constants}  ERROR {row.error}")
            continue
        over = " TOO MUCH SHARED" if row.shared > row.shared_limit else ""
        mma = f"i{row.sass.get('instructions', 0)} ser{row.serialized} " + " ".join(
            f"{k}:{row.sass[k]}" for k in ("HGMMA", "HMMA", "LDGSTS", "LDSM") if k in row.sass
        )
        mem = " ".join(
            f"{k}:{v}"
            for k, v in sorted(row.sass.items())
            if k[:4] in ("LDG.", "STG.", "ATOM", "REDG", "RED")
        )
        print(
            f"{row.case:30} {row.kernel:15} {row.launches:>4} {max(row.programs):>7} "
            f"{row.warps:>2}/{row.stages:<2} {row.registers:>4} "
            f"{row.spill_store:>4}/{row.spill_load:<4} "
            f"{row.shared:>7} {row.blocks_per_sm:>3g} {row.compile_s:>4.1f}s  "
            f"{mma} | {mem} | {row.constants}{over}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="90")
    parser.add_argument("--dtype", default="fp16")
    parser.add_argument("--size", default="1920x1080")
    parser.add_argument("--only", default="", help="cases whose names contain this")
    parser.add_argument("--brief", action="store_true", help="one case of each network")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="folder for PTX and cubins")
    asked = parser.parse_args()
    global ONLY, BRIEF
    ONLY, BRIEF = asked.only, asked.brief
    width, height = map(int, asked.size.split("x"))
    stub = NoDriver()
    driver.set_active(stub)
    rows: list[Row] = []
    for arch in map(int, asked.arch.split(",")):
        stub.arch = arch
        for name in asked.dtype.split(","):
            dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[name]
            work = (asked.keep or Path(tempfile.mkdtemp())) / f"sm{arch}-{name}"
            work.mkdir(parents=True, exist_ok=True)
            recorder = Recorder(stub, work)
            install(recorder, CARDS[arch])
            run_cases(recorder, dtype, width, height)
            print(
                f"\n== sm_{arch} {name} {width}x{height}, Triton {triton.__version__}", flush=True
            )
            show(list(recorder.rows.values()))
            print("launches:", dict(recorder.num_launches), flush=True)
            rows += recorder.rows.values()
    if asked.json:
        asked.json.write_text(json.dumps([asdict(row) for row in rows]))
    bad = [row for row in rows if row.error or row.shared > row.shared_limit]
    print(f"\n{len(rows)} kernels, {len(bad)} bad")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
