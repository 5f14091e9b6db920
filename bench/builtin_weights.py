"""Make the built-in weights from their float32 checkpoints.

    python bench/builtin_weights.py flownet.pkl starter_srvgg_x4.pth

Stores float16 safetensors in `filters/builtin`, with their provenance in the file's own metadata
too, and writes the checksums of source and result into ``provenance.json``. How they were trained
and measured is recorded there by hand. The same checkpoints give the same bytes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save

from upframe.filters.hub import sha256_of
from upframe.filters.weights import load_state_dict

FOLDER = Path(__file__).parents[1] / "filters/builtin"
PROVENANCE = FOLDER / "provenance.json"


def store(source: Path, target: Path, facts: dict[str, str]) -> dict[str, str]:
    """Store a checkpoint as float16 safetensors.

    Args:
        source: a checkpoint that :func:`load_state_dict` reads; all values within float16's range.
        target: the file to write.
        facts: its provenance; all but `sha256` goes into the file's metadata.

    Returns:
        The facts with `source_sha256` and `sha256` as they are now.

    Raises:
        ValueError: if a value is too large for float16.
    """
    tensors = {
        key.removeprefix("module."): value.half().contiguous()
        for key, value in load_state_dict(source).items()
    }
    if large := [key for key, value in tensors.items() if not bool(torch.isfinite(value).all())]:
        raise ValueError(f"{source} holds values beyond 65504 under {large[0]!r}")
    facts = facts | {"source_file": source.name, "source_sha256": sha256_of(source)}
    facts.pop("sha256", None)
    # one key only: safetensors writes several in an order that differs from run to run
    target.write_bytes(save(tensors, metadata={"provenance": json.dumps(facts)}))
    return facts | {"sha256": sha256_of(target)}


def main(sources: list[str]) -> None:
    """Make every file that ``provenance.json`` names, from one source each, in its order."""
    provenance: dict[str, dict[str, str]] = json.loads(PROVENANCE.read_text())
    if len(sources) != len(provenance):
        raise SystemExit(f"name one checkpoint for each of {', '.join(provenance)}")
    for source, (name, facts) in zip(sources, provenance.items(), strict=True):
        provenance[name] = store(Path(source), FOLDER / name, facts)
        sys.stdout.write(f"{name}: {(FOLDER / name).stat().st_size} bytes\n")
    PROVENANCE.write_text(json.dumps(provenance, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
