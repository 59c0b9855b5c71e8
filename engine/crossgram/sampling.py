"""Which rows are held out, and the random prefixes that the other rows are drawn into."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real

import numpy as np
from numpy.typing import NDArray

from crossgram.errors import InputError
from crossgram.grouping import Assign, stable_hashes
from crossgram.pairing import check_labels
from crossgram.source import Source, masked_rows

__all__ = ["MOST_OF_A_LABEL", "MOST_SCORED", "HeldOut", "hold_out"]

MOST_SCORED = 2000
"""Held-out rows whose pairs are scored, unless said otherwise: as many as the square of this."""

MOST_OF_A_LABEL = 20
"""Of these rows, how many are of one label, so that they are of many."""

_COLUMN_ROWS = 65_536
_FEW_LABELS = 10_000
_BINS = 1 << 16
_BIN_SHIFT = np.uint64(64 - 16)

_Hashes = NDArray[np.uint64]
_Draw = Callable[[int, int], tuple[_Hashes, _Hashes]]
"""Returns, of rows from start to stop, what decides whether each is held out, and its place in the
random order of the others."""

_Pieces = Callable[[], Iterator[tuple[NDArray[np.int64], _Hashes, _Hashes]]]
"""Yields numbers of rows that are not masked, rising, and what is drawn of them."""


@dataclass(frozen=True)
class HeldOut:
    """Rows set apart by a hash, and the others in an order that is random but always the same.

    Attributes
    ----------
    by : {"labels", "ids", "rows"}
        What was hashed: with labels, all rows of one are held out or none.
    rows, training_rows : int
        Rows held out, and the others; masked ones are in neither.
    scored : ndarray of int
        Rows held out whose pairs are to be scored, rising: whole labels as far as `MOST_OF_A_LABEL`
        and the number asked for allow; none without labels.
    """

    by: str
    rows: int
    training_rows: int
    scored: NDArray[np.int64]
    _bound: np.uint64
    _draw: _Draw
    _pieces: _Pieces
    _histogram: NDArray[np.int64]

    def assigner(self, sizes: Sequence[int]) -> Assign:
        """Return the function that tells the smallest prefix that each row is in.

        Parameters
        ----------
        sizes : sequence of int
            Rising, the last of them `training_rows`. The prefix k is the first sizes[k] rows of
            the random order.

        Returns
        -------
        callable
            Gives k, and len(sizes) for a row that is held out; either for one that is masked.
        """
        limits = self._limits(np.asarray(sizes[:-1], np.int64))

        def assign(start: int, stop: int) -> NDArray[np.int64]:
            decisive, order = self._draw(start, stop)
            prefixes = np.searchsorted(limits, order)
            return np.where(decisive < self._bound, len(sizes), prefixes)

        return assign

    def _limits(self, sizes: NDArray[np.int64]) -> _Hashes:
        """Return the largest hash of each prefix: bins tell nearly where, the rows in them exactly.

        No two rows have the same hash.
        """
        bins = np.searchsorted(np.cumsum(self._histogram), sizes)
        wanted = np.zeros(_BINS, bool)
        wanted[bins] = True
        passed_over = np.cumsum(np.where(wanted, 0, self._histogram))[bins]
        found = [np.zeros(0, np.uint64)]
        for _, decisive, order in self._pieces():
            others = order[decisive >= self._bound]
            found.append(others[wanted[others >> _BIN_SHIFT]])
        return np.asarray(np.sort(np.concatenate(found))[sizes - passed_over - 1])


def hold_out(
    sources: Sequence[Source], share: float, seed: int, most_scored: int = MOST_SCORED
) -> HeldOut:
    """Choose the rows to hold out: by label where there are labels, else by id, else by number.

    Labels or ids are read, embeddings are not. Memory is bounded. Masked rows are left out.

    Parameters
    ----------
    sources : sequence of Source
        Paired rows; the first that has labels or ids gives them.
    share : float
        Of rows, ids or labels, between 0 and 1.
    seed : int
        From 0 to 2^63 - 1; another one makes another choice.
    most_scored : int
        Of the rows held out, how many are to be scored at most.

    Raises
    ------
    InputError
        If the share or the seed is out of range, or fewer than 2 rows are held out or left.
    PairingError
        If sources do not agree on a row's label.
    """
    _check(share, seed)
    check_labels(sources)
    by, draw = _drawer(sources, int(seed))
    pieces = partial(_pieces, sources, draw)
    bound = _bound(by, pieces, float(share))
    all_rows = 0
    histogram = np.zeros(_BINS, np.int64)
    candidates = np.zeros((2, 0), np.uint64), np.zeros(0, np.int64)
    for numbers, decisive, order in pieces():
        held = decisive < bound
        all_rows += len(numbers)
        histogram += np.bincount((order[~held] >> _BIN_SHIFT).astype(np.int64), minlength=_BINS)
        if by == "labels":
            hashes = np.stack([decisive[held], order[held]])
            candidates = _to_be_scored(
                np.concatenate([candidates[0], hashes], axis=1),
                np.concatenate([candidates[1], numbers[held]]),
                most_scored,
            )
    training = int(histogram.sum())
    if min(training, all_rows - training) < 2:
        raise InputError(
            f"held-out: by {by} and with seed {seed}, {all_rows - training} of {all_rows} rows are "
            f"held out and {training} are left, expected at least 2 of both; give more rows, or "
            "another share or seed"
        )
    return HeldOut(
        by, all_rows - training, training, np.sort(candidates[1]), bound, draw, pieces, histogram
    )


def _check(share: object, seed: object) -> None:
    if not isinstance(share, Real) or not 0 < float(share) < 1:
        raise InputError(f"held-out: {share!r} given, expected a share between 0 and 1")
    if not isinstance(seed, Integral) or not 0 <= int(seed) < 1 << 63:
        raise InputError(f"seed: {seed!r} given, expected a whole number from 0 to 2^63 - 1")


def _drawer(sources: Sequence[Source], seed: int) -> tuple[str, _Draw]:
    held_out_seed, order_seed = (_mixed(np.uint64(2 * seed + k)) for k in (0, 1))
    columns = ((by, getattr(source, by)) for by in ("labels", "ids") for source in sources)
    by, column = next((found for found in columns if found[1] is not None), ("rows", None))

    def draw(start: int, stop: int) -> tuple[_Hashes, _Hashes]:
        numbers = np.arange(start, stop, dtype=np.uint64)
        keys = numbers if column is None else stable_hashes(column.read(start, stop))
        return (
            _mixed(keys.astype(np.uint64) ^ held_out_seed),
            _mixed(numbers ^ order_seed),
        )

    return by, draw


def _mixed(keys: _Hashes | np.uint64) -> _Hashes:
    """Return the number at the place `key` of SplitMix64 from seed 0: different ones everywhere.

    Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    z = np.asarray(keys, np.uint64)
    with np.errstate(over="ignore"):
        z = (z + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def _bound(by: str, pieces: _Pieces, share: float) -> np.uint64:
    """Return the hash below which rows are held out.

    Of few labels, their very share, and two at the least, for pairs need two people; of many,
    chance comes near enough.
    """
    by_chance = np.uint64(int(share * 2**64))
    if by != "labels":
        return by_chance
    labels = np.zeros(0, np.uint64)
    for _, decisive, _ in pieces():
        labels = np.union1d(labels, decisive)
        if len(labels) > _FEW_LABELS:
            return by_chance
    if not len(labels):
        return by_chance
    count = min(max(2, round(share * len(labels))), len(labels) - 1)
    return np.uint64(labels[count])


def _to_be_scored(
    hashes: NDArray[np.uint64], rows: NDArray[np.int64], most: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return the rows of the first labels in the order of their hashes, not too many of each.

    What is left out of some of the rows would be left out of all, so that they can come in pieces.
    """
    by_label = np.lexsort(hashes[::-1])
    labels = hashes[0, by_label]
    starts = np.flatnonzero(np.append(True, labels[1:] != labels[:-1]))[: len(labels)]
    within = np.arange(len(rows)) - np.repeat(starts, np.diff(np.append(starts, len(rows))))
    kept = by_label[within < MOST_OF_A_LABEL][:most]
    return hashes[:, kept], rows[kept]


def _pieces(
    sources: Sequence[Source], draw: _Draw
) -> Iterator[tuple[NDArray[np.int64], _Hashes, _Hashes]]:
    rows = sources[0].rows
    for start in range(0, rows, _COLUMN_ROWS):
        stop = min(start + _COLUMN_ROWS, rows)
        masked = masked_rows(sources, start, stop)
        own = slice(None) if masked is None else ~masked
        decisive, order = draw(start, stop)
        yield np.arange(start, stop)[own], decisive[own], order[own]
