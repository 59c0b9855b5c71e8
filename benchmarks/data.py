"""The pair of stores that the figures are measured on."""

from __future__ import annotations

from pathlib import Path
from tempfile import gettempdir

import crossgram as cg

__all__ = ["FOLDER", "P", "Q", "pair", "read_into_cache"]

FOLDER = Path(gettempdir()) / "crossgram-bench"
"""Where data are kept between programs."""

P = Q = 512


def pair(
    folder: Path, rows: int, p: int = P, q: int = Q, **layout: object
) -> tuple[Path, Path, Path]:
    """Return source store, target store and planted map, made unless they are there.

    What `crossgram synth` makes at condition number 3,000.
    """
    out = folder / (f"pair-{rows}" if (p, q) == (P, Q) else f"pair-{rows}-{p}-{q}")
    if not out.exists():
        folder.mkdir(parents=True, exist_ok=True)
        cg.synth(out, rows=rows, source_dim=p, target_dim=q, condition=3000, seed=0, **layout)
    return out / "a.zarr", out / "b.zarr", out / "truth.safetensors"


def read_into_cache(*stores: Path) -> None:
    """Read every file once."""
    for store in stores:
        for file in store.rglob("*"):
            if file.is_file():
                file.read_bytes()
