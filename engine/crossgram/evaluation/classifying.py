"""Classification of mapped embeddings by the target network's own head."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossgram.accumulation import open_spaces
from crossgram.cluster import check_workers, opened_once, over_workers
from crossgram.errors import InputError, NonFiniteError, WidthMismatchError
from crossgram.evaluation.maps import loaded_map
from crossgram.evaluation.scoring import as_wide
from crossgram.evaluation.splits import Overlap, checked_overlaps, split_notes
from crossgram.heads import ClassifierHead, in_top_k
from crossgram.linear_map import LinearMap
from crossgram.pairing import check_counts, check_ids, check_labels
from crossgram.progress import Progress, ProgressCallback, ignore
from crossgram.source import Source, SourceLike, address_of, first_column, usable_rows

__all__ = ["Classification", "ClassificationReport", "classify"]

_BLOCK_BYTES = 32 << 20
_TASK_BLOCKS = 8
"""That a task holds at once: rows of two stores as read and as cast, logits and their copies."""
_TOP = (1, 5)
_NUMBER = re.compile(r"-?[0-9]{1,18}")


@dataclass(frozen=True)
class Classification:
    """How often one kind of embedding is classified rightly.

    Attributes
    ----------
    embeddings : str
        Space or map, and whose head.
    kind : {"native", "mapped", "unmapped"}
        How the embeddings came into the head's space.
    source, target : str
        Where they are from, and whose head reads them.
    top : mapping of int to float
        Share of the images whose class is among so many largest logits.
    agreement : float
        Share of the images that get the largest logit where the target's own embedding does.
    loss : mapping of int to float
        What is lost against the target's own embeddings, in points.
    """

    embeddings: str
    kind: str
    source: str
    target: str
    top: dict[int, float]
    agreement: float
    loss: dict[int, float]


@dataclass(frozen=True)
class ClassificationReport:
    """All classifications of one evaluation.

    Attributes
    ----------
    classifications : tuple of Classification
        The target's own embeddings first.
    images, left_out : int
        Images, and those without an embedding, which are left out.
    classes : int
        Of the head.
    overlaps : tuple of Overlap
        What fit and evaluation share, by the stores that were said to be fitted on, and by the
        map if it remembers it.
    notes : tuple of str
        What to know before relying on the figures.
    """

    classifications: tuple[Classification, ...]
    images: int
    left_out: int
    classes: int
    overlaps: tuple[Overlap, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return asdict(self)


def classify(
    source: SourceLike,
    target: SourceLike,
    head: ClassifierHead | str | Path,
    *,
    linear_map: LinearMap | str | Path | None = None,
    source_head: ClassifierHead | str | Path | None = None,
    names: Sequence[str] | None = None,
    classes: Sequence[Any] | None = None,
    fitted_on: Sequence[SourceLike] = (),
    allow_overlap: bool = False,
    client: Any = None,
    progress: ProgressCallback = ignore,
) -> ClassificationReport:
    """Classify embeddings by the target's head: its own ones, mapped ones, and unmapped ones.

    Parameters
    ----------
    source, target : source-like, shapes (n, p) and (n, q)
        Embeddings of the same labelled images, in the same order; read in blocks.
    head : ClassifierHead or path
        Of the target's network.
    linear_map : LinearMap or path, optional
        From source to target.
    source_head : ClassifierHead or path, optional
        Of the source's network, to see what its own embeddings give.
    names : sequence of str, optional
        What the two spaces are called.
    classes : sequence, optional
        The labels in the order of the head's classes. By default labels that are whole numbers,
        also as text, are the classes, and others are in the order of their names, if there are as
        many as classes.
    client : distributed.Client, optional
        Of a Dask cluster whose workers read the embeddings; the figures are the same.
    fitted_on, allow_overlap, progress
        As for `verify`; an image must not have been fitted on, its class may.

    Returns
    -------
    ClassificationReport

    Raises
    ------
    InputError
        If there are no labels, they are no classes of the head, or images that were fitted on are
        classified.
    PairingError
        If the rows are not the same images.
    WidthMismatchError
        If rows, map and heads do not fit.
    NonFiniteError
        If an embedding is not finite.
    """
    sources, called = open_spaces([source, target], names)
    check_counts(sources)
    check_ids(sources, 0, sources[0].rows)
    check_labels(sources)
    own_head = _head(head, sources[1])
    other_head = None if source_head is None else _head(source_head, sources[0])
    if other_head is not None and other_head.classes != own_head.classes:
        raise WidthMismatchError(
            f"source head: has {other_head.classes} classes, the target's {own_head.classes}; give "
            "heads of the same classes"
        )
    fitted = (
        None
        if linear_map is None
        else loaded_map(linear_map, sources[0], sources[1], f"{called[0]} to {called[1]}")
    )
    usable = usable_rows(sources)
    true = _classes(sources, own_head.classes, classes, usable)
    maps = [] if fitted is None else [fitted]
    shared = checked_overlaps(
        sources, np.flatnonzero(usable), fitted_on, maps, allow_overlap, people_count=False
    )
    job = _Job(uuid.uuid4().hex, tuple(sources), tuple(called), own_head, fitted, other_head)
    counts: dict[_Ends, _Count] = {}
    done = 0
    for own, rows in _over_parts(job, _parts(job, true, usable), client):
        for ends, count in own.items():
            counts.setdefault(ends, _Count()).add(count)
        done += rows
        progress(Progress("classify", done, sources[0].rows, 0))
    found = _found(counts)
    return ClassificationReport(
        classifications=tuple(found),
        images=int(usable.sum()),
        left_out=int((~usable).sum()),
        classes=own_head.classes,
        overlaps=shared,
        notes=tuple(split_notes(shared, maps)) if maps else (),
    )


def _head(given: ClassifierHead | str | Path, source: Source) -> ClassifierHead:
    head = given if isinstance(given, ClassifierHead) else ClassifierHead.load(given)
    if head.dim != source.dim:
        raise WidthMismatchError(
            f"head: takes {head.dim} columns, {source.label} has {source.dim}; give the head of "
            "the network that made it"
        )
    return head


def _classes(
    sources: Sequence[Source], count: int, names: Sequence[Any] | None, usable: NDArray[np.bool_]
) -> NDArray[np.int64]:
    column = first_column(sources, "labels")
    if column is None:
        raise InputError(
            f"{sources[0].label}: has no labels, so that the true classes are not known; make the "
            "store with labels"
        )
    labels = column.read(0, len(column))
    told = labels[usable].tolist()
    if names is None and all(_NUMBER.fullmatch(str(own)) for own in told):
        true = np.array([int(own) for own in told], np.int64)
        wrong = (true < 0) | (true >= count)
        if wrong.any():
            raise InputError(
                f"{column.label}: holds {true[wrong][0]}, expected classes from 0 to {count - 1}"
            )
    else:
        if names is None and all(map(_is_number, told)):
            raise InputError(
                f"{column.label}: holds numbers such as {told[0]!r}, of which it is not known "
                "which class each is; name the label of each class in the head's order (--classes)"
            )
        known = sorted(set(told)) if names is None else list(names)
        if len(known) != count or len(set(known)) != count:
            raise InputError(
                f"{column.label}: {len(set(known))} different labels for {count} classes; name the "
                "label of each class in the head's order (--classes)"
            )
        place = {str(name): k for k, name in enumerate(known)}
        unknown = [own for own in told if str(own) not in place]
        if unknown:
            raise InputError(f"{column.label}: holds {unknown[0]!r}, which is no class of the head")
        true = np.array([place[str(own)] for own in told], np.int64)
    found = np.zeros(len(labels), np.int64)
    found[usable] = true
    return found


_Ends = tuple[str, str, str]
"""Kind, source and target of a classification."""

_CALLED = {
    "native": "{0} by {1}",
    "mapped": "{0} to {1} by {1}",
    "unmapped": "{0} unmapped by {1}",
}


@dataclass
class _Count:
    """Of images: how many, with the true class among so many first, and like the target's own."""

    images: int = 0
    right: dict[int, int] = field(default_factory=lambda: dict.fromkeys(_TOP, 0))
    agreeing: int = 0

    @classmethod
    def of(
        cls, logits: NDArray[np.float64], true: NDArray[np.int64], native: NDArray[np.float64]
    ) -> _Count:
        within = {k: in_top_k(logits, true, min(k, logits.shape[1])) for k in _TOP}
        agreeing = logits.argmax(axis=1) == native.argmax(axis=1)
        return cls(len(true), {k: int(own.sum()) for k, own in within.items()}, int(agreeing.sum()))

    def add(self, other: _Count) -> None:
        self.images += other.images
        self.agreeing += other.agreeing
        for k, count in other.right.items():
            self.right[k] += count


