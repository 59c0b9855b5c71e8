"""The folder of an extraction that is under way: started, resumed, and turned into its output."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import zarr

from crossgram.errors import CorruptDataError, InputError
from crossgram.extraction.job import WorkFolder
from crossgram.images import Collection, ImageList, list_digest
from crossgram.output import beside, run_errors, sync_tree, uninterrupted, whole_file
from crossgram.store_writer import Layout

__all__ = ["Begun", "finished", "is_begun", "locked", "partial_folder", "prepare_folder"]

_RECORD, _LOCK = "run.json", "lock"
_WORK = re.compile("[0-9a-f]{32}")


def partial_folder(out: str | Path) -> Path:
    """Return where an extraction into `out` is until it is complete."""
    return beside(Path(out), "partial")


def is_begun(folder: Path) -> bool:
    """Tell whether an extraction has begun in a folder, and is not finished."""
    return (folder / _RECORD).exists()


def finished(folder: Path) -> None:
    """Note that nothing in a folder is needed any longer."""
    (folder / _RECORD).unlink()


@contextmanager
def locked(folder: Path, *, restart: bool) -> Iterator[None]:
    """Keep a folder to this process, and make it if need be; it goes unless a run has begun in it.

    Raises
    ------
    InputError
        If another process works in it, or there is something else in it.
    """
    with _lock(folder):
        try:
            if restart:
                _clear(folder)
            yield
        finally:
            if not is_begun(folder):
                _clear(folder)
                (folder / _LOCK).unlink(missing_ok=True)
                # a worker that is still at an old task may put something there
                with suppress(OSError):
                    folder.rmdir()


def _lock(folder: Path) -> IO[str]:
    with run_errors(folder):
        folder.mkdir(exist_ok=True)
        others = sorted(path.name for path in folder.iterdir() if not _is_ours(path))
        if others:
            raise InputError(
                f"{folder}: holds {others[0]}, which no extraction made; move it away, the folder "
                "is where an extraction keeps what it has"
            )
        file = (folder / _LOCK).open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # another run may have ended since the file was opened, and have removed it
            if os.path.samestat(os.fstat(file.fileno()), (folder / _LOCK).stat()):
                return file
        except (BlockingIOError, FileNotFoundError):
            pass
        file.close()
    raise InputError(f"{folder}: another extraction is at work in it; wait for it, or stop it")


@dataclass(frozen=True)
class Begun:
    """An extraction that has begun, now or earlier.

    Attributes
    ----------
    work : WorkFolder
        Where it keeps what it has.
    images : ImageList
        The list.
    batch_size : int
        Images that go through a network at a time.
    """

    work: WorkFolder
    images: ImageList
    batch_size: int


def prepare_folder(
    folder: Path,
    collection: Collection,
    record: Mapping[str, Any],
    choose: Callable[[ImageList], tuple[Mapping[str, Layout], int]],
) -> Begun:
    """Make what an extraction needs, or check that what is there is of the same one.

    Parameters
    ----------
    folder : path
        Locked by this process.
    collection : Collection
        The images.
    record : mapping of JSON values
        What must be the same in a run that goes on.
    choose : callable
        Gives, for the images of a new run, the stores to make, by network, and the batch size; a
        run that goes on keeps that, so that it gives the same bits.

    Raises
    ------
    InputError
        If another model, recipe, image list or option began it.
    """
    record = {**record, **_identity(collection)}
    if is_begun(folder):
        started, begun = _recorded(folder)
        if any(begun.work.stores.glob("*.zarr")):
            _check_same(folder, collection, started, record)
            return begun
    # a run that was killed at its very beginning, or when its stores were in place, left the rest
    _clear(folder)
    work = WorkFolder(folder / uuid.uuid4().hex)
    with run_errors(folder):
        work.path.mkdir()
        images = ImageList.write(collection, work.images)
        layouts, batch_size = choose(images)
        for name, layout in layouts.items():
            group = zarr.create_group(work.store(name), zarr_format=3)
            layout.create(group, images.rows)
        work.marks.mkdir()
        started = {
            **record,
            "work": work.path.name,
            "rows": images.rows,
            "images_sha256": images.digest,
            "batch_size": batch_size,
        }
        sync_tree(work.path)
        with whole_file(folder / _RECORD) as file:
            file.write_text(json.dumps(started, indent=1), encoding="utf-8")
    return Begun(work, images, batch_size)


def _identity(collection: Collection) -> dict[str, Any]:
    """Return what tells images from others that are listed alike."""
    files = {path.name: path.stat() for path in collection.containers()}
    return {
        "images": str(collection.root.resolve()),
        "image_files": {name: [file.st_size, file.st_mtime_ns] for name, file in files.items()},
    }


def _recorded(folder: Path) -> tuple[Mapping[str, Any], Begun]:
    try:
        started = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        work = WorkFolder(folder / uuid.UUID(started["work"]).hex)
        images = ImageList(work.images, int(started["rows"]), str(started["images_sha256"]))
        batch_size = int(started["batch_size"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptDataError(
            f"{folder / _RECORD}: cannot be read ({error}); begin anew (--restart)"
        ) from error
    return started, Begun(work, images, batch_size)


def _check_same(
    folder: Path, collection: Collection, started: Mapping[str, Any], record: Mapping[str, Any]
) -> None:
    for key, value in record.items():
        if started.get(key) != value:
            raise InputError(
                f"{folder}: was begun with {_difference(key, started.get(key), value)}; give the "
                "same again to go on, or begin anew (--restart)"
            )
    if list_digest(collection) != started["images_sha256"]:
        raise InputError(
            f"{folder}: was begun with other images than are now in {collection.root}; bring them "
            "back to go on, or begin anew (--restart)"
        )


def _difference(key: str, before: Any, now: Any) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in {**before, **now}:
            if before.get(name) != now.get(name):
                return _difference(f"{key}.{name}", before.get(name), now.get(name))
    return f"{key} {json.dumps(before)}, now it is {json.dumps(now)}"


def _is_ours(path: Path) -> bool:
    is_work = _WORK.fullmatch(path.name) is not None
    return is_work or path.name in (_RECORD, _LOCK) or path.name.startswith(f".{_RECORD}.")


def _clear(folder: Path) -> None:
    def remove() -> None:
        # the record first: without it, what is left is known to be incomplete
        (folder / _RECORD).unlink(missing_ok=True)
        for path in folder.iterdir():
            if _WORK.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)

    uninterrupted(remove)
