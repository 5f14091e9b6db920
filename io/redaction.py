"""Untrusted text made fit for people: without secrets, shortened, and on one line.

A password must not appear in a log even if its URL is malformed, so one with an unescaped ``/``,
``?``, ``@`` or space is hidden too, with too much rather than too little of what follows. Nothing
here raises, whatever the text, and the work is linear in its length.
"""

from __future__ import annotations

import json
import re
from typing import cast
from unicodedata import category

MASK = "***"

_MOST_URLS = 500  # in one text; what follows is hidden
_LONGEST_HOST = 261  # a name of 253 characters, a port, brackets
LOCATION_MAX_BYTES = 4096
"""Longest path or URL accepted anywhere, so the furthest that a secret may extend past a cut."""

_SCHEME = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+.-"
_CLOSING = "'\":,;)]}>"
"""Of the text around a URL, if a URL ends with it."""
_SEPARATOR = re.compile(r"(:\\?/(?:\\?/|(?!\s)))")
"""Also ``:/``, which Path makes of it, and its escaped form in JSON."""
_NO_PATH = re.compile(r"[\s?&;]")
_WORD = re.compile(r"\S*+")
_AUTHORITY = re.compile(r"[^\s/?#]*+")
_IPV6 = re.compile(r"\[[0-9A-Fa-f:.%]*+\][\d:]*+")
_PORT = re.compile(r"\d{0,5}+[:'\",;.)\]}>|…]*+")
_LINE_END = re.compile(r"[\r\n]")
_PUBLISHED = ("rtmp", "rtmps", "rtmpt", "rtmpts", "rtmpe", "rtmpte", "whip", "whips")
"""Schemes of which everything after the host is hidden: their paths are passwords."""

