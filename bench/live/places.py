"""Import this first: it lets the scripts find what they share with the tests and benchmarks."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

for _folder in (ROOT / "tests", ROOT / "bench", ROOT / "bench" / "faults"):
    if str(_folder) not in sys.path:
        sys.path.append(str(_folder))
