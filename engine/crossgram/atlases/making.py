"""All maps between some networks, and what they keep, in one folder."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import crossgram
from crossgram.accumulation import Options, open_spaces
from crossgram.atlases.facts import Atlas, AtlasMap, AtlasSpace, RidgePoint, save_facts
from crossgram.atlases.recognising import classifications, gallery_and_probes, identifications
from crossgram.atlases.splitting import Divided, by_holding_out, by_other_stores
from crossgram.atlases.tables import write_table
from crossgram.comparison import compare
from crossgram.dense import eigenvalues, singular_values
from crossgram.errors import InputError
from crossgram.evaluation.verifying import FARS, verify_spaces
from crossgram.evidence import is_rounding, residual_squares, squares_about
from crossgram.fitting import method_of, solve
from crossgram.heads import ClassifierHead
from crossgram.linear_map import LinearMap
from crossgram.locations import ObjectPath, local
from crossgram.maps import Method
from crossgram.moments import Moments
from crossgram.output import check_output, refuse_overlap, whole_directory
from crossgram.progress import ProgressCallback, ignore
from crossgram.ridge import held_out_curve
from crossgram.sampling import MOST_SCORED
from crossgram.source import SourceLike
from crossgram.spaces import Space

__all__ = ["MAPS", "MOMENTS", "atlas"]

MAPS, MOMENTS = "maps", "moments.safetensors"
"""In the folder of an atlas: the maps, and what they were solved from."""

_RANKS = (1, 2, 5, 10, 20, 50, 100)
"""Of the CMC."""

_WORSE = (
    "on the images held out it is worse than the mean of the targets; use ridge, or more images to "
    "fit to"
)

_SAFE_NAME = re.compile(r"[\w][\w .+-]*")


def atlas(
    spaces: Sequence[SourceLike],
    out: str | Path,
    *,
    names: Sequence[str] | None = None,
    try_on: Sequence[SourceLike] = (),
    heads: Sequence[ClassifierHead | str | Path] = (),
    classes: Sequence[Any] | None = None,
    held_out: float = 0.2,
    most_images: int = MOST_SCORED,
    method: str = "lstsq",
    rank: int | None = None,
    scale: bool = False,
    intercept: bool = True,
    ridge: float | str = 0.0,
    normalize: bool | Collection[str] = False,
    fars: Sequence[float] = FARS,
    resamples: int = 200,
    seed: int = 0,
    allow_overlap: bool = False,
    overwrite: bool = False,
    progress: ProgressCallback = ignore,
    **options: Any,
) -> Atlas:
    """Fit the map from every space to every other one, in one pass, and try them all.

    Parameters
    ----------
    spaces : sequence of source-like, shapes (n, d)
        Embeddings of the same images, in the same order, each by another network; at least two.
    out : path
        The new folder: `atlas.json`, all facts; `figures.csv`, the figures of every pair; the maps
        and the moments that they were solved from.
    names : sequence of str, optional
        What the spaces are called; by default the stems of paths.
    try_on : sequence of source-like, optional
        Embeddings of other images to try the maps on, one store per space. Without them, people
        (of images without labels: images) are held out of the fit for it.
    heads : sequence of ClassifierHead or path, optional
        The classifiers of the networks, one per space, which need `try_on`, whose labels are then
        classes. Otherwise labels are people.
    classes : sequence, optional
        The labels in the order of the heads' classes, as for `classify`.
    held_out : float
        Share of the people to hold out.
    most_images : int
        Of those, how many images recognition is tried on at most: whole people, at most 20 images
        each.
    method, rank, scale, intercept, ridge
        The maps, as for `fit`.
    normalize : bool or collection of names
        Which spaces' rows are divided by their lengths.
    fars : sequence of float
        False accept rates of verification.
    resamples : int
        Draws of people for the confidence intervals; 0 for none.
    seed : int
        Of what is held out, and of the draws.
    allow_overlap : bool
        Try maps also on what they were fitted on; the report says so.
    overwrite : bool
        Replace an atlas at `out`.
    progress : callable
        Called with a `Progress` now and then.
    **options
        `precision`, `on_nonfinite`, `join`, `memory`, `threads`, `remember` and `client`, as for
        `accumulate`.

    Returns
    -------
    Atlas

    Raises
    ------
    InputError
        If arguments contradict each other, or of the kind that fits as for `accumulate`, `solve`,
        `verify`, `identify` and `classify`.
    OutputExistsError
        If `out` exists and `overwrite` is false.
    """
    folder = local(out)
    check_output(folder, overwrite=overwrite, folder=True)
    given = (*spaces, *try_on, *heads)
    refuse_overlap(
        folder, *(one for one in given if isinstance(one, str | os.PathLike | ObjectPath))
    )
    chosen = method_of(method, intercept, ridge, rank, scale)
    sources, called = open_spaces(spaces, names)
    _check(called, try_on, heads, options)
    read = Options(names=called, normalize=normalize, norms=True, **options)
    if try_on:
        divided = by_other_stores(
            sources,
            try_on,
            read,
            labels_are_people=not heads,
            allow_overlap=allow_overlap,
            progress=progress,
        )
    else:
        divided = by_holding_out(
            sources, read, share=held_out, most=most_images, seed=seed, progress=progress
        )
    training = divided.training
    comparison = compare(training)
    for source, target in permutations(training.spaces, 2):
        chosen.check(source, target)
    fitted = {
        (i, j): solve(
            training,
            called[i],
            called[j],
            intercept=intercept,
            ridge=ridge,
            method=method,
            rank=rank,
            scale=scale,
            device=read.solving_device,
        )
        for i, j in permutations(range(len(called)), 2)
    }
    recognised, notes = _recognised(
        divided, called, fitted, heads, classes, fars, resamples, seed, allow_overlap, progress
    )
    made = Atlas(
        made_by=f"crossgram {crossgram.__version__}",
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        spaces=tuple(_space(training, space) for space in training.spaces),
        split=divided.split,
        maps=tuple(_described(one, divided, chosen) for one in fitted.values()),
        comparison=comparison,
        **recognised,
        notes=(*_left_out(divided), *notes),
    )
    with whole_directory(folder, overwrite=overwrite) as temporary:
        training.save(temporary / MOMENTS)
        (temporary / MAPS).mkdir()
        for own, described in zip(fitted.values(), made.maps, strict=True):
            own.save(temporary / described.file)
        write_table(made, temporary)
        save_facts(made, temporary)
    return made


def _check(
    names: Sequence[str],
    try_on: Sequence[SourceLike],
    heads: Sequence[object],
    options: Mapping[str, Any],
) -> None:
    if len(names) < 2:
        raise InputError(f"spaces: {len(names)} given, expected at least two")
    for name in names:
        if not _SAFE_NAME.fullmatch(name):
            raise InputError(
                f"names: {name!r} given, expected letters, digits, spaces and . + - _, for maps' "
                "files are called by them; name the spaces (--name)"
            )
    files = [_file(source, target) for source, target in permutations(names, 2)]
    if len(set(files)) < len(files):
        raise InputError(
            f"names: {', '.join(names)} given, of which two pairs make one file's name; choose "
            "others (--name)"
        )
    for argument, given in (("try_on", try_on), ("heads", heads)):
        if given and len(given) != len(names):
            raise InputError(f"{argument}: {len(given)} given for {len(names)} spaces")
    if heads and not try_on:
        raise InputError(
            "heads: given without other images to try the maps on (--try-on), whose labels are "
            "the classes"
        )
    if try_on and options.get("join") is not None:
        raise InputError(
            "join: given with stores to try the maps on, which are read in their own order; join "
            "the stores before, or hold out a share of them"
        )


def _recognised(
    divided: Divided,
    names: Sequence[str],
    maps: Mapping[tuple[int, int], LinearMap],
    heads: Sequence[ClassifierHead | str | Path],
    classes: Sequence[Any] | None,
    fars: Sequence[float],
    resamples: int,
    seed: int,
    allow_overlap: bool,
    progress: ProgressCallback,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what recognition is kept, by the fields of `Atlas`, and notes."""
    found: dict[str, Any] = {"verification": None, "identification": (), "classification": ()}
    sources = divided.tried
    if not sources:
        note = "recognition was not tried: the images have no labels"
        return found, (note,)
    if heads:
        own = classifications(
            sources,
            names,
            maps,
            heads,
            classes=classes,
            allow_overlap=allow_overlap,
            progress=progress,
        )
        return found | {"classification": tuple(own)}, ()
    rows = gallery_and_probes(sources)
    if len(rows[0]) < 2 or not len(rows[1]):
        note = (
            "recognition was not tried: the images to try it on show one person only, or no person "
            "twice"
        )
        return found, (note,)
    found["verification"] = verify_spaces(
        sources,
        maps,
        names=names,
        fars=fars,
        resamples=resamples,
        seed=seed,
        allow_overlap=allow_overlap,
        progress=progress,
    )
    found["identification"] = tuple(
        identifications(
            sources,
            names,
            maps,
            rows,
            ranks=[rank for rank in _RANKS if rank in (1, 5, 10) or rank < len(rows[0])],
            resamples=resamples,
            seed=seed,
            allow_overlap=allow_overlap,
            progress=progress,
        )
    )
    return found, ()