_PARAMETER = re.compile(
    r"([?&;#])(?!(?:mode|latency|transtype|pkt_size|transport|timeout|channel|subtype|profile|codec"
    r"|width|height|fps|resolution|format|listen|ttl|fifo_size|buffer_size|overrun_nonfatal"
    r"|real_stream)(?:=[\w.-]{0,24})?(?:[&;]|[:',)]{0,3}\Z))([^?&;#=\"]*+)(=?+)[^&;\"]*+"
)
"""A parameter of a query, except those known to be harmless."""
_QUERY = re.compile(r"\?[\w.%\[\]-]{0,64}=[^\s\"]*+")
_NAMED = re.compile(
    r"((?:(?<![a-z])(?:pass|pw|sig)|passw(?:or)?d|passphrase|passcode|pwd|secret|token|signature|key"
    r"|credentials?|jwt|auth|authori[sz]ation|streamid|playpath)"
    r"(?:[_.-]?(?:id|hash|value|\d{1,3}))?(?:\[\w{0,32}\]|%5b\w{0,32}%5d)? {0,2}= {0,2})"
    r"(?:\"(?![\s,:}\]]|\Z)[^\"\r\n]*+\"?|'[^'\r\n]*+'?)?+[^\s&;\"]*+",
    re.IGNORECASE,
)
"""A secret by its name, in any text."""
_JOINERS = "\u200c\u200d"  # of the category Cf, but parts of names and of emoji
_MOVING = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Categories of invisible characters; wide spaces, and emoji newer than this Python, are kept."""
_MOST_PASSES = 5


def redacted(text: str, *, published: bool = False) -> str:
    """Replace the secrets in a text by ``***``; redacted text stays unchanged.

    In URLs that is user and password, and the query's values except harmless ones; if something is
    `published` there, as always by RTMP and WHIP, everything after the host. Elsewhere it is values
    whose name suggests a secret, as in ``token=…``.
    """
    for _ in range(_MOST_PASSES):  # hiding something may change how the rest is parsed
        before, text = text, _redacted_once(text, published)
        if before == text:
            break
    return text


def _redacted_once(text: str, published: bool) -> str:
    first, *rests = _SEPARATOR.split(text, _MOST_URLS)
    parts = [first]
    if len(rests) == 2 * _MOST_URLS:
        rests[-1] = MASK
    scheme, hiding = first[len(first.rstrip(_SCHEME)) :], False
    for index in range(0, len(rests), 2):
        separator, rest = rests[index : index + 2]
        last = index + 2 == len(rests)
        body = rest if last else rest.rstrip(_SCHEME)
        following = rest[len(body) :]
        if hiding:  # a secret that contains "://" continues
            shown = body[_end(_WORD, body) :]
            hiding = not last and not shown
            if parts[-1].endswith(f":{MASK}") and (at := _at(shown.partition("\n")[0])) >= 0:
                parts[-1], shown = MASK, shown[at:]
        else:
            parts.append(separator)
            is_target = published or scheme.lower() in _PUBLISHED
            shown, hiding = _redacted_url(body, is_target, last=last)
        parts += ([shown] if shown else []) + ([] if hiding else [following])
        scheme = following
    text = _QUERY.sub(lambda query: _PARAMETER.sub(_hidden_parameter, query[0]), "".join(parts))
    is_path = text[:1] == "/" and not _NO_PATH.search(text)
    return text if is_path else _NAMED.sub(rf"\g<1>{MASK}", text)


def redacted_target(target: str) -> str:
    """Redact the target of a publication: of a URL only the host is kept."""
    if "://" not in target or target.lower().startswith("file:"):
        return redacted(target)
    return redacted("".join(target.split()), published=True)


def redacted_values(value: object) -> object:
    """Redact every string in a JSON value, except keys; escape what UTF-8 cannot hold."""
    if isinstance(value, str):
        return redacted(value).encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        items = cast("dict[str, object]", value).items()
        return {key: redacted_values(item) for key, item in items}
    if isinstance(value, list | tuple):
        return [redacted_values(item) for item in cast("list[object]", value)]
    return value


def json_text(value: object, indent: int | None = 2) -> str:
    """Return JSON without secrets, in printable ASCII."""
    return json.dumps(redacted_values(value), indent=indent).replace("\x7f", "\\u007f")


def excerpt(text: str, characters: int = 200, *, published: bool = False) -> str:
    """Shorten and redact an untrusted text, such as a tag; no part of a secret is left."""
    seen = text[: characters + LOCATION_MAX_BYTES]
    before, found, _ = seen.rpartition(":/")
    if found and len(seen) < len(text):  # its end is not seen
        seen = f"{before}{found}{MASK}"
    safe = redacted(seen, published=published)
    whole = len(safe) <= characters and len(seen) == len(text)
    return safe if whole else f"{safe[:characters]}…"


def printable(text: str) -> str:
    r"""Escape what would move, color or end the printed line, such as ``\x1b`` and ``\n``."""
    if text.isprintable():
        return text
    return "".join(
        repr(c)[1:-1] if category(c) in _MOVING and c not in _JOINERS else c for c in text
    )


def one_line(text: object, characters: int = 8192) -> str:
    """Return a text for a print or a log: shortened, without secrets, on one line."""
    return printable(excerpt(str(text), characters))


def _end(pattern: re.Pattern[str], text: str) -> int:
    match = pattern.match(text)
    return match.end() if match else 0


def _at(text: str) -> int:
    """Return the index of the last ``@`` that may end user and password, or -1.

    That of ``[rtsp @ 0x5581]`` does not count.
    """
    at = text.rfind("@")
    while 0 <= at < len(text) - 1 and text[at + 1].isspace():
        at = text.rfind("@", 0, at)
    return at


def _redacted_url(rest: str, is_target: bool, *, last: bool) -> tuple[str, bool]:
    """Redact what follows the ``://`` of one URL; return also whether it ends within a secret."""
    end = _LINE_END.search(rest)
    rest, lines = (rest[: end.start()], rest[end.start() :]) if end else (rest, "")
    rest = _without_user(rest, closed=last or bool(lines))
    word = rest[: _end(_WORD, rest)]
    is_cut = not last and len(word) == len(rest) and not lines
    core = word if is_cut else word.rstrip(_CLOSING)
    host = core[: _end(_AUTHORITY, core)]
    behind = core[len(host) :]
    if not is_target:
        behind = _PARAMETER.sub(_hidden_parameter, behind)
    elif len(behind) > 1:
        behind = f"/{MASK}" if host else MASK
    hiding = is_cut and f"{host}{behind}".endswith(MASK)
    return f"{host}{behind}{word[len(core) :]}{rest[len(word) :]}{lines}", hiding


def _hidden_parameter(match: re.Match[str]) -> str:
    separator, name, equals = match.groups()
    return f"{separator}{name}={MASK}" if equals else f"{separator}{MASK if name else ''}"


def _without_user(rest: str, *, closed: bool) -> str:
    """Hide user and password; `closed`: no further ``://`` follows that is part of them."""
    word = rest[: _end(_WORD, rest)]
    host = rest[: _end(_AUTHORITY, rest)]
    is_done = rest.startswith(f"{MASK}@") or (word == host and host.endswith(f":{MASK}"))
    if is_done or _IPV6.fullmatch(host):
        return rest
    plain = host.lower().replace("%3a", ":").replace("%40", "@")
    within = rest if ":" in plain or "@" in plain else word
    if (at := _at(within)) >= 0:  # udp://@239.0.0.1 has no user
        return f"{MASK}{rest[at:]}" if at or not closed else rest
    if "@" in plain:
        return f"{MASK}@{rest[host.lower().rfind('%40') + 3 :]}"
    name, colon, port = plain.partition(":")
    if len(host) > _LONGEST_HOST:
        return f"{MASK}{rest[len(word) :]}"
    if colon and (not _PORT.fullmatch(port) or not (port or closed or len(host) < len(rest))):
        return f"{host[: len(name)]}:{MASK}{rest[len(word) :]}"
    return rest
