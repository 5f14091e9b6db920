"""Topics of a node, and where answers may go."""

import pytest
from pydantic import ValidationError

from upframe.daemon.config import MqttConfig
from upframe.daemon.mqtt.topics import BadResponseTopic, Topics

TOPICS = Topics("upframe", "node1")


def test_names_all_topics_below_prefix_and_node() -> None:
    assert TOPICS.status == "upframe/node1/status"
    assert TOPICS.command("submit") == "upframe/node1/job/submit"
    assert TOPICS.state("a.b") == "upframe/node1/job/a.b/state"
    assert TOPICS.progress("a") == "upframe/node1/job/a/progress"
    assert TOPICS.reply("a") == "upframe/node1/job/a/reply"


def test_reads_its_own_topics_back() -> None:
    assert TOPICS.command_of("upframe/node1/job/query") == "query"
    assert TOPICS.command_of("upframe/node2/job/query") is None
    assert TOPICS.command_of("upframe/node1/job/query/state") is None
    assert TOPICS.named_in_state("job", TOPICS.state("a")) == "a"
    for other in ("upframe/node1/job//state", "upframe/node1/job/a/b/state", TOPICS.reply("a")):
        assert TOPICS.named_in_state("job", other) is None


def test_without_a_node_id_the_host_has_a_name_that_is_one_level() -> None:
    node = Topics.of(MqttConfig(host="broker")).node_id
    assert node
    assert not set(node) & set("/+#")


@pytest.mark.parametrize("topic", ["a", "clients/me/answers", "upframe/clients/me", "/x", "ä"])
def test_answers_may_go_to_topics_of_the_clients(topic: str) -> None:
    TOPICS.check_response(topic, b"c" * 1024)


@pytest.mark.parametrize(
    ("topic", "text"),
    [
        ("", "must be 1 to 512 bytes"),
        ("a" * 513, "must be 1 to 512 bytes"),
        ("a/+", "without wildcards"),
        ("#", "without wildcards"),
        ("a\nb", "control characters"),
        ("a\x85b", "control characters"),
        ("a\ud800b", "control characters"),
        ("a/" * 100, "at most 100 levels"),
        ("$SYS/broker", "is not for answers"),
        ("$share/a/b", "is not for answers"),
        ("upframe/node1/status", "is not for answers"),
        ("upframe/node1/job/submit", "is not for answers"),
        ("upframe/node1/anything", "is not for answers"),
        ("upframe/node1", "is not for answers"),
        ("upframe/node2/job/submit", "is not for answers"),
        ("upframe/node2/status", "is not for answers"),
        ("homeassistant/device/x/config", "is not for answers"),
    ],
)
def test_answers_may_not_go_elsewhere(topic: str, text: str) -> None:
    with pytest.raises(BadResponseTopic, match=text):
        TOPICS.check_response(topic, None)


def test_correlation_data_has_a_limit() -> None:
    with pytest.raises(BadResponseTopic, match="at most 1024 bytes, got 1025"):
        TOPICS.check_response("a", b"c" * 1025)


FEW = Topics.of(MqttConfig(host="broker", node_id="n", response_prefixes=("clients/a", "me/")))


@pytest.mark.parametrize("topic", ["clients/a", "clients/a/b/c", "me", "me/", "me/x"])
def test_answers_may_go_below_the_prefixes_of_the_configuration(topic: str) -> None:
    FEW.check_response(topic, None)


@pytest.mark.parametrize("topic", ["clients/ab", "clients", "mex", "you/me/x", "/me", "ä"])
def test_with_prefixes_answers_may_go_nowhere_else(topic: str) -> None:
    with pytest.raises(BadResponseTopic, match="is not for answers"):
        FEW.check_response(topic, None)


def test_a_prefix_opens_no_topic_of_a_node() -> None:
    wide = Topics("upframe", "node1", response_prefixes=("upframe", "homeassistant"))
    for topic in ("upframe/node1/status", "upframe/node2/status", "homeassistant/x"):
        with pytest.raises(BadResponseTopic, match="is not for answers"):
            wide.check_response(topic, None)


@pytest.mark.parametrize("prefix", ["", "#", "a/#", "+/a", "$SYS", "a\0b"])
def test_a_prefix_is_a_topic_without_wildcards(prefix: str) -> None:
    with pytest.raises(ValidationError, match="response_prefixes"):
        MqttConfig(host="broker", response_prefixes=(prefix,))
