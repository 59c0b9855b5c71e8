"""A CSV or Parquet list of image files."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossgram.errors import InputError
from crossgram.images.entry import BOX, LANDMARKS, ImageEntry, read_bytes

__all__ = ["ImageTable"]

_COLUMNS = ("path", "id", "label", "box", "landmarks")


@dataclass(frozen=True)
class ImageTable:
    """Images in the order of a list with the column `path`, and maybe others.

    Paths are relative to the list's folder. `id` names an image, by default its path as written;
    `label` says whom it shows; `box` is 4 numbers, left, top, right and bottom; `landmarks` 10, x
    and y of left eye, right eye, nose, left and right corner of the mouth. In CSV, numbers of one
    cell have spaces between them.

    Attributes
    ----------
    root : Path
        The list.
    """

    root: Path

    @property
    def shares_files(self) -> bool:
        """False: each image has a file of its own."""
        return False

    def files(self) -> Iterator[Path]:
        """Name the images' files."""
        return (self.root.parent / (entry.file or entry.id) for entry in self.entries())

    def entries(self) -> Iterator[ImageEntry]:
        """List the images."""
        rows = _parquet_rows if self.root.suffix.lower() == ".parquet" else _csv_rows
        names: tuple[str, ...] | None = None
        for number, row in enumerate(rows(self.root), 1):
            if names is None:
                names = tuple(row)
                self._check_columns(names)
            yield self._entry(number, row)
        if names is None:
            raise InputError(f"{self.root}: lists no images")

    def read(self, entry: ImageEntry) -> bytes:
        """Return a file's contents."""
        return read_bytes(self.root.parent / (entry.file or entry.id))

    def _check_columns(self, names: tuple[str, ...]) -> None:
        if "path" not in names:
            raise InputError(
                f"{self.root}: has the columns {', '.join(map(str, names))}; expected path, and "
                f"maybe {', '.join(_COLUMNS[1:])}"
            )

    def _entry(self, number: int, row: Mapping[str, Any]) -> ImageEntry:
        path, label = row["path"], row.get("label")
        if not isinstance(path, str) or not path or "\0" in path:
            raise InputError(f"{self.root}: image {number} has no path; give it one")
        own_id = row.get("id")
        if "id" in row and (own_id is None or isinstance(own_id, float) or own_id == ""):
            raise InputError(f"{self.root}: image {number} has no id; give it one")
        if "label" in row and (label is None or label == ""):
            raise InputError(f"{self.root}: image {number} has no label; give it one, or none")
        return ImageEntry(
            path if own_id is None else str(own_id),
            None if label is None else str(label),
            "" if own_id is None else path,
            box=self._numbers(number, row, "box", BOX),
            landmarks=self._numbers(number, row, "landmarks", LANDMARKS),
        )

    def _numbers(
        self, number: int, row: Mapping[str, Any], name: str, count: int
    ) -> tuple[float, ...] | None:
        given = row.get(name)
        if given is None or (isinstance(given, str) and not given.strip()):
            return None
        parts = re.split(r"[\s,;]+", given.strip()) if isinstance(given, str) else given
        try:
            values = tuple(float(part) for part in parts)
        except (TypeError, ValueError):
            values = ()
        if len(values) != count:
            raise InputError(
                f"{self.root}: image {number} has the {name} {given!r}, expected {count} numbers"
            )
        return values


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            for row in reader:
                if None in row or None in row.values():
                    raise InputError(
                        f"{path}: line {reader.line_num} has more or fewer cells than the first "
                        "line names"
                    )
                yield row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV ({error})") from error


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise InputError(f"{path}: needs pyarrow; pip install 'crossgram[ingest]'") from error
    try:
        with parquet.ParquetFile(path) as file:
            names = [name for name in file.schema_arrow.names if name in _COLUMNS]
            if "path" not in names:
                yield dict.fromkeys(file.schema_arrow.names)
            for batch in file.iter_batches(columns=names):
                yield from batch.to_pylist()
    except (OSError, UnicodeDecodeError, ArrowException) as error:
        raise InputError(f"{path}: cannot be read as Parquet ({error})") from error
