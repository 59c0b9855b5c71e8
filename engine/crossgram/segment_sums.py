"""What every thread, and every worker of a cluster, does with the rows of a segment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from crossgram.accumulator import Accumulator, Workspace
from crossgram.grouping import Assign
from crossgram.moments import Moments
from crossgram.plan import Plan
from crossgram.preconditioner import Preconditioner
from crossgram.residual_moments import ResidualAccumulator, ResidualMoments
from crossgram.source import Source
from crossgram.stream import Block

__all__ = ["Accumulating", "MomentsWork", "ResidualWork", "Sums", "Work", "add_block"]

Sums = TypeVar("Sums", Moments, ResidualMoments)


class Accumulating(Protocol[Sums]):
    """What turns blocks of rows into sums that merge."""

    def add(
        self,
        blocks: Sequence[NDArray[Any]],
        *,
        weights: NDArray[np.float64] | None,
        row_numbers: Sequence[NDArray[np.int64]],
        masked: NDArray[np.bool_] | None,
    ) -> None:
        """Add rows, as `Accumulator.add` does."""

    def moments(self, spent: Sums | None = None) -> Sums:
        """Return the sums of what was added, in the memory of spent ones, and begin anew."""
        ...


class Work(Protocol[Sums]):
    """Which sums a pass makes; it can be sent to a worker."""

    @property
    def plan(self) -> Plan:
        """Of the pass."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """What messages call the sources."""
        ...

    @property
    def kind(self) -> type[Sums]:
        """Of the sums."""
        ...

    @property
    def matrices(self) -> tuple[NDArray[np.float64], ...]:
        """What earlier passes gave, that the sums depend on."""
        ...

    def accumulators(self, folds: int) -> Sequence[Accumulating[Sums]]:
        """Return what adds up the rows of each fold."""
        ...


@dataclass(frozen=True)
class MomentsWork:
    """Moments of rows, or of what a preconditioner makes of them.

    Attributes
    ----------
    plan : Plan
        Of the pass.
    labels : tuple of str
        What messages call the sources.
    skip_nonfinite, norms : bool
        As `Options` of a pass has them.
    preconditioner : Preconditioner or None
        Of a further pass.
    """

    plan: Plan
    labels: tuple[str, ...]
    skip_nonfinite: bool
    norms: bool
    preconditioner: Preconditioner | None = None

    @property
    def kind(self) -> type[Moments]:
        """Of the sums."""
        return Moments

    @property
    def matrices(self) -> tuple[NDArray[np.float64], ...]:
        """The preconditioner's, if there is one."""
        if self.preconditioner is None:
            return ()
        return (*self.preconditioner.centres, self.preconditioner.triangle)

    def accumulators(self, folds: int) -> list[Accumulator]:
        """Return what adds up the rows of each fold; they share their tiles."""
        plan = self.plan
        workspace = Workspace.allocate(
            plan.spaces, plan.pairs, plan.precision, plan.device, plan.tile_rows
        )
        return [
            Accumulator(
                plan.spaces,
                plan.pairs,
                precision=plan.precision,
                skip_nonfinite=self.skip_nonfinite,
                labels=self.labels,
                workspace=workspace,
                norms=self.norms,
                preconditioner=self.preconditioner,
            )
            for _ in range(folds)
        ]


@dataclass(frozen=True)
class ResidualWork:
    """Sums of a map's residuals, to about 100 bits.

    Attributes
    ----------
    plan : Plan
        Of the pass.
    labels : tuple of str
        What messages call the sources.
    skip_nonfinite : bool
        As `Options` of a pass has it.
    coefficients, bias : ndarray, shapes (p, q) and (q,)
        The map.
    """

    plan: Plan
    labels: tuple[str, ...]
    skip_nonfinite: bool
    coefficients: NDArray[np.float64]
    bias: NDArray[np.float64]

    @property
    def kind(self) -> type[ResidualMoments]:
        """Of the sums."""
        return ResidualMoments

    @property
    def matrices(self) -> tuple[NDArray[np.float64], ...]:
        """The map's."""
        return self.coefficients, self.bias

    def accumulators(self, folds: int) -> list[ResidualAccumulator]:
        """Return what adds up the rows of each fold."""
        return [
            ResidualAccumulator(
                self.plan.spaces,
                self.coefficients,
                self.bias,
                skip_nonfinite=self.skip_nonfinite,
                labels=self.labels,
            )
            for _ in range(folds)
        ]


def add_block(
    block: Block,
    accumulators: Sequence[Accumulating[Sums]],
    sources: Sequence[Source],
    weigh: Callable[[int, int], NDArray[np.float64]] | None,
    assign: Assign | None,
) -> None:
    """Add a block of paired rows to the sums of their folds.

    Parameters
    ----------
    block : Block
        The rows.
    accumulators : sequence
        One per fold.
    sources : sequence of Source
        Where the rows are from.
    weigh : callable or None
        Gives the weights of the rows from a start to a stop; None if they all count alike.
    assign : Assign or None
        Which fold rows are in; None if there is one.
    """
    numbers = [source.row_numbers(block.start, block.stop) for source in sources]
    own = None if weigh is None else weigh(block.start, block.stop)
    if assign is None or len(accumulators) == 1:
        accumulators[0].add(block.rows, weights=own, row_numbers=numbers, masked=block.masked)
        return
    assigned = assign(block.start, block.stop)
    for k in np.unique(assigned):
        rows = _selection(assigned == k)
        accumulators[k].add(
            [array[rows] for array in block.rows],
            weights=None if own is None else own[rows],
            row_numbers=[each[rows] for each in numbers],
            masked=None if block.masked is None else block.masked[rows],
        )


def _selection(wanted: NDArray[np.bool_]) -> slice | NDArray[np.int64]:
    """Return the rows that are wanted; a run of them as a slice, which copies nothing."""
    rows = np.flatnonzero(wanted)
    run = slice(int(rows[0]), int(rows[-1]) + 1)
    return run if run.stop - run.start == len(rows) else rows
