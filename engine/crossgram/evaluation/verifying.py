"""Verification within spaces and across them: what a map keeps of telling people apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from crossgram.accumulation import open_spaces
from crossgram.cluster import check_workers
from crossgram.devices import check_device_for
from crossgram.errors import InputError
from crossgram.evaluation.binned_scores import TILE_BYTES
from crossgram.evaluation.maps import loaded_map
from crossgram.evaluation.measuring import (
    KINDS,
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
from crossgram.evaluation.templates import (
    Pooling,
    Templates,
    read_template_pairs,
    read_templates,
)
from crossgram.linear_map import LinearMap
from crossgram.pairing import check_counts, check_ids, check_labels
from crossgram.progress import Progress, ProgressCallback, ignore
from crossgram.source import Source, SourceLike, first_column, usable_rows
from crossgram.verification import TAR_MODES, allowed_false_accepts, least_rate

__all__ = ["FARS", "VerificationReport", "verify", "verify_spaces"]

FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""False accept rates, unless said otherwise."""

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
    pooling : Pooling or None
        How images became templates, where templates were compared.
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
    pooling: Pooling | None = None

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
    templates: str | Path | None = None,
    normalize_images: bool = False,
    detector_scores: str | Path | None = None,
    names: Sequence[str] | None = None,
    metric: str = "cosine",
    fars: Sequence[float] = FARS,
    tar: str = "conservative",
    resamples: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
    fitted_on: Sequence[SourceLike] = (),
    allow_overlap: bool = False,
    client: Any = None,
    device: str = "cpu",
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
    templates : path, optional
        Which images make up which templates, as `read_templates` takes it: then `pairs` is a list
        of pairs of templates, as `read_template_pairs` takes it. Images' embeddings are mapped,
        then maybe divided by their lengths, then maybe multiplied by the detector's scores, and
        then pooled to templates, which are compared.
    normalize_images : bool
        With templates: divide the embeddings of images by their lengths, after the map. (A map
        that was fitted with `normalize` divides its source rows by itself, before.)
    detector_scores : path, optional
        With templates: the detector's score of each image, as `read_templates` takes it.
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
    client : distributed.Client, optional
        Of a Dask cluster whose workers score the pairs where they are more than 20 million; each
        holds all rows. The figures are the same.
    device : {"cpu", "cuda", "cuda:1", ..., "auto"}
        Where more than 20 million pairs are scored: by each worker, if there are any. A GPU's
        scores differ from the processor's in their last bits.
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
    given = [source] if target is None else [source, target]
    if target is None and (linear_map is not None or back is not None):
        raise InputError("target: none given, but a map to it; give the store of its space")
    maps = {(0, 1): linear_map, (1, 0): back}
    return verify_spaces(
        given,
        {ends: one for ends, one in maps.items() if one is not None},
        pairs=pairs,
        templates=templates,
        normalize_images=normalize_images,
        detector_scores=detector_scores,
        names=names,
        metric=metric,
        fars=fars,
        tar=tar,
        resamples=resamples,
        confidence=confidence,
        seed=seed,
        fitted_on=fitted_on,
        allow_overlap=allow_overlap,
        client=client,
        device=device,
        progress=progress,
    )


