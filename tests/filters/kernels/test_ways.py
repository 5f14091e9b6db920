"""The fastest way is found by measuring, once; a way that is not clearly faster is not taken."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from upframe.filters.chain import build_filters
from upframe.filters.device import Runtime
from upframe.filters.errors import DeviceUnavailable
from upframe.filters.kernels.native import kernels
from upframe.filters.kernels.ways import (
    EDGES,
    ROUNDS,
    SWITCH,
    Measurement,
    Trial,
    choose,
    forget,
    measure,
    measurements,
    ways_file,
)
from upframe.filters.options import FilterOptions, Way
from upframe.filters.upscale.cpu import CompactOnCpu, on_cpu, ways_of
from upframe.filters.upscale.network import RRDBNet, SRVGGNetCompact, Upscaler

PLAIN = [10.0, 11.0, 10.0, 11.0, 10.0]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of which nothing is known."""
    monkeypatch.delenv(SWITCH)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    forget()
    return tmp_path


class Machine:
    """A CPU on which each way takes as many milliseconds for 32x32 pixels as it is told.

    Args:
        milliseconds: by way: one number, or some that take turns.
    """

    def __init__(self, **milliseconds: float | list[float]) -> None:
        self._milliseconds = milliseconds
        self.now = 0.0
        self.calls: list[tuple[str, int]] = []

    def clock(self) -> float:
        return self.now

    @property
    def trials(self) -> Mapping[Way, Trial]:
        return {way: self._trial(way) for way in self._milliseconds}  # type: ignore[misc]

    def _trial(self, way: str) -> Trial:
        def at(edge: int) -> Callable[[], object]:
            return lambda: self._compute(way, edge)

        return at

    def _compute(self, way: str, edge: int) -> None:
        each = self._milliseconds[way]
        one = each if isinstance(each, float) else each[len(self.calls) % len(each)]
        self.calls.append((way, edge))
        self.now += one / 1000 * (edge / 32) ** 2

    def fastest(self, network: str = "a network") -> Way:
        return choose(network, self.trials, clock=self.clock)


def with_readings(**milliseconds: list[float]) -> Measurement:
    return Measurement.model_validate(
        {"network": "", "machine": "", "milliseconds": milliseconds, "edge": 64, "taken": 0.0}
    )


@pytest.mark.parametrize(
    ("readings", "way"),
    [
        ({"winograd": [9.0] * 5}, "winograd"),
        ({"winograd": [9.0, 9.0, 9.0, 9.0, 99.0]}, "winograd"),
        ({"winograd": [9.0, 9.0, 9.0, 99.0, 99.0]}, "torch"),
        ({"winograd": PLAIN}, "torch"),  # equal is not ahead
        ({"winograd": [5.0, 5.0, 5.0, 12.0, 12.0]}, "torch"),  # faster, but not reliably
        ({"winograd": [8.0] * 5, "tiles": [3.0] * 5}, "tiles"),
        ({"compiled": [8.0] * 5, "winograd": [9.0] * 5, "tiles": [12.0] * 5}, "compiled"),
        ({"tiles": [12.0] * 5, "winograd": [9.0] * 5}, "winograd"),
        ({"winograd": [1.0] * 3}, "torch"),  # there was no time for more
    ],
)
def test_a_way_is_taken_that_is_ahead_of_torch_in_four_of_five_readings(
    readings: dict[str, list[float]], way: Way
) -> None:
    assert with_readings(torch=PLAIN, **readings).way == way


def test_readings_are_taken_in_turns_and_so_is_the_first_one() -> None:
    machine = Machine(torch=50.0, winograd=40.0)
    measure("a network", machine.trials, 32, machine.clock)
    one, other = ("torch", 32), ("winograd", 32)
    *warm, last = [machine.calls[index : index + 2] for index in range(0, 14, 2)]
    assert warm[:2] == [[one, one], [one, other]]  # what it costs; once each
    assert [*warm[2:], last] == [
        [one, other],
        [other, one],
        [one, other],
        [other, one],
        [one, other],
    ]


@pytest.mark.parametrize("milliseconds", [0.001, 0.1, 0.5, 2.0, 4.0, 8.0])
@pytest.mark.parametrize("smallest", [32, 96])
def test_the_picture_is_as_large_as_there_is_time(milliseconds: float, smallest: int) -> None:
    machine = Machine(torch=milliseconds, winograd=milliseconds, tiles=milliseconds)
    found = measure("a network", machine.trials, smallest, machine.clock)
    larger = [edge for edge in EDGES if edge > found.edge]
    assert machine.now < 0.3 or found.edge == smallest
    assert not larger or 18 * milliseconds / 1000 * (larger[0] / 32) ** 2 > 0.1
    assert machine.now > 1 or {len(own) for own in found.milliseconds.values()} == {ROUNDS}


@pytest.mark.parametrize(("winograd", "way"), [(500.0, "winograd"), (700.0, "torch")])
def test_where_there_is_no_time_the_shortest_readings_decide_for_this_process(
    winograd: float, way: Way
) -> None:
    machine = Machine(torch=600.0, winograd=winograd)
    assert machine.fastest() == way
    assert machine.now < 6
    assert not ways_file().exists()  # the next process may find it less busy


