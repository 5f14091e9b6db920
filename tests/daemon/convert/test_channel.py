from __future__ import annotations

import threading

import pytest

from upframe.daemon.convert.pipeline import Channel, ChannelCancelled


def test_gives_what_was_put_in_order_until_closed() -> None:
    channel: Channel[int] = Channel(4, 100)
    for item in range(3):
        channel.put(item, 1)
    channel.close()
    assert list(channel) == [0, 1, 2]


@pytest.mark.parametrize(("items", "num_bytes"), [(2, 10**9), (10**9, 20)])
def test_a_full_channel_makes_the_writer_wait(items: int, num_bytes: int) -> None:
    channel: Channel[int] = Channel(items, num_bytes)
    put: list[int] = []

    def write() -> None:
        for item in range(5):
            channel.put(item, 10)
            put.append(item)
        channel.close()

    writer = threading.Thread(target=write)
    writer.start()
    writer.join(0.2)
    assert put == [0, 1]
    assert list(channel) == [0, 1, 2, 3, 4]
    writer.join(5)
    assert channel.statistics().put_wait_seconds >= 0.1


def test_an_item_larger_than_the_channel_still_passes() -> None:
    channel: Channel[str] = Channel(4, 10)
    channel.put("large", 1000)
    channel.close()
    assert list(channel) == ["large"]


def test_cancelling_wakes_a_waiting_reader() -> None:
    channel: Channel[int] = Channel(1, 10)
    threading.Timer(0.05, channel.cancel).start()
    with pytest.raises(ChannelCancelled):
        next(iter(channel))


def test_cancelling_wakes_a_waiting_writer() -> None:
    channel: Channel[int] = Channel(1, 10)
    channel.put(1, 1)
    threading.Timer(0.05, channel.cancel).start()
    with pytest.raises(ChannelCancelled):
        channel.put(2, 1)


def test_a_closed_channel_takes_nothing_more() -> None:
    channel: Channel[int] = Channel(1, 10)
    channel.close()
    with pytest.raises(ChannelCancelled):
        channel.put(1, 1)
