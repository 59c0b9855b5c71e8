"""Clients of object stores, by what the usual environment says: credentials, endpoint, attempts."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from crossgram.errors import CrossgramError, InputError
from crossgram.locations import ObjectPath
from crossgram.object_errors import first_line

__all__ = ["client_of"]

_ATTEMPTS = 8
"""Of a request, where AWS_MAX_ATTEMPTS does not say; it takes about 15 seconds to give up."""
_FIRST_WAIT = timedelta(milliseconds=100)
_LONGEST_WAIT = timedelta(seconds=5)
_RETRY_TIME = timedelta(minutes=3)
"""Whatever the number of attempts: a request is repeated as it was signed, which expires."""
_CONNECT_TIME = timedelta(seconds=5)
_SILENT_TIME = timedelta(seconds=20)
"""A connection over which nothing has come for so long is given up."""
_REQUEST_TIME = timedelta(hours=1)


def client_of(location: ObjectPath) -> Any:
    """Return obstore's client of what is under a URL; nothing is asked yet.

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
        raise _not_installed(location) from error
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
            f"{location}: cannot be opened with what the environment says: {first_line(error)}"
        ) from error
    return client


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
    if not given.isdecimal() or len(given) > 4 or int(given) < 1:
        raise InputError(f"AWS_MAX_ATTEMPTS: {given!r} found, expected a number from 1 to 9999")
    return {
        "max_retries": int(given) - 1,
        "retry_timeout": _RETRY_TIME,
        "backoff": {"init_backoff": _FIRST_WAIT, "max_backoff": _LONGEST_WAIT, "base": 2},
    }


def _aws(location: ObjectPath) -> dict[str, Any]:
    """Return where credentials come from, if not from variables, which the client reads itself."""
    environment = os.environ
    if "AWS_ACCESS_KEY_ID" in environment or "AWS_SKIP_SIGNATURE" in environment:
        return {}
    try:
        import boto3
        from botocore.exceptions import BotoCoreError
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        raise _not_installed(location) from error
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


def _not_installed(location: ObjectPath) -> InputError:
    return InputError(
        f"{location}: needs a package that is not installed; run: pip install 'crossgram[objects]'"
    )
