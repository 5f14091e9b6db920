"""Where Triton's kernels can be tried: on a CUDA card, or by Triton's interpreter on the CPU."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is defined

ON_CARD = torch.cuda.is_available()


def kernel_device() -> torch.device:
    pytest.importorskip("triton")
    return torch.device("cuda", 0) if ON_CARD else torch.device("cpu")
