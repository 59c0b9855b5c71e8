"""Where products are computed, and what is said where that cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import crossgram as cg
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
