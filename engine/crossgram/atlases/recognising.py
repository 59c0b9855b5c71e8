"""What every map of an atlas keeps of recognition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossgram.atlases.facts import PairClassification, PairIdentification
from crossgram.evaluation import classify, identify
from crossgram.heads import ClassifierHead
from crossgram.linear_map import LinearMap
from crossgram.pairing import at_rows
from crossgram.source import Source, first_column, usable_rows

__all__ = ["classifications", "gallery_and_probes", "identifications"]

_Maps = Mapping[tuple[int, int], LinearMap]


def gallery_and_probes(
    sources: Sequence[Source],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows to enrol, the first image of everybody, and the rows to search for.

    Parameters
    ----------
    sources : sequence of Source
        Paired, of which one has labels.
    """
    labels = first_column(sources, "labels")
    assert labels is not None
    usable = np.flatnonzero(usable_rows(sources))
    _, first = np.unique(labels.read(0, len(labels))[usable], return_index=True)
    enrolled = np.sort(usable[first])
    return enrolled, np.setdiff1d(usable, enrolled)


def identifications(
    sources: Sequence[Source],
    names: Sequence[str],
    maps: _Maps,
    rows: tuple[NDArray[np.int64], NDArray[np.int64]],
    **options: Any,
) -> Iterator[PairIdentification]:
    """Yield, of every pair of spaces, the search for probes of one in the gallery of the other.

    Parameters
    ----------
    sources : sequence of Source
        Paired, with labels.
    names : sequence of str
        Of the spaces.
    maps : mapping of (int, int) to LinearMap
        By the positions of source and target.
    rows : pair of ndarray of int
        As `gallery_and_probes` returns them.
    **options
        `ranks`, `fpirs`, `resamples`, `seed`, `fitted_on`, `allow_overlap` and `progress` of
        `identify`.
    """
    # rows are paired, so that what one store says of them holds in all
    labels = first_column(sources, "labels")
    assert labels is not None
    ids = first_column(sources, "ids")
    known = [replace(source, labels=labels, ids=ids) for source in sources]
    galleries, probes = ([at_rows(source, own) for source in known] for own in rows)
    for i, j in permutations(range(len(sources)), 2):
        report = identify(
            probes[i],
            galleries[j],
            linear_map=maps[i, j],
            native=probes[j],
            reembedded=galleries[i],
            names=[names[i], names[j]],
            **options,
        )
        yield PairIdentification(names[i], names[j], report)


def classifications(
    sources: Sequence[Source],
    names: Sequence[str],
    maps: _Maps,
    heads: Sequence[ClassifierHead | str | Path],
    **options: Any,
) -> Iterator[PairClassification]:
    """Yield, of every pair of spaces, how one's embeddings are read by the other's classifier.

    Parameters
    ----------
    sources, names, maps
        As for `identifications`.
    heads : sequence of ClassifierHead or path
        Of the spaces.
    **options
        `classes`, `fitted_on`, `allow_overlap` and `progress` of `classify`.
    """
    for i, j in permutations(range(len(sources)), 2):
        report = classify(
            sources[i],
            sources[j],
            heads[j],
            linear_map=maps[i, j],
            source_head=heads[i],
            names=[names[i], names[j]],
            **options,
        )
        yield PairClassification(names[i], names[j], report)
