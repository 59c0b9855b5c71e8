"""Outputs that are whole or absent: written beside their place, synced, then renamed."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from crossgram.documents import read_document
from crossgram.errors import InputError, OutputExistsError, RunError
from crossgram.locations import Location, ObjectPath, local, locate

__all__ = [
    "begin_writing",
    "beside",
    "check_output",
    "put_folder",
    "refuse_overlap",
    "run_errors",
    "sync",
    "sync_tree",
    "uninterrupted",
    "whole_directory",
    "whole_file",
]

_Result = TypeVar("_Result")

_SYNC_THREADS = 8
"""A disk that syncs many files at once does so in fewer turns."""

_NOTHING_LEFT = "nothing was left behind"

_ZARR = ("zarr.json", ".zgroup", ".zarray")
_STORE = {"zarr.json", "embeddings", "ids", "labels", "masked"}
_PAIR = {"a.zarr", "b.zarr", "truth.safetensors"}
_DEMONSTRATION = {"demo.json", "closed-set", "open-set"}
_ATLAS = {"atlas.json", "figures.csv", "maps", "moments.safetensors", "report.html"}
_HERE = -100  # AT_FDCWD: of paths that are not absolute
_NO_REPLACE, _EXCHANGE = 1, 2

_PER_NETWORK = (".zarr", ".head.safetensors")
"""What is in the folders that crossgram makes, but for that of the demonstration."""


def beside(path: Path, ending: str) -> Path:
    """Return where something about an output is, that no other output has."""
    if not path.name:
        raise InputError(f"{path}: has no name of its own; name the output")
    return path.with_name(f"{path.name}.{ending}")


def check_output(path: str | Path, *, overwrite: bool, folder: bool = False) -> None:
    """Refuse an output that is there already, or whose directory cannot be written.

    Called before any work, so that a long run does not fail at its end. To overwrite replaces a
    file by a file, and a folder only by another one that crossgram made.
    """
    path = local(path)
    if (path.exists() or path.is_symlink()) and not overwrite:
        raise _exists(path)
    if path.exists():
        _check_replaceable(path, folder)
    parent = path.parent
    if not parent.is_dir():
        raise InputError(f"{path}: the directory {parent} does not exist; create it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{path}: the directory {parent} cannot be written (permission denied)")


def _exists(path: Path) -> OutputExistsError:
    return OutputExistsError(
        f"{path}: already exists; choose another name, or overwrite it (--overwrite)"
    )


def _check_replaceable(path: Path, folder: bool) -> None:
    if not folder and not path.is_file():
        what = "a folder" if path.is_dir() else "no regular file"
        raise InputError(f"{path}: is {what}, a file cannot take its place; choose another name")
    if folder and not path.is_dir():
        raise InputError(f"{path}: is a file, a folder cannot take its place; choose another name")
    if folder and any(path.iterdir()) and not _is_ours(path):
        raise InputError(
            f"{path}: holds files that crossgram did not make, and would be removed with them; "
            "choose another name"
        )


def _is_ours(folder: Path) -> bool:
    names = {child.name for child in folder.iterdir()}
    if "demo.json" in names:
        return names <= _DEMONSTRATION
    if "extraction.json" in names:
        return names <= _extracted(folder / "extraction.json")
    if "atlas.json" in names:
        maps = (folder / "maps").glob("*")
        return names <= _ATLAS and all(path.suffix == ".safetensors" for path in maps)
    if names <= _STORE:
        metadata = folder / "zarr.json"
        return metadata.is_file() and b'"crossgram"' in metadata.read_bytes()
    return names == _PAIR


def _extracted(record: Path) -> set[str]:
    """Return what an extraction with several networks has put into its folder."""
    try:
        networks = read_document(record)["networks"]
        stores = {f"{name}{ending}" for name in networks for ending in _PER_NETWORK}
    except (OSError, ValueError, TypeError, KeyError):
        return set()
    return stores | {"bad-images.csv", "extraction.json"}


def refuse_overlap(target: Location, *sources: str | os.PathLike[str] | ObjectPath) -> None:
    """Refuse an output that would replace what is read for it, or be written into it."""
    output = target.resolve()
    for source in sources:
        given = locate(source).resolve()
        if given == output or output in given.parents:
            raise InputError(
                f"{target}: is {source} or a folder around it, and would be replaced; choose "
                "another output"
            )
        if given in output.parents and _is_zarr(given):
            raise InputError(
                f"{target}: lies inside {source}, which is read; choose another output"
            )


def _is_zarr(location: Location) -> bool:
    """Tell whether a store is there; of a URL that is read, there is nothing else."""
    return isinstance(location, ObjectPath) or any((location / name).exists() for name in _ZARR)


@contextmanager
def whole_file(path: Path, *, overwrite: bool = False, left: str = _NOTHING_LEFT) -> Iterator[Path]:
    """Give a temporary name to write to; sync and rename it to `path` if all went well.

    `left` is what a message about a full disk says of that.
    """
    check_output(path, overwrite=overwrite)
    with run_errors(path, left):
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(descriptor)
    temporary = Path(name)
    try:
        with run_errors(path, left):
            yield temporary
            temporary.chmod(0o666 & ~_umask())
            sync(temporary)
            if overwrite:
                temporary.replace(path)
            else:
                _put_new(temporary, path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_directory(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary directory to fill; rename it to `path` if all went well.

    What stood at `path` stays until the new directory is complete.
    """
    check_output(path, overwrite=overwrite, folder=True)
    with run_errors(path):
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        with run_errors(path):
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            put_folder(temporary, path, overwrite=overwrite)
    finally:
        uninterrupted(lambda: shutil.rmtree(temporary, ignore_errors=True))


