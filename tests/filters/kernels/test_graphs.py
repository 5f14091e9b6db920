"""Which sizes are recorded, for how long, and what their memory means. Twins run on a CPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from upframe.filters.kernels.cuda import Graphs
from upframe.filters.upscale.filter import Enlarger


class Kept:
    """A recording as a graph is one: its result lies where the last one lay."""

    def __init__(self, function: Callable[[Tensor], Tensor], x: Tensor) -> None:
        self._function = function
        self._result = function(x)
        self.num_bytes = self._result.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        return self._result.copy_(self._function(x))


def doubled(x: Tensor) -> Tensor:
    return x * 2


class Recorder:
    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Kept:
        self.sizes.append(len(x))
        return Kept(function, x)


def run(graphs: Graphs, size: int, times: int) -> None:
    for value in range(times):
        x = torch.full((size,), float(value))
        assert torch.equal(graphs(x), x * 2)


def test_what_comes_again_and_again_is_recorded() -> None:
    recorder = Recorder()
    graphs = Graphs(doubled, recorder)
    run(graphs, 3, 2)
    assert recorder.sizes == []
    run(graphs, 3, 5)
    run(graphs, 4, 1)
    assert recorder.sizes == [3]


def test_the_result_is_overwritten_by_the_next_call_of_its_size() -> None:
    graphs = Graphs(doubled, Recorder())
    run(graphs, 3, 3)
    first = graphs(torch.ones(3))
    assert graphs(torch.full((3,), 5.0)) is first
    assert first[0] == 10


def test_the_least_recently_used_goes() -> None:
    recorder = Recorder()
    graphs = Graphs(doubled, recorder, most=2)
    for size in (1, 2, 1, 3):
        run(graphs, size, 3)
    run(graphs, 1, 1)
    assert recorder.sizes == [1, 2, 3]
    run(graphs, 2, 1)
    assert recorder.sizes == [1, 2, 3, 2]


def test_memory_is_bounded() -> None:
    recorder = Recorder()
    graphs = Graphs(doubled, recorder, most_bytes=40)
    for size in (6, 8, 100):
        run(graphs, size, 3)
    assert recorder.sizes == [6, 8, 100]
    assert graphs.num_bytes == 32  # of 8: with 6 it would be 56, and 100 is too much alone
    run(graphs, 100, 2)
    assert recorder.sizes == [6, 8, 100]


def test_what_will_be_too_large_is_not_recorded_to_find_out() -> None:
    recorder = Recorder()
    graphs = Graphs(doubled, recorder, most_bytes=40, needed_bytes=lambda x: 2 * x.nbytes)
    run(graphs, 5, 6)
    run(graphs, 6, 6)
    assert recorder.sizes == [5]


def test_a_recording_may_round_values_of_any_size_otherwise() -> None:
    def far(x: Tensor) -> Tensor:
        return x + 100

    def record(function: Callable[[Tensor], Tensor], x: Tensor) -> Kept:
        return Kept(lambda x: function(x) + 0.06, x)  # a step of fp16 at 100

    graphs = Graphs(far, record)
    for _ in range(4):
        graphs(torch.ones(3))
    assert graphs.num_bytes > 0


def test_where_there_is_no_memory_to_record_it_runs_plainly() -> None:
    def record(function: Callable[[Tensor], Tensor], x: Tensor) -> Kept:
        raise torch.OutOfMemoryError("tried to allocate a graph")

    graphs = Graphs(doubled, record)
    run(graphs, 3, 6)
    assert graphs.num_bytes == 0


def test_a_recording_that_disagrees_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    def record(function: Callable[[Tensor], Tensor], x: Tensor) -> Kept:
        return Kept(lambda x: x * 3, x)

    graphs = Graphs(doubled, record)
    run(graphs, 3, 6)
    assert sum("CUDA graphs" in record.message for record in caplog.records) == 1


def test_recordings_give_way_to_what_does_not_fit_beside_them() -> None:
    graphs: Graphs

    def hungry(x: Tensor) -> Tensor:
        if len(x) > 3 and graphs.num_bytes:
            raise torch.OutOfMemoryError("the recordings are in the way")
        return x * 2

    graphs = Graphs(hungry, Recorder())
    run(graphs, 3, 3)
    assert graphs.num_bytes > 0
    run(graphs, 4, 1)
    assert graphs.num_bytes == 0


@pytest.mark.needs_cuda
def test_graphs_give_twenty_frames_as_without_them() -> None:
    from support.kernels.upscaling import small_srvgg

    network = small_srvgg(64, 4, 4).half().cuda().to(memory_format=torch.channels_last)
    graphs = Graphs(network)
    with torch.inference_mode():
        for index in range(20):
            height = 90 if index % 5 else 72  # another size between them
            x = torch.rand(1, 3, height, 160, device="cuda")
            torch.testing.assert_close(graphs(x), network(x), rtol=0, atol=1e-4)
    assert graphs.num_bytes > 0


@pytest.mark.needs_cuda
def test_an_enlarged_frame_is_not_overwritten_by_the_next_ones() -> None:
    from support.kernels.upscaling import small_srvgg

    enlarger = Enlarger(small_srvgg(64, 4, 4), torch.device("cuda", 0), torch.float16)
    frames = [torch.rand(3, 90, 160) for _ in range(6)]
    enlarged = [enlarger(frame, 4) for frame in frames]
    alone = [Enlarger(small_srvgg(64, 4, 4), torch.device("cpu"))(frame, 4) for frame in frames]
    for ours, wanted in zip(enlarged, alone, strict=True):
        assert (ours.cpu() - wanted).square().mean() <= 1e-5
