"""Planes on their way to a device and back; on a CPU the same calls copy plainly."""

from __future__ import annotations

import pytest
import torch

from upframe.filters.color.staging import Download, Upload

CPU = torch.device("cpu")


def planes(value: int, size: int = 64) -> list[torch.Tensor]:
    return [
        torch.full((size, size), value, dtype=torch.uint8),
        torch.full((size // 2, size // 2), 257 * value, dtype=torch.uint16),
    ]


def test_without_a_card_planes_stay_where_they_are() -> None:
    given = planes(3)
    for arrival in (Upload(CPU)(given), Download()(given)):
        assert all(a is b for a, b in zip(arrival.wait(), given, strict=True))
        assert all(a is b for a, b in zip(arrival.follow(), given, strict=True))


@pytest.mark.needs_cuda
def test_what_was_given_may_be_overwritten_at_once() -> None:
    upload, given = Upload(torch.device("cuda", 0)), planes(1, 2048)
    arrivals = []
    for value in range(1, 9):
        for plane in given:
            plane.fill_(value)
        arrivals.append(upload(given))
    for value, arrival in enumerate(arrivals, 1):
        assert [int(plane.int().unique()) for plane in arrival.follow()] == [value, value]


@pytest.mark.needs_cuda
def test_a_slow_reader_keeps_what_it_has_not_read() -> None:
    """The ring gives no memory away in which a picture still lies, and takes it back after that."""
    download, computed = Download(), [plane.cuda() for plane in planes(0, 2048)]
    waiting = []
    for value in range(12):
        for plane in computed:
            plane.copy_(torch.full_like(plane, value))
        waiting.append(download([plane.clone() for plane in computed]))
    for value, arrival in enumerate(waiting):
        arrived = arrival.wait()
        assert all(plane.is_pinned() for plane in arrived)
        assert [int(plane.int().unique()) for plane in arrived] == [value, value]


@pytest.mark.needs_cuda
def test_a_copy_waits_for_what_makes_it() -> None:
    large = torch.rand(4096, 4096, device="cuda")
    download = Download()
    for _ in range(5):
        made = torch.linalg.matrix_norm(large @ large).expand(8, 8).contiguous()
        wanted = float(made[0, 0])
        (arrived,) = download([made * 2]).wait()
        assert float(arrived[3, 3]) == 2 * wanted
