"""The simulated cluster of bench/cluster.py."""

from __future__ import annotations

import pytest
from support.scripts import script

pytestmark = pytest.mark.slow


def test_nodes_that_die_now_and_then_leave_the_others_busy() -> None:
    busy, deaths = script("cluster").simulated()
    assert busy.ok, busy
    assert deaths > 0
