"""What a first run on a GPU measures, each part in a process of its own.

    python first_run.py PART      (see PARTS at the end); appends to $OUT/results.jsonl

Every number is a median over CUDA events after a warm-up, on random (never zero) data.
"""

from __future__ import annotations

import copy
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

OUT = Path(os.environ.get("OUT", "/tmp/out"))
ROOT = Path(__file__).resolve().parent
while not (ROOT / "pyproject.toml").exists() and ROOT.parent != ROOT:
    ROOT = ROOT.parent
DATA = Path(os.environ.get("UPFRAME_TEST_DATA", ROOT.parent / "shared"))
HERE = torch.cuda.is_available()
DEV = torch.device("cuda", 0) if HERE else torch.device("cpu")
H, W = (1080, 1920) if HERE else (36, 64)  # without a card: only to see that it runs
LAST = torch.channels_last


def tell(part: str, name: str, **facts: Any) -> None:
    row = {"part": part, "name": name, **facts}
    with (OUT / "results.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    shown = " ".join(
        f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in facts.items()
    )
    print(f"{part:9} {name:44} {shown}", flush=True)


def ms(work: Callable[[], object], runs: int = 15, each: int = 1) -> float:
    for _ in range(4 if HERE else 1):  # a graph is recorded at the third call
        work()
    if not HERE:
        return 0.0
    torch.cuda.synchronize()
    times = []
    for _ in range(runs):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(each):
            work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / each)
    return statistics.median(times)


def wall_ms(work: Callable[[], object], runs: int = 60) -> float:
    """Of the host and the device together, as a stream sees it."""
    for _ in range(5):
        work()
    if HERE:
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(runs if HERE else 1):
        work()
    if HERE:
        torch.cuda.synchronize()
    return (time.perf_counter() - began) * 1e3 / (runs if HERE else 1)


def attempt(part: str, name: str, work: Callable[[], dict[str, Any]]) -> None:
    began = time.perf_counter()
    try:
        facts = work()
    except Exception as error:  # the next one may do
        facts = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
    tell(part, name, **facts, took_s=round(time.perf_counter() - began, 1))


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * (a.float() - b.float()).square().mean().clamp(min=1e-12).log10())


