"""The list of a collection's images, on disk instead of in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from crossgram.errors import InputError
from crossgram.images.entry import BOX, LANDMARKS, Collection, ImageEntry
from crossgram.repeats import repeated_ids
from crossgram.store import Column
from crossgram.store_writer import Appender, create_column

__all__ = ["ImageList", "list_digest"]

_BATCH = 4096
_SCANNED_ROWS = 1 << 20
_TEXT = np.dtypes.StringDType()


@dataclass(frozen=True)
class ImageList:
    """What `Collection.entries` gave, in a Zarr group of one array per field.

    Attributes
    ----------
    path : Path
        The group.
    rows : int
        Images.
    digest : str
        Of all entries, in order.
    """

    path: Path
    rows: int
    digest: str

    @property
    def ids(self) -> Column:
        """The images' ids."""
        return self._column("ids")

    @property
    def labels(self) -> Column | None:
        """The images' labels, if they have any."""
        return self._column("labels") if (self.path / "labels").exists() else None

    def column_path(self, name: str) -> Path:
        """Where the ids or labels lie, as a store keeps them."""
        return self.path / name

    def has(self, field: str) -> bool:
        """Tell whether any image has one of the "boxes" or "landmarks"."""
        array = zarr.open_array(self.path / field, mode="r")
        starts = range(0, self.rows, _SCANNED_ROWS)
        return any(
            np.isfinite(np.asarray(array[start : start + _SCANNED_ROWS])).any() for start in starts
        )

    def entries(self, start: int, stop: int) -> list[ImageEntry]:
        """Return the images from row `start` to `stop`."""
        entries = []
        for block in range(start // _BATCH, -(-stop // _BATCH)):
            first = block * _BATCH
            held = _held_entries(self, first, min(first + _BATCH, self.rows))
            entries += held[max(0, start - first) : max(0, stop - first)]
        return entries

    @classmethod
    def write(cls, collection: Collection, path: Path) -> ImageList:
        """List a collection into a new group.

        Raises
        ------
        InputError
            If it cannot be listed, is empty, an id occurs twice, or only some images have labels.
        """
        group = zarr.create_group(path, zarr_format=3)
        digest = hashlib.sha256()
        appenders: dict[str, Appender] = {}
        rows = 0
        for batch in _batches(collection.entries()):
            labelled = batch[0].label is not None if not rows else "labels" in appenders
            _check_labels(batch, labelled, collection.root)
            digest.update(_digested(batch))
            for name, values in _fields(batch, labelled).items():
                if name not in appenders:
                    array = create_column(group, name, values.dtype, values.shape[1:])
                    appenders[name] = Appender(array)
                appenders[name].append(values)
            rows += len(batch)
        if not rows:
            raise InputError(f"{collection.root}: holds no images")
        for appender in appenders.values():
            appender.flush()
        listed = cls(path, rows, digest.hexdigest())
        _refuse_repeated(listed.ids, collection.root)
        return listed

    def _column(self, name: str) -> Column:
        return Column(zarr.open_array(self.path / name, mode="r"), f"{self.path}/{name}")


@lru_cache(maxsize=2)
def _held_entries(images: ImageList, start: int, stop: int) -> list[ImageEntry]:
    """Return some entries; the last ones stay, because batches are asked for in their order."""
    group = zarr.open_group(images.path, mode="r")
    fields = {name: np.asarray(group[name][start:stop]) for name in group.array_keys()}  # type: ignore[index]
    return [
        ImageEntry(
            str(fields["ids"][k]),
            str(fields["labels"][k]) if "labels" in fields else None,
            str(fields["files"][k]),
            (int(fields["places"][k, 0]), int(fields["places"][k, 1])),
            _numbers(fields["boxes"][k]),
            _numbers(fields["landmarks"][k]),
        )
        for k in range(stop - start)
    ]


def list_digest(collection: Collection) -> str:
    """Return the digest that the list of a collection would have, without writing it."""
    digest = hashlib.sha256()
    for batch in _batches(collection.entries()):
        digest.update(_digested(batch))
    return digest.hexdigest()


def _batches(entries: Iterator[ImageEntry]) -> Iterator[list[ImageEntry]]:
    while batch := list(islice(entries, _BATCH)):
        yield batch


def _digested(batch: Sequence[ImageEntry]) -> bytes:
    return "".join(f"{entry!r}\n" for entry in batch).encode()


def _check_labels(batch: Sequence[ImageEntry], labelled: bool, root: Path) -> None:
    for entry in batch:
        if (entry.label is not None) != labelled:
            raise InputError(
                f"{root}: {entry.id} has {'a' if entry.label is not None else 'no'} label, images "
                "before it do not alike; give all images one, or none"
            )


def _fields(batch: Sequence[ImageEntry], labelled: bool) -> dict[str, NDArray[Any]]:
    fields: dict[str, NDArray[Any]] = {
        "ids": np.array([entry.id for entry in batch], _TEXT),
        "files": np.array([entry.file for entry in batch], _TEXT),
        "places": np.array([entry.place for entry in batch], np.int64),
        "boxes": _table([entry.box for entry in batch], BOX),
        "landmarks": _table([entry.landmarks for entry in batch], LANDMARKS),
    }
    if labelled:
        fields["labels"] = np.array([str(entry.label) for entry in batch], _TEXT)
    return fields


def _table(values: Sequence[tuple[float, ...] | None], width: int) -> NDArray[np.float64]:
    """Return one row of numbers each; NaN where there are none."""
    return np.array([(np.nan,) * width if row is None else row for row in values], float)


def _numbers(row: NDArray[np.float64]) -> tuple[float, ...] | None:
    return None if np.isnan(row).all() else tuple(row.tolist())


def _refuse_repeated(ids: Column, root: Path) -> None:
    for name, count in repeated_ids(ids).most_common(1):
        raise InputError(
            f"{root}: the id {name!r} occurs {count} times or more; ids name one image each, so "
            "take one away, or give the list a column `id`"
        )
