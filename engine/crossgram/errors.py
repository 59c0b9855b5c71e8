"""The one exception family of the library.

Every message names the file or argument, what was found, what was expected and what to do.
`InputError` and its kinds are the caller's to mend; `RunError` means that a run failed on the way.
"""

from __future__ import annotations

__all__ = [
    "AccessDeniedError",
    "CorruptDataError",
    "CrossgramError",
    "InputError",
    "MemoryLimitError",
    "NonFiniteError",
    "OutputExistsError",
    "PairingError",
    "RunError",
    "WidthMismatchError",
]


class CrossgramError(Exception):
    """Anything that crossgram raises on purpose."""


class InputError(CrossgramError, ValueError):
    """An argument or a file that cannot be used as it is."""


class AccessDeniedError(InputError):
    """An object in a bucket that the credentials do not open, or do not show to be missing."""


class CorruptDataError(InputError):
    """A chunk or a file that is truncated, damaged or missing."""


class PairingError(InputError):
    """Rows of the spaces that are not the same images."""


class WidthMismatchError(InputError):
    """A number of columns other than the one a map, a store or moments were made for."""


class NonFiniteError(InputError):
    """A NaN, an infinity, or a zero row where unit rows were asked for."""


class OutputExistsError(InputError):
    """An output that is already there and was not to be overwritten."""


class MemoryLimitError(InputError):
    """A run that cannot be made to fit the memory it was given."""


class RunError(CrossgramError):
    """A failure on the way that no other input would have avoided, such as a full disk."""
