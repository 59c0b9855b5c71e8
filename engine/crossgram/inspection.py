"""What a path holds: a store, an array, moments, a map or a classifier head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr

from crossgram.documents import parsed
from crossgram.errors import InputError
from crossgram.folds import FoldedMoments
from crossgram.heads import ClassifierHead
from crossgram.history import id_sum_of
from crossgram.linear_map import LinearMap
from crossgram.locations import Location, local, locate
from crossgram.moments import Moments
from crossgram.seen import Seen
from crossgram.sketch import Sketch
from crossgram.source import Source, open_source
from crossgram.spaces import Space
from crossgram.store import Column, EmbeddingStore
from crossgram.tensor_file import kind_of
from crossgram.zarr_io import open_node, stored_bytes

__all__ = ["describe", "validate"]

_COLUMN_ROWS = 65_536


def describe(path: str | Location) -> dict[str, Any]:
    """Return what `path` is, as JSON values; `kind` says which of the nouns.

    Parameters
    ----------
    path : path or URL
        An embedding store or Zarr array, or a .npy, moments, map or classifier head file.

    Raises
    ------
    InputError
        If it is none of them.
    """
    location = locate(path)
    if location.is_dir():
        return _describe_zarr(location)
    if location.suffix == ".npy":
        return {"kind": "array", **_shape(open_source(location))}
    file = local(location)
    match kind_of(file):
        case "map":
            return _describe_map(file)
        case "moments":
            return {"kind": "moments", **_of_moments(Moments.load(file))}
        case "folded moments":
            return _describe_folds(file)
        case "classifier head":
            return _describe_head(file)
    raise InputError(
        f"{path}: a safetensors file, but none that crossgram wrote: no map, moments or "
        "classifier head"
    )


def validate(path: str | Location) -> None:
    """Read everything at `path`; of a store, check that no id is there twice nor a mask wrong.

    Raises
    ------
    CorruptDataError
        Naming the first chunk that is missing or damaged, or masked row that holds values.
    InputError
        Naming the first id that occurs twice, or if `path` is nothing of crossgram's.
    """
    location = locate(path)
    if location.is_dir() and not isinstance(open_node(location), zarr.Array):
        EmbeddingStore.open(location).validate()
    elif location.is_dir() or location.suffix == ".npy":
        source = open_source(location)
        for start in range(0, source.rows, source.chunk_rows):
            rows = min(source.chunk_rows, source.rows - start)
            source.read(start, np.empty((rows, source.dim), source.dtype))
    else:
        describe(location)


def _describe_zarr(path: Location) -> dict[str, Any]:
    node = open_node(path)
    if isinstance(node, zarr.Array):
        return {"kind": "array", **_shape(open_source(path)), **_layout(node)}
    store = EmbeddingStore.open(path)
    return {
        "kind": "embedding store",
        **_shape(open_source(store)),
        **_layout(store.embeddings),
        "ids": _column(store.ids),
        "labels": _column(store.labels),
        "masked": _count(store.masked),
        "signature": _signature(store.signature),
        "provenance": dict(store.provenance),
    }


def _describe_map(path: Path) -> dict[str, Any]:
    loaded = LinearMap.load(path)
    certificate = loaded.certificate
    return {
        "kind": "map",
        "path": str(path),
        "source": _space(loaded.source),
        "target": _space(loaded.target),
        "remembers": _remembered(loaded.fitted_on),
        "certificate": None if certificate is None else certificate.to_dict(),
    }


def _describe_folds(path: Path) -> dict[str, Any]:
    folded = FoldedMoments.load(path)
    return {
        "kind": "folded moments",
        **_of_moments(folded.total()),
        "folds": [fold.rows for fold in folded.folds],
        "group_by": folded.by,
    }


def _describe_head(path: Path) -> dict[str, Any]:
    head = ClassifierHead.load(path)
    return {
        "kind": "classifier head",
        "path": str(path),
        "dim": head.dim,
        "classes": head.classes,
    }


def _of_moments(moments: Moments) -> dict[str, Any]:
    return {
        "spaces": [_space(space) for space in moments.spaces],
        "blocks": [[moments.spaces[i].name, moments.spaces[j].name] for i, j in moments.blocks],
        "rows": moments.rows,
        "weight": moments.weight,
        "skipped": moments.skipped,
        "precision": moments.precision,
        "norms": moments.norms is not None,
        "id_sum": id_sum_of(moments.history),
        "remembers": _remembered(moments.seen),
        "history": [operation.to_dict() for operation in moments.history],
    }


def _space(space: Space) -> dict[str, Any]:
    return vars(space) | {"signature": _signature(space.signature)}


def _remembered(seen: Seen) -> dict[str, Any]:
    """Return how many images and people are remembered, and by how many hashes."""

    def facts(sketch: Sketch | None) -> dict[str, int] | None:
        if sketch is None:
            return None
        return {"different": sketch.distinct, "kept": len(sketch.hashes)}

    return {"images": facts(seen.ids), "people": facts(seen.labels)}


def _signature(text: str | None) -> Any:
    return None if text is None else parsed(text)


def _shape(source: Source) -> dict[str, Any]:
    return {
        "path": source.label,
        "rows": source.rows,
        "dim": source.dim,
        "dtype": str(source.dtype),
        "bytes": source.rows * source.dim * source.dtype.itemsize,
    }


def _layout(array: zarr.Array[Any]) -> dict[str, Any]:
    return {
        "zarr_format": array.metadata.zarr_format,
        "stored_bytes": stored_bytes(array),
        "chunk_rows": array.chunks[0],
        "shard_rows": None if array.shards is None else array.shards[0],
        "codecs": [type(codec).__name__ for codec in array.compressors],
    }


def _column(column: Column | None) -> dict[str, Any] | None:
    if column is None:
        return None
    kind = "integers" if column.array.dtype.kind == "i" else "text"
    return {"kind": kind, "first": str(column.read(0, 1)[0])}


def _count(masked: Column | None) -> int | None:
    if masked is None:
        return None
    return sum(
        int(np.count_nonzero(masked.read(start, min(start + _COLUMN_ROWS, len(masked)))))
        for start in range(0, len(masked), _COLUMN_ROWS)
    )
