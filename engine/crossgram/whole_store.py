"""New stores that are whole or absent, on disk and in buckets.

On disk a store is written beside its place and renamed. A bucket has no rename: there the root's
`zarr.json`, without which nothing under the URL is a store, is written last, and what a run that
fails has written is removed.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync

from crossgram.errors import CrossgramError, InputError, OutputExistsError, RunError
from crossgram.locations import Location, ObjectPath
from crossgram.object_client import client_of
from crossgram.objects import Objects
from crossgram.output import uninterrupted, whole_directory

__all__ = ["whole_store"]

_LAST_SECONDS = 10
_ROOT = "zarr.json"
_PART = re.compile(r"zarr\.json|(embeddings|ids|labels|masked)/(zarr\.json|c(/\d+)+)")
"""The objects of an embedding store."""


@contextmanager
def whole_store(location: Location, *, overwrite: bool = False) -> Iterator[Path | Objects]:
    """Give where to write a Zarr group; it is at its place if all went well.

    Of a path, what stood there stays until the new store is complete; of a URL, it is gone from
    the beginning, for the new objects have the names of the old.

    Raises
    ------
    OutputExistsError
        If something is there and `overwrite` is false.
    InputError
        If what is there is not a store, or nothing can be written there.
    """
    if not isinstance(location, ObjectPath):
        with whole_directory(location, overwrite=overwrite) as temporary:
            try:
                yield temporary
            except BaseException:
                uninterrupted(lambda: sync(_others_done()))
                raise
        return
    store = _Unfinished(location, client_of(location), read_only=False)
    _check_replaceable(store, overwrite)
    try:
        yield store
        uninterrupted(store.finish)
    except BaseException as error:
        try:
            uninterrupted(store.clear_place)
        except CrossgramError as left:
            raise RunError(
                f"{location}: {str(error) or type(error).__name__}; and what was written there "
                f"could not be removed ({left}); remove it"
            ) from error
        raise


async def _others_done() -> None:
    """Wait for chunks that are still being written beside one that failed.

    Zarr does not, and they would make the folder again that is about to be removed.
    """
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=_LAST_SECONDS)


class _Unfinished(Objects):
    """Objects to write to, which keeps the root's metadata back until all others are there."""

    _root: Buffer | None = None

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return an object, or the root's metadata as they will be."""
        if key == _ROOT:
            return self._root
        return await super().get(key, prototype, byte_range)

    async def set(self, key: str, value: Buffer) -> None:
        """Put an object in its place, but for the root's metadata."""
        if key == _ROOT:
            self._root = value
        else:
            await super().set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Put an object in its place unless there is one, but for the root's metadata."""
        if key != _ROOT:
            await super().set_if_not_exists(key, value)
        elif self._root is None:
            self._root = value

    def clear_place(self) -> None:
        """Remove what is there, its metadata first, so that nothing reads half of it."""
        sync(self.delete(_ROOT))
        sync(self.delete_dir(""))

    def finish(self) -> None:
        """Write the root's metadata."""
        assert self._root is not None
        sync(super().set(_ROOT, self._root))


def _check_replaceable(store: _Unfinished, overwrite: bool) -> None:
    location = store.location
    if location.is_web:
        raise InputError(
            f"{location}: a web server is only read from; write to a path or to s3://, gs:// or "
            "az://"
        )
    if not location.key:
        raise InputError(f"{location}: names a whole bucket; give the store a name in it")
    if next(store.object_names(), None) is None:
        return
    if not overwrite:
        raise OutputExistsError(
            f"{location}: already exists; choose another name, or overwrite it (--overwrite)"
        )
    stranger = next((key for key in store.object_names() if not _PART.fullmatch(key)), None)
    if stranger is None and not _may_be_ours(store):
        stranger = _ROOT
    if stranger is not None:
        raise InputError(
            f"{location}: holds objects that crossgram did not make, such as {stranger}, and would "
            "be removed with them; choose another name"
        )
    store.clear_place()


def _may_be_ours(store: _Unfinished) -> bool:
    """Tell whether the root is a store's, or missing, as in what a killed run has left."""
    root = sync(Objects.get(store, _ROOT, default_buffer_prototype()))
    return root is None or b'"crossgram"' in root.to_bytes()
