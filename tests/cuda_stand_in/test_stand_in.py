"""What tests marked gpu don't ask: faults of a machine, and how streams are used."""

from __future__ import annotations

import ctypes
import os
import re
from importlib import import_module
from pathlib import Path

import cupy
import numpy as np
import pytest
from command_line import crossgram, refused, succeeds

import crossgram as cg
from crossgram.kernels import RUN_TILES, backend_of, cupy_slices, tile_rows_of

FIT = ("fit", "x.npy", "y.npy", "-o", "map", "--device")
LIBRARIES = Path(os.environ["CUDA_STAND_IN"]) / "lib"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # whether they are faster, takes a minute to measure here
    monkeypatch.setenv("CUDA_STAND_IN_INT8", "0")
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.standard_normal((40_000, 24), dtype=np.float32))
    np.save(tmp_path / "y.npy", rng.standard_normal((40_000, 8), dtype=np.float32))
    return tmp_path


def without(library: str, folder: Path) -> Path:
    """Return a folder with all libraries but one."""
    folder.mkdir()
    for path in LIBRARIES.iterdir():
        if not path.name.startswith(library):
            (folder / path.name).symlink_to(path)
    return folder


@pytest.mark.parametrize("name", ["cublas", "cusolver", "nvrtc"])
def test_a_library_that_is_missing_is_named(
    data: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(without(f"lib{name}.", data / "lib")))
    said = refused(*FIT, "cuda", cwd=data)
    # others need it themselves
    pattern = (
        rf"Error: device: cuda given, CUDA's (\w+ and )?{name}( and \w+)? cannot be loaded \(pip"
    )
    assert re.match(pattern, said)
    assert said.count("\n") == 1
    made = crossgram(*FIT, "auto", cwd=data)
    assert made.returncode == 0
    assert made.stderr.count("auto takes the processor: CUDA's") == 1


def test_a_machine_without_gpus_is_told(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_STAND_IN_DEVICES", "0")
    assert "CUDA cannot be used (cudaErrorNoDevice" in refused(*FIT, "cuda", cwd=data)


def test_the_second_gpu_is_used(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cuda:1 given, CuPy finds 1" in refused(*FIT, "cuda:1", cwd=data)
    monkeypatch.setenv("CUDA_STAND_IN_DEVICES", "2")
    succeeds(*FIT, "cuda:1", cwd=data)


def test_a_small_gpu_has_shorter_tiles_and_a_smaller_one_is_refused(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_STAND_IN_MEMORY", "115000000")
    plan = succeeds("plan", "x.npy", "y.npy", "--device", "cuda", cwd=data)
    assert plan["tile_rows"] < tile_rows_of("cuda:0")
    succeeds(*FIT, "cuda", cwd=data)
    found = cg.LinearMap.load(data / "map").weight
    right = cg.fit(data / "x.npy", data / "y.npy").weight
    assert np.linalg.norm(found - right) <= 1e-12 * np.linalg.norm(right)
    monkeypatch.setenv("CUDA_STAND_IN_MEMORY", "50000000")
    (data / "map").unlink()
    said = refused(*FIT, "cuda", cwd=data)
    assert said.startswith("Error: device: cuda:0 has 50 MB free, the run holds")
    assert not (data / "map").exists()


def test_a_gpu_without_products_of_integers_multiplies_float64(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_STAND_IN_INT8", "0")
    monkeypatch.setattr(cupy_slices, "_measured", {})
    assert backend_of("cuda:0", "exact") == "cupy"


def test_nothing_waits_for_the_whole_device_while_rows_are_added_up() -> None:
    waits = ctypes.CDLL("libcudart.so.13").stand_in_waits_for_all
    rows = RUN_TILES * tile_rows_of("cuda:0") + 5
    x = np.random.default_rng(0).standard_normal((rows, 8), dtype=np.float32)
    cg.accumulate([x, x], device="cuda", threads=2)
    before = waits()
    cg.accumulate([x, x], device="cuda", threads=2)
    assert waits() == before
    cupy.zeros(3)
    assert waits() > before


def test_what_is_measured_on_a_gpu_can_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """With few columns and rows; the times mean nothing here."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    gpu = import_module("gpu")
    monkeypatch.setattr(gpu, "PEERS", {name: gpu.PEERS[name] for name in ("CuPy loop",)})
    copying = gpu.copy_rate()
    found = [
        *gpu.other_products(24),
        gpu.solution(1030),
        gpu.mapping(copying, 24, 20_000),
        gpu.scoring(24, 300),
    ]
    passes = {
        "resident": gpu.resident(24),
        "host": gpu.from_host(copying, [(24, 40_000)]),
        "side by side": gpu.side_by_side(lambda _: None, 24, 20_000),
        "store": gpu.from_store(40_000, 24),
    }
    results = {"gpu": "none", "date": "today", "cupy": "any", "copy_bytes_per_second": copying}
    assert len(gpu._lines({**results, **passes})) == 8
    for each in passes.values():
        found += each if isinstance(each, list) else [each]
    for each in found:
        assert "error" not in each, each
        for number in (value for value in each.values() if isinstance(value, float)):
            assert np.isfinite(number)
            assert number >= 0
