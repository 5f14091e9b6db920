"""Load one module of an installed package without running the package.

The peers' packages are plugins: their `__init__` imports a video frame server, which is not needed
to run their networks.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def folder_of(package: str) -> Path:
    """Find the folder of an installed package; nothing of it is run.

    Raises:
        ModuleNotFoundError: if it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{package} is not installed", name=package)
    return Path(next(iter(spec.submodule_search_locations)))


def load_module(package: str, module: str) -> ModuleType:
    """Load a module's file, and those beside it that it imports, but not the package's `__init__`.

    Raises:
        ModuleNotFoundError: if the package is not installed, or has no such module.
    """
    folder = folder_of(package)
    stand_in = f"peer_{package}"  # an empty package over the same folder
    if stand_in not in sys.modules:
        empty = ModuleType(stand_in)
        empty.__path__ = [str(folder)]
        sys.modules[stand_in] = empty
    return importlib.import_module(f"{stand_in}.{module}")
