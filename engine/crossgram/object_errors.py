"""What a client of an object store raises, as an error that names the object and what to do."""

from __future__ import annotations

import re

from crossgram.errors import AccessDeniedError, CrossgramError, InputError, RunError
from crossgram.locations import ObjectPath

__all__ = ["explained", "first_line"]

_STATUS = re.compile(r"status code: (\d{3}[^:\n]*)")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_RETRIES = re.compile(r"after \d+ retries")
_TRY_AGAIN = {"408", "425", "429"}


def explained(error: Exception, what: str, location: ObjectPath, done: str) -> CrossgramError:
    """Return the error that a user is shown.

    Parameters
    ----------
    error : Exception
        What the client raised.
    what : str
        The URL of the object.
    location : ObjectPath
        The URL of the store that it is of.
    done : str
        What was to be done with it, such as "read".
    """
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
    said = status[1].strip() if status else first_line(Exception(text)).rpartition(" - ")[2]
    parts = [said, code[1] if code else "", retries[0] if retries else ""]
    return ", ".join(part for part in parts if part)


def first_line(error: Exception) -> str:
    """Return what an error says, without the lines of detail that clients add."""
    return (str(error).splitlines() or [type(error).__name__])[0]
