"""No pattern of the product takes more than linear time: a foreign text may be made to cost it.

A repeat without bound that fails gives back one character after the other. Two of them that may
share characters, one within another or one behind another, cost the square, and so does one that a
search may begin anywhere in. What is possessive gives nothing back, but a search begins in it too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

_parser: Any = re._parser  # type: ignore[attr-defined]  # pyright: ignore
_c: Any = re._constants  # type: ignore[attr-defined]  # pyright: ignore

HOME = Path(__file__).parents[1]
CALLS = {"compile", "match", "search", "fullmatch", "sub", "subn", "split", "findall", "finditer"}
AT_START = {"match", "fullmatch"}
UNBOUNDED = 65
"""Repeats, of which so many cost as if there were no bound."""
SAMPLES = frozenset(map(chr, (*range(256), 0x17F, 0x212A, 0x2028, 0x4E2D)))
"""A set of characters is known by those of these that it takes."""

LISTED = {
    r"CUDA.*(?:illegal|misaligned|launch failure|invalid program|assert|stack error|timed out)": (
        "the text is the CUDA runtime's own, of a few lines"
    ),
}
"""Patterns that may be otherwise, each with the reason."""


@dataclass(frozen=True)
class Used:
    """A pattern, and whether it is searched for anywhere in a text."""

    where: str
    text: str
    flags: int
    searched: bool


def patterns() -> Iterator[Used]:
    """Find every pattern in the product's code."""
    for room in ("daemon", "io", "filters"):
        for path in sorted((HOME / room).rglob("*.py")):
            yield from _patterns_of(ast.parse(path.read_text()), str(path.relative_to(HOME)))


def _patterns_of(tree: ast.Module, path: str) -> Iterator[Used]:
    methods: dict[str, set[str]] = {}
    names: dict[int, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            methods.setdefault(node.value.id, set()).add(node.attr)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            names[id(node.value)] = node.targets[0].id
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner, call = node.func.value, node.func.attr
        if not (isinstance(owner, ast.Name) and owner.id == "re" and call in CALLS):
            continue
        # a compiled pattern is used as its name is; where that is not seen, in every way
        used = methods.get(names.get(id(node), ""), {"search"}) if call == "compile" else {call}
        flags = [part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)]
        number = sum(getattr(re, flag).value for flag in set(flags) if flag.isupper())
        for text in _texts_of(node.args[0], tree):
            yield Used(f"{path}:{node.lineno}", text, number, searched=bool(used - AT_START))