def put_folder(finished: Path, path: Path, *, overwrite: bool) -> None:
    """Rename a folder to `path`, once the disk keeps all of it; overwrite what stands there."""
    sync_tree(finished)
    # something may have come there meanwhile
    check_output(path, overwrite=overwrite, folder=True)
    uninterrupted(lambda: _put_in_place(finished, path, overwrite=overwrite))
    sync(path.parent)


def uninterrupted(work: Callable[[], _Result]) -> _Result:
    """Do some work to its end, also when Ctrl-C comes in between; it is raised afterwards.

    Zarr's own threads go on writing after Ctrl-C, and would put files into a directory that is
    being removed.
    """
    future: Future[_Result] = Future()

    def run() -> None:
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001  (raised where the result is asked for)
                future.set_exception(error)

    try:
        threading.Thread(target=run).start()
        return future.result()
    except BaseException:
        # not left to an executor: Ctrl-C while it starts its thread makes it forget the thread
        while not (future.cancel() or future.done()):
            with suppress(KeyboardInterrupt):
                wait([future])
        raise


def _put_in_place(temporary: Path, path: Path, *, overwrite: bool) -> None:
    if not (overwrite and path.exists()):
        _put_new(temporary, path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
    before = old / path.name
    try:
        if _renamed(temporary, path, _EXCHANGE):
            temporary.rename(before)
        else:
            path.rename(before)
            temporary.rename(path)
    except OSError:
        if before.exists() and not path.exists():
            before.rename(path)
        old.rmdir()
        raise
    shutil.rmtree(old)


def _put_new(temporary: Path, path: Path) -> None:
    """Rename to a name that nothing has: of two runs that finish at once, one is refused."""
    try:
        if _renamed(temporary, path, _NO_REPLACE):
            return
    except FileExistsError:
        raise _exists(path) from None
    if path.exists():
        raise _exists(path)
    temporary.rename(path)


def _renamed(source: Path, target: Path, how: int) -> bool:
    """Rename as only Linux can, in one step; tell whether this system and this disk could."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    if call(_HERE, os.fsencode(source), _HERE, os.fsencode(target), how) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(target))


@contextmanager
def run_errors(path: Path, left: str = _NOTHING_LEFT) -> Iterator[None]:
    """Turn what writing at `path` raises into `RunError`; a full disk is named as such."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(
                f"{path}: the disk is full; {left}, free some space and run again"
            ) from error
        raise RunError(f"{path}: cannot be written: {error.strerror or error}") from error


def sync(path: Path) -> None:
    """Have the disk keep a file or a folder as it is now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def begin_writing(descriptor: int) -> None:
    """Have the disk begin to write a file that is complete, and `sync` find less left to do."""
    if hasattr(os, "posix_fadvise"):
        # pages that are not on disk yet are not given up by it, but written
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def sync_tree(folder: Path) -> None:
    """Have the disk keep a folder and all that is in it as it is now."""
    with ThreadPoolExecutor(_SYNC_THREADS) as pool:
        for _ in pool.map(sync, [folder, *folder.rglob("*")]):
            pass


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
