"""Secrets in URLs, taken out of every text that leaves the daemon: logs, topics, answers, reports.

A password stands before the last ``@`` of the authority (RFC 3986, 3.2.1), or in the query under a
name that says so. Who types a URL wrongly shall not find the password in a log either, so a
password with an unescaped ``/``, ``?`` or ``@`` in it goes too, rather with too much than too
little of what is behind it.
"""

from __future__ import annotations

import re
from typing import cast

MASK = "***"

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SPACE = re.compile(r"\s")
_COLON = re.compile(r":|%3A", re.IGNORECASE)
_PORT = re.compile(r":(\d*)$|^\[")
_SECRET_PARAMETER = re.compile(
    r"(?P<name>[?&;/_,#](?:[\w-]*?(?:pass(?:wor[dt]|wd|phrase|code)?|pwd|secret|token|signature"
    r"|sig|api[_-]?key|credentials?|auth))=)(?P<value>[^&;\s\"]+)",
    re.IGNORECASE,
)


def redacted(text: str) -> str:
    """Replace the passwords of all URLs in a text by ``***``; everything else stays."""
    if "://" not in text:
        return text
    done = 0
    parts: list[str] = []
    schemes = list(_SCHEME.finditer(text))
    limits = [*(match.start() for match in schemes[1:]), len(text)]
    for scheme, limit in zip(schemes, limits, strict=True):
        end = _SPACE.search(text, scheme.end(), limit)
        parts.append(text[done : scheme.end()])
        done = end.start() if end else limit
        parts.append(_redacted_rest(text[scheme.end() : done]))
    return "".join((*parts, text[done:]))


def redacted_values(value: object) -> object:
    """Redact every string in a JSON value, however deep; keys are left as they are."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        items = cast("dict[str, object]", value).items()
        return {key: redacted_values(item) for key, item in items}
    if isinstance(value, list | tuple):
        return [redacted_values(item) for item in cast("list[object]", value)]
    return value


def _redacted_rest(rest: str) -> str:
    """Redact what follows the ``://`` of one URL."""
    return _SECRET_PARAMETER.sub(rf"\g<name>{MASK}", _without_password(rest))


def _without_password(rest: str) -> str:
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    colon = _COLON.search(authority)
    if colon is None:
        return rest
    if "@" in authority:
        end = re.split(r"[?#]", rest, maxsplit=1)[0].rfind("@")
    elif _PORT.search(authority):  # a host with its port, no user before it
        return rest
    else:  # the password itself has a "/", "?" or "#"
        end = rest.rfind("@")
    if end < colon.end():
        return rest
    return f"{rest[: colon.end()]}{MASK}{rest[end:]}"
