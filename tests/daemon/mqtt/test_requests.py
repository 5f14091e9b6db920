"""What is taken as a request, and what its answer says where it is not."""

import json
import operator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from support.jobs.mqtt_node import FILTERS

from upframe.daemon.config import JobsConfig
from upframe.daemon.jobs.model import Job, job_of
from upframe.daemon.jobs.store import row_of
from upframe.daemon.mqtt.requests import (
    MAX_PAYLOAD_BYTES,
    BadRequest,
    Refused,
    SubmitRequest,
    confined_work,
    parse,
    request_schemas,
    with_id,
)
from upframe.daemon.specification import ConversionSpec
from upframe.filters.options import FilterOptions
from upframe.io.encode.options import EncoderOptions

GOOD = {
    "schema": "upframe.job/1",
    "id": "a-1",
    "source": "/v/a.mkv",
    "sink": "/v/b.mkv",
    "filters": FILTERS,
}


def submission(**changes: object) -> bytes:
    return json.dumps(GOOD | changes).encode()


def test_reads_the_documented_request() -> None:
    payload = b"""{"schema": "upframe.job/1", "id": "x", "source": "/a", "sink": "/b",
        "filters": {"enable_frame_interpolation": true, "frame_interpolation_exp": 1},
        "encoder": {"codec": "libx264", "crf": 18}, "priority": 5}"""
    request = parse("submit", payload)
    assert isinstance(request, SubmitRequest)
    assert (request.id, request.priority, request.encoder.crf) == ("x", 5, 18)


def test_takes_a_later_minor_version_of_the_schema() -> None:
    assert parse("cancel", b'{"schema": "upframe.job/1.4", "id": "x"}').id == "x"


@pytest.mark.parametrize("command", ["cancel", "retry", "query"])
@pytest.mark.parametrize(
    "payload", [b"film-1", b'{"id": "film-1"}', b'{"schema": "upframe.job/1", "id": "film-1"}']
)
def test_an_id_alone_names_a_job(command: Any, payload: bytes) -> None:
    request = parse(command, payload)
    assert (request.id, request.schema_) == ("film-1", "upframe.job/1")


@pytest.mark.parametrize(("command", "state"), [("cancel", "running"), ("retry", "failed")])
def test_a_state_stands_for_all_its_jobs(command: Any, state: str) -> None:
    request = parse(command, json.dumps({"state": state}).encode())
    assert (request.id, request.state) == (None, state)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("command", "payload", "text"),
    [
        ("cancel", b"{}", "must have an id or a state"),
        ("cancel", b'{"id": "a", "state": "running"}', "must have an id or a state"),
        ("cancel", b'{"state": "failed"}', "state: cancel takes running"),
        ("retry", b'{"state": "running"}', "state: retry takes failed"),
        ("query", b'{"state": "failed"}', "state: query takes none"),
        ("cancel", b'{"state": "done"}', "state: "),
        ("cancel", b'{"id": "a", "schema": "upframe.job/2"}', "supported is upframe.job/1"),
        ("cancel", b"a/b", "must be JSON"),
        ("cancel", b"a\n", "must be JSON"),
    ],
)
def test_what_names_no_job_is_refused(command: Any, payload: bytes, text: str) -> None:
    with pytest.raises(BadRequest, match=text):
        parse(command, payload)


def test_a_submission_may_have_no_id_and_gets_one() -> None:
    payload = json.dumps({name: value for name, value in GOOD.items() if name != "id"}).encode()
    assert parse("submit", payload).id is None
    named = parse("submit", with_id(payload, "film-1"))
    assert named == parse("submit", submission(id="film-1"))
    assert "id" not in request_schemas()["submit"]["required"]


