"""One BLAS thread per lane, for as long as any run streams in this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from threadpoolctl import threadpool_limits

__all__ = ["one_blas_thread"]

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
