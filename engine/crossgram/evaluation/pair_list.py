"""Which images a protocol compares: a file of pairs, or all pairs of a labelled set."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossgram.errors import InputError
from crossgram.images.bin_file import image_id, paired_faces
from crossgram.images.pairs import paired_images

__all__ = ["MOST_PAIRS", "PairList", "all_pairs", "read_pairs", "subjects_of"]

_FOLDS = 10
MOST_PAIRS = 20_000_000
"""That are held in memory."""

_COLUMNS = ("left", "right", "same")
_SAME: Mapping[str, bool] = {"1": True, "true": True, "0": False, "false": False}


@dataclass(frozen=True)
class PairList:
    """Pairs of rows.

    Attributes
    ----------
    left, right : ndarray of int, shape (m,)
        Rows of the two images.
    same : ndarray of bool, shape (m,)
        Whether both show one person.
    fold : ndarray of int, shape (m,), or None
        Which part of the protocol a pair is in.
    subject : ndarray of int, shape (rows,)
        Whom each row shows, for resampling; rows of no pair have any number.
    """

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    same: NDArray[np.bool_]
    fold: NDArray[np.int64] | None
    subject: NDArray[np.int64]


def all_pairs(labels: ArrayLike, usable: NDArray[np.bool_] | None = None) -> PairList:
    """Return every pair of different images of a labelled set once.

    Parameters
    ----------
    labels : array, shape (n,)
        Whom each row shows.
    usable : ndarray of bool, shape (n,), optional
        Rows that have an embedding; the others are in no pair.

    Raises
    ------
    InputError
        If there are more than 20 million pairs, or none of one person or of two.
    """
    _, subject = np.unique(np.asarray(labels), return_inverse=True)
    rows = np.arange(len(subject)) if usable is None else np.flatnonzero(usable)
    count = len(rows) * (len(rows) - 1) // 2
    if count > MOST_PAIRS:
        raise InputError(
            f"{len(rows):,} images have {count:,} pairs, at most {MOST_PAIRS:,} are scored; give "
            "a list of pairs (--pairs)"
        )
    first, second = np.triu_indices(len(rows), 1)
    left, right = rows[first], rows[second]
    same = subject[left] == subject[right]
    if not same.any() or same.all():
        what = "two images of one person" if not same.any() else "images of two people"
        raise InputError(f"labels: no {what}, so that nothing can be told of verification")
    return PairList(left, right, same, None, subject.astype(np.int64))


def read_pairs(path: str | Path, ids: Sequence[Any]) -> PairList:
    """Read a list of pairs, and find its images among the ids of rows.

    Parameters
    ----------
    path : path
        LFW's pairs.txt, whose images are person/person_0001 with whatever ending the ids have; or
        a .csv with the columns left, right (ids) and same (1 or 0), and maybe fold (whole numbers);
        or insightface's .bin file, whose images are 00000, 00001 and so on by their positions.
        Without folds, pairs are cut into ten contiguous ones, if there are as many.
    ids : sequence
        Of the rows.

    Raises
    ------
    InputError
        At the first line that is no pair of two images; if an image is not there: a protocol
        leaves out none.
    """
    location = Path(path)
    kind = location.suffix.lower()
    if kind not in _READERS:
        raise InputError(
            f"{path}: not a list of pairs that is known; expected a .txt as LFW's, a .csv, or a "
            ".bin as insightface's"
        )
    left, right, same, fold = _READERS[kind](location)
    named = [str(own) for own in ids]
    if kind == ".txt":
        named = [own.rpartition(".")[0] or own for own in named]
    row_of = {own: row for row, own in enumerate(named)}
    wanted = dict.fromkeys([*left, *right])
    missing = [name for name in wanted if name not in row_of]
    if missing:
        raise InputError(
            f"{path}: {len(missing):,} of its {len(wanted):,} images have no embedding in the "
            f"store, the first is {missing[0]}; a protocol leaves out no pair: embed them too"
        )
    if len(row_of) < len(named):
        twice = {own: row for row, own in enumerate(named) if row_of[own] != row}
        for name in wanted:
            if name in twice:
                raise InputError(
                    f"{path}: names {name}, which rows {twice[name]} and {row_of[name]} of the "
                    "store are called; give each image one row"
                )
    if kind == ".bin" and len(row_of) != len(wanted):
        # its ids are positions, which every other such file has, too
        raise InputError(
            f"{path}: has {len(wanted):,} images, the store {len(row_of):,}; give the store that "
            "was extracted from this file"
        )
    if all(same) or not any(same):
        raise InputError(f"{path}: has pairs of one kind only; expected same and different people")
    rows = np.array([[row_of[name] for name in side] for side in (left, right)], np.int64)
    alike = np.flatnonzero(rows[0] == rows[1])
    if len(alike):
        raise InputError(
            f"{path}: pairs {left[alike[0]]} with itself, which tells nothing; leave such pairs out"
        )
    return PairList(
        rows[0],
        rows[1],
        np.array(same, bool),
        fold,
        subjects_of(rows, np.array(same, bool), len(ids)),
    )


_Named = tuple[list[str], list[str], list[bool], NDArray[np.int64] | None]


def _from_lfw(path: Path) -> _Named:
    pairs, sets = paired_images(path)
    left, right = ([f"{who}/{who}_{k:04d}" for who, k in side] for side in zip(*pairs, strict=True))
    same = [one[0] == other[0] for one, other in pairs]
    size = len(pairs) // sets
    fold = None if sets == 1 else np.arange(len(pairs)) // size
    return left, right, same, fold


def _from_bin(path: Path) -> _Named:
    _, same = paired_faces(path)
    left, right = ([image_id(2 * k + side) for k in range(len(same))] for side in (0, 1))
    return left, right, same, _folds(len(same))


def _from_csv(path: Path) -> _Named:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            if any(name not in columns for name in _COLUMNS):
                raise InputError(
                    f"{path}: has the columns {', '.join(columns)}; expected "
                    f"{', '.join(_COLUMNS)}, and maybe fold"
                )
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a CSV file ({error})") from error
    if not rows:
        raise InputError(f"{path}: names no pairs")
    same = []
    for number, row in enumerate(rows, 2):
        own = _SAME.get(str(row["same"]).strip().lower())
        if own is None or not row["left"] or not row["right"]:
            raise InputError(
                f"{path}: line {number} is {list(row.values())}; expected two ids, and 1 or 0 for "
                "the same person or not"
            )
        same.append(own)
    fold = _folds(len(rows))
    if "fold" in columns:
        fold = np.array([_fold(path, *numbered) for numbered in enumerate(rows, 2)], np.int64)
        if len(np.unique(fold)) == 1:
            raise InputError(f"{path}: has one fold; expected at least two, or no column fold")
    return [row["left"] for row in rows], [row["right"] for row in rows], same, fold


_READERS: Mapping[str, Callable[[Path], _Named]] = {
    ".txt": _from_lfw,
    ".csv": _from_csv,
    ".bin": _from_bin,
}


def _fold(path: Path, number: int, row: Mapping[str, str | None]) -> int:
    named = (row["fold"] or "").strip()
    if not re.fullmatch(r"[0-9]{1,9}", named):
        raise InputError(f"{path}: line {number} has the fold {named!r}; expected a whole number")
    return int(named)


def _folds(pairs: int) -> NDArray[np.int64] | None:
    if pairs < _FOLDS:
        return None
    # as KFold(10, shuffle=False) of scikit-learn: the first ones have one pair more
    sizes = [pairs // _FOLDS + (k < pairs % _FOLDS) for k in range(_FOLDS)]
    return np.repeat(np.arange(_FOLDS), sizes)


def subjects_of(rows: NDArray[np.int64], same: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
    """Return a number for each of `count` rows: rows that pairs say to be of one person have one.

    Parameters
    ----------
    rows : ndarray of int, shape (2, m)
        Of the pairs.
    same : ndarray of bool, shape (m,)
        Which are of one person.
    count : int
        Of all rows.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    left, right = rows[:, same]
    links = coo_array((np.ones(len(left), bool), (left, right)), (count, count))
    subject: NDArray[np.int64] = connected_components(links, directed=False)[1].astype(np.int64)
    return subject
