"""Figures of one comparison: of pairs that are sorted, or of very many that are counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossgram.errors import InputError
from crossgram.evaluation.accuracy import FoldedAccuracy, folded_accuracy
from crossgram.evaluation.binned_scores import score_all_pairs
from crossgram.evaluation.pair_list import PairList
from crossgram.evaluation.resampling import Interval, drawn_figures, intervals
from crossgram.evaluation.scoring import scores_of
from crossgram.resources import available_threads
from crossgram.verification import (
    OperatingPoint,
    PairScores,
    Roc,
    area_under_curve,
    equal_error_of,
    roc_curve,
    tellable,
    thinned,
    true_accepts_at,
)

__all__ = [
    "KINDS",
    "Binned",
    "Comparison",
    "CurvePoint",
    "Drawing",
    "Measured",
    "Sorted",
    "Verification",
]

KINDS = ("native", "mapped", "mapped, with itself", "unmapped")
"""Of comparisons: within a space; a source's images mapped to a target, against the target's own;
against others mapped; and cut or filled up with zeros, against the target's own."""

_AREA, _ERROR = "area_under_curve", "equal_error_rate"


@dataclass(frozen=True)
class CurvePoint:
    """A point of an ROC curve.

    Attributes
    ----------
    false_accept, true_accept : float
        Shares of the impostor and of the genuine pairs accepted.
    """

    false_accept: float
    true_accept: float


@dataclass(frozen=True)
class Verification:
    """How well the scores of one comparison tell pairs of one person from pairs of two.

    Attributes
    ----------
    comparison : str
        Probe space, or map, and reference space.
    kind : str
        One of `KINDS`.
    source, target : str
        Where the probes are from, and the space that pairs are compared in.
    probe : {"both", "left", "right"}
        Which image of a listed pair is the probe; "both" where that makes no difference, or every
        pair is scored both ways.
    native : str or None
        The comparison within the reference's space, which `loss` is against.
    area_under_curve, equal_error_rate : float
        Of the ROC curve.
    accuracy : FoldedAccuracy or None
        Of a list with folds.
    operating_points : tuple of OperatingPoint
        One for each false accept rate that the number of impostor pairs can tell.
    intervals : mapping of str to Interval or None
        Of "area_under_curve", "equal_error_rate" and "tar@FAR"; empty without resamples. Those of
        true accept rates are by the conservative reading.
    roc : tuple of CurvePoint
        Of the ROC curve, twenty per factor of ten of the false accept rate.
    loss : mapping of str to float
        What is lost against `native`, in points (hundredths), also of "accuracy"; negative where
        something is won.
    loss_intervals : mapping of str to Interval or None
        Of the loss, the same people drawn for both.
    area_error : float
        How far the area may be off: not at all, unless there are too many pairs to be sorted.
    """

    comparison: str
    kind: str
    source: str
    target: str
    probe: str
    native: str | None
    area_under_curve: float
    equal_error_rate: float
    accuracy: FoldedAccuracy | None
    operating_points: tuple[OperatingPoint, ...]
    intervals: dict[str, Interval | None]
    roc: tuple[CurvePoint, ...]
    loss: dict[str, float] = field(default_factory=dict)
    loss_intervals: dict[str, Interval | None] = field(default_factory=dict)
    area_error: float = 0.0

    def figures(self) -> dict[str, float]:
        """Return the figures by name."""
        named = {
            _AREA: self.area_under_curve,
            _ERROR: self.equal_error_rate,
            **{_tar(point.far): point.true_accept_rate for point in self.operating_points},
        }
        if self.accuracy is not None:
            named["accuracy"] = self.accuracy.mean
        return named


