"""Moments revised without reading again what they were made of: merge, add, subtract."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from numpy.typing import ArrayLike

from crossgram.accumulation import Options, Pass, checked_weights, open_spaces, paired_by
from crossgram.errors import InputError, WidthMismatchError
from crossgram.folds import FoldedMoments, with_history
from crossgram.grouping import assigner_to
from crossgram.history import (
    History,
    Input,
    Operation,
    accounted_rows,
    check_removal,
    repeated_inputs,
    subtracted,
)
from crossgram.moments import Moments
from crossgram.plan import make_plan
from crossgram.progress import ProgressCallback, ignore
from crossgram.remainder import check_definite, digits_left
from crossgram.seen import UNSEEN
from crossgram.selection import listed_rows
from crossgram.source import SourceLike
from crossgram.spaces import Space, check_signature

__all__ = ["Revision", "add_rows", "merge_moments", "subtract_moments", "subtract_rows"]

_AnyMoments = Moments | FoldedMoments


@dataclass(frozen=True)
class Revision:
    """Moments after a change, and what is to be known of them.

    Attributes
    ----------
    moments : Moments or FoldedMoments
        The result, with its history.
    rows : int
        Rows that were added or removed.
    digits : float or None
        Of a subtraction, the digits that it left to the scatter's worst column.
    warnings : tuple of str
        What could not be told, and what was lost.
    """

    moments: Moments | FoldedMoments
    rows: int
    digits: float | None = None
    warnings: tuple[str, ...] = ()


def merge_moments(moments: Sequence[_AnyMoments], labels: Sequence[str] | None = None) -> Revision:
    """Return the moments of all the rows that went into several, folds pairwise.

    Parameters
    ----------
    moments : sequence of Moments or FoldedMoments
        At least two, of the same spaces and blocks, all with the same folds or all without.
    labels : sequence of str, optional
        What messages and the history call them.

    Raises
    ------
    InputError
        If they are not of a kind, naming the first that differs.

    Examples
    --------
    >>> import numpy as np
    >>> from crossgram import Moments
    >>> first, second = Moments({"a": 2}), Moments({"a": 2})
    >>> first.update(np.eye(2)); second.update(np.ones((3, 2)))
    >>> merge_moments([first, second]).moments
    Moments(a: 2; 5 rows, 1 blocks)
    """
    if len(moments) < 2:
        raise InputError(f"merge: {len(moments)} moments given, expected at least two")
    names = labels or [f"moments {k + 1}" for k in range(len(moments))]
    for other, name in zip(moments[1:], names[1:], strict=True):
        _check_alike("merge", moments[0], names[0], other, name)
    _check_signatures("merge", moments, names)
    merged = reduce(_merged, moments)
    inputs = [_moments_input(each, name) for each, name in zip(moments, names, strict=True)]
    step = Operation.now("merge", _rows(merged), None, inputs)
    return _grown(merged, (*merged.history, step), sum(map(_rows, moments[1:])))


def add_rows(
    moments: _AnyMoments,
    stores: Sequence[SourceLike],
    *,
    weights: ArrayLike | None = None,
    join: str | None = None,
    on_nonfinite: str = "stop",
    memory: int | None = None,
    threads: int | None = None,
    progress: ProgressCallback = ignore,
) -> Revision:
    """Return moments with the rows of stores added, read as the rows before them were.

    Spaces, blocks, normalisation, precision and folds are those of the moments. Folds by ids or
    labels are by the same hash; of folds by rows, each gets a run of the new rows.

    Parameters
    ----------
    moments : Moments or FoldedMoments
        To be added to; left as they are.
    stores : sequence of source-like
        One per space, in order.
    weights, join, on_nonfinite, memory, threads
        As in `Options`.
    progress : callable
        Called with a `Progress` now and then, in the calling thread.

    Raises
    ------
    InputError
        Of the kind that fits.

    Examples
    --------
    >>> import numpy as np
    >>> import crossgram as cg
    >>> x = np.random.default_rng(0).normal(size=(100, 3))
    >>> add_rows(cg.accumulate([x[:60]], names=["a"]), [x[60:]]).moments
    Moments(a: 3; 100 rows, 1 blocks)
    """
    reading = {"join": join, "on_nonfinite": on_nonfinite, "memory": memory, "threads": threads}
    with _opened(moments, stores, weights, reading) as ready:
        seen, sums = ready.known()
        step = replace(ready.recorded(sums), operation="add")
        added = with_history(ready.collect(progress), (), seen)
    return _grown(_merged(moments, added), (*moments.history, step), _rows(added))


def subtract_rows(
    moments: _AnyMoments,
    stores: Sequence[SourceLike],
    *,
    ids: Collection[str] | None = None,
    labels: Collection[str] | None = None,
    allow_unknown: bool = False,
    weights: ArrayLike | None = None,
    join: str | None = None,
    on_nonfinite: str = "stop",
    memory: int | None = None,
    threads: int | None = None,
    progress: ProgressCallback = ignore,
) -> Revision:
    """Return moments without the rows of stores, or without those of some ids or labels.

    With ids or labels, these columns are read and only those chunks of embeddings that hold the
    rows. Where most rows are removed, digits cancel: merge the moments of what stays instead.

    Parameters
    ----------
    moments : Moments or FoldedMoments
        To be removed from; left as they are.
    stores : sequence of source-like
        One per space, in order: those that were accumulated.
    ids, labels : collection of str, optional
        Which rows; by default all. Rows that are listed in either are removed.
    allow_unknown : bool
        Warn, instead of refusing, where a history that accounts for all rows does not name these
        stores.
    weights : array, shape (rows,), optional
        Weights of all rows of the stores, as they were accumulated.
    join, on_nonfinite, memory, threads
        As in `Options`.
    progress : callable
        Called with a `Progress` now and then, in the calling thread.

    Raises
    ------
    InputError
        If the rows were never added as far as can be told, or an id or label is in no row.

    Examples
    --------
    >>> import numpy as np
    >>> import crossgram as cg
    >>> x = np.random.default_rng(0).normal(size=(100, 3))
    >>> moments = add_rows(cg.accumulate([x[:60]], names=["a"]), [x[60:]]).moments
    >>> subtract_rows(moments, [x[60:]]).moments
    Moments(a: 3; 60 rows, 1 blocks)
    """
    reading = {"join": join, "on_nonfinite": on_nonfinite, "memory": memory, "threads": threads}
    with _opened(moments, stores, weights, reading) as ready:
        listed = ids is not None or labels is not None
        seen, sums = (UNSEEN, ready.row_ids()) if listed else ready.known()
        read = ready.recorded(sums)
        _check_rows_folds(moments, read)
        if listed:
            ready = ready.only(listed_rows(ready.sources, ids=ids, labels=labels))
            seen, sums = ready.known()
            read = replace(read, rows=ready.plan.rows, ids=sums)
        doubts = check_removal(moments.history, _rows(moments), [read], allow_unknown=allow_unknown)
        removed = with_history(ready.collect(progress), (), seen)
    history = (*moments.history, replace(read, operation="subtract"))
    return _shrunk(moments, removed, history, doubts)


def subtract_moments(
    moments: _AnyMoments,
    other: _AnyMoments,
    *,
    label: str = "other moments",
    allow_unknown: bool = False,
) -> Revision:
    """Return moments without the rows that other moments are of.

    Parameters
    ----------
    moments, other : Moments or FoldedMoments
        Of the same spaces and blocks, both with the same folds or both without.
    label : str
        What messages and the history call the other.
    allow_unknown : bool
        Warn, instead of refusing, where a history that accounts for all rows does not name what
        the other was made of.

    Raises
    ------
    InputError
        If the rows were never added as far as can be told.

    Examples
    --------
    >>> import numpy as np
    >>> import crossgram as cg
    >>> x = np.random.default_rng(0).normal(size=(100, 3))
    >>> part = cg.accumulate([x[60:]], names=["a"])
    >>> moments = merge_moments([cg.accumulate([x[:60]], names=["a"]), part]).moments
    >>> subtract_moments(moments, part).moments
    Moments(a: 3; 60 rows, 1 blocks)
    """
    _check_alike("subtract", moments, "the moments", other, label)
    _check_signatures("subtract", (moments, other), ("the moments", label))
    doubts = check_removal(
        moments.history, _rows(moments), other.history, allow_unknown=allow_unknown
    )
    if accounted_rows(other.history) != _rows(other):
        doubts.append(
            f"{label}: does not record what all of its rows were read from; whether they were "
            "ever added cannot be told"
        )
    steps = subtracted(moments.history, other.history, _rows(other))[len(moments.history) :]
    named = (replace(step, options={**step.options, "moments": label}) for step in steps)
    return _shrunk(moments, other, (*moments.history, *named), doubts)


def _grown(moments: _AnyMoments, history: History, rows: int) -> Revision:
    warnings = [
        f"the same rows of {names} count more than once" for names in repeated_inputs(history)
    ]
    return Revision(with_history(moments, history), rows, warnings=tuple(warnings))


def _shrunk(
    before: _AnyMoments,
    removed: _AnyMoments,
    history: History,
    doubts: list[str],
) -> Revision:
    after = _subtracted(before, removed)
    pairs = list(zip(_parts(before), _parts(after), strict=True))
    for whole, rest in pairs:
        check_definite(whole, rest)
    digits, loss = min(digits_left(whole, rest) for whole, rest in pairs)
    kept = with_history(after, history)
    return Revision(kept, _rows(removed), digits, (*doubts, *([loss] if loss else [])))


@contextmanager
def _opened(
    moments: _AnyMoments,
    stores: Sequence[SourceLike],
    weights: ArrayLike | None,
    reading: dict[str, Any],
) -> Iterator[Pass]:
    """Prepare a pass over stores in the way in which the moments were accumulated."""
    parts = _parts(moments)
    spaces = parts[0].spaces
    names = [space.name for space in spaces]
    if len(stores) != len(spaces):
        raise InputError(
            f"{len(stores)} stores given, the moments are of {len(spaces)} spaces; give one for "
            f"each of {', '.join(names)}, in this order"
        )
    sources, own_names = open_spaces(stores, None)
    for source, own_name, space in zip(sources, own_names, spaces, strict=True):
        if source.dim != space.dim:
            raise WidthMismatchError(
                f"{source.label}: has {source.dim} columns, {space.name} of these moments has "
                f"{space.dim}; give one store for each of {', '.join(names)}, in this order"
            )
        check_signature(space, source.signature, source.label)
        if own_name != space.name and own_name in names:
            raise InputError(
                f"{source.label}: given for {space.name}, but named like another space; give "
                f"one store for each of {', '.join(names)}, in this order"
            )
    folds = len(parts) if isinstance(moments, FoldedMoments) else 0
    options = Options(
        names=names,
        normalize=[space.name for space in spaces if space.normalized],
        folds=folds,
        group_by=moments.by if isinstance(moments, FoldedMoments) else "rows",
        precision="fast" if any(part.precision == "fast" for part in parts) else "exact",
        norms=parts[0].norms is not None,
        remember=moments.seen.is_known,
        **reading,
    )
    with paired_by(sources, options.join) as paired:
        plan = make_plan(
            paired,
            [
                replace(space, signature=source.signature)
                for space, source in zip(spaces, sources, strict=True)
            ],
            parts[0].pairs,
            folds=folds or 1,
            precision=options.precision,
            memory=options.memory,
            threads=options.threads,
            norms=options.norms,
        )
        assign = assigner_to(paired, folds, options.group_by) if folds else None
        yield Pass(plan, paired, options, checked_weights(weights, plan.rows), assign, sources)


def _check_rows_folds(moments: _AnyMoments, read: Operation) -> None:
    """Refuse to guess which fold a row is in, where that depends on how it was read."""
    if isinstance(moments, FoldedMoments) and moments.by == "rows":
        same = [each for each in moments.history if each.digests == read.digests]
        if not any(each.sign > 0 and each.rows == read.rows for each in same):
            raise InputError(
                f"subtract: folds are runs of rows, and the history does not say how those of "
                f"{read.paths} were read: which folds they are in cannot be told; accumulate "
                "with --group-by ids or labels, or without folds"
            )


def _check_alike(verb: str, first: _AnyMoments, name: str, other: _AnyMoments, label: str) -> None:
    spaces, others = (_parts(each)[0].spaces for each in (first, other))
    if spaces != others:
        found, expected = (
            ", ".join(f"{s.name} ({s.dim}{', unit rows' if s.normalized else ''})" for s in each)
            for each in (others, spaces)
        )
        raise WidthMismatchError(
            f"{verb}: {label} is of the spaces {found}, {name} of {expected}; only moments of "
            "the same spaces have a sum or a difference"
        )
    pairs, other_pairs = (_parts(each)[0].pairs for each in (first, other))
    if pairs != other_pairs:
        i, j = min(pairs ^ other_pairs)
        has, lacks = (label, name) if (i, j) in other_pairs else (name, label)
        raise InputError(
            f"{verb}: {has} keeps the block {spaces[i].name} x {spaces[j].name}, {lacks} does "
            "not; accumulate both with the same --map"
        )
    kinds = [_folding(each) for each in (first, other)]
    if kinds[0] != kinds[1]:
        raise InputError(
            f"{verb}: {label} is {kinds[1]}, {name} {kinds[0]}; accumulate both with the same "
            "--folds and --group-by"
        )


def _check_signatures(verb: str, moments: Sequence[_AnyMoments], names: Sequence[str]) -> None:
    known: dict[str, tuple[Space, str]] = {}
    for each, name in zip(moments, names, strict=True):
        for space in _parts(each)[0].spaces:
            if space.signature is not None:
                label = f"{space.name} of {name}"
                first, first_label = known.setdefault(space.name, (space, label))
                check_signature(first, space.signature, f"{verb}: {label}", first_label)


def _folding(moments: _AnyMoments) -> str:
    if isinstance(moments, FoldedMoments):
        return f"in {len(moments.folds)} folds by {moments.by}"
    return "without folds"


def _parts(moments: _AnyMoments) -> tuple[Moments, ...]:
    return moments.folds if isinstance(moments, FoldedMoments) else (moments,)


def _rows(moments: _AnyMoments) -> int:
    return sum(part.rows + part.skipped for part in _parts(moments))


def _merged(first: _AnyMoments, second: _AnyMoments) -> _AnyMoments:
    if isinstance(first, FoldedMoments):
        assert isinstance(second, FoldedMoments)
        return first.merge(second)
    assert isinstance(second, Moments)
    return first.merge(second)


def _subtracted(first: _AnyMoments, second: _AnyMoments) -> _AnyMoments:
    if isinstance(first, FoldedMoments):
        assert isinstance(second, FoldedMoments)
        return first.subtract(second)
    assert isinstance(second, Moments)
    return first.subtract(second)


def _moments_input(moments: _AnyMoments, label: str) -> Input:
    digest = hashlib.blake2b(digest_size=16)
    for part in _parts(moments):
        digest.update(f"{part.rows} {part.weight!r}".encode())
        for array in (*part.means, *part.squares):
            digest.update(array.tobytes())
    return Input(label, _rows(moments), digest.hexdigest())
