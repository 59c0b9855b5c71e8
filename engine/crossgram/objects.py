"""Objects in a bucket or on a web server, as the store that Zarr reads from and writes to.

Through obstore, whose client repeats requests that fail for the moment. What fails for good is an
error that names the object.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import ObjectStore

from crossgram.errors import (
    AccessDeniedError,
    CorruptDataError,
    CrossgramError,
    InputError,
    RunError,
)
from crossgram.locations import ObjectPath

__all__ = ["Objects", "open_objects"]

_ATTEMPTS = 8
"""Of a request, where AWS_MAX_ATTEMPTS does not say; it takes about 15 seconds to give up."""
_FIRST_WAIT = timedelta(milliseconds=100)
_LONGEST_WAIT = timedelta(seconds=5)
_CONNECT_TIME = timedelta(seconds=5)
_SILENT_TIME = timedelta(seconds=20)
"""A connection over which nothing has come for so long is given up."""
_REQUEST_TIME = timedelta(hours=1)

_MOST_BYTES = (1 << 30) + (1 << 26)
"""The largest chunk that is decoded, and what a codec adds to one that it cannot shrink."""

_STATUS = re.compile(r"status code: (\d{3}[^:\n]*)")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_RETRIES = re.compile(r"after \d+ retries")
_TRY_AGAIN = {"408", "425", "429"}


class Objects(ObjectStore[Any]):
    """What is under a URL.

    Attributes
    ----------
    location : ObjectPath
        The URL.
    complete : bool
        Whether to read an object that is not there is an error, `FileNotFoundError`; Zarr reads a
        missing chunk as its fill value.
    """

    def __init__(
        self,
        location: ObjectPath,
        client: Any,
        *,
        read_only: bool = True,
        complete: bool = False,
    ) -> None:
        super().__init__(client, read_only=read_only)
        self.location, self.complete = location, complete

    def __str__(self) -> str:
        return str(self.location)

    def __reduce__(self) -> tuple[Any, ...]:
        # opened anew in another process, by what its environment says: no credentials travel
        return open_objects, (self.location, self.read_only, self.complete)

    def with_read_only(self, read_only: bool = False) -> Objects:
        """Return a store of the same objects that can be written to, or not."""
        return Objects(self.location, self.store, read_only=read_only, complete=self.complete)

    def where_all_are_stored(self) -> Objects:
        """Return a store of the same objects to which a missing one is an error."""
        return Objects(self.location, self.store, read_only=self.read_only, complete=True)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return an object, or some bytes of it."""
        with self._named(key, "read"):
            if byte_range is None:
                found = await self._whole(key, prototype)
            else:
                found = await super().get(key, prototype, byte_range)
        if found is None and self.complete:
            raise FileNotFoundError(f"{self}/{key}: no such object")
        return found

    async def _whole(self, key: str, prototype: BufferPrototype) -> Buffer | None:
        import obstore

        try:
            answer = await obstore.get_async(self.store, key)
        except FileNotFoundError:
            return None
        size = answer.meta["size"]
        if size > _MOST_BYTES:
            raise CorruptDataError(
                f"{self}/{key}: has {size:,} bytes, at most {_MOST_BYTES:,} are read of one; "
                "see whether it is of this store, and write it again with smaller chunks"
            )
        return prototype.buffer.from_bytes(memoryview(await answer.bytes_async()))

    async def exists(self, key: str) -> bool:
        """Tell whether there is an object."""
        with self._named(key, "read"):
            return await super().exists(key)

    async def getsize(self, key: str) -> int:
        """Return an object's bytes."""
        with self._named(key, "read"):
            return await super().getsize(key)

    async def set(self, key: str, value: Buffer) -> None:
        """Put an object in its place."""
        with self._named(key, "written"):
            await super().set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Put an object in its place unless there is one."""
        with self._named(key, "written"):
            await super().set_if_not_exists(key, value)

    async def delete(self, key: str) -> None:
        """Remove an object."""
        with self._named(key, "removed"):
            await super().delete(key)

    @property
    def supports_listing(self) -> bool:
        """Whether the objects can be listed."""
        return not self.location.is_web

    async def _list(self, prefix: str | None = None) -> AsyncGenerator[Any, None]:
        with self._named(prefix or "", "listed"):
            async for item in super()._list(prefix):
                yield item

    def names(self) -> frozenset[str]:
        """Return what is directly under the URL, objects and folders of them.

        Raises
        ------
        InputError
            If there is no such bucket, or it may not be listed.
        """
        import obstore

        with self._named("", "listed"):
            found = obstore.list_with_delimiter(self.store)
        objects = (item["path"] for item in found["objects"])
        return frozenset([*found["common_prefixes"], *objects])

    @contextmanager
    def _named(self, key: str, done: str) -> Iterator[None]:
        """Turn what the client raises into an error that names the object."""
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            raise _explained(error, f"{self}/{key}".rstrip("/"), self.location, done) from error


def open_objects(location: ObjectPath, read_only: bool = True, complete: bool = False) -> Objects:
    """Return what is under a URL; nothing is asked yet.

    Raises
    ------
    InputError
        If obstore is not installed, there are no credentials, or what the environment says cannot
        be used.
    """
    try:
        from obstore.exceptions import BaseError
        from obstore.store import AzureStore, GCSStore, HTTPStore, S3Store
    except ImportError as error:
        raise InputError(
            f"{location}: needs a package that is not installed; "
            "run: pip install 'crossgram[objects]'"
        ) from error
    reached: dict[str, Any] = {"client_options": _client_options(), "retry_config": _retries()}
    prefix = location.key or None
    try:
        match location.scheme:
            case "s3":
                client: Any = S3Store(location.host, prefix=prefix, **_aws(location), **reached)
            case "gs":
                client = GCSStore(location.host, prefix=prefix, **reached)
            case "az":
                client = AzureStore(location.host, prefix=prefix, **reached)
            case _:
                client = HTTPStore.from_url(str(location), **reached)
    except (BaseError, ValueError) as error:
        if isinstance(error, CrossgramError):
            raise
        raise InputError(
            f"{location}: cannot be opened with what the environment says: {_first_line(error)}"
        ) from error
    return Objects(location, client, read_only=read_only, complete=complete)


def _client_options() -> dict[str, Any]:
    return {
        # only where the address itself says http
        "allow_http": True,
        "connect_timeout": _CONNECT_TIME,
        "read_timeout": _SILENT_TIME,
        # whatever the size of an object: the time limit above is of silence
        "timeout": _REQUEST_TIME,
    }


def _retries() -> dict[str, Any]:
    given = os.environ.get("AWS_MAX_ATTEMPTS", str(_ATTEMPTS))
    if not given.isdecimal() or int(given) < 1:
        raise InputError(f"AWS_MAX_ATTEMPTS: {given!r} found, expected a number from 1 on")
    return {
        "max_retries": int(given) - 1,
        "backoff": {"init_backoff": _FIRST_WAIT, "max_backoff": _LONGEST_WAIT, "base": 2},
    }


def _aws(location: ObjectPath) -> dict[str, Any]:
    """Return where credentials come from, if not from variables, which the client reads itself."""
    environment = os.environ
    if "AWS_ACCESS_KEY_ID" in environment or "AWS_SKIP_SIGNATURE" in environment:
        return {}
    import boto3
    from botocore.exceptions import BotoCoreError
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        session = boto3.Session()
        found = session.get_credentials()
    except BotoCoreError as error:
        raise InputError(f"{location}: no credentials: {error}; mend the profile") from error
    if found is None:
        raise InputError(
            f"{location}: no credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or AWS_PROFILE, or AWS_SKIP_SIGNATURE=true to read what anybody may"
        )
    return {"credential_provider": Boto3CredentialProvider(session)}


def _explained(error: Exception, what: str, location: ObjectPath, done: str) -> CrossgramError:
    text = str(error)
    cause = _cause(text)
    status = cause[:3]
    if "NoSuchBucket" in text or (status == "404" and done in ("listed", "written")):
        return InputError(
            f"{location}: there is no bucket {location.host!r}; check the name, and the endpoint "
            "and region in the environment"
        )
    if status in ("401", "403"):
        return AccessDeniedError(
            f"{what}: cannot be {done}, access is denied ({cause}); check the credentials in the "
            "environment, and what they allow (of a bucket that may not be listed, what is not "
            "there is denied, too)"
        )
    if (status.startswith("4") and status not in _TRY_AGAIN) or "redirect" in text:
        return InputError(
            f"{what}: cannot be {done}: {cause}; check the URL, and the endpoint, region and "
            "credentials in the environment"
        )
    return RunError(
        f"{what}: cannot be {done}: {cause}; see whether the service and the network are up, and "
        "run again"
    )


def _cause(text: str) -> str:
    """Return status, code and number of retries, or in a few words what else there is."""
    status, code, retries = (pattern.search(text) for pattern in (_STATUS, _CODE, _RETRIES))
    said = status[1].strip() if status else _first_line(Exception(text)).rpartition(" - ")[2]
    parts = [said, code[1] if code else "", retries[0] if retries else ""]
    return ", ".join(part for part in parts if part)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
