"""The README's table of topics and its examples are held to the code."""

from __future__ import annotations

import inspect
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.jobs.mqtt_node import FILTERS

from upframe.daemon.jobs.model import Job, JobError, JobProgress, job_of
from upframe.daemon.live.status import LiveStatus
from upframe.daemon.mqtt.bridge import activity_document, event_document, progress_document
from upframe.daemon.mqtt.requests import SubmitRequest, job_answer, parse
from upframe.daemon.mqtt.topics import COMMANDS, Topics
from upframe.daemon.specification import ConversionSpec

README = (Path(__file__).parents[3] / "README.md").read_text()
TABLE = README.partition("<!-- topics of MQTT -->")[2].partition("<!-- end -->")[0]
_JSON = README.partition("<!-- examples of MQTT -->")[2].partition("<!-- end -->")[0]
EXAMPLES: dict[str, Any] = json.loads(_JSON.partition("```json")[2].partition("```")[0])
TOPICS = Topics("upframe", "node1")


def topics_of_the_code() -> set[str]:
    """Every topic of a node, without its base; what is made of an id or a name has its field."""
    found = {value for name, value in vars(TOPICS).items() if name not in ("prefix", "node_id")}
    fields = {"state": "ID", "live_state": "NAME", "progress": "ID", "reply": "ID"}
    makers = {
        name: maker
        for name, maker in inspect.getmembers(TOPICS, inspect.ismethod)
        if not name.startswith("_") and inspect.signature(maker).return_annotation == "str"
    }
    assert makers.keys() == fields.keys() | {"command"}
    found |= {makers[name](field) for name, field in fields.items()}
    found |= {TOPICS.command(command) for command in COMMANDS}
    own = {topic for topic in found if isinstance(topic, str) and topic.startswith(TOPICS.base)}
    return {topic.removeprefix(f"{TOPICS.base}/") for topic in own if "+" not in topic} - {
        TOPICS.base
    }


def test_every_topic_is_in_the_table_and_no_other() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", TABLE, re.M)
    assert sorted(rows) == sorted(topics_of_the_code())


def test_every_topic_has_an_example() -> None:
    shown = {re.sub("film-1", "ID", topic) for topic in EXAMPLES}
    shown = {topic.replace("live/gate", "live/NAME") for topic in shown}
    wanted = topics_of_the_code() - {"status"}  # which is plain text
    assert shown == {f"{TOPICS.base}/{topic}" for topic in wanted}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_requests_are_valid(command: Any) -> None:
    request = parse(command, json.dumps(EXAMPLES[TOPICS.command(command)]).encode())
    assert isinstance(request, SubmitRequest) == (command == "submit")


def failed() -> Job:
    work = ConversionSpec.model_validate({"source": "/film.mkv", "sink": "/b", "filters": FILTERS})
    job = job_of(work, id="film-1", origin="mqtt")
    error = JobError(code=65, message="empty input", retryable=False)
    return job.model_copy(
        update={"state": "failed", "error": error, "ended": datetime.now(UTC), "attempts": 1}
    )


def test_what_is_sent_has_the_keys_of_the_examples() -> None:
    job = failed()
    reply = json.loads(job_answer(job))
    shown = EXAMPLES[TOPICS.reply("film-1")]
    assert shown.keys() == reply.keys()
    assert {**shown, "data": None} == {**reply, "data": None}
    assert EXAMPLES[TOPICS.error].keys() == reply.keys()
    assert EXAMPLES[TOPICS.state("film-1")].keys() <= reply["data"].keys()
    assert {**EXAMPLES[TOPICS.event], "time": 0} == {**event_document(job), "time": 0}
    progress = progress_document(job.id, JobProgress())
    assert EXAMPLES[TOPICS.progress("film-1")].keys() == progress.keys()
    counts = dict.fromkeys(("queued", "running", "done", "failed", "cancelled"), 1)
    activity = activity_document(counts, [], [job], [])  # type: ignore[arg-type]
    assert EXAMPLES[TOPICS.activity].keys() == activity.keys()
    assert activity["last_error"] == EXAMPLES[TOPICS.activity]["last_error"]
    assert EXAMPLES[TOPICS.live_state("gate")].keys() <= LiveStatus("gate").to_json().keys()
