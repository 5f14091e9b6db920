"""What is taken as a request, and what its answer says where it is not."""

import json

import pytest
from mqtt_node import FILTERS

from upframe.daemon.mqtt.requests import (
    MAX_PAYLOAD_BYTES,
    BadRequest,
    SubmitRequest,
    parse,
    request_schemas,
)

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
        (submission(filters={}), "invalid", "no filter is enabled"),
        (submission(id="a/b"), "invalid", "id: .*match pattern"),
        (submission(id="+"), "invalid", "id: .*match pattern"),
        (submission(id="a\n"), "invalid", "id: .*match pattern"),
        (submission(id="a" * 65), "invalid", "id: .*match pattern"),
        (submission(id=".."), "invalid", "id: .*match pattern"),
        (submission(state="done"), "invalid", "state: unknown key"),
        (b'{"schema": "upframe.job/1"}', "invalid", "id: missing"),
    ],
)
def test_refuses_other_requests_and_says_why(payload: bytes, code: str, text: str) -> None:
    with pytest.raises(BadRequest, match=text) as refused:
        parse("submit", payload)
    assert refused.value.problem.code == code
    assert not refused.value.problem.retryable


def test_measures_before_it_parses() -> None:
    padded = submission() + b" " * MAX_PAYLOAD_BYTES
    with pytest.raises(BadRequest, match="at most 65536 bytes are taken, got") as refused:
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
    assert set(schemas) == {"submit", "cancel", "query"}
    assert set(GOOD) <= set(schemas["submit"]["properties"])
    assert schemas["submit"]["additionalProperties"] is False
    json.dumps(schemas)
