"""Stores of Zarr other than folders, whose chunks are looked at when they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from zarr.abc.store import ByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

from crossgram.stored_chunks import Held, StoredForm

__all__ = ["WatchedStore"]


class WatchedStore(WrapperStore[Store]):
    """A store for reading the chunks of one array.

    To Zarr, a chunk that is not there is full of fill values; here it is an error. So is one that
    is not what the array declares, before it is decoded.

    Parameters
    ----------
    store : Store
        Where the chunks are.
    form : StoredForm
        How they are stored.
    within : dict of str to tuple of int
        Of shards at the array's edge, how many of their chunks lie in the array.
    """

    def __init__(
        self,
        store: Store,
        form: StoredForm | None = None,
        within: dict[str, tuple[int, ...]] | None = None,
    ) -> None:
        super().__init__(store)
        self._form, self._within = form, within or {}

    def _with_store(self, store: Store) -> WatchedStore:
        return WatchedStore(store, self._form, self._within)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return a chunk, or a part of a shard."""
        found = await self._store.get(key, prototype, byte_range)
        if found is None:
            raise FileNotFoundError(f"{key} is missing")
        if self._form is not None:
            self._check(self._form, key, found, byte_range)
        return found

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Return parts of several shards."""
        asked = [self.get(key, prototype, part) for key, part in key_ranges]
        return list(await asyncio.gather(*asked))

    async def get_ranges(
        self,
        key: str,
        byte_ranges: Sequence[ByteRequest | None],
        *,
        prototype: BufferPrototype,
        **_coalescing: Any,
    ) -> AsyncIterator[Sequence[tuple[int, Buffer | None]]]:
        """Give parts of a shard, as Zarr from 3.2 on asks for them, each looked at by itself."""
        try:
            found = await asyncio.gather(*(self.get(key, prototype, part) for part in byte_ranges))
        except FileNotFoundError as error:
            # which Zarr would take for fill values
            raise ValueError(str(error)) from error
        yield list(enumerate(found))

    @property
    def _supports_sync_io(self) -> bool:
        # what newer versions of Zarr ask for without `get` would not be looked at
        return False

    def _check(self, form: StoredForm, key: str, found: Buffer, part: ByteRequest | None) -> None:
        content = Held(memoryview(found.to_bytes() if part else _bytes_of(found)))
        if part is None:
            form.check(content, self._within.get(key))
        elif _is_index(form, part):
            form.index(bytes(content.data), self._within.get(key))
        else:
            form.encoding.check(content)


def _is_index(form: StoredForm, part: ByteRequest) -> bool:
    if isinstance(part, SuffixByteRequest):
        return True
    at_start = isinstance(part, RangeByteRequest) and part.start == 0
    return not form.index_at_end and at_start


def _bytes_of(found: Buffer) -> Any:
    return found.as_numpy_array().view("u1")
