"""What is sent and in which order, with and without a broker."""

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from upframe.daemon.errors import StoreBroken
from upframe.daemon.mqtt.connection import Outbox
from upframe.daemon.mqtt.topics import OutgoingMessage


def run(test: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 10))


def post(topic: str, payload: str) -> OutgoingMessage:
    return OutgoingMessage(topic, payload.encode())


async def sent(outbox: Outbox) -> list[tuple[str, str]]:
    """Deliver everything that waits."""
    told: list[tuple[str, str]] = []
    while len(outbox):
        item = await outbox.take()
        told.append((item.message.topic, item.message.payload.decode()))
        outbox.delivered(item)
    return told


class Truth:
    """Something that a retained topic tells."""

    def __init__(self, topic: str, value: str) -> None:
        self.topic = topic
        self.value = value

    async def render(self) -> OutgoingMessage:
        return OutgoingMessage(self.topic, self.value.encode(), retain=True)


def test_a_retained_topic_tells_what_is_true_when_it_is_sent() -> None:
    async def main() -> None:
        outbox, truth = Outbox(), Truth("t", "old")
        for _ in range(100):
            outbox.retain("t", truth.render)
        truth.value = "new"
        assert await sent(outbox) == [("t", "new")]

    run(main)


def test_everything_retained_is_told_again_on_a_new_connection() -> None:
    async def main() -> None:
        outbox = Outbox()
        for name in "ab":
            outbox.retain(name, Truth(name, name).render)
        outbox.post(post("c", "c"))
        assert len(await sent(outbox)) == 3
        outbox.renew()
        assert await sent(outbox) == [("a", "a"), ("b", "b")]

    run(main)


def test_a_cleared_topic_is_forgotten_once_the_broker_knows() -> None:
    async def main() -> None:
        outbox = Outbox()
        outbox.retain("a", Truth("a", "").render)
        item = await outbox.take()
        outbox.returned(item)
        assert list(outbox._retained) == ["a"]
        assert await sent(outbox) == [("a", "")]
        assert list(outbox._retained) == []
        outbox.renew()
        assert await sent(outbox) == []

    run(main)


def test_what_changed_on_its_way_is_told_again() -> None:
    async def main() -> None:
        outbox, truth = Outbox(), Truth("t", "1")
        outbox.retain("t", truth.render)
        item = await outbox.take()
        truth.value = "2"
        outbox.retain("t", truth.render)
        outbox.delivered(item)
        assert await sent(outbox) == [("t", "2")]

    run(main)


def test_posts_of_one_topic_keep_their_order_even_when_some_did_not_arrive() -> None:
    async def main() -> None:
        outbox = Outbox()
        for number in range(5):
            outbox.post(post("t", str(number)))
        lost = [await outbox.take() for _ in range(3)]
        for item in reversed(lost):
            outbox.returned(item)
        assert await sent(outbox) == [("t", str(number)) for number in range(5)]

    run(main)


def test_of_a_retained_topic_only_one_is_on_its_way() -> None:
    async def main() -> None:
        outbox, truth = Outbox(), Truth("t", "1")
        outbox.retain("t", truth.render)
        item = await outbox.take()
        outbox.retain("t", truth.render)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(outbox.take(), 0.01)
        outbox.delivered(item)
        assert await sent(outbox) == [("t", "1")]

    run(main)


def test_a_post_does_not_wait_for_another_topic() -> None:
    async def main() -> None:
        outbox = Outbox()
        outbox.post(post("a", "1"))
        outbox.post(post("b", "2"))
        first, second = await outbox.take(), await outbox.take()
        assert {first.message.topic, second.message.topic} == {"a", "b"}

    run(main)


def test_too_many_posts_cost_the_oldest_and_are_counted() -> None:
    async def main() -> None:
        outbox, done = Outbox(max_posts=3), []
        for number in range(5):
            outbox.post(post(f"t{number}", "x"), lambda number=number: done.append(number))
        assert outbox.num_dropped == 2
        assert done == [0, 1]  # their requests need not be kept any longer
        assert [topic for topic, _ in await sent(outbox)] == ["t2", "t3", "t4"]
        assert done == [0, 1, 2, 3, 4]

    run(main)


def test_large_posts_cost_the_oldest_too() -> None:
    async def main() -> None:
        outbox = Outbox(max_bytes=100)
        for number in range(5):
            outbox.post(post("t", str(number) * 40))
        assert [text[0] for _, text in await sent(outbox)] == ["3", "4"]

    run(main)


def test_of_progress_only_the_latest_is_kept_and_none_for_later() -> None:
    async def main() -> None:
        outbox = Outbox()
        for number in range(9):
            outbox.latest(post("p", str(number)))
        assert await sent(outbox) == [("p", "8")]
        outbox.latest(post("p", "9"))
        outbox.forget_latest()
        assert await sent(outbox) == []

    run(main)


def test_holds_nothing_of_topics_that_are_done_with() -> None:
    async def main() -> None:
        outbox = Outbox()
        for number in range(1000):
            outbox.latest(post(f"p{number}", "x"))
            outbox.retain(f"s{number}", Truth(f"s{number}", "").render)
            await sent(outbox)
        assert list(outbox._retained) == []
        assert len(outbox) == 0
        held = (outbox._due, outbox._in_flight, outbox._posts)  # nothing public tells
        assert not any(held)

    run(main)


def test_a_truth_that_cannot_be_told_is_tried_again() -> None:
    async def main() -> None:
        outbox = Outbox()
        answers = iter((StoreBroken("not now"), OutgoingMessage("t", b"x")))

        async def render() -> OutgoingMessage:
            answer = next(answers)
            if isinstance(answer, StoreBroken):
                raise answer
            return answer

        outbox.retain("t", render)
        with pytest.raises(StoreBroken, match="not now"):
            await outbox.take()
        assert await sent(outbox) == [("t", "x")]

    run(main)


def test_a_truth_that_cannot_be_told_at_all_waits_for_the_next_connection() -> None:
    async def main() -> None:
        outbox = Outbox()
        answers = iter((ZeroDivisionError("a bug"), OutgoingMessage("t", b"x")))

        async def render() -> OutgoingMessage:
            answer = next(answers)
            if isinstance(answer, ZeroDivisionError):
                raise answer
            return answer

        outbox.retain("t", render)
        with pytest.raises(ZeroDivisionError):
            await outbox.take()
        assert await sent(outbox) == []
        outbox.renew()
        assert await sent(outbox) == [("t", "x")]

    run(main)
