"""The sample configuration is the manual: every key, its default, and it loads."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from upframe.daemon.config import (
    Config,
    HttpConfig,
    JobsConfig,
    LiveConfig,
    LogConfig,
    MqttConfig,
    WatchConfig,
    load_config,
)
from upframe.io.limits import InputLimits

SAMPLE = Path(__file__).parents[3] / "systemd" / "upframe.toml"
_COMMENTED = re.compile(r"^#(?=[a-z_]+ = |\[)", re.M)
"""A key or section that is off; "# " begins a text."""

WITH_ALL_KEYS = _COMMENTED.sub("", SAMPLE.read_text())
DOCUMENT: dict[str, Any] = tomllib.loads(WITH_ALL_KEYS)
SECTIONS: dict[str, tuple[type[BaseModel], dict[str, Any]]] = {
    "jobs": (JobsConfig, DOCUMENT["jobs"]),
    "limits": (InputLimits, DOCUMENT["limits"]),
    "watch": (WatchConfig, DOCUMENT["watch"][0]),
    "live": (LiveConfig, DOCUMENT["live"][0]),
    "mqtt": (MqttConfig, DOCUMENT["mqtt"]),
    "http": (HttpConfig, DOCUMENT["http"]),
    "log": (LogConfig, DOCUMENT["log"]),
}
# What has a default, and shows an example all the same.
EXAMPLES = {("watch", "include")}


def test_as_it_stands_it_is_the_defaults() -> None:
    assert load_config(SAMPLE) == Config()


def test_with_every_key_it_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "all.toml"
    path.write_text(WITH_ALL_KEYS)
    assert load_config(path).mqtt is not None


def test_the_top_level_is_whole() -> None:
    assert DOCUMENT.keys() == Config.model_fields.keys()


@pytest.mark.parametrize("name", SECTIONS)
def test_every_key_is_there(name: str) -> None:
    model, section = SECTIONS[name]
    assert section.keys() == model.model_fields.keys()


@pytest.mark.parametrize("name", SECTIONS)
def test_what_has_a_default_shows_it(name: str) -> None:
    model, section = SECTIONS[name]
    shown = model.model_validate(section)
    for key, field in model.model_fields.items():
        has_default = not field.is_required() and field.default is not None
        if has_default and (name, key) not in EXAMPLES:
            assert getattr(shown, key) == field.get_default(call_default_factory=True), key


@pytest.mark.parametrize("name", SECTIONS)
def test_what_has_no_default_is_off(name: str) -> None:
    model, _ = SECTIONS[name]
    on: dict[str, Any] = tomllib.loads(SAMPLE.read_text()).get(name, {})
    for key, field in model.model_fields.items():
        if field.is_required() or field.default is None:
            assert key not in on


def test_every_key_is_explained() -> None:
    """A text stands above each key, or above the one before it, within its paragraph."""
    paragraphs = re.split(r"\n\n", SAMPLE.read_text())
    for paragraph in paragraphs:
        if re.search(r"^#?[a-z_]+ = ", paragraph, re.M):
            assert re.search(r"^# ", paragraph, re.M), paragraph


def test_lines_fit_a_terminal() -> None:
    long = [line for line in SAMPLE.read_text().splitlines() if len(line) > 100]
    assert [line for line in long if not line.startswith("#filters")] == []


PAGES = {
    page: (SAMPLE.parent.parent / page).read_text() for page in ("README.md", "systemd/INSTALL.md")
}
SNIPPETS = [
    (page, text)
    for page, whole in PAGES.items()
    for text in re.findall(r"^```toml\n(.*?)^```$", whole, re.M | re.S)
]


@pytest.mark.parametrize(("page", "text"), SNIPPETS)
def test_what_the_pages_show_is_valid(page: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "shown.toml"
    path.write_text(text)
    assert load_config(path) != Config(), page


def test_the_guide_names_what_is_there() -> None:
    guide = PAGES["systemd/INSTALL.md"]
    for name in re.findall(r"systemd/([\w@.-]+)", guide):
        if name != "system":  # of /etc/systemd/system
            assert (SAMPLE.parent / name).exists(), name
    keys = set(re.findall(r"^#?([a-z_]+) = ", SAMPLE.read_text(), re.M))
    assert {"drain_seconds", "state_dir", "node_id", "listen", "allow_remote"} <= keys
