"""Import this first: it lets the scripts find what they share with the tests."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

if str(ROOT / "tests") not in sys.path:
    sys.path.append(str(ROOT / "tests"))
