"""The README is held to the code: commands parse, Python runs, tables are the models'."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
from pydantic import BaseModel
from support.readme_options import README, option_strings, with_tables

from upframe.daemon.__main__ import COMMANDS, make_parser
from upframe.daemon.cli.arguments import filter_options_of, flag_of
from upframe.daemon.exits import Exit
from upframe.filters.options import FilterOptions
from upframe.io.encode.encoder import EncoderOptions

ROOT = README.parent
TEXT = README.read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.M | re.S)


def console_lines() -> list[str]:
    joined = "\n".join(blocks("console")).replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.strip()]


def upframe_calls() -> Iterator[list[str]]:
    """The arguments of every `upframe …`, in blocks and in running text."""
    inline = re.findall(r"`(upframe [a-z][^`]*)`", TEXT)
    for line in console_lines() + inline:
        words = shlex.split(line)
        for part in " ".join(shlex.quote(word) for word in words).split(" '|' "):
            call = shlex.split(part)
            if call and call[0] == "upframe" and "COMMAND" not in call:
                yield call[1:]


CALLS = sorted({shlex.join(call) for call in upframe_calls()})


@pytest.mark.parametrize("call", CALLS)
def test_every_command_parses(call: str) -> None:
    words = shlex.split(call)
    names_only_a_command = len(words) == 1 and words[0] in COMMANDS
    if names_only_a_command:
        return
    assert words[0] in COMMANDS
    arguments = make_parser([words[0]]).parse_args(words)
    if words[0] in ("run", "pipe"):
        assert filter_options_of(arguments).any_enabled


def test_shows_every_way_to_use_it() -> None:
    assert {call.split()[0] for call in CALLS} >= {"run", "pipe", "probe", "doctor", "demo"}
    assert blocks("python")


def test_every_command_is_named() -> None:
    assert set(COMMANDS) <= set(re.findall(r"`(?:upframe )?([a-z]+)[^`]*`", TEXT))


@pytest.mark.parametrize("block", blocks("python"))
def test_python_runs(block: str, tmp_path: Path) -> None:
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}  # it must not need the hub
    subprocess.run([sys.executable, "-c", block], check=True, cwd=tmp_path, env=environment)


def test_tables_of_options_are_the_parsers() -> None:
    assert with_tables(TEXT) == TEXT, "run: python tests/support/readme_options.py"


@pytest.mark.parametrize("model", [FilterOptions, EncoderOptions])
def test_every_field_is_an_option_with_the_models_words(model: type[BaseModel]) -> None:
    named = {"options": "encoder_option"}  # the one whose option is singular
    for name, field in model.model_fields.items():
        flag = flag_of(named.get(name, name))
        (row,) = (line for line in TEXT.splitlines() if re.match(rf"\| `{flag}[ `,]", line))
        if name not in named:
            assert (field.description or "").rstrip(".").replace("|", "\\|") in row


def test_names_no_option_that_is_not_there() -> None:
    known = option_strings(make_parser())
    foreign = {"--audio-file", "--help"}  # of mpv; of every program
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXT)) <= known | foreign


def test_names_every_exit_code() -> None:
    table = TEXT.partition("| exit code |")[2].partition("\n\n")[0]
    codes = {int(code) for row in table.splitlines() for code in re.findall(r"\d+", row[:14])}
    assert codes == {int(code) for code in Exit} | {130, 143}


def test_make_has_the_targets() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"(?:^|`|whl/cpu )make ([a-z]+)", TEXT, re.M))
    assert {"demo", "test", "lint", "types"} <= named <= targets


def test_files_and_links_that_it_names_are_there() -> None:
    for name in re.findall(r"`((?:tests|daemon|io|filters)/[\w./]*|constraints\.txt)`", TEXT):
        assert (ROOT / name).exists()
    table = TEXT.partition("## How it compares")[2].partition("\n|---")[0]
    labels = re.findall(r"\[([^\]]+)\]", table)
    assert labels
    for label in labels:
        assert f"\n[{label}]: https://" in TEXT


def test_the_changelog_is_for_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(r"^## \[(Unreleased|\d+\.\d+\.\d+)\]", text, re.M)


def test_versions_are_pinned_exactly_and_satisfy_the_project() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("#")[0].strip().split("==") for line in lines if line[0] != "#")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = (project["dependencies"], project["optional-dependencies"]["dev"])
    wanted = [line.split(">=") for line in chain.from_iterable(lists)]
    assert len(wanted) >= 10
    for name, least in wanted:
        assert _numbers(pins[name]) >= _numbers(least.partition(",")[0]), name


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
