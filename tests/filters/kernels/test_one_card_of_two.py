"""Kernels start where their tensors lie; copies, recordings and threads do not meet on a stream."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from support.kernels.card import CARD_1, Card, OnCard, Stream, card
from support.kernels.upscaling import small_srvgg
from torch import Tensor

import upframe.filters.kernels
from upframe.filters.color import cuda as color
from upframe.filters.color.planes import codes_of_rgb, rgb_of_codes
from upframe.filters.color.staging import Download, Upload
from upframe.filters.frame import Color, Picture, PixelFormat
from upframe.filters.interpolate import cuda
from upframe.filters.kernels import convolution
from upframe.filters.kernels.cuda import CudaRecording, Graphs, stream_for
from upframe.filters.scenes import Scenes
from upframe.filters.upscale.cuda import FusedRRDB, FusedSRVGG
from upframe.filters.upscale.filter import Enlarger
from upframe.filters.upscale.network import ReducedSRVGG, Upscaler

__all__ = ["card"]

LOADERS: tuple[tuple[str, Callable[[], Any]], ...] = (
    ("upframe.filters.kernels.convolution_kernels", convolution.kernels),
    ("upframe.filters.color.cuda_kernels", color._kernels),
    ("upframe.filters.interpolate.cuda_kernels", cuda.glue_kernels),
)


class Started:
    """A kernel as Triton has them: it starts on the current card."""

    def __init__(self, card: Card) -> None:
        self._card = card
        self.on: list[int] = []
        self.told: list[tuple[object, ...]] = []

    def __getitem__(self, grid: object) -> Callable[..., None]:
        def start(*arguments: object, **settings: object) -> None:
            self.on.append(self._card.current)
            self.told.append((grid, *arguments, settings))

        return start


def module_in_place(monkeypatch: pytest.MonkeyPatch, name: str, module: object) -> None:
    package, _, last = name.rpartition(".")
    monkeypatch.setitem(sys.modules, name, cast("Any", module))
    monkeypatch.setattr(sys.modules[package], last, module, raising=False)


@pytest.mark.parametrize(("name", "loader"), LOADERS, ids=[name for name, _ in LOADERS])
def test_a_kernel_starts_on_the_card_of_its_tensors(
    monkeypatch: pytest.MonkeyPatch, card: Card, name: str, loader: Callable[[], Any]
) -> None:
    source = Path(convolution.__file__).parents[2] / name.removeprefix("upframe.").replace(".", "/")
    kernels = re.findall(
        r"@triton\.jit[^\n]*\ndef ([a-z]\w*)", source.with_suffix(".py").read_text()
    )
    started = {kernel: Started(card) for kernel in kernels}
    module_in_place(monkeypatch, name, SimpleNamespace(**started))
    cast("Any", loader).cache_clear()
    try:
        loaded = loader()
        for kernel in kernels:
            getattr(loaded, kernel)[3, 4](SimpleNamespace(device=CARD_1), 5, ROWS=6)
            assert started[kernel].on == [1]
            grid, _, five, settings = started[kernel].told[0]
            assert (grid, five, settings) == ((3, 4), 5, {"ROWS": 6})
        assert card.current == 0
    finally:
        cast("Any", loader).cache_clear()


def test_whoever_imports_kernels_guards_them() -> None:
    """No way around: every module of kernels is imported in one place, and leaves it guarded."""
    folder = Path(upframe.filters.kernels.__file__).parents[1]
    texts = [path.read_text() for path in folder.rglob("*.py")]
    guarded = r'partial\((?:cuda\.)?GuardedKernels, f"\{__package__\}\.\w+_kernels"\)'
    assert sum(len(re.findall(guarded, text)) for text in texts) == len(LOADERS)
    assert not any(re.search(r"import (cuda|convolution)_kernels\b", text) for text in texts)
    assert len(LOADERS) == len(list(folder.rglob("*_kernels.py")))


class Pixels:
    """A frame on its way to a card that is not there."""

    shape = (3, 6, 8)

    def __getitem__(self, key: object) -> Pixels:
        return self

    def to(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        return torch.rand(1, 3, 6, 8)


def test_an_enlarger_computes_with_its_card_as_the_current_one(card: Card) -> None:
    enlarger, seen = Enlarger(small_srvgg(32, 2, 4), CARD_1), list[int]()

    def tiles(source: Tensor) -> Tensor:
        seen.append(card.current)
        return torch.rand(1, 3, 24, 32)

    enlarger._tiles[torch.float32, 4] = cast("Any", tiles)
    enlarger(cast("Tensor", Pixels()), 4)
    assert (seen, card.current) == ([1], 0)


def test_a_process_that_lives_long_records_on_no_stream_of_a_copy(card: Card) -> None:
    for _ in range(20):  # files, one after the other
        download, up = Download(), Upload(CARD_1)._stream
        card.copied_on.add(cast("Stream", up))
        for _ in range(3):  # frames
            download([torch.zeros(2).as_subclass(OnCard)])
        CudaRecording(lambda x: x * 2, torch.zeros(3).as_subclass(OnCard))
    assert len(card.copied_on) == 2
    assert len(card.captured_on) == 1
    assert card.captured_on.isdisjoint(card.copied_on)


def test_what_a_card_has_decoded_stays_while_another_stream_reads_it(card: Card) -> None:
    """The decoder's next frame is copied to where the last one lay as soon as that is free."""
    planes = [torch.zeros(2).as_subclass(OnCard) for _ in range(2)]
    staged = Upload(CARD_1)(planes)
    reading: Any = card.Stream(CARD_1)
    with card.stream(reading):
        taken = staged.follow()
    assert reading.num_events == 1
    assert [plane.kept_for for plane in taken] == [reading] * 2  # type: ignore[attr-defined]