@dataclass(frozen=True)
class Comparison:
    """Embeddings of the same images that are to meet.

    Attributes
    ----------
    name, kind, source, target : str
        As `Verification` has them.
    probes, references : ndarray, shapes (n, d), floating
        As the metric takes them; the same object within a space.
    native : str or None
        The comparison within the references' space.
    """

    name: str
    kind: str
    source: str
    target: str
    probes: NDArray[np.floating]
    references: NDArray[np.floating]
    native: str | None


Measured = tuple[Verification, NDArray[np.float64]]
"""The figures, and those of each draw of people."""


@dataclass(frozen=True)
class Drawing:
    """How people are drawn for intervals.

    Attributes
    ----------
    resamples, seed : int
        How often, and of which generator.
    confidence : float
        Share of the draws within an interval.
    """

    resamples: int
    confidence: float
    seed: int


class Sorted:
    """Pairs that are held in memory.

    Parameters
    ----------
    pairs : PairList
        Which.
    is_listed : bool
        Whether a protocol lists them, in which either image is the probe once.
    metric, tar : str
        How they are scored, and true accept rates read off.
    fars : sequence of float
        False accept rates; those that there are too few pairs for are left out.
    """

    def __init__(
        self, pairs: PairList, is_listed: bool, metric: str, tar: str, fars: Sequence[float]
    ) -> None:
        self.rows = np.unique(np.append(pairs.left, pairs.right))
        self.people = len(np.unique(pairs.subject[self.rows]))
        self.genuine, self.impostor = int(pairs.same.sum()), int((~pairs.same).sum())
        self.uneven_folds = 0 if pairs.fold is None else _of_one_kind(pairs.fold, pairs.same)
        self.fars = tellable(fars, self.impostor)
        self._pairs, self._is_listed = pairs, is_listed
        self._metric, self._tar = metric, tar

    def measure(
        self, comparison: Comparison, native: Measured | None, drawing: Drawing
    ) -> Iterator[Measured]:
        """Yield the figures; of listed pairs across spaces, with either image as the probe."""
        across = comparison.probes is not comparison.references
        for probe in ("left", "right") if across and self._is_listed else ("both",):
            scores, pairs = self._scores(comparison, probe)
            kinds = PairScores(scores[pairs.same], scores[~pairs.same])
            roc = roc_curve(kinds)
            draws = drawn_figures(
                scores, pairs, self.fars, resamples=drawing.resamples, seed=drawing.seed
            )
            own = Verification(
                comparison=comparison.name,
                kind=comparison.kind,
                source=comparison.source,
                target=comparison.target,
                probe=probe,
                native=comparison.native,
                area_under_curve=area_under_curve(kinds),
                equal_error_rate=equal_error_of(roc.false_accept, roc.true_accept),
                accuracy=None
                if pairs.fold is None
                else folded_accuracy(scores, pairs.same, pairs.fold),
                operating_points=tuple(true_accepts_at(far, kinds, self._tar) for far in self.fars),
                intervals=self._named(draws, drawing),
                roc=_points(roc),
            )
            if native is not None:
                before, then = native
                worse = np.array([-1.0 if name == _ERROR else 1.0 for name in self._names()])
                own = replace(
                    own,
                    loss=_lost(before, own),
                    # of the same people in both, so that what both have in common does not count
                    loss_intervals=self._named(100 * (then - draws) * worse, drawing),
                )
            yield own, draws

    def _scores(self, comparison: Comparison, probe: str) -> tuple[NDArray[np.float64], PairList]:
        """Return the scores, and the pairs that they are of: across spaces all pairs both ways."""
        pairs = self._pairs
        ends = (pairs.left, pairs.right) if probe != "right" else (pairs.right, pairs.left)
        if probe == "both" and comparison.probes is not comparison.references:
            twice = [np.concatenate(both) for both in (ends, ends[::-1])]
            pairs = PairList(twice[0], twice[1], np.tile(pairs.same, 2), None, pairs.subject)
            ends = (twice[0], twice[1])
        return scores_of(comparison.probes, comparison.references, *ends, self._metric), pairs

    def _names(self) -> list[str]:
        return [_AREA, _ERROR, *map(_tar, self.fars)]

    def _named(self, draws: NDArray[np.float64], drawing: Drawing) -> dict[str, Interval | None]:
        if not drawing.resamples:
            return {}
        pairs = self._pairs
        alike = len(np.unique(pairs.subject[pairs.left[pairs.same]]))
        ends = intervals(draws, drawing.confidence, alike)
        return dict(zip(self._names(), ends, strict=True))