@pytest.mark.parametrize(
    ("payload", "code", "text"),
    [
        (b"", "malformed", "must be JSON: EOF"),
        (b"no", "malformed", "must be JSON"),
        (b"\xff\xfe{}", "malformed", "must be UTF-8: invalid start byte at 0"),
        (b'{"id": "\xed\xa0\x80"}', "malformed", "must be UTF-8"),
        (b'{"id": "\\ud800"}', "malformed", "must be JSON"),
        (b"\xef\xbb\xbf{}", "malformed", "must be JSON"),
        (b"[" * 60_000, "malformed", "recursion limit"),
        (b"1" * 60_000, "malformed", "out of range"),
        (b'{"a": NaN}', "malformed", "must be JSON"),
        (b"null", "malformed", "must be a JSON object, got NoneType"),
        (b"[]", "malformed", "must be a JSON object, got list"),
        (b"{}", "unsupported_schema", "schema: got none, supported is upframe.job/1"),
        (submission(schema="upframe.job/2"), "unsupported_schema", "supported is upframe.job/1"),
        (submission(schema="upframe.job/1\n"), "unsupported_schema", "supported is upframe.job/1"),
        (submission(schema=1), "unsupported_schema", "got 1"),
        (submission(sauce="/x"), "invalid", "sauce: unknown key"),
        (submission(filters=FILTERS | {"x": 1}), "invalid", "filters.x: unknown key"),
        (submission(encoder={"crf": "18"}), "invalid", "encoder.crf: .*valid number, got '18'"),
        (submission(priority="1"), "invalid", "priority: .*valid integer, got '1'"),
        (submission(priority=1.5), "invalid", "priority: .*integer"),
        (submission(priority=10**30), "invalid", "priority: .*less than or equal to 1000"),
        (submission(source=None), "invalid", "source: .*valid string"),
        (submission(source=""), "invalid", "source: .*at least 1 character"),
        (submission(filters={}), "invalid", "filters: none is enabled"),
        (submission(id="a/b"), "invalid", "id: .*match pattern"),
        (submission(id="+"), "invalid", "id: .*match pattern"),
        (submission(id="a\n"), "invalid", "id: .*match pattern"),
        (submission(id="a" * 65), "invalid", "id: .*match pattern"),
        (submission(id=".."), "invalid", "id: .*match pattern"),
        (submission(state="done"), "invalid", "state: unknown key"),
        (b'{"schema": "upframe.job/1"}', "invalid", "source: missing"),
        (b"film-1", "malformed", "must be JSON"),
    ],
)
def test_refuses_other_requests_and_says_why(payload: bytes, code: str, text: str) -> None:
    with pytest.raises(BadRequest, match=text) as refused:
        parse("submit", payload)
    assert refused.value.problem.code == code
    assert not refused.value.problem.retryable


def test_measures_before_it_parses() -> None:
    padded = submission() + b" " * MAX_PAYLOAD_BYTES
    with pytest.raises(BadRequest, match="at most 65536 bytes are accepted, got") as refused:
        parse("submit", padded)
    assert refused.value.problem.code == "too_large"
    assert parse("submit", padded[:MAX_PAYLOAD_BYTES]).id == "a-1"


def test_knows_the_id_of_a_refused_request() -> None:
    with pytest.raises(BadRequest) as refused:
        parse("submit", submission(schema="upframe.job/9"))
    assert refused.value.job_id == "a-1"
    with pytest.raises(BadRequest) as refused:
        parse("submit", submission(id="a/b"))
    assert refused.value.job_id is None


def test_lists_a_few_problems_only() -> None:
    with pytest.raises(BadRequest, match=r"and 15 more$"):
        parse("submit", submission(**{f"key{n}": 1 for n in range(20)}))


def test_a_refusal_tells_no_password() -> None:
    with pytest.raises(BadRequest) as refused:
        parse("submit", submission(sink=["rtsp://u:s3cret@h/"], priority="rtsp://u:s3cret@h/"))
    assert "s3cret" not in refused.value.problem.message
    assert "***" in refused.value.problem.message


def test_the_schema_describes_what_is_taken() -> None:
    schemas = request_schemas()
    assert set(schemas) == {"submit", "cancel", "query", "retry"}
    assert set(GOOD) <= set(schemas["submit"]["properties"])
    assert schemas["submit"]["additionalProperties"] is False
    json.dumps(schemas)


# Whatever is sent, it is a request or it is refused: no other error comes of it.

