"""Verification within spaces and across them: what a map keeps of telling people apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossgram.accumulation import open_spaces
from crossgram.errors import InputError
from crossgram.evaluation.maps import loaded_map
from crossgram.evaluation.measuring import (
    Binned,
    Comparison,
    Drawing,
    Measured,
    Sorted,
    Verification,
)
from crossgram.evaluation.pair_list import MOST_PAIRS, PairList, all_pairs, read_pairs
from crossgram.evaluation.resampling import check_draws
from crossgram.evaluation.scoring import METRICS, as_wide, prepared
from crossgram.evaluation.splits import Overlap, checked_overlaps, split_notes
from crossgram.linear_map import LinearMap
from crossgram.pairing import check_counts, check_ids
from crossgram.progress import Progress, ProgressCallback, ignore
from crossgram.source import Source, SourceLike, usable_rows
from crossgram.verification import TAR_MODES, allowed_false_accepts

__all__ = ["VerificationReport", "verify"]

_FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
_FEW_FALSE_ACCEPTS = 10


@dataclass(frozen=True)
class VerificationReport:
    """All comparisons of one evaluation.

    Attributes
    ----------
    comparisons : tuple of Verification
        Native ones first.
    images, left_out, people : int
        Images in pairs; images without an embedding, which are in none; people.
    genuine_pairs, impostor_pairs : int
        Of one person, and of two, each once.
    metric, tar : str
        How pairs are scored, and how true accept rates are read off.
    untold_fars : tuple of float
        Rates that the number of impostor pairs is too small for.
    resamples, seed : int
        Of the intervals.
    confidence : float
        Of the intervals.
    overlaps : tuple of Overlap
        What fit and evaluation share, by the stores that were said to be fitted on, and by every
        map that remembers it.
    notes : tuple of str
        What to know before relying on the figures.
    """

    comparisons: tuple[Verification, ...]
    images: int
    left_out: int
    people: int
    genuine_pairs: int
    impostor_pairs: int
    metric: str
    tar: str
    untold_fars: tuple[float, ...]
    resamples: int
    seed: int
    confidence: float
    overlaps: tuple[Overlap, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        facts = asdict(self)
        for own in facts["comparisons"]:
            if own["accuracy"] is not None:
                # a threshold beyond all scores is no number of JSON
                own["accuracy"]["thresholds"] = [
                    value if np.isfinite(value) else None for value in own["accuracy"]["thresholds"]
                ]
            for point in own["operating_points"]:
                point["threshold"] = point["threshold"] if np.isfinite(point["threshold"]) else None
        return facts


def verify(
    source: SourceLike,
    target: SourceLike | None = None,
    *,
    linear_map: LinearMap | str | Path | None = None,
    back: LinearMap | str | Path | None = None,
    pairs: str | Path | None = None,
    names: Sequence[str] | None = None,
    metric: str = "cosine",
    fars: Sequence[float] = _FARS,
    tar: str = "conservative",
    resamples: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
    fitted_on: Sequence[SourceLike] = (),
    allow_overlap: bool = False,
    progress: ProgressCallback = ignore,
) -> VerificationReport:
    """Tell pairs of images of one person from pairs of two, within spaces and across them.

    Parameters
    ----------
    source : source-like, shape (n, p)
        Embeddings by one network.
    target : source-like, shape (n, q), optional
        Of the same images, in the same order, by another: then the source's embeddings meet the
        target's, too, mapped, and cut or filled up with zeros as the floor.
    linear_map, back : LinearMap or path, optional
        From source to target, and from target to source.
    pairs : path, optional
        A list of pairs as `read_pairs` takes it; by default all pairs of the labelled images. More
        than 20 million are counted in bins and not stored: by the cosine, in float32, without
        intervals, and the area to about 1e-5; everything else stays exact.
    names : sequence of str, optional
        What the two spaces are called.
    metric : {"cosine", "euclidean"}
        How alike two embeddings are; the distance is of the embeddings as they are.
    fars : sequence of float
        False accept rates.
    tar : {"conservative", "nearest", "interpolate"}
        How the true accept rate at each is read off: see `true_accepts_at`.
    resamples : int
        Draws of people for the intervals; 0 for none.
    confidence : float
        Of the intervals, between 0 and 1.
    seed : int
        Of the draws.
    fitted_on : sequence of source-like
        What the maps were fitted on, besides what they remember themselves, to see whether the
        evaluation is of other images and people.
    allow_overlap : bool
        Evaluate all the same if it is not; the report says so.
    progress : callable
        Called with a `Progress` after each comparison.

    Returns
    -------
    VerificationReport
        Every comparison, each across spaces with its loss against the reference's own space.

    Raises
    ------
    InputError
        If arguments contradict each other, images of pairs are missing, or what was fitted on is
        evaluated.
    PairingError
        If the rows of source and target are not the same images.
    WidthMismatchError
        If a map is not between the spaces.
    NonFiniteError
        If an embedding that is compared is zero or not finite.
    """
    _check(metric, fars, tar, resamples, confidence)
    given = [source] if target is None else [source, target]
    if target is None and (linear_map is not None or back is not None):
        raise InputError("target: none given, but a map to it; give the store of its space")
    sources, called = open_spaces(given, names)
    check_counts(sources)
    check_ids(sources, 0, sources[0].rows)
    usable = usable_rows(sources)
    chosen = _chosen(sources, pairs, usable, fars, metric, tar)
    maps = [
        _map(one, ends)
        for one, ends in zip((linear_map, back), _ends(sources, called), strict=True)
    ]
    given_maps = [one for one in maps if one is not None]
    shared = checked_overlaps(sources, chosen.rows, fitted_on, given_maps, allow_overlap)
    rows = [_rows(one, usable) for one in sources]
    drawing = Drawing(0 if isinstance(chosen, Binned) else resamples, confidence, seed)
    total = len(sources) + 2 * sum(one is not None for one in maps) + 2 * (len(sources) - 1)
    found: list[Verification] = []
    measured: dict[str, Measured] = {}
    for count, comparison in enumerate(_comparisons(called, rows, maps, metric), 1):
        native = None if comparison.native is None else measured[comparison.native]
        for own in chosen.measure(comparison, native, drawing):
            found.append(own[0])
            measured.setdefault(comparison.name, own)
        progress(Progress("verify", count, total, 0))
    return VerificationReport(
        comparisons=tuple(found),
        images=len(chosen.rows),
        left_out=int((~usable).sum()) if pairs is None else 0,
        people=chosen.people,
        genuine_pairs=chosen.genuine,
        impostor_pairs=chosen.impostor,
        metric=metric,
        tar=tar,
        untold_fars=tuple(far for far in fars if far not in chosen.fars),
        resamples=drawing.resamples,
        seed=seed,
        confidence=confidence,
        overlaps=shared,
        notes=tuple(_notes(chosen, fars, shared, given_maps)),
    )


def _check(metric: str, fars: Sequence[float], tar: str, resamples: int, confidence: float) -> None:
    for name, value, allowed in (("metric", metric, tuple(METRICS)), ("tar", tar, TAR_MODES)):
        if value not in allowed:
            raise InputError(f"{name}: {value!r} given, expected one of {allowed}")
    for far in fars:
        allowed_false_accepts(far, 1)
    check_draws(resamples, confidence)


def _chosen(
    sources: Sequence[Source],
    pairs: str | Path | None,
    usable: NDArray[np.bool_],
    fars: Sequence[float],
    metric: str,
    tar: str,
) -> Sorted | Binned:
    if pairs is not None:
        return Sorted(_listed(sources, pairs, usable), True, metric, tar, fars)
    labels = next((one.labels for one in sources if one.labels is not None), None)
    if labels is None:
        raise InputError(
            f"{sources[0].label}: has no labels, so that nobody knows who is who; give a list "
            "of pairs (--pairs)"
        )
    names = labels.read(0, len(labels))
    count = int(usable.sum())
    if count * (count - 1) // 2 <= MOST_PAIRS:
        return Sorted(all_pairs(names, usable), False, metric, tar, fars)
    if (metric, tar) != ("cosine", "conservative"):
        raise InputError(
            f"{sources[0].label}: {count:,} images have {count * (count - 1) // 2:,} pairs, which "
            f"are counted in bins, by the cosine and conservatively; {metric} and {tar} were asked "
            "for: leave them, or give a list of pairs (--pairs)"
        )
    return Binned(names, usable, fars)


def _listed(sources: Sequence[Source], pairs: str | Path, usable: NDArray[np.bool_]) -> PairList:
    ids = next((one.ids for one in sources if one.ids is not None), None)
    if ids is None:
        raise InputError(
            f"{sources[0].label}: has no ids, which the pairs of {pairs} are named by; make the "
            "store with ids"
        )
    read = read_pairs(pairs, ids.read(0, len(ids)).tolist())
    used = np.append(read.left, read.right)
    if not usable[used].all():
        row = int(used[np.argmin(usable[used])])
        raise InputError(
            f"{pairs}: {ids.read(row, row + 1)[0]} has no embedding in {sources[0].label}, its row "
            "is masked; a protocol leaves out no pair: mend the image and embed it again"
        )
    return read


def _rows(source: Source, usable: NDArray[np.bool_]) -> NDArray[np.floating]:
    rows = np.empty((source.rows, source.dim), source.dtype)
    source.read(0, rows)
    # in no pair, and NaN
    rows[~usable] = 1
    return rows


_Ends = tuple[Source, Source, str]


def _ends(sources: Sequence[Source], names: Sequence[str]) -> list[_Ends | None]:
    if len(sources) == 1:
        return [None, None]
    (a, b), (one, other) = sources, names
    return [(a, b, f"{one} to {other}"), (b, a, f"{other} to {one}")]


def _map(given: LinearMap | str | Path | None, ends: _Ends | None) -> LinearMap | None:
    if given is None or ends is None:
        return None
    source, target, name = ends
    return loaded_map(given, source, target, name)


def _comparisons(
    names: Sequence[str],
    rows: Sequence[NDArray[np.floating]],
    maps: Sequence[LinearMap | None],
    metric: str,
) -> Iterator[Comparison]:
    own = [prepared(one, metric, name) for one, name in zip(rows, names, strict=True)]
    native = [f"{name} with {name}" for name in names]
    for one, name in zip(own, native, strict=True):
        yield Comparison(name, one, one, None)
    if len(rows) == 1:
        return
    for k, fitted in enumerate(maps):
        if fitted is None:
            continue
        name = f"{names[k]} to {names[1 - k]}"
        mapped = prepared(fitted.apply(rows[k]), metric, name)
        yield Comparison(f"{name} with {names[1 - k]}", mapped, own[1 - k], native[1 - k])
        yield Comparison(f"{name} with itself", mapped, mapped, native[1 - k])
    for k in range(2):
        cut = as_wide(rows[k], rows[1 - k].shape[1])
        name = f"{names[k]} unmapped with {names[1 - k]}"
        yield Comparison(name, prepared(cut, metric, name), own[1 - k], native[1 - k])


def _notes(
    chosen: Sorted | Binned,
    fars: Sequence[float],
    shared: Sequence[Overlap],
    maps: Sequence[LinearMap],
) -> Iterator[str]:
    if isinstance(chosen, Binned):
        yield "too many pairs to be drawn anew: without intervals, and the area to about 1e-5"
    if len(chosen.fars) < len(set(fars)):
        yield (
            f"{chosen.impostor:,} impostor pairs tell false accept rates down to "
            f"{1 / chosen.impostor:.2g}; lower ones were left out"
        )
    few = [far for far in chosen.fars if far * chosen.impostor < _FEW_FALSE_ACCEPTS]
    if few:
        yield (
            f"at {', '.join(f'{far:g}' for far in few)} the true accept rate hangs on fewer than "
            f"{_FEW_FALSE_ACCEPTS} false accepts"
        )
    if maps:
        yield from split_notes(shared, maps)