def test_on_a_busy_machine_each_reading_is_the_best_of_several() -> None:
    busy = [5.0, 30.0, 30.0]
    machine = Machine(torch=busy, winograd=busy)
    found = measure("a network", machine.trials, 32, machine.clock)
    assert len(machine.calls) > 4 + 2 * ROUNDS
    assert {len(own) for own in found.milliseconds.values()} == {ROUNDS}
    assert {round(sorted(own)[ROUNDS // 2] / min(own)) for own in found.milliseconds.values()} == {
        1
    }


@pytest.mark.parametrize(
    ("readings", "is_sure"),
    [
        ({"torch": [1.0] * 5, "winograd": [2.0] * 5}, True),
        ({"torch": [1.0, 9.0, 9.0, 9.0, 1.0], "winograd": [2.0] * 5}, False),
        ({"torch": [1.0] * 5, "winograd": [2.0, 2.0, 9.0, 9.0, 9.0]}, False),
        ({"torch": [9.0, 1.0, 9.0, 9.0, 9.0], "winograd": [2.0] * 5}, True),  # ahead all the same
        ({"torch": [1.0] * 3, "winograd": [2.0] * 3}, False),
    ],
)
def test_it_is_not_sure_of_torch_where_other_work_was_in_between(
    readings: dict[str, list[float]], is_sure: bool
) -> None:
    assert with_readings(**readings).is_sure == is_sure


def next_process() -> None:
    """Begin with what the file says."""
    content = ways_file().read_bytes()
    forget()
    ways_file().write_bytes(content)


def test_a_network_is_measured_once_for_all_processes() -> None:
    assert Machine(torch=2.0, winograd=1.0).fastest() == "winograd"
    for _ in range(2):
        machine = Machine(torch=1.0, winograd=2.0)
        assert (machine.fastest(), machine.calls) == ("winograd", [])
        next_process()
    assert list(ways_file().parent.iterdir()) == [ways_file()]  # nothing temporary is left


def test_what_changes_the_speed_is_measured_on_its_own() -> None:
    assert Machine(torch=2.0, winograd=1.0).fastest() == "winograd"
    assert Machine(torch=1.0, winograd=2.0).fastest("another network") == "torch"
    assert Machine(torch=2.0, winograd=1.9, tiles=1.0).fastest() == "tiles"  # a way more
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert Machine(torch=1.0, winograd=2.0, tiles=3.0).fastest() == "torch"
    finally:
        torch.set_num_threads(threads)
    assert [(one.network, one.way) for one in measurements()] == [
        ("a network", "tiles"),
        ("another network", "torch"),
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe\0",
        b'{"a": 1}',
        b'{"a": {"network": "a", "milliseconds": {"rocket": [1]}}}',
        b"[" * 100_000,
        b'{"a": "' + b"a" * (1 << 21) + b'"}',
    ],
)
def test_a_damaged_file_is_as_good_as_none(content: bytes) -> None:
    ways_file().parent.mkdir(parents=True)
    ways_file().write_bytes(content)
    assert Machine(torch=2.0, winograd=1.0).fastest() == "winograd"
    assert [found.way for found in measurements()] == ["winograd"]
    assert len(json.loads(ways_file().read_text())) == 1


def test_where_nothing_can_be_written_each_process_measures_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "upframe")
    (cache / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "file"))
    machine = Machine(torch=2.0, winograd=1.0)
    assert [machine.fastest(), machine.fastest()] == ["winograd", "winograd"]
    assert machine.calls.count(("torch", machine.calls[-1][1])) <= ROUNDS + 2
    assert "cannot be written" in caplog.text
    assert {record.levelname for record in caplog.records} == {"DEBUG"}
    with pytest.raises(OSError, match="file"):
        forget()


def test_what_is_forgotten_is_measured_again() -> None:
    assert Machine(torch=2.0, winograd=1.0).fastest() == "winograd"
    forget()
    assert measurements() == []
    assert Machine(torch=1.0, winograd=2.0).fastest() == "torch"


def test_the_file_does_not_grow_without_bounds() -> None:
    Machine(torch=2.0, winograd=1.0).fastest("0")
    (known,) = json.loads(ways_file().read_text()).values()
    ways_file().write_text(json.dumps({f"old {index}": known for index in range(10_000)}))
    Machine(torch=2.0, winograd=1.0).fastest("1")
    assert len(json.loads(ways_file().read_text())) == 1


# ------------------------------------------------------------------------------ a way that is given


@pytest.mark.parametrize(
    ("switch", "given", "way"),
    [
        ("", None, "winograd"),  # measured
        ("torch", None, "torch"),
        ("tiles, compiled ,torch", None, "compiled"),
        ("winograd", "torch", "torch"),  # what a plan keeps goes first
    ],
)
def test_a_way_that_is_given_is_taken(
    monkeypatch: pytest.MonkeyPatch, switch: str, given: Way | None, way: Way | None
) -> None:
    monkeypatch.setenv(SWITCH, switch)
    machine = Machine(torch=3.0, winograd=1.0, compiled=2.0)
    assert choose("a network", machine.trials, given, clock=machine.clock) == way
    assert (machine.calls == []) == (switch != "")


