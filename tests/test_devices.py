"""Where products are computed, and what is said where that cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import crossgram, refused

import crossgram as cg
from crossgram import devices
from crossgram.accumulation import Options
from crossgram.devices import check_device, row_products
from crossgram.errors import InputError


def has_gpu() -> bool:
    return check_device("auto") != "cpu"


@pytest.mark.parametrize("asked", ["gpu", "cuda:", "cuda:x", "cpu:0", ""])
def test_what_is_no_device_is_refused(asked: str) -> None:
    with pytest.raises(InputError, match="expected auto, cpu, cuda, or cuda:1"):
        check_device(asked)


def test_the_processor_is_always_there() -> None:
    rows = np.random.default_rng(0).normal(size=(5, 3))
    block = np.random.default_rng(1).normal(size=(4, 3))
    np.testing.assert_array_equal(
        row_products(rows, check_device("cpu"))(slice(1, 3), block), rows[1:3] @ block.T
    )


def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"device: cuda:99 given, (CuPy|CUDA)"):
        check_device("cuda:99")
    np.save(tmp_path / "a.npy", np.eye(3, dtype="f4"))
    with pytest.raises(InputError, match="device: cuda:99 given"):
        cg.identify(tmp_path / "a.npy", tmp_path / "a.npy", device="cuda:99")


@pytest.mark.skipif(has_gpu(), reason="needs a machine without a GPU, and gpu_check.sh has one")
class TestWithoutAGpu:
    def test_auto_takes_the_processor_and_says_so_once(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        devices._say_fallback.cache_clear()
        x = np.random.default_rng(0).normal(size=(20, 3))
        for _ in range(2):
            cg.accumulate([x, x], device="auto")
        (said,) = [record.getMessage() for record in caplog.records]
        assert said.startswith("device: auto takes the processor: ")
        assert "CuPy is missing" in said or "CUDA" in said

    def test_a_command_says_it_on_standard_error(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(20, 3)))
        made = crossgram(
            "accumulate", "a.npy", "a.npy", "-o", "m", "--device", "auto", "--json", cwd=tmp_path
        )
        assert made.returncode == 0
        assert made.stderr.count("device: auto takes the processor") == 1
        assert "auto" not in made.stdout

    def test_workers_with_gpus_are_refused_before_any_is_started(self, tmp_path: Path) -> None:
        x = np.random.default_rng(0).normal(size=(20, 3))
        np.save(tmp_path / "a.npy", x)
        cg.fit(x, x).save(tmp_path / "map")
        on_gpus = ("--workers", 2, "--device", "cuda")
        for given in (("fit", "a.npy", "a.npy", "-o", "out"), ("apply", "map", "a.npy", "out")):
            message = refused(*given, *on_gpus, cwd=tmp_path)
            assert message.startswith("Error: device: cuda given, ")
            assert not (tmp_path / "out").exists()


def test_maps_are_solved_here_where_workers_have_the_gpus() -> None:
    """The process that has the client may have none."""
    assert Options(device="cuda:1").solving_device == "cuda:1"
    assert Options(device="cuda", client=object()).solving_device == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not has_gpu(), reason="needs an NVIDIA GPU and CuPy")
def test_products_on_a_gpu_are_those_of_float64() -> None:
    rng = np.random.default_rng()
    rows, block = (rng.normal(size=(n, 512)).astype("f4") for n in (300, 1000))
    found = row_products(rows, check_device("cuda"))(slice(10, 250), block)
    exact = rows[10:250].astype(float) @ block.T.astype(float)
    lengths = np.linalg.norm(rows[10:250], axis=1)[:, None] * np.linalg.norm(block, axis=1)
    assert found.dtype == np.float32
    # sums of 512 float32 products: no TF32, whose products alone are off by 2^-11
    assert np.max(np.abs(found - exact) / lengths) < 512 * np.finfo(np.float32).eps / 2
