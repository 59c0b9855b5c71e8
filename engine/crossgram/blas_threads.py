"""Which BLAS multiplies here, and one thread of it per lane while any run streams."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from threadpoolctl import threadpool_info, threadpool_limits

__all__ = ["blas_in_words", "one_blas_thread"]

_CHOICE = "OPENBLAS_CORETYPE"

_LOCK = threading.Lock()
_running = 0
_limits: Any = None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep BLAS to one thread inside the block.

    The limit is one of the process: the first run that enters sets it, the last that leaves takes
    it away.
    """
    global _running, _limits  # noqa: PLW0603  (the setting itself is global)
    with _LOCK:
        if _running == 0:
            _limits = threadpool_limits(limits=1, user_api="blas")
        _running += 1
    try:
        yield
    finally:
        with _LOCK:
            _running -= 1
            if _running == 0:
                _limits.restore_original_limits()


def blas_in_words() -> str:
    """Return name, version and kernels of SciPy's BLAS, and whether the environment chose these.

    Kernels for another processor than the one that is there may run at half of its rate.
    """
    import scipy.linalg  # noqa: F401  (which loads it)

    found = [own for own in threadpool_info() if own["user_api"] == "blas"]
    # NumPy may have brought one of its own
    of_scipy = [own for own in found if "scipy" in own["filepath"].replace("scipy_openblas", "")]
    if not found:
        return "unknown"
    blas = (of_scipy or found)[0]
    words = f"{blas['internal_api']} {blas.get('version') or ''}".strip()
    if "architecture" in blas:
        chosen = f", which {_CHOICE} asks for" if os.environ.get(_CHOICE) else ""
        words += f", kernels for {blas['architecture']}{chosen}"
    return words
