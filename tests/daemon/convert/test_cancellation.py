"""What is cancelled ends."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCES = sorted((ROOT / "daemon").rglob("*.py"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nobody_uses_the_wait_that_swallows_a_cancellation(source: Path) -> None:
    """Before Python 3.12, `asyncio.wait_for` returns a result that has just come instead of ending
    with the cancellation that came with it: a loop around it then never ends. `asyncio.timeout`
    does not."""
    tree = ast.parse(source.read_text())
    names = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    assert "asyncio.wait_for" not in names
