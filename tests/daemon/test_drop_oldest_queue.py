"""A queue that drops the oldest, counts it, and never makes whoever puts wait."""

import random
import threading

import pytest

from upframe.daemon.queues import DropOldestQueue


class Clock:
    """Time as a test says."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_gives_what_came_in_its_order() -> None:
    queue: DropOldestQueue[str] = DropOldestQueue(3, 10, Clock())
    for item in "abc":
        queue.put(item, 100)
    assert len(queue) == 3
    assert [queue.take(0) for _ in range(3)] == ["a", "b", "c"]
    assert queue.counts == {"full": 0, "old": 0, "closed": 0}


def test_drops_the_oldest_where_it_is_full_and_counts_it() -> None:
    queue: DropOldestQueue[int] = DropOldestQueue(2, 10, Clock())
    for item in range(5):
        queue.put(item, 100)
    assert [queue.take(0), queue.take(0), queue.take(0)] == [3, 4, None]
    assert queue.counts["full"] == queue.dropped == 3


def test_drops_what_is_too_old_where_something_newer_waits() -> None:
    clock = Clock()
    queue: DropOldestQueue[str] = DropOldestQueue(10, 1, clock)
    queue.put("a", 100)
    queue.put("b", 100.5)
    queue.put("c", 100.9)
    clock.seconds = 101.2
    assert queue.take(0) == "b"
    clock.seconds = 101.6
    queue.put("d", 101.6)
    assert queue.counts == {"full": 0, "old": 1, "closed": 0}
    clock.seconds = 102
    assert queue.take(0) == "d"
    assert queue.counts["old"] == queue.dropped == 2


def test_the_newest_is_never_dropped_however_old_it_is() -> None:
    """Where a source is slower than the budget, an old frame is better than none."""
    clock = Clock()
    queue: DropOldestQueue[str] = DropOldestQueue(10, 1, clock)
    queue.put("a", 100)
    clock.seconds = 1000
    assert queue.oldest_age == 900
    assert queue.take(0) == "a"
    assert queue.dropped == 0


def test_an_age_of_just_the_limit_is_in_order() -> None:
    clock = Clock()
    queue: DropOldestQueue[str] = DropOldestQueue(10, 1, clock)
    queue.put("a", 100)
    clock.seconds = 101
    queue.put("b", 101)
    assert queue.take(0) == "a"


def test_what_waits_longest_has_an_age_and_nothing_has_none() -> None:
    clock = Clock()
    queue: DropOldestQueue[str] = DropOldestQueue(10, 5, clock)
    assert queue.oldest_age == 0
    queue.put("a", 99)
    queue.put("b", 100)
    assert queue.oldest_age == 1


def test_an_item_that_is_nothing_to_python_is_an_item() -> None:
    queue: DropOldestQueue[int] = DropOldestQueue(2, 1, Clock())
    queue.put(0, 100)
    assert queue.take(0) == 0


def test_whoever_takes_waits_for_an_item() -> None:
    queue: DropOldestQueue[str] = DropOldestQueue(2, 60)
    got: list[str | None] = []
    taker = threading.Thread(target=lambda: got.append(queue.take(30)), name="upframe-taker")
    taker.start()
    queue.put("a", 0)
    taker.join(30)
    assert got == ["a"]


def test_the_time_to_wait_ends() -> None:
    assert DropOldestQueue[str](2, 60).take(0.01) is None


def test_closing_wakes_whoever_waits_for_ever() -> None:
    queue: DropOldestQueue[str] = DropOldestQueue(2, 60)
    got: list[str | None] = []
    taker = threading.Thread(target=lambda: got.append(queue.take(None)), name="upframe-taker")
    taker.start()
    queue.close()
    taker.join(30)
    assert got == [None]


def test_what_was_in_it_at_the_end_can_be_taken_and_nothing_gets_in_any_more() -> None:
    queue: DropOldestQueue[str] = DropOldestQueue(2, 60, Clock())
    queue.put("a", 100)
    queue.close()
    queue.put("b", 100)
    assert queue.take(None) == "a"
    assert queue.take(None) is None
    assert queue.counts == {"full": 0, "old": 0, "closed": 1}
    assert queue.dropped == 0  # for newer ones


@pytest.mark.parametrize("seed", range(20))
def test_every_item_is_taken_or_counted_and_order_holds(seed: int) -> None:
    chance = random.Random(seed)
    clock = Clock()
    queue: DropOldestQueue[int] = DropOldestQueue(
        chance.randint(1, 8), chance.uniform(0.05, 1), clock
    )
    arrivals: dict[int, float] = {}
    taken: list[int] = []
    for number in range(500):
        clock.seconds += chance.expovariate(20)
        arrivals[number] = clock.seconds - chance.random() * 0.02
        queue.put(number, arrivals[number])
        if chance.random() < 0.7 and (item := queue.take(0)) is not None:
            taken.append(item)
            assert clock.seconds - arrivals[item] <= queue._max_age_seconds or item == number
    rest = len(queue)
    assert taken == sorted(taken)
    assert len(taken) + rest + sum(queue.counts.values()) == 500


def test_many_who_put_and_one_who_takes_lose_nothing_uncounted() -> None:
    queue: DropOldestQueue[tuple[int, int]] = DropOldestQueue(4, 60)
    taken: list[tuple[int, int]] = []

    def put(who: int) -> None:
        for number in range(500):
            queue.put((who, number), 0)

    def take() -> None:
        while (item := queue.take(30)) is not None:
            taken.append(item)

    taker = threading.Thread(target=take, name="upframe-taker")
    taker.start()
    putters = [threading.Thread(target=put, args=(who,), name="upframe-putter") for who in (1, 2)]
    for putter in putters:
        putter.start()
    for putter in putters:
        putter.join(30)
    queue.close()
    taker.join(30)
    assert len(taken) + queue.dropped == 1000
    for who in (1, 2):
        numbers = [number for by, number in taken if by == who]
        assert numbers == sorted(numbers)


@pytest.mark.parametrize(("items", "age"), [(0, 1.0), (1, -1.0)])
def test_bounds_that_let_nothing_wait_are_refused(items: int, age: float) -> None:
    with pytest.raises(ValueError, match="must hold one item or more"):
        DropOldestQueue[str](items, age)
