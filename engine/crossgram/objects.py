"""Objects in a bucket or on a web server, as the store that Zarr reads from and writes to.

Through obstore, whose client repeats requests that fail for the moment. What fails for good is an
error that names the object.

Requests wait on threads of ours. Of its own, obstore calls back into Python, also while the
interpreter of a process that is done is being taken down, and such a process may crash.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype

from crossgram.errors import CorruptDataError
from crossgram.locations import ObjectPath
from crossgram.object_client import client_of
from crossgram.object_errors import explained
from crossgram.request_threads import RequestThreads

__all__ = ["METADATA", "MOST_METADATA_BYTES", "Objects", "open_objects"]

METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
"""Names of what Zarr says of arrays and groups."""

MOST_METADATA_BYTES = 1 << 24

_MOST_BYTES = (1 << 30) + (1 << 26)
"""The largest chunk that is decoded, and what a codec adds to one that it cannot shrink."""

_THREADS = RequestThreads(32)
"""As many requests are in flight at most."""

_Answer = TypeVar("_Answer")


class Objects(Store):
    """What is under a URL.

    Attributes
    ----------
    location : ObjectPath
        The URL.
    client : obstore.store.ObjectStore
        What requests go through.
    complete : bool
        Whether to read an object that is not there is an error, `FileNotFoundError`; Zarr reads a
        missing chunk as its fill value.
    """

    supports_writes = True
    supports_deletes = True

    def __init__(
        self,
        location: ObjectPath,
        client: Any,
        *,
        read_only: bool = True,
        complete: bool = False,
    ) -> None:
        super().__init__(read_only=read_only)
        self.location, self.client, self.complete = location, client, complete

    def __str__(self) -> str:
        return str(self.location)

    def __repr__(self) -> str:
        return f"Objects({self})"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Objects)
            and self.location == other.location
            and self.read_only == other.read_only
        )

    def __hash__(self) -> int:
        return hash(self.location)

    def __reduce__(self) -> tuple[Any, ...]:
        # opened anew in another process, by what its environment says: no credentials travel
        return open_objects, (self.location, self.read_only, self.complete)

    def with_read_only(self, read_only: bool = False) -> Objects:
        """Return a store of the same objects that can be written to, or not."""
        return Objects(self.location, self.client, read_only=read_only, complete=self.complete)

    def where_all_are_stored(self) -> Objects:
        """Return a store of the same objects to which a missing one is an error."""
        return Objects(self.location, self.client, read_only=self.read_only, complete=True)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return an object, or some bytes of it."""
        found = await self._asked(key, "read", self._fetched, key, byte_range)
        if found is not None:
            return prototype.buffer.from_bytes(found)
        if self.complete:
            raise FileNotFoundError(f"{self}/{key}: no such object")
        return None

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Return some bytes of each of several objects."""
        asked = [self.get(key, prototype, byte_range) for key, byte_range in key_ranges]
        return list(await asyncio.gather(*asked))

    async def exists(self, key: str) -> bool:
        """Tell whether there is an object."""
        return await self._asked(key, "read", self._size, key) is not None

    async def getsize(self, key: str) -> int:
        """Return an object's bytes."""
        size = await self._asked(key, "read", self._size, key)
        if size is None:
            raise FileNotFoundError(f"{self}/{key}: no such object")
        return size

    async def getsize_prefix(self, prefix: str) -> int:
        """Return the bytes of all objects under a prefix."""
        return await self._asked(
            prefix, "listed", lambda: sum(item["size"] for item in self._listed(prefix))
        )

    async def set(self, key: str, value: Buffer) -> None:
        """Put an object in its place."""
        import obstore

        self._check_writable()
        put = partial(obstore.put, self.client, key, value.as_buffer_like())
        await self._asked(key, "written", put)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Put an object in its place unless there is one."""
        import obstore
        from obstore.exceptions import AlreadyExistsError

        self._check_writable()

        def put() -> None:
            with suppress(AlreadyExistsError):
                obstore.put(self.client, key, value.as_buffer_like(), mode="create")

        await self._asked(key, "written", put)

    async def delete(self, key: str) -> None:
        """Remove an object, if there is one."""
        import obstore

        self._check_writable()

        def remove() -> None:
            with suppress(FileNotFoundError):
                obstore.delete(self.client, key)

        await self._asked(key, "removed", remove)

    async def delete_dir(self, prefix: str) -> None:
        """Remove all objects under a prefix."""
        names = await self._asked(prefix, "listed", lambda: list(self.object_names(prefix)))
        await asyncio.gather(*(self.delete(name) for name in names))

    @property
    def supports_listing(self) -> bool:
        """Whether the objects can be listed."""
        return not self.location.is_web

    async def list(self) -> AsyncIterator[str]:
        """Yield the names of all objects."""
        async for name in self.list_prefix(""):
            yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names of all objects under a prefix."""
        for name in await self._asked(prefix, "listed", lambda: [*self.object_names(prefix)]):
            yield name

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield what is directly under a prefix, objects and folders of them."""
        import obstore

        prefix = prefix.strip("/")
        found = await self._asked(
            prefix, "listed", obstore.list_with_delimiter, self.client, prefix
        )
        for path in (*found["common_prefixes"], *(item["path"] for item in found["objects"])):
            yield path.removeprefix(f"{prefix}/")

    def object_names(self, prefix: str = "") -> Iterator[str]:
        """Yield the names of all objects under a prefix, a page of a listing at a time.

        Raises
        ------
        InputError
            If there is no such bucket, or it may not be listed.
        """
        with self._named(prefix, "listed"):
            for item in self._listed(prefix):
                yield item["path"]

    def _listed(self, prefix: str) -> Iterator[Any]:
        import obstore

        for page in obstore.list(self.client, prefix.strip("/")):
            yield from page

    def _size(self, key: str) -> int | None:
        import obstore

        try:
            return int(obstore.head(self.client, key)["size"])
        except FileNotFoundError:
            return None

    def _fetched(self, key: str, byte_range: ByteRequest | None) -> memoryview | None:
        import obstore

        try:
            match byte_range:
                case RangeByteRequest(start=start, end=end):
                    return memoryview(obstore.get_range(self.client, key, start=start, end=end))
                case OffsetByteRequest(offset=offset):
                    part: Any = {"range": {"offset": offset}}
                    return memoryview(obstore.get(self.client, key, options=part).bytes())
                case SuffixByteRequest(suffix=suffix):
                    return self._end(key, suffix)
            return self._whole(key)
        except FileNotFoundError:
            return None

    def _whole(self, key: str) -> memoryview:
        import obstore

        answer = obstore.get(self.client, key)
        size = answer.meta["size"]
        most = MOST_METADATA_BYTES if key.rpartition("/")[2] in METADATA else _MOST_BYTES
        if size > most:
            raise CorruptDataError(
                f"{self}/{key}: has {size:,} bytes, at most {most:,} are read of one; "
                "see whether it is of this store, and write it again with smaller chunks"
            )
        return memoryview(answer.bytes())

    def _end(self, key: str, count: int) -> memoryview:
        import obstore
        from obstore.exceptions import NotSupportedError

        try:
            part: Any = {"range": {"suffix": count}}
            return memoryview(obstore.get(self.client, key, options=part).bytes())
        except NotSupportedError:
            # of Azure
            size = int(obstore.head(self.client, key)["size"])
            start = max(0, size - count)
            return memoryview(obstore.get_range(self.client, key, start=start, end=size))

    async def _asked(
        self, key: str, done: str, request: Callable[..., _Answer], *arguments: Any
    ) -> _Answer:
        """Make a request on a thread of ours; it waits for the answer."""
        with self._named(key, done):
            return await asyncio.wrap_future(_THREADS.submit(partial(request, *arguments)))

    @contextmanager
    def _named(self, key: str, done: str) -> Iterator[None]:
        """Turn what the client raises into an error that names the object."""
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            raise explained(error, f"{self}/{key}".rstrip("/"), self.location, done) from error


def open_objects(location: ObjectPath, read_only: bool = True, complete: bool = False) -> Objects:
    """Return what is under a URL; nothing is asked yet.

    Raises
    ------
    InputError
        As `client_of` does.
    """
    return Objects(location, client_of(location), read_only=read_only, complete=complete)