@dataclass(frozen=True)
class _Job:
    """What all parts have in common; sources are addresses for a worker."""

    run: str
    sources: tuple[Source | str, ...]
    names: tuple[str, ...]
    head: ClassifierHead
    fitted: LinearMap | None
    source_head: ClassifierHead | None


@dataclass(frozen=True)
class _Part:
    """Some rows, from `start` on."""

    start: int
    true: NDArray[np.int64]
    usable: NDArray[np.bool_]


def _is_number(label: Any) -> bool:
    try:
        float(str(label))
    except ValueError:
        return False
    return True


def _parts(job: _Job, true: NDArray[np.int64], usable: NDArray[np.bool_]) -> Iterator[_Part]:
    heads = [head for head in (job.head, job.source_head) if head is not None]
    widest = max(job.head.classes, *(head.dim for head in heads))
    size = max(1, _BLOCK_BYTES // (8 * widest))
    for start in range(0, len(true), size):
        yield _Part(start, true[start : start + size], usable[start : start + size])


def _over_parts(
    job: _Job, parts: Iterator[_Part], client: Any
) -> Iterator[tuple[dict[_Ends, _Count], int]]:
    if client is None:
        for part in parts:
            yield _counted(part, job)
        return
    sources = [own for own in job.sources if isinstance(own, Source)]
    addresses = tuple(map(address_of, sources))
    check_workers(client, sources, _TASK_BLOCKS * _BLOCK_BYTES)
    yield from over_workers(client, _counted, parts, replace(job, sources=addresses), large=True)


def _counted(part: _Part, job: _Job) -> tuple[dict[_Ends, _Count], int]:
    """Count the rows of a part, and say how many there are, with those that are left out."""
    rows = [_read(job.run, own, part) for own in job.sources]
    true = part.true[part.usable]
    if not len(true):
        return {}, len(part.true)
    native = job.head.logits(rows[1])
    counts = {ends: _Count.of(logits, true, native) for ends, logits in _logits(rows, native, job)}
    return counts, len(part.true)


def _read(run: str, given: Source | str, part: _Part) -> NDArray[np.floating]:
    source = opened_once(run, given) if isinstance(given, str) else given
    block = np.empty((len(part.usable), source.dim), source.dtype)
    source.read(part.start, block)
    finite = np.isfinite(block).all(axis=1) | ~part.usable
    if not finite.all():
        raise NonFiniteError(
            f"{source.label}: row {part.start + int(np.argmin(finite))} holds NaN or infinity; "
            "mend it"
        )
    return block[part.usable]


def _logits(
    rows: Sequence[NDArray[np.floating]], native: NDArray[np.float64], job: _Job
) -> Iterator[tuple[_Ends, NDArray[np.float64]]]:
    a, b = job.names
    yield ("native", b, b), native
    if job.fitted is not None:
        yield ("mapped", a, b), job.head.logits(job.fitted.apply(rows[0]))
    if job.source_head is not None:
        yield ("native", a, a), job.source_head.logits(rows[0])
    yield ("unmapped", a, b), job.head.logits(as_wide(rows[0], job.head.dim))


def _found(counts: dict[_Ends, _Count]) -> Iterator[Classification]:
    if not counts:
        raise InputError("no image has an embedding, so that nothing can be classified")
    native: dict[int, float] = {}
    for (kind, source, target), own in counts.items():
        name = _CALLED[kind].format(source, target)
        top = {k: right / own.images for k, right in own.right.items()}
        native = native or top
        loss = {k: 100 * (native[k] - share) for k, share in top.items()}
        yield Classification(name, kind, source, target, top, own.agreeing / own.images, loss)
