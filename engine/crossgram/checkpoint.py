"""Finished parts of a run on disk: one that was stopped goes on from them, to the same bits."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from crossgram.documents import parsed, read_document
from crossgram.errors import CorruptDataError, InputError
from crossgram.locations import local
from crossgram.merge_tree import Place
from crossgram.output import run_errors, whole_file
from crossgram.tensor_file import read_tensors, write_tensors

__all__ = ["Checkpoint", "Keepable", "Kept", "KeptNode", "clear_checkpoint", "opened_checkpoint"]

_KIND = "part of a run"
_LEFT = "what was done before is kept"
_RECORD, _LOCK = "run.json", "lock"
_MOST_RECORD_BYTES = 1 << 24
_PASS = re.compile(r"pass-\d+")
_NODE = re.compile(r"(\d{1,2})-(\d{1,8})\.safetensors")
_UNFINISHED = re.compile(r"\.(run\.json|\d+-\d+\.safetensors)\..*|\.tmp\w+")
"""Of `whole_file`, and of safetensors, which writes beside that file and renames, too."""


class Keepable(Protocol):
    """Sums that can be written and read back, to the last bit."""

    def to_parts(self) -> tuple[dict[str, NDArray[np.float64]], dict[str, Any]]:
        """Return the arrays by name, and the rest as JSON values."""
        ...

    @classmethod
    def from_parts(
        cls, tensors: Mapping[str, NDArray[np.float64]], facts: Mapping[str, Any], label: str
    ) -> Self:
        """Make it of what `to_parts` returned."""
        ...


_Sums = TypeVar("_Sums", bound=Keepable)


@dataclass(frozen=True)
class KeptNode(Generic[_Sums]):
    """The sums of a finished subtree.

    Attributes
    ----------
    level, index : int
        Its place in the tree: of the segments from index 2^level on, 2^level or as many as there
        are.
    sums : list
        One per fold.
    """

    level: int
    index: int
    sums: list[_Sums]


@dataclass
class Checkpoint:
    """The folder of a run, which has a folder for each of its passes.

    Attributes
    ----------
    folder : Path
        Where.
    """

    folder: Path
    _passes: int = field(default=0)

    def next_pass(self, record: Mapping[str, Any], kind: type[_Sums], folds: int) -> Kept[_Sums]:
        """Begin a pass, or go on with it.

        Parameters
        ----------
        record : mapping
            What decides its result, as JSON values.
        kind : type
            Of the sums.
        folds : int
            Sums of each subtree.

        Raises
        ------
        InputError
            If what is there is of a pass with another record.
        """
        folder = self.folder / f"pass-{self._passes}"
        self._passes += 1
        document = json.dumps(record, sort_keys=True)
        with run_errors(folder):
            folder.mkdir(exist_ok=True)
            if _places(folder) and (folder / _RECORD).exists():
                _check_same(folder, parsed(document))
            else:  # nothing is kept that a record could be about
                with whole_file(folder / _RECORD, overwrite=True) as temporary:
                    temporary.write_text(document, encoding="utf-8")
        return Kept(folder, blake2b(document.encode(), digest_size=16).hexdigest(), kind, folds)


@dataclass(frozen=True)
class Kept(Generic[_Sums]):
    """The finished subtrees of a pass.

    The parts of a subtree stay until the next one is written: whatever happens to the newest
    file, no more than the segment that it was the first to hold is lost with it.
    """

    folder: Path
    _run: str
    _kind: type[_Sums]
    _folds: int
    _spent: list[Place] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def nodes(self) -> list[KeptNode[_Sums]]:
        """Return what is there; what is damaged is removed, and done again from its parts."""
        found: list[KeptNode[_Sums]] = []
        for level, index in sorted(_places(self.folder), reverse=True):
            if any(index >> (own.level - level) == own.index for own in found):
                self._spent.append((level, index))
                continue
            sums = self._read(level, index)
            if sums is None:
                self._path(level, index).unlink()
            else:
                found.append(KeptNode(level, index, sums))
        return found

    def keep(
        self, level: int, index: int, sums: Sequence[_Sums], absorbed: Sequence[Place]
    ) -> None:
        """Write the sums of a subtree, and then remove the parts of the one before."""
        tensors: dict[str, NDArray[Any]] = {}
        facts: list[dict[str, Any]] = []
        for k, fold in enumerate(sums):
            own, described = fold.to_parts()
            tensors |= {f"fold.{k}.{name}": tensor for name, tensor in own.items()}
            facts.append(described)
        document = {"run": self._run, "folds": facts, "checksum": _checksum(tensors, facts)}
        # one at a time, so that the last to be written is the last whose parts are there
        with self._lock:
            write_tensors(
                self._path(level, index), _KIND, tensors, document, overwrite=True, left=_LEFT
            )
            for place in self._spent:
                self._path(*place).unlink(missing_ok=True)
            self._spent[:] = absorbed

    def _read(self, level: int, index: int) -> list[_Sums] | None:
        path = self._path(level, index)
        try:
            tensors, facts = read_tensors(path, _KIND)
            described = facts["folds"]
            if (
                facts["run"] != self._run
                or len(described) != self._folds
                or facts["checksum"] != _checksum(tensors, described)
            ):
                return None
            return [
                self._kind.from_parts(
                    {
                        name.removeprefix(f"fold.{k}."): tensor
                        for name, tensor in tensors.items()
                        if name.startswith(f"fold.{k}.")
                    },
                    own,
                    str(path),
                )
                for k, own in enumerate(described)
            ]
        except (InputError, KeyError, TypeError):
            return None

    def _path(self, level: int, index: int) -> Path:
        return self.folder / f"{level}-{index}.safetensors"


@contextmanager
def opened_checkpoint(given: str | Path) -> Iterator[Checkpoint]:
    """Keep a folder to this process, and make it if need be.

    Raises
    ------
    InputError
        If another process works in it, there is something else in it, or it is the URL of a bucket.
    """
    folder = local(given)
    with run_errors(folder):
        folder.mkdir(exist_ok=True)
    strange = _strangers(folder)
    if strange:
        raise InputError(
            f"{folder}: holds {strange[0]}, which no checkpoint made; give a folder of its own"
        )
    with run_errors(folder), (folder / _LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{folder}: another run is at work in it; wait for it, or stop it"
            ) from None
        for path in folder.glob("pass-*/.*"):
            path.unlink()
        yield Checkpoint(folder)


def clear_checkpoint(given: str | Path) -> None:
    """Remove the folder of a run that is done, as far as a checkpoint made it."""
    folder = local(given)
    if not _strangers(folder):
        shutil.rmtree(folder, ignore_errors=True)


def _places(folder: Path) -> list[Place]:
    """Return the nodes of which there are files in the folder of a pass."""
    found = (_NODE.fullmatch(path.name) for path in folder.iterdir())
    return [(int(match[1]), int(match[2])) for match in found if match is not None]


def _strangers(folder: Path) -> list[str]:
    found = []
    for path in folder.iterdir():
        if path.is_dir() and _PASS.fullmatch(path.name):
            found += [
                f"{path.name}/{child.name}"
                for child in path.iterdir()
                if not any(
                    own.fullmatch(child.name) for own in (_NODE, _UNFINISHED, re.compile(_RECORD))
                )
            ]
        elif path.name != _LOCK:
            found.append(path.name)
    return sorted(found)


def _check_same(folder: Path, record: Mapping[str, Any]) -> None:
    path = folder / _RECORD
    try:
        there = read_document(path, _MOST_RECORD_BYTES)
    except ValueError as error:
        raise CorruptDataError(f"{path}: is no JSON ({error}); remove the folder") from error
    if not isinstance(there, dict):
        raise CorruptDataError(
            f"{path}: holds {type(there).__name__}, expected a JSON object; remove the folder"
        )
    before, now = (dict(_leaves(one)) for one in (there, record))
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            raise InputError(
                f"{folder.parent}: is of another run, {name} was {before.get(name)!r} and is "
                f"{now.get(name)!r}; give another folder (--checkpoint), or remove it"
            )


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for k, inner in enumerate(value):
            yield from _leaves(inner, f"{name}.{k}")
    else:
        yield name, value


def _checksum(tensors: Mapping[str, NDArray[Any]], facts: Sequence[Mapping[str, Any]]) -> str:
    digest = blake2b(json.dumps(list(facts), sort_keys=True).encode(), digest_size=16)
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].shape}".encode())
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()
