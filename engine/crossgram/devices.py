"""Where products are computed: the processor, or a GPU through CuPy."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossgram.errors import InputError, MemoryLimitError

__all__ = [
    "check_device",
    "check_device_for",
    "check_device_name",
    "check_gpus_for",
    "computing_on",
    "free_bytes",
    "gpu_number",
    "on_gpu",
    "release",
    "row_map",
    "row_products",
    "to_device",
    "to_host",
]


_LOG = logging.getLogger("crossgram")


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

    Where auto takes the processor, the log of "crossgram" has a warning that says why, once.

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
        _say_fallback(why or "CuPy finds no GPU")
        return "cpu"
    raise InputError(f"device: {asked} given, {why or f'CuPy finds {count}'}; use cpu or auto")


def check_device_for(client: Any, asked: str) -> str:
    """Return what `check_device` does; with a cluster's client the name, for workers to check."""
    if client is None:
        return check_device(asked)
    check_device_name(asked)
    return asked


@lru_cache
def _say_fallback(why: str) -> None:
    _LOG.warning("device: auto takes the processor: %s", why)


def check_gpus_for(workers: int) -> None:
    """Refuse more workers on this machine than it has GPUs, each of which is for one.

    Raises
    ------
    InputError
        If CuPy or a GPU is missing, or there are too few.
    """
    check_device("cuda")
    count, _ = _gpus()
    if workers > count:
        raise InputError(f"workers: {workers} given for {count} GPUs; give each worker one")


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


@contextmanager
def on_gpu(own: Any) -> Iterator[None]:
    """Have CuPy use a GPU inside the block.

    Parameters
    ----------
    own : cupy.cuda.Device
        The GPU.

    Raises
    ------
    MemoryLimitError
        If its memory does not suffice, with the numbers.
    """
    import cupy

    try:
        with own:
            yield
    except cupy.cuda.memory.OutOfMemoryError as error:
        free, total = own.mem_info
        raise MemoryLimitError(
            f"device: the GPU {own.id} has {total / 1e6:,.0f} MB, of which {free / 1e6:,.0f} MB "
            f"are free, and no room for what the run needs besides ({error}); end what else uses "
            "it, or give fewer threads or smaller blocks (--threads, --memory)"
        ) from error


def computing_on(device: str) -> AbstractContextManager[None]:
    """Have a device used inside the block, as `check_device` names it; raises as `on_gpu` does."""
    if device == "cpu":
        return nullcontext()
    import cupy

    return on_gpu(cupy.cuda.Device(gpu_number(device)))


def to_device(array: NDArray[Any], device: str) -> Any:
    """Return an array where `computing_on` has it used: on the processor itself, else a copy."""
    if device == "cpu":
        return array
    import cupy

    return cupy.asarray(array)


def to_host(array: Any) -> NDArray[Any]:
    """Return an array from where it is: the host's itself, else a copy."""
    found: NDArray[Any] = array if isinstance(array, np.ndarray) else array.get()
    return found


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
    with computing_on(device):
        there = to_device(rows, device)
    at_hand: list[Any] = [None, None]

    def products(some: slice, block: NDArray[np.floating]) -> NDArray[np.floating]:
        with computing_on(device):
            # a block meets all rows before the next one comes
            if at_hand[0] is not block:
                at_hand[:] = block, to_device(block, device)
            return to_host(there[some] @ at_hand[1].T)

    return products


def row_map(
    weight: NDArray[np.float64], bias: NDArray[np.float64], device: str
) -> Callable[[NDArray[np.floating]], NDArray[np.floating]]:
    """Return what maps rows x to x Wᵀ + b on a GPU.

    Parameters
    ----------
    weight, bias : ndarray, shapes (q, p) and (q,)
        Kept on the device, in the dtypes of the rows that come.
    device : str
        "cuda:K", as `check_device` returns it.

    Returns
    -------
    callable
        Takes rows, shape (n, p), float32 or float64, and gives (n, q) of their dtype, in memory of
        the host: full float32, no TF32.
    """
    kept: dict[np.dtype[Any], tuple[Any, Any]] = {}

    def mapped(rows: NDArray[np.floating]) -> NDArray[np.floating]:
        with computing_on(device):
            if rows.dtype not in kept:
                kept[rows.dtype] = (
                    to_device(weight.T.astype(rows.dtype), device),
                    to_device(bias.astype(rows.dtype), device),
                )
            matrix, offset = kept[rows.dtype]
            there = to_device(rows, device) @ matrix
            there += offset
            return to_host(there)

    return mapped


_INSTALL = "pip install 'crossgram[cuda12]' or 'crossgram[cuda13]'"


def _gpus() -> tuple[int, str]:
    """Return how many GPUs CuPy finds, and why there can be none."""
    try:
        import cupy
    except ImportError:
        return 0, f"CuPy is missing ({_INSTALL})"
    try:
        count = int(cupy.cuda.runtime.getDeviceCount())
    except cupy.cuda.runtime.CUDARuntimeError as error:
        advice = ""
        if "InsufficientDriver" in str(error):
            advice = "; install NVIDIA's driver, a newer one, or CuPy for an older CUDA"
        return 0, f"CUDA cannot be used ({error}{advice})"
    lacking = [name for name in ("cublas", "cusolver", "nvrtc") if count and not _can_load(name)]
    if lacking:
        return 0, f"CUDA's {' and '.join(lacking)} cannot be loaded ({_INSTALL})"
    return count, ""


def _can_load(library: str) -> bool:
    """Tell whether CuPy finds a library of CUDA, which its wheels don't bring."""
    try:
        own = import_module(f"cupy_backends.cuda.libs.{library}")
        if library == "nvrtc":  # loaded when it is first used
            own.getVersion()
    except (ImportError, RuntimeError):
        return False
    return True
