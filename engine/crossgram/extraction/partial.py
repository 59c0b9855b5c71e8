"""The folder of an extraction that is under way: started, resumed, and turned into its output."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import zarr

from crossgram.errors import CorruptDataError, InputError
from crossgram.extraction.job import MARKS, STORES, store_path
from crossgram.images import Collection, ImageList, list_digest
from crossgram.output import run_errors, uninterrupted, whole_file
from crossgram.store_writer import Layout

__all__ = ["locked", "partial_folder", "prepare_folder"]

_RECORD, _LOCK, _IMAGES = "run.json", "lock", "images"
_CONTENTS = {_RECORD, _LOCK, _IMAGES, STORES, MARKS}


def partial_folder(out: str | Path) -> Path:
    """Return where an extraction into `out` is until it is complete."""
    return Path(out).with_name(f"{Path(out).name}.partial")


@contextmanager
def locked(folder: Path, *, restart: bool) -> Iterator[None]:
    """Keep a folder to this process, and make it if need be.

    Raises
    ------
    InputError
        If another process works in it, or there is something else in it.
    """
    with run_errors(folder):
        folder.mkdir(exist_ok=True)
        others = sorted(path.name for path in folder.iterdir() if not _is_ours(path))
        if others:
            raise InputError(
                f"{folder}: holds {others[0]}, which no extraction made; move it away, the folder "
                "is where an extraction keeps what it has"
            )
        file = (folder / _LOCK).open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{folder}: another extraction is at work in it; wait for it, or stop it"
            ) from error
        if restart:
            _clear(folder)
        yield


def prepare_folder(
    folder: Path,
    collection: Collection,
    record: Mapping[str, Any],
    layouts: Callable[[int], Mapping[str, Layout]],
    batch_size: Callable[[], int],
) -> tuple[ImageList, int]:
    """Make what an extraction needs, or check that what is there is of the same one.

    Parameters
    ----------
    folder : path
        Locked by this process.
    collection : Collection
        The images.
    record : mapping of JSON values
        What must be the same in a run that goes on.
    layouts : callable
        Gives, for a number of rows, the stores to make, by network.
    batch_size : callable
        Chooses one for a new run; one that goes on keeps it, so that it gives the same bits.

    Returns
    -------
    ImageList, int
        The list and the batch size.

    Raises
    ------
    InputError
        If another model, recipe, image list or option began it.
    """
    if (folder / _RECORD).exists() and any((folder / STORES).glob("*.zarr")):
        return _resumed(folder, collection, record)
    # a run that was killed at its very beginning, or when its stores were in place, left the rest
    _clear(folder)
    with run_errors(folder):
        images = ImageList.write(collection, folder / _IMAGES)
        for name, layout in layouts(images.rows).items():
            group = zarr.create_group(store_path(folder, name), zarr_format=3)
            layout.create(group, images.rows)
        (folder / MARKS).mkdir()
        started = {
            **record,
            "rows": images.rows,
            "images_sha256": images.digest,
            "batch_size": batch_size(),
        }
        with whole_file(folder / _RECORD) as file:
            file.write_text(json.dumps(started, indent=1), encoding="utf-8")
    return images, started["batch_size"]


def _resumed(
    folder: Path, collection: Collection, record: Mapping[str, Any]
) -> tuple[ImageList, int]:
    try:
        started = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        images = ImageList(folder / _IMAGES, int(started["rows"]), str(started["images_sha256"]))
        batch_size = int(started["batch_size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptDataError(
            f"{folder / _RECORD}: cannot be read ({error}); begin anew (--restart)"
        ) from error
    for key, value in record.items():
        if started.get(key) != value:
            raise InputError(
                f"{folder}: was begun with {_difference(key, started.get(key), value)}; give the "
                "same again to go on, or begin anew (--restart)"
            )
    if list_digest(collection) != images.digest:
        raise InputError(
            f"{folder}: was begun with other images than are now in {collection.root}; bring them "
            "back to go on, or begin anew (--restart)"
        )
    return images, batch_size


def _difference(key: str, before: Any, now: Any) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in {**before, **now}:
            if before.get(name) != now.get(name):
                return _difference(f"{key}.{name}", before.get(name), now.get(name))
    return f"{key} {json.dumps(before)}, now it is {json.dumps(now)}"


def _is_ours(path: Path) -> bool:
    return path.name in _CONTENTS or path.name.startswith(f".{_RECORD}.")


def _clear(folder: Path) -> None:
    def remove() -> None:
        # the record first: without it, what is left is known to be incomplete
        (folder / _RECORD).unlink(missing_ok=True)
        for name in (MARKS, STORES, _IMAGES):
            with suppress(FileNotFoundError, NotADirectoryError):
                shutil.rmtree(folder / name)

    uninterrupted(remove)