ROOTED = GOOD | {"source": "/tmp/a.mkv", "sink": "/tmp/b.mkv"}
JOBS = JobsConfig(roots=(Path("/tmp"),), allowed_schemes=("file", "rtsp", "http", "https"))
_ODD = st.text(alphabet="/:@[]%?#*.~\\ \0\n\r\t\x1b0aZé٣\ufeff\u2028\ud800\U0001f600", max_size=24)
_NAMES = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["", "/tmp", "/", "file", "file:", "FILE", "rtsp", "http", "é", "1"]),
        st.sampled_from(["", "/", ":", "://", "://[", "://localhost/", ":///tmp/", "%00", "%05d"]),
        _ODD | st.text(max_size=12),
        st.sampled_from(["", "/", "]", ".mkv", "%0" + "9" * 50 + "d", "x" * 5000]),
    ),
)
_NUMBERS = (
    st.integers()
    | st.floats()
    | st.sampled_from([2**31, 2**63, -(2**63) - 1, 10**400, -1, 0, 1e308])
)
_TEXTS = _NAMES | _ODD | st.text() | st.sampled_from(["9" * 5000, "٣", "0", "1/0", "1e5", "∞"])
_VALUES = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=6,
)


def _documents(
    model: type[BaseModel], known: dict[str, st.SearchStrategy[Any]]
) -> st.SearchStrategy[dict[str, Any]]:
    """Documents with some keys of a model, and seldom one that it has not."""
    keys = {name: known.get(name, _VALUES) for name in model.model_fields.keys() - {"schema_"}}
    odd = st.just({}) | st.dictionaries(_ODD, _VALUES, max_size=1)
    return st.builds(operator.or_, odd, st.fixed_dictionaries({}, optional=keys))


_FILTERS = _documents(FilterOptions, {"enable_upscaling": st.just(True)})
_SUBMISSIONS = _documents(
    SubmitRequest,
    {
        "id": st.just("a") | _TEXTS,
        "source": _NAMES | _VALUES,
        "sink": _NAMES | _VALUES,
        "filters": st.just(FILTERS) | _FILTERS | _VALUES,
        "encoder": _documents(EncoderOptions, {}) | _VALUES,
    },
)


def accepted(payload: bytes) -> Job:
    """Do all that is done with a request before it is stored.

    Raises:
        BadRequest, Refused: and nothing else, whatever it is.
    """
    request = parse("submit", payload)
    assert isinstance(request, SubmitRequest)
    given = {name: getattr(request, name) for name in ConversionSpec.model_fields}
    work = confined_work(ConversionSpec.model_validate(given), JOBS)
    return job_of(work, id=request.id, origin="mqtt", priority=request.priority)


def check_whole_or_refused(payload: bytes) -> None:
    try:
        job = accepted(payload)
    except (BadRequest, Refused):
        return
    assert row_of(job)["id"] == job.id
    assert job.framerate is None or Fraction(job.framerate) > 0


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(_SUBMISSIONS)
def test_any_document_is_a_request_or_refused(document: dict[str, Any]) -> None:
    document = {**ROOTED, **document}
    check_whole_or_refused(json.dumps(document).encode())
    try:
        raw = json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")
    except UnicodeEncodeError:
        return
    check_whole_or_refused(raw)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(min_value=0, max_value=200))
def test_any_bytes_are_refused(noise: bytes, place: int) -> None:
    whole = json.dumps(ROOTED).encode()
    check_whole_or_refused(noise)
    check_whole_or_refused(whole[:place] + noise + whole[place:])
    check_whole_or_refused(whole[:place] + noise)


@pytest.mark.parametrize(
    "changes",
    [
        {"source": "file://[/x"},
        {"source": "file:///" + "%ff"},
        {"source": "://x"},
        {"framerate": "9" * 5000},
        {"framerate": "1/" + "9" * 5000},
        {"framerate": "٣"},
        {"id": "r2 ://"},
        {"encoder": {"crf": 10**300}},
        {"filters": {"enable_upscaling": True, "upscaling_tile": 10**30}},
        {"filters": {"enable_upscaling": True, "upscaling_model_path": "://"}},
    ],
)
def test_what_nobody_can_make_sense_of_is_refused_at_once(changes: dict[str, Any]) -> None:
    with pytest.raises((BadRequest, Refused)):
        accepted(json.dumps(ROOTED | changes).encode())