def test_scenes_wait_for_no_filter_on_a_card_that_decodes(
    card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams, equal = list[Any](), torch.equal

    def noting(a: Tensor, b: Tensor) -> bool:
        streams.append(card.current_stream())
        return equal(a, b)

    monkeypatch.setattr(torch, "equal", noting)
    scenes = Scenes(detect_cuts=False)
    for pts in range(3):
        planes = (torch.zeros(2, 2, dtype=torch.uint8).as_subclass(OnCard),)
        scenes(Picture(planes, "gray", Color(), pts, 1, Fraction(1, 25)))
    assert scenes.statistics()["duplicates"] == 2
    assert set(streams) == {stream_for("scenes", CARD_1)}


def test_constants_of_colours_are_copied_to_a_card_once() -> None:
    form, tags = PixelFormat.parse("yuv420p"), Color(range="tv", matrix="bt709")
    for way in (rgb_of_codes, codes_of_rgb):
        first = color._table(way, form, tags, 64, 48, torch.device("meta"))
        assert color._table(way, form, replace(tags), 64, 48, torch.device("meta")) is first
        other = color._table(way, form, replace(tags, range="pc"), 64, 48, torch.device("meta"))
        assert other is not first


def test_threads_record_one_after_the_other(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, most = [0], [0]

    def slow(x: Tensor) -> Tensor:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.02)
        inside[0] -= 1
        return x * 2

    def record(index: int) -> None:
        CudaRecording(slow, torch.zeros(3))

    in_threads(record)
    assert most == [1]


def test_a_recording_waits_for_what_another_stream_still_reads(card: Card) -> None:
    recording = CudaRecording(lambda x: x * 2, torch.zeros(3))
    first, second = Stream(100), Stream(101)
    for stream in (first, second, second):
        with card.stream(stream):
            recording(torch.ones(3))
    assert second.waited_for == [first]


class Kept:
    """A recording as a graph is one: its input and its result lie where the last ones lay."""

    num_bytes = 1

    def __init__(self, function: Callable[[Tensor], Tensor], x: Tensor) -> None:
        self._function, self._given = function, x.clone()
        self._result = function(x)

    def __call__(self, x: Tensor) -> Tensor:
        self._given.copy_(x)
        time.sleep(0.002)  # so that others come to it
        return self._result.copy_(self._function(self._given))


def copied(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last, copy=True)


class SlowReader:
    """The last layer: reads what the recording gave a while after that."""

    num_out = 3

    def with_detail(self, x: Tensor, base: Tensor, out: Tensor, scale: int) -> Tensor:
        time.sleep(0.002)
        return out.copy_(x)

    def into(self, x: Tensor, out: Tensor) -> Tensor:
        return self.with_detail(x, x, out, 1)


def in_threads(work: Callable[[int], None]) -> None:
    failed: list[BaseException] = []

    def run(index: int) -> None:
        try:
            work(index)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


class Stack(FusedSRVGG):
    """The compact network without its layers: what it gives is what it was given."""

    def __init__(self, plain: torch.nn.Module) -> None:
        Upscaler.__init__(self)
        self.scale, self.plain = 1, cast("Any", plain)
        self._features = Graphs(copied, Kept)
        self._last = cast("Any", SlowReader())


class Details(ReducedSRVGG):
    """The shrinking of a picture without the picture."""

    def __init__(self) -> None:
        Upscaler.__init__(self)

    def downscaled(self, x: Tensor, detail: Tensor) -> Tensor:
        return detail


class Trunk(FusedRRDB):
    """The RRDB network without its layers: what it gives is what it was given."""

    def __init__(self) -> None:
        Upscaler.__init__(self)
        self.scale, self.multiple = 4, 1
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self._graphs = Graphs(copied, Kept)

    @property
    def weight(self) -> Tensor:
        return self.anchor

    def _tail(self, x: Tensor) -> Tensor:
        time.sleep(0.002)
        return x.repeat_interleave(4, 2).repeat_interleave(4, 3)


class Enlarging(Upscaler):
    """A network by a fused body, as an `Enlarger` is given it."""

    def __init__(self, run: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.scale, self.margin, self.multiple, self.values_per_pixel = 1, 0, 1, 1
        self.run = run
        self.anchor = torch.nn.Parameter(torch.zeros(1))

    @property
    def weight(self) -> Tensor:
        return self.anchor

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)

    def __deepcopy__(self, memo: object) -> Enlarging:
        return self


WAYS: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "laid out": lambda: Stack(torch.nn.Identity()),
    "details": lambda: Stack(Details()),
    "trunk and tail": lambda: (lambda network: lambda x: network(x)[:, :, ::4, ::4])(Trunk()),
}


