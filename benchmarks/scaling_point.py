"""Seconds and peak memory of one pass and one map, in a process of its own.

Rows are those of a resident block, given again and again: no disk holds as many as are wanted.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import crossgram as cg
from crossgram.resources import PeakMemory
from crossgram.source import Source

__all__ = ["Point"]

_RESIDENT_ROWS = 4096
_CHUNK_BYTES = 2 << 20


@dataclass(frozen=True)
class Point:
    """What is accumulated: all pairs of so many spaces, of so many columns each."""

    rows: int
    columns: int
    spaces: int = 2
    folds: int = 1
    threads: int | None = None

    def run(self) -> dict[str, float]:
        """Accumulate and solve the map from the first space to the second; return what it took."""
        rng = np.random.default_rng(0)
        # more rows than columns, or there is no one map
        resident = max(_RESIDENT_ROWS, 2 * self.columns)
        sources = [
            self._source(f"space {k}", rng.standard_normal((resident, self.columns), np.float32))
            for k in range(self.spaces)
        ]
        peak = PeakMemory()
        started = time.perf_counter()
        # one fold is what there is without folds
        folds = self.folds if self.folds > 1 else 0
        moments = cg.accumulate(sources, folds=folds, threads=self.threads)
        accumulated = time.perf_counter()
        cg.solve(moments)
        return {
            "accumulate": accumulated - started,
            "solve": time.perf_counter() - accumulated,
            "peak_bytes": peak.bytes(),
        }

    def _source(self, label: str, block: NDArray[np.float32]) -> Source:
        def read(start: int, out: NDArray[np.float32]) -> None:
            filled = 0
            while filled < len(out):
                first = (start + filled) % len(block)
                part = block[first : first + len(out) - filled]
                out[filled : filled + len(part)] = part
                filled += len(part)

        chunk = max(1, _CHUNK_BYTES // block[0].nbytes)
        return Source(label, self.rows, self.columns, block.dtype, chunk, read)


if __name__ == "__main__":
    Point(rows=1000, columns=8).run()
    print(json.dumps(Point(**json.loads(sys.argv[1])).run()))