class Binned:
    """All pairs of so many labelled images that their cosines are counted, and not held.

    Parameters
    ----------
    labels : array, shape (n,)
        Whom each row shows.
    usable : ndarray of bool, shape (n,)
        Rows that have an embedding; the others are in no pair.
    fars : sequence of float
        False accept rates; those that there are too few pairs for are left out.
    client : distributed.Client or None
        Of a cluster whose workers score the pairs.
    device : str
        Where they do, as `check_device` takes it.
    """

    def __init__(
        self,
        labels: ArrayLike,
        usable: NDArray[np.bool_],
        fars: Sequence[float],
        client: Any,
        device: str,
    ) -> None:
        self._client, self._device = client, device
        self.rows = np.flatnonzero(usable)
        _, person = np.unique(np.asarray(labels)[self.rows], return_inverse=True)
        self._person = person.astype(np.int64)
        images = np.bincount(self._person)
        self.people = len(images)
        self.genuine = int((images * (images - 1) // 2).sum())
        self.impostor = len(self.rows) * (len(self.rows) - 1) // 2 - self.genuine
        if not self.genuine or not self.impostor:
            raise InputError("labels: no pairs of one person, or none of two")
        self.fars = tellable(fars, self.impostor)

    def measure(
        self, comparison: Comparison, native: Measured | None, drawing: Drawing
    ) -> Iterator[Measured]:
        """Yield the figures; nothing is drawn."""
        across = comparison.probes is not comparison.references
        probes = self._used(comparison.probes)
        references = self._used(comparison.references) if across else probes
        scores = score_all_pairs(
            probes,
            references,
            self._person,
            self.fars,
            ordered=across,
            threads=available_threads(),
            client=self._client,
            device=self._device,
        )
        area, error = scores.area_under_curve()
        own = Verification(
            comparison=comparison.name,
            kind=comparison.kind,
            source=comparison.source,
            target=comparison.target,
            probe="both",
            native=comparison.native,
            area_under_curve=area,
            equal_error_rate=scores.equal_error_rate(),
            accuracy=None,
            operating_points=tuple(map(scores.true_accepts_at, self.fars)),
            intervals={},
            roc=_points(scores.roc_curve()),
            area_error=error,
        )
        if native is not None:
            own = replace(own, loss=_lost(native[0], own))
        yield own, np.empty((0, 0))

    def _used(self, rows: NDArray[np.floating]) -> NDArray[np.float32]:
        kept = rows if len(self.rows) == len(rows) else rows[self.rows]
        return kept.astype(np.float32, copy=False)


def _of_one_kind(fold: NDArray[np.int64], same: NDArray[np.bool_]) -> int:
    """Return how many folds have pairs of one person only, or of two only."""
    kinds = np.unique(np.stack([fold, same]), axis=1)
    return int((np.unique(kinds[0], return_counts=True)[1] == 1).sum())


def _points(roc: Roc) -> tuple[CurvePoint, ...]:
    few = thinned(roc)
    rates = zip(few.false_accept.tolist(), few.true_accept.tolist(), strict=True)
    return tuple(CurvePoint(*both) for both in rates)


def _lost(native: Verification, own: Verification) -> dict[str, float]:
    before = native.figures()
    return {
        name: 100 * (before[name] - value) * (-1 if name == _ERROR else 1)
        for name, value in own.figures().items()
    }


def _tar(far: float) -> str:
    return f"tar@{far:.12g}"