@pytest.mark.parametrize("way", WAYS)
def test_threads_that_share_an_enlarger_get_their_own_pictures(way: str) -> None:
    enlarger = Enlarger(Enlarging(WAYS[way]()), torch.device("cpu"))
    for _ in range(4):  # recorded
        enlarger(torch.rand(3, 6, 8), 1)

    def enlarge(index: int) -> None:
        with torch.inference_mode():
            for step in range(10):
                picture = torch.full((3, 6, 8), (1 + index + 4 * step) / 50)
                assert torch.equal(enlarger(picture, 1), picture)

    in_threads(enlarge)


def test_what_a_recording_is_given_is_not_replaced_before_it_runs() -> None:
    """Interpolation gives it addresses: with those of another thread a result is never written."""
    table: dict[int, Tensor] = {}

    def write(x: Tensor) -> Tensor:
        if int(x) in table:
            table[int(x)].fill_(int(x))
        return x.clone()

    graphs = Graphs(write, Kept)
    for _ in range(4):
        graphs(torch.zeros(1))

    def interpolate(index: int) -> None:
        for step in range(10):
            address = 1 + index + 4 * step
            table[address] = torch.zeros(2)
            graphs(torch.full((1,), float(address)))
            assert table[address].eq(address).all()

    in_threads(interpolate)