def _texts_of(node: ast.expr, tree: ast.Module) -> Iterator[str]:
    """Give the text of a pattern; what is put into one stands for any characters."""
    if isinstance(node, ast.Constant):
        value = node.value
        yield value.decode("latin-1") if isinstance(value, bytes) else str(value)
    elif isinstance(node, ast.JoinedStr):
        parts = (str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        yield "".join(parts)
    else:  # from a table in the same module: its strings
        assert isinstance(node, ast.Name), ast.dump(node)
        for part in ast.walk(tree):
            if isinstance(part, ast.Tuple) and len(part.elts) == 2:
                last = part.elts[1]
                if isinstance(last, ast.Constant) and isinstance(last.value, str):
                    yield last.value


Set = frozenset[str]


def faults_of(text: str, flags: int = 0, *, searched: bool) -> list[str]:
    """Say what in a pattern may cost more than linear time."""
    return list(_Judge(flags).sequence(list(_parser.parse(text, flags)), [], searched=searched))


class _Judge:
    def __init__(self, flags: int) -> None:
        self._flags = flags & ~int(re.VERBOSE)

    def sequence(self, given: list[Any], tail: list[Any], *, searched: bool) -> Iterator[str]:
        """Judge items that follow each other; of the tail, only what it does to them."""
        items = list(self.flat(given))
        own = len(items)
        items += tail
        open_sets: list[Set] = []
        before: list[Set] = []
        for index, item in enumerate(items):
            takes = self.takes(item)
            behind = items[index + 1 :]
            if index < own:
                for inner in self.inner(item):
                    yield from self.sequence(inner, behind, searched=False)
            if self.is_unbounded(item):
                if item[0] is not _c.POSSESSIVE_REPEAT:
                    if any(takes & other for other in open_sets):
                        yield "two repeats that share characters follow each other"
                    open_sets.append(takes)
                if index < own:
                    yield from self.repeat(item)
                    fails = not all(map(self.can_be_empty, behind))
                    if searched and fails and all(takes & other for other in before):
                        yield "a search begins anywhere in a repeat that may fail"
            if not self.can_be_empty(item):
                open_sets = [other for other in open_sets if other & takes]
                before.append(takes)

    def flat(self, items: Any) -> Iterator[Any]:
        """Take groups for what is in them."""
        for item in items:
            if item[0] is _c.SUBPATTERN:
                yield from self.flat(item[1][3])
            else:
                yield item

    def repeat(self, item: Any) -> Iterator[str]:
        """Judge what is repeated without bound: only one way may lead through it."""
        code, (_, _, given) = item
        body = list(self.flat(given))
        if code is _c.POSSESSIVE_REPEAT and len(body) == 1:
            return
        first = self.first(body)
        for part in self.all_parts(body):
            repeats = part[0] in (_c.MAX_REPEAT, _c.MIN_REPEAT) and part[1][0] != part[1][1]
            if repeats and (self.takes(part) & first or self.can_be_empty(body[-1])):
                yield "a repeat within a repeat"
            if part[0] is _c.BRANCH:
                firsts = [self.first(branch) for branch in part[1][1]]
                if any(a & b for i, a in enumerate(firsts) for b in firsts[i + 1 :]):
                    yield "a choice within a repeat whose branches begin alike"

    def inner(self, item: Any) -> Iterator[list[Any]]:
        code, value = item
        if code is _c.BRANCH:
            yield from (list(branch) for branch in value[1])
        elif code in (_c.MAX_REPEAT, _c.MIN_REPEAT, _c.POSSESSIVE_REPEAT):
            if any(part[0] not in (_c.IN, _c.LITERAL, _c.ANY) for part in value[2]):
                yield list(value[2])
        elif code in (_c.ASSERT, _c.ASSERT_NOT):
            yield list(value[1])
        elif code is _c.ATOMIC_GROUP:
            yield list(value)

    def all_parts(self, items: Any) -> Iterator[Any]:
        for item in self.flat(items):
            yield item
            for inner in self.inner(item):
                yield from self.all_parts(inner)

    def is_unbounded(self, item: Any) -> bool:
        code, value = item
        repeats = (_c.MAX_REPEAT, _c.MIN_REPEAT, _c.POSSESSIVE_REPEAT)
        return code in repeats and int(value[1]) >= UNBOUNDED and value[0] != value[1]

    def can_be_empty(self, item: Any) -> bool:
        code, value = item
        if code in (_c.MAX_REPEAT, _c.MIN_REPEAT, _c.POSSESSIVE_REPEAT):
            return value[0] == 0 or all(map(self.can_be_empty, value[2]))
        if code is _c.SUBPATTERN:
            return all(map(self.can_be_empty, value[3]))
        if code is _c.ATOMIC_GROUP:
            return all(map(self.can_be_empty, value))
        if code is _c.BRANCH:
            return any(all(map(self.can_be_empty, branch)) for branch in value[1])
        return False  # an end or a look-ahead takes nothing, and may fail

    def takes(self, item: Any) -> Set:
        """Tell which characters may be anywhere in what an item matches."""
        code, value = item
        if code in (_c.AT, _c.ASSERT, _c.ASSERT_NOT, _c.GROUPREF):
            return SAMPLES if code is _c.GROUPREF else frozenset()
        inner = [list(value[3])] if code is _c.SUBPATTERN else [*self.inner(item)]
        if not inner and code in (_c.MAX_REPEAT, _c.MIN_REPEAT, _c.POSSESSIVE_REPEAT):
            inner = [list(value[2])]
        if inner:
            parts = (part for items in inner for part in items)
            return SAMPLES & {char for part in parts for char in self.takes(part)}
        return SAMPLES & {char for char in SAMPLES if self.matches(item, char)}

    def first(self, items: Any) -> Set:
        found: Set = frozenset()
        for item in items:
            found |= self.takes(item)
            if not self.can_be_empty(item):
                break
        return found

    def matches(self, item: Any, char: str) -> bool:
        code, value = item
        folded = {char, char.lower(), char.upper()} if self._flags & re.I else {char}
        if code is _c.ANY:
            return char != "\n" or bool(self._flags & re.S)
        if code is _c.LITERAL:
            return value in map(ord, (one for one in folded if len(one) == 1))
        if code is _c.NOT_LITERAL:
            return ord(char) != value
        assert code is _c.IN, code
        hit = any(self.within(part, one) for part in value for one in folded)
        return hit is not (value[0][0] is _c.NEGATE)

    def within(self, part: Any, char: str) -> bool:
        code, value = part
        if code is _c.LITERAL:
            return ord(char[0]) == value
        if code is _c.RANGE:
            return value[0] <= ord(char[0]) <= value[1]
        if code is _c.CATEGORY:
            letter = {"DIGIT": "d", "SPACE": "s", "WORD": "w"}[str(value).rsplit("_", 1)[1]]
            if "NOT_" in str(value):
                letter = letter.upper()
            return re.match(rf"\{letter}", char, self._flags & re.ASCII) is not None
        return False


USED = list(patterns())


def test_the_patterns_are_found() -> None:
    assert len(USED) > 60
    assert {"io/redaction.py", "daemon/watch/scan.py"} <= {
        used.where.split(":")[0] for used in USED
    }


@pytest.mark.parametrize("used", USED, ids=lambda used: used.where)
def test_every_pattern_takes_linear_time(used: Used) -> None:
    faults = faults_of(used.text, used.flags, searched=used.searched)
    assert not faults or used.text in LISTED, (used.text, faults)


def test_what_is_listed_is_still_there_and_needs_it() -> None:
    for text in LISTED:
        found = [used for used in USED if used.text == text]
        assert any(faults_of(text, used.flags, searched=used.searched) for used in found), text


@pytest.mark.parametrize(
    "text",
    [
        r"(a+)+b", r"(a*b?)*c", r"(?:a|a)*b", r"(\w|\d)+$", r"a*a*b", r"\w+\s*\w+$",
        r"(?:a{1,9})*b", r"[\w-]*?(?:token|auth)=", r"\s+$", r"[A-Za-z][A-Za-z0-9+.-]*://",
        r"[a-z]*+x", r"x.{0,99}y",
        r"#[^\n]*!", r"(a*)(b*)(a*)c", r"(?=a*a*b)c", r"(x(y*))z?y*!",
    ],
)  # fmt: skip
def test_knows_what_costs_more(text: str) -> None:
    assert faults_of(text, searched=True)


@pytest.mark.parametrize(
    "text",
    [
        r"[^A-Za-z]+", r"\d+", r"a*b*", r"<[^<>]*>", r"'[^']*+'?", r"key[\w.]{0,32}=\S*+",
        r"%0?\d{0,9}d",
        r"[?&;]([^?&;=]*+)(=?+)[^?&;]*+", r"(?:ab)*", r"(?:\.\w+)*",
    ],
)  # fmt: skip
def test_lets_pass_what_does_not(text: str) -> None:
    assert not faults_of(text, searched=True)


def test_at_a_start_a_repeat_is_tried_once() -> None:
    assert not faults_of(r"[A-Za-z][A-Za-z0-9+.-]*://", searched=False)
    assert faults_of(r"\w+[.\w]*$", searched=False)
