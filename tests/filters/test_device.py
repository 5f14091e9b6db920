"""Which devices a name means, and of what kinds they may be together."""

from __future__ import annotations

import pytest
import torch

from upframe.filters.device import resolve_device, resolve_devices, resolve_runtime
from upframe.filters.errors import DeviceUnavailable

CPU = torch.device("cpu")


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models of the machine's cards, as the test lists them."""
    models: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(models))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(models))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda one: models[one.index])
    return models


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("auto", ["cuda:0"]),
        ("cuda:1", ["cuda:1"]),
        ("cuda:0,cuda:1", ["cuda:0", "cuda:1"]),
        ("cuda:1, cuda:0", ["cuda:1", "cuda:0"]),
        ("all", ["cuda:0", "cuda:1", "cuda:2"]),
        ("all*2", ["cuda:0", "cuda:1", "cuda:2"] * 2),
        ("cuda:2*2,cuda:0", ["cuda:2", "cuda:2", "cuda:0"]),
        ("cpu*3", ["cpu"] * 3),
    ],
)
def test_a_list_names_one_device_for_each_worker(
    cards: list[str], names: str, found: list[str]
) -> None:
    cards += ["H200"] * 3
    assert resolve_devices(names) == tuple(map(torch.device, found))


@pytest.mark.parametrize(
    ("names", "count"), [("auto", 1), ("all", 1), ("all*2", 2), ("cpu,cpu", 2)]
)
def test_without_a_card_all_means_the_cpu(cards: list[str], names: str, count: int) -> None:
    assert not cards
    assert resolve_devices(names) == (CPU,) * count


@pytest.mark.parametrize(
    ("names", "kinds"),
    [
        ("cpu,cuda:0", r"cpu \(the CPU\), cuda:0 \(A100\)"),
        ("all", r"cuda:0 \(A100\), cuda:1 \(T4\)"),
        ("cuda:1*2,cuda:0", r"cuda:1 \(T4\), cuda:0 \(A100\)"),
    ],
)
def test_devices_of_two_kinds_are_refused(cards: list[str], names: str, kinds: str) -> None:
    cards += ["A100", "T4"]
    with pytest.raises(DeviceUnavailable, match=f"one film needs devices of one kind, got {kinds}"):
        resolve_devices(names)


@pytest.mark.parametrize("names", ["", "cpu,", "tpu", "cpu:1", "cuda:x,cuda:1", "cpu2", "*2"])
def test_what_is_no_device_is_refused(cards: list[str], names: str) -> None:
    cards += ["A100", "A100"]
    with pytest.raises(DeviceUnavailable, match="device must be auto, cpu, cuda or cuda:N, got"):
        resolve_devices(names)


@pytest.mark.parametrize(
    "names", ["cpu*", "cpu*0", "cpu*-1", "cpu*x", "cpu*65", "cpu*2*2", "cpu*²"]
)
def test_a_wrong_number_of_workers_is_refused(names: str) -> None:
    with pytest.raises(DeviceUnavailable, match=r"NAME\*K with K from 1 to 64, such as cpu\*2"):
        resolve_devices(names)


@pytest.mark.parametrize("names", ["all", "cpu*2", "cpu,cpu", "cuda:0,cuda:1"])
def test_where_one_device_is_wanted_a_list_is_refused_with_the_reason(names: str) -> None:
    with pytest.raises(DeviceUnavailable, match="several are for a film from file to file"):
        resolve_device(names)


@pytest.mark.parametrize(
    ("names", "threads", "each"),
    [("cpu*3", None, 2), ("cpu*64", None, 1), ("cpu*3", 5, 5), ("cpu", None, 6), ("cpu", 1, 1)],
)
def test_workers_of_a_cpu_share_the_threads_unless_a_number_is_given(
    names: str, threads: int | None, each: int
) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(6)
        runtime = resolve_runtime(names, "fp32", "builtin", threads)
        assert torch.get_num_threads() == each
    finally:
        torch.set_num_threads(before)
    assert len(runtime.workers) == (0 if names == "cpu" else int(names[4:]))