@pytest.mark.parametrize(
    ("switch", "given", "text"),
    [
        ("tiles", None, "a network can be computed by torch, winograd .*, not by tiles; ways are"),
        ("winograd", "tiles", "not by tiles"),
        ("tiles,compiled", None, "not by tiles,compiled"),
        ("rocket", None, "not by rocket; ways are torch, compiled, winograd, tiles"),
    ],
)
def test_a_way_that_there_is_not_is_an_error(
    monkeypatch: pytest.MonkeyPatch, switch: str, given: Way | None, text: str
) -> None:
    monkeypatch.setenv(SWITCH, switch)
    with pytest.raises(DeviceUnavailable, match=text):
        choose("a network", Machine(torch=2.0, winograd=1.0).trials, given)


# ------------------------------------------------------------------------------------- networks


@pytest.fixture
def compiled() -> None:
    if kernels() is None:
        pytest.skip("the kernels were not compiled")


BOTH = {"enable_frame_interpolation": True, "enable_upscaling": True, "upscaling_scale": 2}
CPU = torch.device("cpu")


def test_filters_are_measured_and_say_their_way(compiled: None) -> None:
    runtime = Runtime(CPU, torch.float32, "builtin")
    built = build_filters(FilterOptions.model_validate(BOTH), runtime)
    assert {one.way for one in built} <= {"torch", "compiled", "winograd"}
    known = {found.network.split()[0]: found for found in measurements()}
    assert known.keys() <= {"RIFE", "ReducedSRVGG"}  # both where it is not busy
    for name, way in (("RIFE", built[0].way), ("ReducedSRVGG", built[1].way)):
        if found := known.get(name):
            assert way == found.way
            assert all(value > 0 for own in found.milliseconds.values() for value in own)


@pytest.mark.parametrize("ways", [{"interpolate": "torch", "upscale": "compiled"}, {}])
def test_filters_keep_the_ways_that_are_given(
    compiled: None, monkeypatch: pytest.MonkeyPatch, ways: dict[str, Way]
) -> None:
    monkeypatch.setenv(SWITCH, "compiled")
    runtime = Runtime(CPU, torch.bfloat16, "builtin", ways=ways)
    built = build_filters(FilterOptions.model_validate(BOTH), runtime)
    assert {one.name: one.way for one in built} == {
        "interpolate": "compiled",
        "upscale": "compiled",
        **ways,
    }
    assert not ways_file().exists()


@pytest.mark.parametrize("name", ["interpolate", "upscale"])
def test_a_filter_that_cannot_keep_its_way_is_not_built(name: str) -> None:
    runtime = Runtime(CPU, torch.float16, "builtin", ways={name: "winograd"})
    with pytest.raises(
        DeviceUnavailable, match=r"float16 can be computed by torch on .*, not by winograd"
    ):
        build_filters(FilterOptions.model_validate(BOTH), runtime)


def networks() -> list[Upscaler]:
    made = [SRVGGNetCompact(32, 2, 4), SRVGGNetCompact(32, 16, 2), RRDBNet(32, 2, 32, 2)]
    return [one.requires_grad_(False).to(memory_format=torch.channels_last) for one in made]


@torch.inference_mode()
@pytest.mark.parametrize("index", range(3))
def test_every_way_computes_the_same_and_measuring_changes_nothing(
    compiled: None, index: int
) -> None:
    network, x = networks()[index], torch.rand(1, 3, 40, 24)
    expected, state = network(x), torch.random.get_rng_state()
    chosen = on_cpu(network)
    assert torch.random.get_rng_state().equal(state)
    assert network(x).equal(expected)
    for made in (chosen, *(make() for make in ways_of(network).values())):
        torch.testing.assert_close(made(x), expected, rtol=0, atol=1e-5)
    assert [make().way for make in ways_of(network).values()] == list(ways_of(network))


def test_measurements_hold_for_networks_of_any_depth(compiled: None) -> None:
    for depth in (16, 32):
        on_cpu(SRVGGNetCompact(32, depth, 4).requires_grad_(False))
    on_cpu(SRVGGNetCompact(48, 16, 4).requires_grad_(False))
    assert len(measurements()) <= 2  # fewer where the machine is too busy to be sure


def test_a_measurement_decides_about_the_network(compiled: None) -> None:
    network = SRVGGNetCompact(32, 4, 4).requires_grad_(False)
    trials = ways_of(network)
    for way in ("torch", "compiled"):
        forget()
        machine = Machine(**{each: 1.0 if each == way else 3.0 for each in trials})
        choose("SRVGGNetCompact 32-48 by 4 in float32", machine.trials, clock=machine.clock)
        made = on_cpu(network)
        assert made.way == way
        assert isinstance(made, CompactOnCpu) == (way != "torch")
