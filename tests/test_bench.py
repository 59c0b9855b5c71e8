"""What `bench` says: rates that belong together, whatever the machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import crossgram, refused, succeeds

import crossgram as cg
from crossgram import ceilings
from crossgram.blas_threads import blas_in_words


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "_SECONDS", 0.05)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    cg.synth(tmp_path / "pair", rows=20_000, source_dim=48, target_dim=16)
    return tmp_path / "pair" / "a.zarr", tmp_path / "pair" / "b.zarr"


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_ceilings_are_the_rates_in_rows(pair: tuple[Path, Path], precision: str) -> None:
    steps: list[tuple[int, int]] = []
    found = cg.bench(
        *pair,
        precision=precision,
        threads=1,
        progress=lambda own: steps.append((own.rows, own.total_rows)),
    )
    assert steps == [(k, 6) for k in range(1, 7)]
    own = found.ceilings
    # 48 and 16 numbers of float32 a row, and the products of a map
    assert own["decoding"] == pytest.approx(found.decode / (64 * 4))
    assert own["products"] == pytest.approx(found.flops / (48 * (48 + 2 * 16)))
    together = 1 / own["decoding"] + 1 / own["products"]
    assert own["decoding and products"] == pytest.approx(1 / together)
    stored = sum(
        file.stat().st_size
        for path in pair
        for file in (path / "embeddings").rglob("*")
        if file.is_file()
    )
    assert found.cache is not None
    assert own["page cache"] == pytest.approx(found.cache * 20_000 / stored)
    lowest = min(rows for name, rows in own.items() if name != "disk")
    assert own[found.bottleneck] == lowest
    assert found.share == pytest.approx(found.rows_per_second / lowest)
    assert (found.rows, found.threads, found.precision) == (20_000, 1, precision)
    assert found.blas == blas_in_words()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="Nehalem is an x86 processor")
def test_which_kernels_multiply_and_who_chose_them() -> None:
    """OpenBLAS takes those that it is told to, whatever the processor."""
    script = "from crossgram.blas_threads import blas_in_words; print(blas_in_words())"
    environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_CORETYPE"}
    said = [
        subprocess.run(
            [sys.executable, "-c", script], env=own, capture_output=True, text=True, check=True
        ).stdout
        for own in (environment, {**environment, "OPENBLAS_CORETYPE": "Nehalem"})
    ]
    assert "OPENBLAS_CORETYPE" not in said[0]
    assert said[1].endswith("kernels for Nehalem, which OPENBLAS_CORETYPE asks for\n")


def test_rows_in_memory_have_no_disk() -> None:
    rng = np.random.default_rng(0)
    found = cg.bench(rng.normal(size=(3000, 8)), rng.normal(size=(3000, 4)))
    assert (found.disk, found.cache) == (None, None)
    assert set(found.ceilings) == {"decoding", "products", "decoding and products"}


def test_the_command_makes_stores_and_leaves_none(tmp_path: Path) -> None:
    options = ("--rows", 3000, "--dim", 16, "--folder", tmp_path)
    found = succeeds("bench", *options, cwd=tmp_path)
    assert found["rows"] == 3000
    assert list(tmp_path.iterdir()) == []
    said = crossgram("bench", *options, cwd=tmp_path).stdout
    assert "held back by" in said
    assert "rows/s" in said


def test_mistakes_are_named(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    assert "give two stores, or none" in refused("bench", pair[0], cwd=tmp_path)
    assert "no such file" in refused("bench", "x.zarr", pair[0], cwd=tmp_path)
