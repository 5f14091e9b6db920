"""The scripts of `bench`, for their tests."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

BENCH = Path(__file__).parents[2] / "bench"


def script(name: str) -> ModuleType:
    """Import a script of `bench`, which finds its neighbours as when it is run.

    The folder stays on the path: processes that the script starts look there as well.

    Args:
        name: of its file below `bench`, without its ending, as ``live/steady``.
    """
    path = BENCH / name
    for folder in (path.parent, BENCH):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    module = importlib.import_module(path.name)
    assert module.__file__ is not None
    found = Path(module.__file__).with_suffix("")
    assert found == path, f"wanted {path}, got {found}: two scripts have one name"
    return module
