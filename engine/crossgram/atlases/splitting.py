"""Which images the maps of an atlas are fitted on, and which they are tried on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from crossgram.accumulation import Options, accumulate, open_spaces, prepared
from crossgram.atlases.facts import AtlasSplit
from crossgram.errors import InputError, WidthMismatchError
from crossgram.evaluation.splits import Overlap, checked_overlaps
from crossgram.fingerprint import known_rows
from crossgram.folds import FoldedMoments
from crossgram.moments import Moments
from crossgram.pairing import at_rows, check_counts, check_labels
from crossgram.progress import ProgressCallback
from crossgram.sampling import hold_out
from crossgram.source import Source, SourceLike, first_column, open_source, usable_rows
from crossgram.store import Column

__all__ = ["Divided", "by_holding_out", "by_other_stores"]

_TRAINING = 0
_BLOCK_BYTES = 16 << 20


@dataclass(frozen=True)
class Divided:
    """Two sets of images, as moments and as rows.

    Attributes
    ----------
    training, held_out : Moments
        Of the images that maps are fitted on, and of the others.
    tried : sequence of Source
        Images to try recognition on, in every space; none without labels.
    split : AtlasSplit
        What they are.
    left_out : int
        Images that recognition would be tried on if they could be compared in every space.
    """

    training: Moments
    held_out: Moments
    tried: Sequence[Source]
    split: AtlasSplit
    left_out: int


def by_holding_out(
    spaces: Sequence[SourceLike],
    options: Options,
    *,
    share: float,
    most: int,
    seed: int,
    progress: ProgressCallback,
) -> Divided:
    """Hold a share of the people out; without labels, of the images.

    Parameters
    ----------
    spaces : sequence of source-like
        Paired stores; read once, and the rows that recognition is tried on once more.
    options : Options
        How they are read.
    share : float
        To hold out.
    most : int
        Images to try recognition on, whole people of at most 20 images each; they are held in
        memory.
    seed : int
        Of the choice.
    progress : callable
        Called with a `Progress` now and then.
    """
    with prepared(spaces, options) as ready:
        apart = hold_out(ready.sources, share, seed, most)
        assign = apart.assigner([apart.training_rows])
        folds = ready.divided(2, assign).collect(progress)
        assert isinstance(folds, FoldedMoments)
        training, held_out = folds.folds
        if options.remember:
            training.seen, _ = known_rows(
                ready.sources, lambda start, stop: assign(start, stop) == _TRAINING
            )
        tried = _in_memory(ready.sources, apart.scored) if len(apart.scored) else []
        labels = tuple(source.label for source in ready.sources)
    split = AtlasSplit(
        by=apart.by,
        fitted_on=labels,
        tried_on=labels,
        fitted_rows=training.rows,
        held_out_rows=held_out.rows,
        recognised_rows=tried[0].rows if tried else 0,
        recognised_people=_people(tried) if tried else None,
        shared_images=0,
        shared_people=0 if apart.by == "labels" else None,
        seed=seed,
    )
    left_out = len(apart.scored) - split.recognised_rows
    return Divided(training, held_out, tried, split, left_out)


def by_other_stores(
    spaces: Sequence[SourceLike],
    others: Sequence[SourceLike],
    options: Options,
    *,
    labels_are_people: bool,
    allow_overlap: bool,
    progress: ProgressCallback,
) -> Divided:
    """Try the maps on stores of other images.

    Parameters
    ----------
    spaces, others : sequence of source-like
        What to fit on, and what to try the maps on, one store per space each.
    options : Options
        How both are read.
    labels_are_people : bool
        Whether no label may be in both; those of classes may.
    allow_overlap : bool
        Whether images and people may be in both.
    progress : callable
        Called with a `Progress` now and then.
    """
    sources, names = open_spaces(spaces, options.names)
    tried, _ = open_spaces(others, names)
    for own, other in zip(sources, tried, strict=True):
        if own.dim != other.dim:
            raise WidthMismatchError(
                f"{other.label}: has {other.dim} columns, {own.label} has {own.dim}; give stores "
                "of the same networks in the same order"
            )
    for side in (sources, tried):
        check_counts(side)
        check_labels(side)
    usable = np.flatnonzero(usable_rows(tried))
    known = [
        all(any(getattr(one, by) is not None for one in side) for side in (sources, tried))
        for by in ("ids", "labels")
    ]
    shared: tuple[Overlap, ...] = ()
    if known[0] or (known[1] and labels_are_people):
        shared = checked_overlaps(
            tried, usable, [_told(sources)], [], allow_overlap, people_count=labels_are_people
        )
    chosen = {one.name: getattr(options, one.name) for one in fields(options)} | {"names": names}
    training, held_out = (
        accumulate(side, progress=progress, **chosen) for side in (sources, tried)
    )
    assert isinstance(training, Moments)
    assert isinstance(held_out, Moments)
    labelled = any(source.labels is not None for source in tried)
    left_out = 0
    if labelled:
        tried = _masked(tried, directed=labels_are_people)
        left_out = len(usable) - int(usable_rows(tried).sum())
    split = AtlasSplit(
        by="other stores",
        fitted_on=tuple(source.label for source in sources),
        tried_on=tuple(source.label for source in tried),
        fitted_rows=training.rows,
        held_out_rows=held_out.rows,
        recognised_rows=len(usable) - left_out if labelled else 0,
        recognised_people=_people(tried) if labelled and labels_are_people else None,
        shared_images=shared[0].images if known[0] else None,
        shared_people=shared[0].people if shared else None,
        seed=0,
    )
    return Divided(training, held_out, tried if labelled else [], split, left_out)


def _told(sources: Sequence[Source]) -> Source:
    """Return the first of paired sources with what any of them says of ids and labels."""
    ids = first_column(sources, "ids")
    labels = first_column(sources, "labels")
    return replace(sources[0], ids=ids, labels=labels)


def _people(sources: Sequence[Source]) -> int:
    """Return of how many people paired sources have two images or more."""
    labels = first_column(sources, "labels")
    assert labels is not None
    _, images = np.unique(labels.read(0, len(labels))[usable_rows(sources)], return_counts=True)
    return int((images > 1).sum())


def _in_memory(sources: Sequence[Source], rows: NDArray[np.int64]) -> list[Source]:
    """Read some rows of paired sources, those without a direction in any of them left out."""
    picked = [at_rows(source, rows) for source in sources]
    arrays = []
    for source in picked:
        array = np.empty((source.rows, source.dim), source.dtype)
        source.read(0, array)
        arrays.append(array)
    known = np.all([_comparable(own, directed=True) for own in arrays], axis=0)
    if not known.any():
        raise InputError(
            f"{_nothing_left(sources, len(rows))}; mend them, or choose others by another seed"
        )
    kept = np.flatnonzero(known)
    return [
        replace(at_rows(source, kept), read=open_source(array[kept]).read)
        for source, array in zip(picked, arrays, strict=True)
    ]


def _masked(sources: Sequence[Source], *, directed: bool) -> list[Source]:
    """Mask in all of paired sources the rows that cannot be compared in one of them."""
    usable = usable_rows(sources)
    known = usable.copy()
    for source in sources:
        size = max(1, _BLOCK_BYTES // (source.dim * source.dtype.itemsize))
        for start in range(0, source.rows, size):
            stop = min(start + size, source.rows)
            block = np.empty((stop - start, source.dim), source.dtype)
            source.read(start, block)
            known[start:stop] &= _comparable(block, directed=directed)
    if not known.any():
        raise InputError(f"{_nothing_left(sources, int(usable.sum()))}; mend them, or give others")
    return [replace(source, masked=Column(~known, "masked")) for source in sources]


def _comparable(rows: NDArray[np.floating], *, directed: bool) -> NDArray[np.bool_]:
    """Tell which rows are finite and, if they must have a direction, not zero."""
    finite: NDArray[np.bool_] = np.isfinite(rows).all(axis=1)
    return finite & rows.any(axis=1) if directed else finite


def _nothing_left(sources: Sequence[Source], rows: int) -> str:
    return (
        f"{sources[0].label}: none of the {rows:,} images to try recognition on has an embedding "
        "in every space"
    )
