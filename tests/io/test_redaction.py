"""Passwords of URLs go, whatever the URL looks like, and nothing else does."""

import json

import pytest

from upframe.io.redaction import redacted, redacted_values


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("rtsp://admin:s3cret@cam/1", "rtsp://admin:***@cam/1"),
        ("rtsp://admin:s3cret@cam:554/1?a=b", "rtsp://admin:***@cam:554/1?a=b"),
        ("rtsp://:s3cret@cam", "rtsp://:***@cam"),
        ("rtsp://admin:p@s3cret@cam/1", "rtsp://admin:***@cam/1"),
        ("rtsp://admin:s3%40cret@cam/1", "rtsp://admin:***@cam/1"),
        ("rtsp://admin%3As3cret@cam/1", "rtsp://admin%3A***@cam/1"),
        ("rtsp://admin:s3cret@[::1]:554/1", "rtsp://admin:***@[::1]:554/1"),
        # typed wrongly, and yet in a log
        ("rtsp://admin:s3/cret@cam/1", "rtsp://admin:***@cam/1"),
        ("rtsp://admin:s3?cret@cam/1", "rtsp://admin:***@cam/1"),
        ("rtsp://admin:s3#cret@cam/1", "rtsp://admin:***@cam/1"),
        ("rtsp://admin:p@s3/cret@cam/1", "rtsp://admin:***@cam/1"),
        # inside other text, as FFmpeg and Python write it
        ("'rtsp://a:s3cret@cam/1': Connection refused", "'rtsp://a:***@cam/1': Connection refused"),
        ("from http://a:s3cret@b/c to srt://d:s3cret@e", "from http://a:***@b/c to srt://d:***@e"),
        ("concat:http://a:s3cret@b|http://c:s3cret@d", "concat:http://a:***@b|http://c:***@d"),
        ("HTTPS://A:s3cret@B/", "HTTPS://A:***@B/"),
        ("http://proxy:80/http://a:s3cret@b/", "http://proxy:80/http://a:***@b/"),
        # in the query
        ("http://cam/v?user=a&password=s3cret&n=1", "http://cam/v?user=a&password=***&n=1"),
        ("http://cam/v?access_token=s3cret", "http://cam/v?access_token=***"),
        ("http://cam/v?X-Api-Key=s3cret#top", "http://cam/v?X-Api-Key=***"),
        ("rtsp://cam/user=a_password=s3cret_channel=1", "rtsp://cam/user=a_password=***"),
        ("https://b/v?X-Amz-Signature=s3cret&e=1", "https://b/v?X-Amz-Signature=***&e=1"),
    ],
)
def test_takes_the_password_and_leaves_the_rest(text: str, wanted: str) -> None:
    assert redacted(text) == wanted
    assert "s3" not in wanted
    assert "cret" not in wanted
    assert redacted(wanted) == wanted  # also what was redacted already


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/srv/video/in:put@home.mkv",
        "rtsp://cam:554/stream",
        "rtsp://cam:554: Connection refused",
        "rtsp://admin@cam/1",
        "http://host/a:b@c",
        "http://[::1]:8080/a@b",
        "http://host/v?author=me&n=1",
        "frame 3: expected 8 bytes, mail me@home: now",
    ],
)
def test_leaves_what_has_no_password(text: str) -> None:
    assert redacted(text) == text


def test_what_was_json_is_so_afterwards() -> None:
    urls = ["http://h/?password=s3cret", "rtsp://u:s3cret@h", "http://h/?a=1&token=s3cret"]
    once = redacted(json.dumps(urls))
    assert json.loads(once) == json.loads(redacted(once)) == [redacted(url) for url in urls]


def test_redacts_every_string_of_a_document() -> None:
    document = {"a": ["rtsp://u:s3cret@h", {"b": "http://u:s3cret@h/", "n": 1}], "c": None}
    assert redacted_values(document) == {
        "a": ["rtsp://u:***@h", {"b": "http://u:***@h/", "n": 1}],
        "c": None,
    }