def frames(count: int) -> Tensor:
    """(N, 3, H, W): smooth blobs that move, never zeros."""
    from upframe.filters.interpolate.cuda import _two_pictures

    pairs = [_two_pictures(H, W, torch.device("cpu")) for _ in range(-(-count // 2))]
    return torch.cat(pairs)[:count].to(DEV)


def info() -> None:
    facts: dict[str, Any] = {"torch": torch.__version__, "python": sys.version.split()[0]}
    try:
        import triton

        facts["triton"] = triton.__version__
    except ImportError as error:
        facts["triton"] = str(error)
    if HERE:
        p = torch.cuda.get_device_properties(0)
        facts |= {
            "name": p.name,
            "sms": p.multi_processor_count,
            "l2": p.L2_cache_size,
            "optin": getattr(p, "shared_memory_per_block_optin", None),
            "cudnn": torch.backends.cudnn.version(),
            "cuda": torch.version.cuda,
        }
        x = torch.empty(1 << 30, dtype=torch.int32, device=DEV).random_()
        y = torch.empty_like(x)
        facts["copy_TBs"] = 2 * x.nbytes / ms(lambda: y.copy_(x), 7) / 1e9
        for dtype in (torch.float16, torch.bfloat16):
            a, b = (torch.randn(8192, 8192, device=DEV, dtype=dtype) for _ in range(2))
            facts[f"matmul_{dtype}"] = 2 * 8192**3 / ms(lambda a=a, b=b: a @ b, 7) / 1e9
        host = torch.empty(1 << 28, dtype=torch.uint8, pin_memory=True)
        there = torch.empty_like(host, device=DEV)
        facts["h2d_GBs"] = host.nbytes / ms(lambda: there.copy_(host, non_blocking=True), 5) / 1e6
        facts["d2h_GBs"] = host.nbytes / ms(lambda: host.copy_(there, non_blocking=True), 5) / 1e6
    tell("info", "machine", **facts)


LAYERS = ((64, 64), (64, 48), (64, 32), (128, 32), (192, 64))


def _variants(num_in: int, num_out: int) -> list[Any]:
    from upframe.filters.kernels.cuda import Launch

    block = 64 if num_in % 64 == 0 else 32
    found = []
    if num_in == 64:
        found += [
            Launch(True, c, 64, w, s)
            for c, w, s in ((64, 4, 2), (128, 4, 2), (128, 8, 1), (128, 8, 2), (256, 8, 2))
        ]
    found += [
        Launch(False, c, block, w, s)
        for c, w, s in ((64, 4, 3), (128, 4, 3), (128, 8, 3), (256, 8, 3), (256, 8, 2))
    ]
    return found


def _layer(num_in: int, num_out: int) -> tuple[Any, Tensor, Tensor]:
    from upframe.filters.kernels.convolution import empty_channels_last

    torch.manual_seed(0)
    layer = nn.Conv2d(num_in, num_out, 3, padding=1).requires_grad_(False)
    layer = layer.to(DEV, torch.float16).to(memory_format=LAST)
    x = torch.randn(1, num_in, H, W, device=DEV, dtype=torch.float16).contiguous(memory_format=LAST)
    return layer, x, empty_channels_last(num_out, H, W, x)


def _compile_one(job: tuple[int, int, int]) -> str:
    """In a process of its own: fills Triton's cache, so that all compile at the same time."""
    from upframe.filters.kernels.convolution import Convolution

    num_in, num_out, index = job
    launch = _variants(num_in, num_out)[index]
    try:
        with torch.inference_mode():
            layer, x, out = _layer(num_in, num_out)
            made = Convolution(layer, 0.2)
            made.launch = launch
            made.into(x, out)
            torch.cuda.synchronize()
    except Exception as error:
        return f"{job}: {type(error).__name__}: {str(error)[:200]}"
    return ""


def layers() -> None:
    import multiprocessing

    jobs = [(i, o, k) for i, o in LAYERS for k in range(len(_variants(i, o)))]
    began = time.perf_counter()
    if HERE:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(12, mp_context=context) as pool:
            for said in pool.map(_compile_one, jobs):
                if said:
                    print(said, flush=True)
    tell("layers", "compiled", seconds=time.perf_counter() - began, count=len(jobs))
    from upframe.filters.kernels.convolution import Convolution

    for num_in, num_out in LAYERS:
        layer, x, out = _layer(num_in, num_out)
        flop = 2 * 9 * num_in * num_out * H * W
        wanted = nn.functional.leaky_relu(layer(x), 0.2)

        def one(
            name: str,
            work: Callable[[], object],
            num_in: int = num_in,
            num_out: int = num_out,
            flop: int = flop,
        ) -> None:
            def run() -> dict[str, Any]:
                t = ms(work, 9, 4)
                return {"ms": t, "tflops": flop / max(t, 1e-9) / 1e9}

            attempt("layers", f"{num_in}-{num_out} {name}", run)

        with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
            one("cuDNN", lambda: layer(x))
            one("cuDNN+leaky", lambda: nn.functional.leaky_relu_(layer(x), 0.2))
            if HERE:
                one(
                    "cuDNN fused conv+bias+relu",
                    lambda: torch.cudnn_convolution_relu(
                        x, layer.weight, layer.bias, (1, 1), (1, 1), (1, 1), 1
                    ),
                )
        made = Convolution(layer, 0.2)
        for launch in _variants(num_in, num_out):
            made.launch = launch
            kind = "resident" if launch.is_resident else f"streamed{launch.block}"
            one(
                f"{kind} c{launch.columns} w{launch.num_warps} s{launch.num_stages}",
                lambda: made.into(x, out),
            )
            if HERE and not torch.allclose(out, wanted, atol=2e-2, rtol=1e-2):
                tell("layers", "WRONG", launch=str(launch), off=float((out - wanted).abs().max()))


def _upscaler(name: str) -> Any:
    from upframe.filters.upscale.checkpoint import load_upscaler
    from upframe.filters.upscale.network import RRDBNet, SRVGGNetCompact
    from upframe.filters.weights import load_state_dict

    path = DATA / "weights" / name
    if path.exists():
        return load_upscaler(load_state_dict(path))
    torch.manual_seed(1)
    made = RRDBNet(64, 23, 32, 4) if "x4plus" in name else SRVGGNetCompact(64, 16, 4)
    return made.requires_grad_(False).eval()


def upscale(name: str, part: str, runs: int, compiled: bool) -> None:
    from upframe.filters.device import exact_convolutions
    from upframe.filters.upscale.cuda import FusedRRDB, FusedSRVGG
    from upframe.filters.upscale.filter import Enlarger
    from upframe.filters.upscale.network import SRVGGNetCompact

    network = _upscaler(name)
    x = frames(1)
    plain = copy.deepcopy(network).to(DEV, torch.float16).to(memory_format=LAST)
    fused: list[Any] = []
    with exact_convolutions(DEV):

        def base() -> dict[str, Any]:
            t = ms(lambda: plain(x), runs)
            return {"ms": t, "fps": 1e3 / max(t, 1e-9)}

        attempt(part, "plain fp16 channels_last cudnn.benchmark", base)

        def ours() -> dict[str, Any]:
            kind = FusedSRVGG if isinstance(plain, SRVGGNetCompact) else FusedRRDB
            fused.append(kind(plain))
            began = time.perf_counter()
            fused[0](x)
            if HERE:
                torch.cuda.synchronize()
            first = time.perf_counter() - began
            t = ms(lambda: fused[0](x), runs)
            small = x[:, :, :256, :384]
            exact = copy.deepcopy(plain).float()(small)
            return {
                "ms": t,
                "fps": 1e3 / max(t, 1e-9),
                "first_s": first,
                "psnr_ours": psnr(fused[0](small), exact),
                "psnr_plain": psnr(plain(small), exact),
            }

        attempt(part, "kernels (graph where it fits)", ours)

    def whole() -> dict[str, Any]:
        enlarger = Enlarger(network, DEV, torch.float16)
        t = wall_ms(lambda: enlarger(x[0], 4), max(runs, 5))
        tiles = next(iter(enlarger._tiles.values())).network
        return {
            "ms": t,
            "fps": 1e3 / max(t, 1e-9),
            "redone": enlarger.num_redone_in_fp32,
            "by": type(tiles).__name__,
            "self_test": getattr(getattr(tiles, "_self_test", None), "_holds", None),
        }

    attempt(part, "Enlarger (guard, clamp, sync; wall)", whole)
    if compiled and HERE:

        def inductor() -> dict[str, Any]:
            made = torch.compile(plain, mode="reduce-overhead", dynamic=False)
            with exact_convolutions(DEV):
                t = ms(lambda: made(x), runs)
            return {"ms": t, "fps": 1e3 / max(t, 1e-9)}

        attempt(part, "torch.compile reduce-overhead", inductor)


def rife() -> None:
    from fractions import Fraction

    from upframe.filters.device import exact_convolutions
    from upframe.filters.frame import Frame, StreamInfo
    from upframe.filters.interpolate.cuda import KernelEngine
    from upframe.filters.interpolate.filter import Interpolate, load_networks
    from upframe.filters.interpolate.network import PlainEngine
    from upframe.filters.weights import RIFE, resolve_weights

    weights = resolve_weights(None, RIFE, "builtin")
    network, exact = load_networks(weights, DEV, torch.float16)
    height, width = H + -H % 32, W + -W % 32
    images = nn.functional.pad(frames(2), (0, width - W, 0, height - H))
    with exact_convolutions(DEV):
        for name, engine in (
            ("plain", PlainEngine(network)),
            ("kernels eager", KernelEngine(network)),
            ("kernels graph", KernelEngine(network)),
        ):
            if name == "kernels eager":
                engine.is_recorded = False
            attempt(
                "rife",
                f"{name} sources",
                lambda engine=engine: {"ms": ms(lambda: engine.sources(images[:1]))},
            )
            for batch in (1, 2, 4, 8) if HERE else (1,):

                def run(engine: Any = engine, batch: int = batch) -> dict[str, Any]:
                    left, right = engine.sources(images)
                    lefts, rights, times = [left] * batch, [right] * batch, [0.5] * batch
                    t = ms(lambda: engine.middles(lefts, rights, times, 1.0))
                    return {"ms": t, "mids_s": batch * 1e3 / max(t, 1e-9)}

                attempt("rife", f"{name} batch {batch}", run)
            if isinstance(engine, KernelEngine) and name == "kernels graph":
                for i, block in enumerate(engine._blocks):
                    ways = [
                        [
                            (tuple(s), "kernel" if w == f.kernel else "cuDNN")
                            for s, w in f._ways.items()
                        ]
                        for f in block.layers
                    ]
                    tell("rife", f"chosen block {i}", ways=str(ways)[:1500])

        def quality() -> dict[str, Any]:
            outs = []
            for engine in (PlainEngine(exact), PlainEngine(network), KernelEngine(network)):
                left, right = (tuple(engine.sources(image[None])) for image in images)
                outs.append(engine.middles(left, right, (0.5,), 1.0))
            return {"psnr_plain": psnr(outs[1], outs[0]), "psnr_kernels": psnr(outs[2], outs[0])}

        attempt("rife", "quality to fp32", quality)
    for exp in (1, 2, 3) if HERE else (1,):

        def stream(exp: int = exp) -> dict[str, Any]:
            built = Interpolate(network, exact=exact, exp=exp)
            one = Fraction(1, 25)
            built.open(StreamInfo(W, H, "gbrp", one, rate=1 / one, average_rate=1 / one))
            pair, count = frames(2), [0]

            def feed() -> None:
                with torch.inference_mode():
                    for _ in built(Frame(pair[count[0] % 2], count[0], 1, one)):
                        pass
                count[0] += 1

            t = wall_ms(feed)
            return {"ms": t, "mids_s": (2**exp - 1) * 1e3 / t, "stats": str(built.statistics())}

        attempt("rife", f"filter exp {exp} (guard, sync; wall)", stream)

    def inductor() -> dict[str, Any]:
        engine = PlainEngine(torch.compile(network, mode="reduce-overhead", dynamic=False))
        plain = PlainEngine(network)
        with exact_convolutions(DEV):
            left, right = plain.sources(images)
            t = ms(lambda: engine.middles([left], [right], [0.5], 1.0))
        return {"ms": t, "mids_s": 1e3 / max(t, 1e-9)}

    if HERE:
        attempt("rife", "torch.compile reduce-overhead batch 1", inductor)


def colours() -> None:
    from fractions import Fraction

    from upframe.filters.color.convert import ToFrame, ToPicture
    from upframe.filters.frame import Color, Frame, Picture

    color = Color(range="tv", matrix="bt709", chroma_location="left")
    sizes = ((H, W), (H // 2, W // 2), (H // 2, W // 2))
    planes = tuple(torch.randint(16, 235, size, dtype=torch.uint8) for size in sizes)
    picture = Picture(planes, "yuv420p", color, 0, 1, Fraction(1, 25))
    with torch.inference_mode():
        to_frame = ToFrame(DEV)
        attempt(
            "colours",
            "decode 1080p, staged (wall)",
            lambda: {"ms": wall_ms(lambda: to_frame(to_frame.stage(picture)))},
        )
        for scale in (1, 4):
            pixels = torch.rand(3, scale * H, scale * W, device=DEV)
            to_picture = ToPicture("yuv420p", color)
            frame = Frame(pixels, 0, 1, Fraction(1, 25))
            attempt(
                "colours",
                f"encode x{scale} and bring down (wall)",
                lambda: {"ms": wall_ms(lambda: to_picture(frame), 30)},
            )


def pipeline() -> None:
    clip = OUT.parent / "clip.mp4"
    run = [sys.executable, "-m", "upframe.daemon"]
    made = subprocess.run(
        [
            sys.executable,
            "-c",
            (
                "from pathlib import Path; from upframe.io.demo import write_demo_clip as w;"
                f"import sys; sys.path.append({str(ROOT / 'bench' / 'speed')!r});"
                "from clips import write_excerpt as e;"
                "from fractions import Fraction as F;"
                f"w(Path('{OUT.parent}/s.mp4'), width=480, height=270, rate=F(25), num_frames=60);"
                f"e(Path('{OUT.parent}/s.mp4'), Path('{clip}'),"
                f"width={W}, height={H}, num_frames=60)"
            ),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    if made.returncode:
        tell("pipeline", "clip", error=made.stderr[-300:])
        return
    cases = (
        ("rife 1080p x264 ultrafast", ["--interpolate", "1"]),
        ("rife exp 2", ["--interpolate", "2"]),
        ("rife, NVDEC", ["--interpolate", "1", "--hwaccel", "cuda"]),
        ("srvgg x4 to 8K", ["--upscale", "4"]),
    )
    for name, words in cases:

        def one(words: list[str] = words) -> dict[str, Any]:
            report = OUT.parent / "report.json"
            done = subprocess.run(
                [
                    *run,
                    "run",
                    str(clip),
                    str(OUT.parent / "o.mp4"),
                    "--overwrite",
                    "--weights",
                    "builtin",
                    "--preset",
                    "ultrafast",
                    "--progress",
                    "none",
                    "--report",
                    str(report),
                    *words,
                ],
                capture_output=True,
                text=True,
                timeout=90,
            )
            if done.returncode:
                return {"error": done.stderr[-500:]}
            facts = json.loads(report.read_text())
            return {
                "report": {
                    k: facts[k]
                    for k in facts
                    if k
                    in (
                        "seconds",
                        "frames_in",
                        "frames_out",
                        "stages",
                        "limiting_stage",
                        "counters",
                        "first_frame_seconds",
                    )
                },
                "said": done.stderr[-300:],
            }

        attempt("pipeline", name, one)


def profile() -> None:
    from fractions import Fraction

    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    from upframe.filters.frame import Frame, StreamInfo
    from upframe.filters.interpolate.filter import Interpolate, load_networks
    from upframe.filters.weights import RIFE, resolve_weights

    network, exact = load_networks(resolve_weights(None, RIFE, "builtin"), DEV, torch.float16)
    built = Interpolate(network, exact=exact, exp=1)
    one = Fraction(1, 25)
    built.open(StreamInfo(W, H, "gbrp", one, rate=1 / one, average_rate=1 / one))
    pair = frames(2)
    with torch.inference_mode():
        for i in range(8):
            list(built(Frame(pair[i % 2], i, 1, one)))
        with record(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            for i in range(8, 18):
                list(built(Frame(pair[i % 2], i, 1, one)))
    table = seen.key_averages().table(
        sort_by="cuda_time_total" if HERE else "cpu_time_total", row_limit=40
    )
    (OUT / "profile-rife.txt").write_text(table)
    seen.export_chrome_trace(str(OUT / "trace-rife.json"))


PARTS: dict[str, Callable[[], None]] = {
    "info": info,
    "layers": layers,
    "rife": rife,
    "colours": colours,
    "pipeline": pipeline,
    "srvgg": lambda: upscale("realesr-animevideov3.pth", "srvgg", 15, True),
    "rrdb": lambda: upscale("RealESRGAN_x4plus.pth", "rrdb", 3, False),
    "profile": profile,
}

if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    with torch.inference_mode():
        PARTS[sys.argv[1]]()
