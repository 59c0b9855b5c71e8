"""Where products are computed: the processor, or a GPU through CuPy."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossgram.errors import InputError

__all__ = [
    "check_device",
    "check_device_name",
    "free_bytes",
    "gpu_number",
    "release",
    "row_products",
]


def check_device_name(asked: str) -> None:
    """Refuse what is no device's name: auto, which takes a GPU where there is one, cpu, or cuda:K.

    Raises
    ------
    InputError
        If it is none.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d\d?)?", asked):
        raise InputError(
            f"device: {asked!r} given, expected auto, cpu, cuda, or cuda:1 for the second GPU"
        )


def check_device(asked: str) -> str:
    """Return "cpu", or "cuda:K" of a GPU that is there.

    Raises
    ------
    InputError
        If it is no device, or CuPy or the GPU is missing.
    """
    check_device_name(asked)
    if asked == "cpu":
        return asked
    count, why = _gpus()
    number = gpu_number(asked)
    if number < count:
        return f"cuda:{number}"
    if asked == "auto":
        return "cpu"
    raise InputError(f"device: {asked} given, {why or f'CuPy finds {count}'}; use cpu or auto")


def gpu_number(device: str) -> int:
    """Return K of "cuda:K", 0 of "cuda"."""
    return int(device.partition(":")[2] or 0)


def free_bytes(device: str) -> int:
    """Return how many bytes of memory are free on a GPU.

    Parameters
    ----------
    device : str
        "cuda:K", as `check_device` returns it.
    """
    import cupy

    return int(cupy.cuda.Device(gpu_number(device)).mem_info[0])


def release(device: str) -> None:
    """Give back what CuPy keeps of a run's memory, on a GPU and of the host, for the next one."""
    if device == "cpu":
        return
    import cupy

    with cupy.cuda.Device(gpu_number(device)):
        cupy.get_default_memory_pool().free_all_blocks()
    cupy.get_default_pinned_memory_pool().free_all_blocks()


def row_products(
    rows: NDArray[np.floating], device: str
) -> Callable[[slice, NDArray[np.floating]], NDArray[np.floating]]:
    """Return what multiplies some of these rows by the rows of a block.

    Parameters
    ----------
    rows : ndarray, shape (m, d)
        Kept on the device.
    device : str
        As `check_device` returns it.

    Returns
    -------
    callable
        Takes which rows, and a block, shape (n, d), of the same dtype; gives their products, shape
        (number of rows, n), in memory of the host. On a GPU full float32, no TF32, which CuPy does
        not use by default.
    """
    if device == "cpu":
        return lambda own, block: rows[own] @ block.T
    import cupy

    with cupy.cuda.Device(gpu_number(device)):
        there = cupy.asarray(rows)
    at_hand: list[Any] = [None, None]

    def products(own: slice, block: NDArray[np.floating]) -> NDArray[np.floating]:
        with there.device:
            # a block meets all rows before the next one comes
            if at_hand[0] is not block:
                at_hand[:] = block, cupy.asarray(block)
            found: NDArray[np.floating] = cupy.asnumpy(there[own] @ at_hand[1].T)
        return found

    return products


def _gpus() -> tuple[int, str]:
    """Return how many GPUs CuPy finds, and why there can be none."""
    try:
        import cupy
    except ImportError:
        return 0, "CuPy is missing (pip install 'crossgram[cuda12]' or 'crossgram[cuda13]')"
    try:
        return int(cupy.cuda.runtime.getDeviceCount()), ""
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return 0, f"CUDA cannot be used ({error})"