def verify_spaces(
    spaces: Sequence[SourceLike],
    maps: Mapping[tuple[int, int], LinearMap | str | Path],
    *,
    pairs: str | Path | None = None,
    templates: str | Path | None = None,
    normalize_images: bool = False,
    detector_scores: str | Path | None = None,
    names: Sequence[str] | None = None,
    metric: str = "cosine",
    fars: Sequence[float] = FARS,
    tar: str = "conservative",
    resamples: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
    fitted_on: Sequence[SourceLike] = (),
    allow_overlap: bool = False,
    client: Any = None,
    device: str = "cpu",
    progress: ProgressCallback = ignore,
) -> VerificationReport:
    """Do what `verify` does, within and across any number of spaces.

    Parameters
    ----------
    spaces : sequence of source-like, shapes (n, d)
        Embeddings of the same images, in the same order, each by another network; those of two
        are in memory at a time.
    maps : mapping of (int, int) to LinearMap or path
        By the positions of source and target.

    The other parameters, what is returned and what is raised are as for `verify`.
    """
    _check(metric, fars, tar, resamples, confidence)
    where = check_device_for(client, device)
    _check_templates(pairs, templates, normalize_images, detector_scores)
    sources, called = open_spaces(spaces, names)
    check_counts(sources)
    check_ids(sources, 0, sources[0].rows)
    check_labels(sources)
    usable = usable_rows(sources)
    if templates is None or pairs is None:
        pooled = None
        chosen = _chosen(sources, pairs, usable, fars, metric, tar, client, where)
        images = chosen.rows
    else:
        pooled = _templates(sources, templates, usable, normalize_images, detector_scores)
        chosen = Sorted(read_template_pairs(pairs, pooled), True, metric, tar, fars)
        images = pooled.images_of(chosen.rows)
    loaded = {
        (i, j): loaded_map(one, sources[i], sources[j], f"{called[i]} to {called[j]}")
        for (i, j), one in maps.items()
    }
    shared = checked_overlaps(sources, images, fitted_on, list(loaded.values()), allow_overlap)
    # scores of so many pairs are counted in float32
    dtype = np.float32 if isinstance(chosen, Binned) else np.float64
    met = _Meeting(sources, called, loaded, usable, _ready(metric, pooled, dtype))
    drawing = Drawing(0 if isinstance(chosen, Binned) else resamples, confidence, seed)
    total = len(sources) ** 2 + 2 * len(loaded)
    found: list[Verification] = []
    count = 0
    for target in range(len(sources)):
        native: Measured | None = None
        for comparison in met.at(target):
            for own in chosen.measure(comparison, native, drawing):
                found.append(own[0])
                native = native or own
            # its rows are as large as a store
            del comparison
            count += 1
            progress(Progress("verify", count, total, 0))
    # by kind, then as the spaces are given
    found.sort(
        key=lambda own: (
            KINDS.index(own.kind.partition(",")[0]),
            called.index(own.source),
            called.index(own.target),
        )
    )
    return VerificationReport(
        comparisons=tuple(found),
        images=len(images),
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
        notes=tuple(_notes(chosen, fars, shared, list(loaded.values()))),
        pooling=None if pooled is None else pooled.pooling(chosen.rows),
    )


def _check(metric: str, fars: Sequence[float], tar: str, resamples: int, confidence: float) -> None:
    for name, value, allowed in (("metric", metric, tuple(METRICS)), ("tar", tar, TAR_MODES)):
        if value not in allowed:
            raise InputError(f"{name}: {value!r} given, expected one of {allowed}")
    for far in fars:
        allowed_false_accepts(far, 1)
    check_draws(resamples, confidence)


def _check_templates(
    pairs: str | Path | None,
    templates: str | Path | None,
    normalize_images: bool,
    detector_scores: str | Path | None,
) -> None:
    if templates is None and (normalize_images or detector_scores is not None):
        raise InputError(
            "templates: none given, but how images are pooled to them; give the list of templates "
            "(--templates)"
        )
    if templates is not None and pairs is None:
        raise InputError(
            f"pairs: none given for the templates of {templates}; give the list "
            "of pairs of templates (--pairs)"
        )


def _chosen(
    sources: Sequence[Source],
    pairs: str | Path | None,
    usable: NDArray[np.bool_],
    fars: Sequence[float],
    metric: str,
    tar: str,
    client: Any,
    device: str,
) -> Sorted | Binned:
    if pairs is not None:
        return Sorted(_listed(sources, pairs, usable), True, metric, tar, fars)
    labels = first_column(sources, "labels")
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
    if client is not None:
        held = 2 * 4 * count * max(source.dim for source in sources)
        check_workers(client, [], held + TILE_BYTES)
    return Binned(names, usable, fars, client, device)


def _listed(sources: Sequence[Source], pairs: str | Path, usable: NDArray[np.bool_]) -> PairList:
    read = _with_people(read_pairs(pairs, _ids(sources, pairs)), sources)
    _refuse_masked(sources, pairs, np.append(read.left, read.right), usable)
    return read


def _ids(sources: Sequence[Source], path: str | Path) -> list[Any]:
    ids = first_column(sources, "ids")
    if ids is None:
        raise InputError(
            f"{sources[0].label}: has no ids, which the images of {path} are named by; make the "
            "store with ids"
        )
    return list(ids.read(0, len(ids)).tolist())


def _refuse_masked(
    sources: Sequence[Source],
    path: str | Path,
    rows: NDArray[np.int64],
    usable: NDArray[np.bool_],
) -> None:
    if not usable[rows].all():
        row = int(rows[np.argmin(usable[rows])])
        raise InputError(
            f"{path}: {_ids(sources, path)[row]} has no embedding in {sources[0].label}, its row "
            "is masked; a protocol leaves out no pair: mend the image and embed it again"
        )


