"""What the process may use, and how much memory it takes."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
from pathlib import Path

__all__ = ["PeakMemory", "available_threads"]

_STATUS = Path("/proc/self/status")


def available_threads() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class PeakMemory:
    """Measures the peak resident set from its creation on, above what was resident then.

    On Linux the kernel's high-water mark is reset, so that an earlier peak of the process does
    not hide a later one; elsewhere the process's whole peak counts.
    """

    def __init__(self) -> None:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._before = _resident("VmRSS:") or _process_peak()

    def bytes(self) -> int:
        """Return the peak so far, above the start."""
        return max(0, (_resident("VmHWM:") or _process_peak()) - self._before)


def _resident(field: str) -> int | None:
    if not _STATUS.exists():
        return None
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return None


def _process_peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
