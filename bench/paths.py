"""Import this first: it lets scripts import what is shared, from `bench` and from `tests/support`.

Every folder of scripts has a link to this file, since a script finds its own folder only.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

for _folder in (ROOT / "bench", ROOT / "tests"):
    if str(_folder) not in sys.path:
        sys.path.append(str(_folder))