def _left_out(divided: Divided) -> Iterator[str]:
    """Say which images count nowhere."""
    fitted, tried = divided.training.skipped, divided.held_out.skipped
    if fitted or tried:
        yield (
            f"{fitted:,} of the images to fit to and {tried:,} of those to try the maps on are "
            "masked or not finite in some store, and were left out of all"
        )
    if divided.left_out:
        yield (
            f"{divided.left_out:,} of the images to try recognition on were left out of it, being "
            "not finite or all zeros in some store"
        )


def _space(moments: Moments, space: Space) -> AtlasSpace:
    scatter = moments.scatter(space.name, space.name)
    lengths = np.sqrt(scatter.diagonal())
    constant = is_rounding(scatter.diagonal(), moments, space.name)
    scale = np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, lengths))
    values = eigenvalues(scatter * scale[:, None] * scale)[::-1]
    return AtlasSpace(space.name, space.dim, _short(np.sqrt(np.maximum(values, 0.0))))


def _file(source: str, target: str) -> str:
    return f"{MAPS}/{source}-to-{target}.safetensors"


def _described(fitted: LinearMap, divided: Divided, chosen: Method) -> AtlasMap:
    source, target = fitted.source.name, fitted.target.name
    certificate = fitted.certificate
    assert certificate is not None
    held_out = divided.held_out
    errors = residual_squares(held_out, source, target, _Solved(fitted.weight.T, fitted.bias))
    totals = squares_about(held_out, target, divided.training)
    constant = is_rounding(totals, held_out, target)
    r2 = 0.0 if constant.all() else float(1.0 - errors.sum() / totals.sum())
    per_output = np.where(constant, 0.0, 1.0 - errors / np.where(constant, 1.0, totals))
    return AtlasMap(
        source=source,
        target=target,
        file=_file(source, target),
        method=certificate.method,
        ridge=certificate.ridge,
        condition=certificate.condition,
        digits=certificate.digits,
        rank=certificate.rank,
        r2=certificate.r2,
        held_out_r2=r2,
        held_out_r2_per_output=_short(np.sort(per_output)[::-1]),
        singular_values=_short(singular_values(fitted.weight)),
        ridge_curve=() if constant.all() else _ridge_curve(divided, source, target, chosen),
        notes=(*certificate.notes, *([_WORSE] if r2 < 0 else [])),
    )


@dataclass(frozen=True)
class _Solved:
    coefficients: NDArray[np.float64]
    bias: NDArray[np.float64]


def _ridge_curve(
    divided: Divided, source: str, target: str, chosen: Method
) -> tuple[RidgePoint, ...]:
    if chosen.name != "lstsq":
        return ()
    strengths, shares = held_out_curve(
        divided.training, divided.held_out, source, target, intercept=chosen.intercept
    )
    return tuple(map(RidgePoint, _short(strengths), _short(shares)))


def _short(values: NDArray[np.floating]) -> tuple[float, ...]:
    """Return values of six digits, which plots show no more than."""
    return tuple(float(f"{value:.6g}") for value in values)
