"""What pytest needs for the stand-in besides its libraries."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import cupy
import numpy as np
from cupy.cuda import thrust

from crossgram.devices import check_device
from crossgram.kernels import cupy_slices

# raises where the stand-in is not found, without which every test would be skipped
check_device("cuda")


def _sort(dtype: Any, data: int, keys: int, shape: list[int]) -> None:
    """Sort rows in place, as CuPy's module does that was compiled for GPUs."""
    cupy.cuda.get_current_stream().synchronize()
    kind = np.dtype(dtype)
    count = int(np.prod(shape))
    raw = (ctypes.c_char * (count * kind.itemsize)).from_address(data)
    np.frombuffer(raw, kind).reshape(shape).sort(axis=-1)


thrust.sort = _sort

# its times are those of a processor, and say nothing
cupy_slices._ROWS, cupy_slices._DIM = 256, 64
if os.environ.get("CUDA_STAND_IN_SLICES"):
    cupy_slices._measure = lambda: True
