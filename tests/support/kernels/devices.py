"""Where Triton's kernels can be tried: on a CUDA card, or by Triton's interpreter on the CPU.

Their tests are skipped where Triton is missing, unless UPFRAME_REQUIRE_TRITON=1 promises it.
"""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is defined

ON_CARD = torch.cuda.is_available()


def kernel_device() -> torch.device:
    if os.environ.get("UPFRAME_REQUIRE_TRITON") != "1":
        pytest.importorskip("triton")
    return torch.device("cuda", 0) if ON_CARD else torch.device("cpu")