def _with_people(pairs: PairList, sources: Sequence[Source]) -> PairList:
    """Return pairs whose people are those of the labels, unless these are of something else."""
    labels = first_column(sources, "labels")
    if labels is None:
        return pairs
    _, people = np.unique(labels.read(0, len(labels)), return_inverse=True)
    if not np.array_equal(people[pairs.left] == people[pairs.right], pairs.same):
        return pairs
    return replace(pairs, subject=people.astype(np.int64))


def _templates(
    sources: Sequence[Source],
    path: str | Path,
    usable: NDArray[np.bool_],
    normalize_images: bool,
    detector_scores: str | Path | None,
) -> Templates:
    read = read_templates(
        path,
        _ids(sources, path),
        normalize_images=normalize_images,
        detector_scores=detector_scores,
    )
    _refuse_masked(sources, path, read.images, usable)
    return read


_Ready = Callable[[NDArray[np.floating], str], NDArray[np.floating]]


def _ready(metric: str, templates: Templates | None, dtype: DTypeLike) -> _Ready:
    """Return what makes of the embeddings of all images the rows that are compared."""

    def ready(rows: NDArray[np.floating], name: str) -> NDArray[np.floating]:
        if templates is None:
            return prepared(rows, metric, name, dtype)
        return prepared(templates.pool(rows, name), metric, f"templates of {name}")

    return ready


@dataclass(frozen=True)
class _Meeting:
    """Which embeddings are compared, target by target."""

    sources: Sequence[Source]
    names: Sequence[str]
    maps: Mapping[tuple[int, int], LinearMap]
    usable: NDArray[np.bool_]
    ready: _Ready

    def at(self, target: int) -> Iterator[Comparison]:
        """Yield the comparisons in one space, the native one first."""
        name = self.names[target]
        native = f"{name} with {name}"
        own = self.ready(self._rows(target), self.sources[target].label)
        yield Comparison(native, "native", name, name, own, own, None)
        for source, other in enumerate(self.names):
            if source == target:
                continue
            rows, label = self._rows(source), self.sources[source].label
            fitted = self.maps.get((source, target))
            if fitted is not None:
                called = f"{other} to {name}"
                mapped = self.ready(fitted.apply(rows), f"{label}, mapped to {name}")
                yield Comparison(
                    f"{called} with {name}", "mapped", other, name, mapped, own, native
                )
                yield Comparison(
                    f"{called} with itself",
                    "mapped, with itself",
                    other,
                    name,
                    mapped,
                    mapped,
                    native,
                )
                del mapped
            called = f"{other} unmapped with {name}"
            cut = as_wide(rows, own.shape[1])
            if not cut.any(axis=1).all():
                # of rows whose numbers are all cut off, there is nothing to compare
                continue
            yield Comparison(called, "unmapped", other, name, self.ready(cut, label), own, native)

    def _rows(self, position: int) -> NDArray[np.floating]:
        source = self.sources[position]
        rows = np.empty((source.rows, source.dim), source.dtype)
        source.read(0, rows)
        # in no pair, and NaN
        rows[~self.usable] = 1
        return rows


def _notes(
    chosen: Sorted | Binned,
    fars: Sequence[float],
    shared: Sequence[Overlap],
    maps: Sequence[LinearMap],
) -> Iterator[str]:
    if isinstance(chosen, Binned):
        yield "too many pairs to be drawn anew: without intervals, and the area to about 1e-5"
    elif chosen.uneven_folds:
        yield (
            f"folds with pairs of one kind only: {chosen.uneven_folds}; the accuracy over folds is "
            "meant for folds with as many pairs of one person as of two: mix the list, or name "
            "folds in it"
        )
    if len(chosen.fars) < len(set(fars)):
        yield (
            f"{chosen.impostor:,} impostor pairs tell false accept rates down to "
            f"{least_rate(chosen.impostor)}; lower ones were left out"
        )
    few = [far for far in chosen.fars if far * chosen.impostor < _FEW_FALSE_ACCEPTS]
    if few:
        yield (
            f"at {', '.join(f'{far:g}' for far in few)} the true accept rate hangs on fewer than "
            f"{_FEW_FALSE_ACCEPTS} false accepts"
        )
    if maps:
        yield from split_notes(shared, maps)
