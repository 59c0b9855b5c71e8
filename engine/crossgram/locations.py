"""Where a store is: a path of this machine, or the URL of objects in a bucket or on a web server.

Of a URL, nothing is asked over the network here: `ObjectPath` is a name, as a pure path is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit
from urllib.request import url2pathname

from crossgram.errors import InputError

__all__ = ["Location", "ObjectPath", "local", "locate"]

_BUCKETS = ("s3", "gs", "az")
_WEB = ("https", "http")


@dataclass(frozen=True)
class ObjectPath:
    """The address of objects, with as much of `Path` as stores need.

    Attributes
    ----------
    scheme : str
        s3, gs, az, https or http.
    host : str
        The bucket or container; of https, the host with its port.
    key : str
        What the names of the objects begin with, without slashes at its ends.
    """

    scheme: str
    host: str
    key: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}/{self.key}".rstrip("/")

    def __truediv__(self, name: str) -> ObjectPath:
        key = f"{self.key}/{name}".strip("/")
        _check_key(key, f"{self}/{name}")
        return ObjectPath(self.scheme, self.host, key)

    @property
    def is_web(self) -> bool:
        """Whether a web server has the objects, which can neither list nor take any."""
        return self.scheme in _WEB

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The ending of the name, with its dot."""
        return Path(self.name).suffix

    @property
    def parents(self) -> tuple[ObjectPath, ...]:
        """What it lies in, the nearest first."""
        parts = self.key.split("/") if self.key else []
        shorter = ("/".join(parts[:count]) for count in reversed(range(len(parts))))
        return tuple(ObjectPath(self.scheme, self.host, key) for key in shorter)

    def resolve(self) -> ObjectPath:
        """Return it as it is: keys have neither links nor dots."""
        return self

    def absolute(self) -> ObjectPath:
        """Return it as it is: an address does not depend on where a process is."""
        return self

    def exists(self) -> bool:
        """Tell that it is there, which opening it will find out."""
        return True

    def is_dir(self) -> bool:
        """Tell that stores are what is read from there: many objects, as in a folder."""
        return True

    def is_file(self) -> bool:
        """Tell that single files are not read from there."""
        return False


Location: TypeAlias = Path | ObjectPath
"""Where a store is."""


def locate(given: str | os.PathLike[str] | ObjectPath) -> Location:
    """Return where a path or URL leads.

    Parameters
    ----------
    given : str, path or ObjectPath
        A path; `file://`; or `s3://bucket/key`, `gs://`, `az://`, `https://` or `http://`.

    Raises
    ------
    InputError
        If it is a URL that stores cannot be at.

    Examples
    --------
    >>> locate("s3://faces/2026/a.zarr").name
    'a.zarr'
    >>> locate("file:///data/a.zarr")
    PosixPath('/data/a.zarr')
    """
    if isinstance(given, ObjectPath):
        return given
    text = os.fspath(given)
    scheme, separator, rest = text.partition("://")
    if isinstance(given, Path) or not separator or not scheme.isalnum():
        return Path(text)
    scheme = scheme.lower()
    if scheme == "file":
        return _of_file(text)
    if scheme not in (*_BUCKETS, *_WEB):
        raise InputError(
            f"{text}: URLs that begin with {scheme}:// are not known; give a path, or one of "
            "s3://, gs://, az://, https://"
        )
    host, _, key = rest.partition("/")
    if not host or "@" in host or (scheme in _BUCKETS and ":" in host):
        raise InputError(
            f"{scheme}://: names no {'host' if scheme in _WEB else 'bucket'}, or more than one; "
            "expected as in s3://bucket/key, and credentials in the environment"
        )
    if scheme in _WEB and ("?" in key or "#" in key):
        raise InputError(
            f"{scheme}://{host}/...: has a query or fragment, which a store of many objects cannot "
            "have; give the URL that its zarr.json lies under"
        )
    key = key.strip("/")
    _check_key(key, text)
    return ObjectPath(scheme, host, key)


def local(given: str | Location) -> Path:
    """Return the path of what is read or written on this machine only.

    Raises
    ------
    InputError
        If it is a URL of another place.
    """
    location = locate(given)
    if isinstance(location, ObjectPath):
        raise InputError(
            f"{location}: only stores are read and written there; give a path of this machine, and "
            "copy the file"
        )
    return location


def _of_file(text: str) -> Path:
    parts = urlsplit(text)
    if parts.netloc not in ("", "localhost"):
        raise InputError(f"{text}: is on another machine, {parts.netloc}; give file:///path")
    return Path(url2pathname(parts.path))


def _check_key(key: str, text: str) -> None:
    if key and any(part in ("", ".", "..") for part in key.split("/")):
        raise InputError(
            f"{text}: has an empty part, . or .. in it, which objects' names cannot have; write it "
            "out"
        )
