"""As on a full disk: within, no file of this process grows beyond a size."""

import resource
import sys
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def small_files(num_bytes: int) -> Generator[None]:
    """Limit the size of files. Python would keep the bytecode of a module that it could not write
    whole, so none is written meanwhile."""
    writes_none = sys.dont_write_bytecode
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    sys.dont_write_bytecode = True
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sys.dont_write_bytecode = writes_none
