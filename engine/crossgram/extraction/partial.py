"""The folder of an extraction that is under way: started, resumed, and turned into its output."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import zarr

from crossgram.documents import read_document
from crossgram.errors import CorruptDataError, InputError
from crossgram.extraction.job import WorkFolder
from crossgram.images import Collection, ImageList, list_digest
from crossgram.output import beside, run_errors, sync_tree, uninterrupted, whole_file
from crossgram.store_writer import Layout

__all__ = [
    "Begun",
    "changed_file",
    "finished",
    "locked",
    "partial_folder",
    "prepare_folder",
]

_RECORD, _LOCK = "run.json", "lock"
_UNFINISHED = f".{_RECORD}."
_WORK = re.compile("[0-9a-f]{32}")


def partial_folder(out: str | Path) -> Path:
    """Return where an extraction into `out` is until it is complete."""
    return beside(Path(out), "partial")


def finished(folder: Path) -> None:
    """Note that nothing in a folder is needed any longer."""
    (folder / _RECORD).unlink()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a folder to this process, and make it if need be; it goes unless a run has begun in it.

    Raises
    ------
    InputError
        If another process works in it, or there is something else in it.
    """
    with _lock(folder):
        try:
            yield
        finally:
            if not (folder / _RECORD).exists():
                _clear(folder)
                (folder / _LOCK).unlink(missing_ok=True)
                # a worker that is still at an old task may put something there
                with suppress(OSError):
                    folder.rmdir()


_locks: set[int] = set()
"""Descriptors of locks that this process has."""


def _let_go() -> None:
    # a process that decodes would keep the lock of the one that was killed
    for descriptor in _locks:
        os.close(descriptor)
    _locks.clear()


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    with _locked_file(folder) as file:
        _locks.add(file.fileno())
        try:
            yield
        finally:
            _locks.discard(file.fileno())


def _locked_file(folder: Path) -> IO[str]:
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
    time_ns : int
        When, in nanoseconds since the epoch: images that are of later are other ones.
    is_new : bool
        Whether nothing of it was done before.
    """

    work: WorkFolder
    images: ImageList
    batch_size: int
    time_ns: int
    is_new: bool


def prepare_folder(
    folder: Path,
    collection: Collection,
    record: Mapping[str, Any],
    choose: Callable[[ImageList], tuple[Mapping[str, Layout], int]],
    *,
    restart: bool,
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
    restart : bool
        Throw away what there is, once the new run has begun.

    Raises
    ------
    InputError
        If another model, recipe, image list or option began it.
    """
    record = {**record, "images": str(collection.root.resolve())}
    if (folder / _RECORD).exists() and not restart:
        started, begun = _recorded(folder)
        if any(begun.work.stores.glob("*.zarr")):
            _check_same(folder, collection, started, record, begun.time_ns)
            return begun
    work = WorkFolder(folder / uuid.uuid4().hex)
    try:
        return _new(folder, work, collection, record, choose)
    except BaseException:
        uninterrupted(lambda: shutil.rmtree(work.path, ignore_errors=True))
        raise


def _new(
    folder: Path,
    work: WorkFolder,
    collection: Collection,
    record: Mapping[str, Any],
    choose: Callable[[ImageList], tuple[Mapping[str, Layout], int]],
) -> Begun:
    time_ns = time.time_ns()
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
            "time_ns": time_ns,
        }
        sync_tree(work.path)
        # what was killed at its very beginning, or when its stores were in place, or is not wanted
        _clear(folder, but=work)
        with whole_file(folder / _RECORD) as file:
            file.write_text(json.dumps(started, indent=1), encoding="utf-8")
    return Begun(work, images, batch_size, time_ns, is_new=True)


def changed_file(collection: Collection, since_ns: int) -> Path | None:
    """Return a file of images that has changed since a time, or, if of many, is gone; or None."""
    for path in collection.files():
        try:
            status = path.stat()
        except OSError:
            # one image that is gone cannot be used, which is noted of its row
            if collection.shares_files:
                return path
            continue
        if max(status.st_mtime_ns, status.st_ctime_ns) > since_ns:
            return path
    return None


def _recorded(folder: Path) -> tuple[Mapping[str, Any], Begun]:
    try:
        started = read_document(folder / _RECORD)
        work = WorkFolder(folder / uuid.UUID(started["work"]).hex)
        images = ImageList(work.images, int(started["rows"]), str(started["images_sha256"]))
        batch_size, time_ns = int(started["batch_size"]), int(started["time_ns"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptDataError(
            f"{folder / _RECORD}: cannot be read ({error}); begin anew (--restart)"
        ) from error
    return started, Begun(work, images, batch_size, time_ns, is_new=False)


def _check_same(
    folder: Path,
    collection: Collection,
    started: Mapping[str, Any],
    record: Mapping[str, Any],
    time_ns: int,
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
    changed = changed_file(collection, time_ns)
    if changed is not None:
        raise InputError(
            f"{folder}: was begun before {changed} changed, so that some rows would be of what it "
            "was and some of what it is; begin anew (--restart)"
        )


def _difference(key: str, before: Any, now: Any) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in {**before, **now}:
            if before.get(name) != now.get(name):
                return _difference(f"{key}.{name}", before.get(name), now.get(name))
    return f"{key} {json.dumps(before)}, now it is {json.dumps(now)}"


def _is_ours(path: Path) -> bool:
    is_work = _WORK.fullmatch(path.name) is not None
    # NFS keeps a file by such a name that somebody has open
    return is_work or path.name in (_RECORD, _LOCK) or path.name.startswith((_UNFINISHED, ".nfs"))


def _clear(folder: Path, but: WorkFolder | None = None) -> None:
    def remove() -> None:
        # the record first: without it, what is left is known to be incomplete
        (folder / _RECORD).unlink(missing_ok=True)
        for path in folder.iterdir():
            if path.name.startswith(_UNFINISHED):
                path.unlink(missing_ok=True)
            elif _WORK.fullmatch(path.name) and (but is None or path != but.path):
                shutil.rmtree(path, ignore_errors=True)

    uninterrupted(remove)
