"""The tree of merges on very many workers, simulated: traffic, depth, stragglers, failures."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import click
import numpy as np
from results import table, write

_WAITING = 2
_GROUPS = 64


@dataclass
class _Simulation:
    """Segments handed out in order, merged pairwise where the left one lies, groups sent home."""

    workers: int
    segments: int
    seconds: float
    spread: float
    slow: float
    failures: float
    rng: np.random.Generator
    now: float = 0.0
    redone: int = 0
    sent: int = 0
    home: int = 0
    done: int = 0
    holder: dict[tuple[int, int], int] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)

    def run(self) -> float:
        """Return the seconds until the last group is home."""
        size = 1
        while size * _GROUPS < self.segments:
            size *= 2
        self.depth = size.bit_length() - 1
        waiting = list(range(self.segments))[::-1]
        busy: list[tuple[float, int, int]] = []
        idle = list(range(self.workers))
        dies = self.rng.exponential(1 / self.failures, self.workers) if self.failures else None
        while self.home < -(-self.segments // size):
            while idle and waiting:
                worker = idle.pop()
                heapq.heappush(busy, (self.now + self._takes(worker), worker, waiting.pop()))
            self.now, worker, segment = heapq.heappop(busy)
            if dies is not None and dies[worker] < self.now:
                # a new one comes in its place; what it had is done again
                dies[worker] = self.now + self.rng.exponential(1 / self.failures)
                again = [segment, *self._drop(worker, size)]
                self.redone += len(again)
                waiting += again
            else:
                self._merge(segment, worker, size)
            idle.append(worker)
        return self.now

    def _takes(self, worker: int) -> float:
        slow = 5.0 if worker < self.slow * self.workers else 1.0
        return slow * self.seconds * float(self.rng.lognormal(0.0, self.spread))

    def _merge(self, segment: int, worker: int, size: int) -> None:
        level, index = 0, segment
        while True:
            first = index << level
            whole = (1 << level) >= min(size, self.segments - first // size * size)
            if whole and first % size == 0:
                self.home += 1
                self.sent += 1
                return
            sibling = level, index ^ 1
            alone = (index ^ 1) << level >= min(self.segments, (first // size + 1) * size)
            if not alone:
                if sibling not in self.holder:
                    self.holder[level, index] = worker
                    return
                other = self.holder.pop(sibling)
                self.sent += other != worker
                worker = other if index % 2 else worker
            level, index = level + 1, index // 2

    def _drop(self, worker: int, size: int) -> list[int]:
        gone = [node for node, own in self.holder.items() if own == worker]
        segments = []
        for level, index in gone:
            del self.holder[level, index]
            first = index << level
            end = min(first + (1 << level), self.segments, (first // size + 1) * size)
            segments += range(first, end)
        return segments


@click.command()
@click.option("--segments", default=16_384, show_default=True)
@click.option("--seconds", default=1.0, show_default=True, help="Of a segment on a worker.")
@click.option("--megabytes", default=6.3, show_default=True, help="Of a segment's moments.")
def main(segments: int, seconds: float, megabytes: float) -> None:
    """Simulate passes of as many segments as a plan has at most."""
    lines = []
    for workers in (10, 100, 1_000, 10_000):
        for name, slow, failures in (
            ("even", 0.0, 0.0),
            ("1 % of the workers 5 times as slow", 0.01, 0.0),
            ("a worker lost every 100 of its segments", 0.0, 0.01 / seconds),
        ):
            own = _Simulation(
                workers, segments, seconds, 0.2, slow, failures, np.random.default_rng(0)
            )
            took = own.run()
            ideal = segments * seconds / workers
            traffic = own.sent * megabytes
            lines.append(
                [
                    f"{workers:,}",
                    name,
                    f"{took:,.0f}",
                    f"{ideal / took:.0%}",
                    f"{own.redone / segments:.1%}",
                    f"{traffic / workers / took:,.2f}",
                    f"{own.home * megabytes / 1000:.1f}",
                ]
            )
    write(
        "merge-tree",
        "## The tree of merges on very many workers\n\n"
        f"Simulated: {segments:,} segments of {seconds:g} s, give or take 20 %, moments of "
        f"{megabytes:g} MB; groups of {1 << own.depth} merge on workers in {own.depth} levels, "
        "and come to the client.\n\n"
        + table(
            [
                "workers",
                "",
                "seconds",
                "of the ideal",
                "segments done again",
                "MB/s per worker",
                "GB to the client",
            ],
            lines,
        ),
    )


if __name__ == "__main__":
    main()
