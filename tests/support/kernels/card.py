"""What of `torch.cuda` tells streams and devices apart, without a card, and as strict as one."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from upframe.filters.kernels import cuda

CARD_1 = torch.device("cuda", 1)


class Stream:
    def __init__(self, number: int) -> None:
        self.number = number
        self.waited_for: list[Stream] = []
        self.num_events = 0

    def wait_stream(self, other: Stream) -> None:
        self.waited_for.append(other)

    def wait_event(self, event: Event) -> None:
        self.num_events += 1


class Card:
    """Gives 32 streams in turn, as torch does; counts as being there."""

    def __init__(self) -> None:
        self.current = 0
        self.copied_on: set[Stream] = set()
        self.captured_on: set[Stream] = set()
        self.num_waits = 0
        """How often a thread has waited for a copy."""
        self._pool = [Stream(number) for number in range(32)]
        self._num_given = 0
        self._default = Stream(-1)
        self._threads = threading.local()

    def Stream(self, device: torch.device) -> Stream:
        self._num_given += 1
        return self._pool[self._num_given % len(self._pool)]

    def current_stream(self, device: torch.device | None = None) -> Stream:
        return getattr(self._threads, "stream", self._default)

    @contextmanager
    def stream(self, stream: Stream) -> Generator[None]:
        before, self._threads.stream = self.current_stream(), stream
        yield
        self._threads.stream = before

    @contextmanager
    def device(self, device: torch.device) -> Generator[None]:
        before, self.current = self.current, device.index
        yield
        self.current = before

    def Event(self, **_: object) -> Event:
        return Event(self)

    def CUDAGraph(self) -> Graph:
        return Graph()

    @contextmanager
    def graph(self, graph: Graph, *, stream: Stream, **_: object) -> Generator[None]:
        self.captured_on.add(stream)
        yield

    def memory_reserved(self, device: torch.device) -> int:
        return 0

    def empty_cache(self) -> None:
        pass


class Event:
    def __init__(self, card: Card) -> None:
        self._card = card

    def record(self, stream: Stream) -> None:
        self._card.copied_on.add(stream)

    def synchronize(self) -> None:
        self._card.num_waits += 1


class Graph:
    def replay(self) -> None:
        pass


class OnCard(torch.Tensor):
    """A tensor that says it lies on a card."""

    is_cuda = True
    device = property(lambda self: CARD_1)

    def to(self, device: torch.device) -> OnCard:  # type: ignore[override]
        return self

    def record_stream(self, stream: Any) -> None:
        self.kept_for = stream


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    made = Card()
    for name in vars(Card):
        if not name.startswith("_"):
            monkeypatch.setattr(torch.cuda, name, getattr(made, name))
    kept = getattr(cuda, "stream_for", None)
    if kept is not None:
        kept.cache_clear()
    yield made
    if kept is not None:
        kept.cache_clear()
