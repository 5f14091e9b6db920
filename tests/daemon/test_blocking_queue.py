from __future__ import annotations

import threading

import pytest

from upframe.daemon.queues import BlockingQueue, QueueCancelled


def test_gives_what_was_put_in_order_until_closed() -> None:
    queue: BlockingQueue[int] = BlockingQueue(4, 100)
    for item in range(3):
        queue.put(item, 1)
    queue.close()
    assert list(queue) == [0, 1, 2]


@pytest.mark.parametrize(("items", "num_bytes"), [(2, 10**9), (10**9, 20)])
def test_a_full_queue_makes_the_writer_wait(items: int, num_bytes: int) -> None:
    queue: BlockingQueue[int] = BlockingQueue(items, num_bytes)
    put: list[int] = []

    def write() -> None:
        for item in range(5):
            queue.put(item, 10)
            put.append(item)
        queue.close()

    writer = threading.Thread(target=write)
    writer.start()
    writer.join(0.2)
    assert put == [0, 1]
    assert list(queue) == [0, 1, 2, 3, 4]
    writer.join(5)


def test_an_item_larger_than_the_queue_still_passes() -> None:
    queue: BlockingQueue[str] = BlockingQueue(4, 10)
    queue.put("large", 1000)
    queue.close()
    assert list(queue) == ["large"]


def test_cancelling_wakes_a_waiting_reader() -> None:
    queue: BlockingQueue[int] = BlockingQueue(1, 10)
    threading.Timer(0.05, queue.cancel).start()
    with pytest.raises(QueueCancelled):
        next(iter(queue))


def test_cancelling_wakes_a_waiting_writer() -> None:
    queue: BlockingQueue[int] = BlockingQueue(1, 10)
    queue.put(1, 1)
    threading.Timer(0.05, queue.cancel).start()
    with pytest.raises(QueueCancelled):
        queue.put(2, 1)


def test_a_closed_queue_takes_nothing_more() -> None:
    queue: BlockingQueue[int] = BlockingQueue(1, 10)
    queue.close()
    with pytest.raises(QueueCancelled):
        queue.put(1, 1)


def test_takes_all_that_wait_and_makes_room() -> None:
    queue: BlockingQueue[int] = BlockingQueue(2)
    queue.put(1)
    queue.put(2)
    writer = threading.Thread(target=queue.put, args=(3,))
    writer.start()
    assert queue.take_all(30) == [1, 2]
    writer.join(30)
    assert queue.take_all(30) == [3]


def test_taking_all_waits_for_so_long_and_no_longer_at_the_end() -> None:
    queue: BlockingQueue[int] = BlockingQueue(2)
    assert queue.take_all(0.01) == []
    queue.put(1)
    queue.close()
    assert queue.take_all(30) == [1]
    assert queue.take_all(30) is None


def test_taking_all_of_a_cancelled_queue_is_its_end() -> None:
    queue: BlockingQueue[int] = BlockingQueue(2)
    queue.put(1)
    queue.cancel()
    assert queue.take_all(30) is None
