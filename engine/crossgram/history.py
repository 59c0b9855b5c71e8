"""What moments were made of: the operations that led to them, and what these account for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import crossgram
from crossgram.errors import InputError

__all__ = [
    "History",
    "Input",
    "Operation",
    "accounted_rows",
    "check_removal",
    "from_facts",
    "id_sum_of",
    "repeated_inputs",
    "subtracted",
]

_SIGNS = {"accumulate": 1, "add": 1, "subtract": -1, "merge": 0}
_OPERATION_FIELDS = {
    "operation": str,
    "time": str,
    "version": str,
    "rows": int,
    "ids": (str, type(None)),
    "inputs": list,
    "options": dict,
}
_INPUT_FIELDS = {"path": str, "rows": int, "digest": str}
_MODULUS = 1 << 64


@dataclass(frozen=True)
class Input:
    """Something that was read.

    Attributes
    ----------
    path : str
        Where it was.
    rows : int
        All of its rows, whether used or not.
    digest : str
        What it is known by, wherever it lies.
    """

    path: str
    rows: int
    digest: str


@dataclass(frozen=True)
class Operation:
    """One step in the making of moments.

    Attributes
    ----------
    operation : {"accumulate", "add", "subtract", "merge"}
        A merge stands behind the operations of what was merged, and counts no rows itself.
    time : str
        When, UTC, ISO 8601.
    version : str
        The crossgram that did it.
    rows : int
        Rows added or removed, those that were left out as masked or not finite included.
    ids : str or None
        Sum of 64-bit hashes of their ids, modulo 2^64, in hexadecimal; None without ids.
    inputs : tuple of Input
        What was read, one per space.
    options : mapping
        How it was read.
    """

    operation: str
    time: str
    version: str
    rows: int
    ids: str | None = None
    inputs: tuple[Input, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def now(
        cls,
        operation: str,
        rows: int,
        ids: str | None = None,
        inputs: Iterable[Input] = (),
        options: Mapping[str, Any] | None = None,
    ) -> Operation:
        """Describe what is being done at this moment by this version."""
        time = datetime.now(UTC).isoformat(timespec="seconds")
        version = crossgram.__version__
        return cls(operation, time, version, rows, ids, tuple(inputs), dict(options or {}))

    @property
    def sign(self) -> int:
        """1 where rows were added, -1 where they were removed, 0 where neither."""
        return _SIGNS[self.operation]

    @property
    def digests(self) -> tuple[str, ...]:
        """What the inputs are known by."""
        return tuple(each.digest for each in self.inputs)

    @property
    def paths(self) -> str:
        """The inputs by name."""
        return ", ".join(each.path for each in self.inputs)

    def to_dict(self) -> dict[str, Any]:
        """Return the operation as JSON values."""
        return asdict(self) | {"inputs": [asdict(each) for each in self.inputs]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Operation:
        """Make an operation of what `to_dict` returned.

        Raises
        ------
        InputError
            If a field is missing, unknown or not of its type.
        """
        _check_fields(values, _OPERATION_FIELDS)
        if values["operation"] not in _SIGNS:
            raise InputError(f"operation {values['operation']!r}, expected one of {list(_SIGNS)}")
        if values["ids"] is not None:
            int(values["ids"], 16)
        for each in values["inputs"]:
            _check_fields(each, _INPUT_FIELDS)
        return cls(**(dict(values) | {"inputs": tuple(Input(**i) for i in values["inputs"])}))


History = tuple[Operation, ...]
"""Operations in the order in which their results came together."""


def from_facts(facts: Mapping[str, Any]) -> History:
    """Return the history in the facts of a file; none in files that were written without."""
    return tuple(Operation.from_dict(values) for values in facts.get("history", ()))


def accounted_rows(history: Sequence[Operation]) -> int:
    """Return how many rows the operations leave, added less removed."""
    return sum(operation.sign * operation.rows for operation in history)


def id_sum_of(history: Sequence[Operation]) -> str | None:
    """Return the sum of the hashes of the ids that the operations leave.

    Equal sums mean the same rows, whatever the order and the way they came together. None where
    the ids of some rows are not known.
    """
    signed = [operation for operation in history if operation.sign]
    if not signed or any(operation.ids is None for operation in signed):
        return None
    total = sum(operation.sign * int(operation.ids or "", 16) for operation in signed)
    return f"{total % _MODULUS:016x}"


def subtracted(history: History, removed: History, rows: int) -> History:
    """Return a history with the removal of `rows` rows, made as `removed` tells, behind it."""
    if not history and not removed:
        return ()
    named = {1: "subtract", -1: "add"}
    inverse = [
        Operation.now(named[each.sign], each.rows, each.ids, each.inputs, each.options)
        for each in removed
        if each.sign
    ]
    untold = rows - accounted_rows(removed)
    if untold > 0:
        inverse.append(Operation.now("subtract", untold))
    return (*history, *inverse)


def repeated_inputs(history: Sequence[Operation]) -> list[str]:
    """Return the inputs of which the same rows count more than once, by name."""
    counts: Counter[tuple[Any, ...]] = Counter()
    names: dict[tuple[Any, ...], str] = {}
    for each in history:
        if each.inputs and each.sign:
            key = (each.digests, each.rows, each.ids)
            counts[key] += each.sign
            names[key] = each.paths
    return [names[key] for key, count in counts.items() if count > 1]


def check_removal(
    history: Sequence[Operation],
    rows: int,
    removed: Sequence[Operation],
    *,
    allow_unknown: bool = False,
) -> list[str]:
    """Hold what is to be removed against what was added; return what cannot be told.

    Parameters
    ----------
    history : sequence of Operation
        What led to the moments.
    rows : int
        Rows that the moments are of, those left out as masked or not finite included; where the
        history accounts for another number, it is not whole, and what it does not name may have
        been added all the same.
    removed : sequence of Operation
        How the rows to be removed were read.
    allow_unknown : bool
        Warn of rows that a whole history does not name, instead of refusing.

    Raises
    ------
    InputError
        If the rows were never added, or were removed before.
    """
    whole = bool(history) and accounted_rows(history) == rows
    doubts = []
    for digests in dict.fromkeys(each.digests for each in removed if each.sign > 0):
        here = [each for each in removed if each.digests == digests]
        added = [each for each in history if each.digests == digests and each.sign > 0]
        earlier = [each for each in history if each.digests == digests and each.sign < 0]
        if added and digests:
            _check_weights(added, here)
            doubts += _check_known(added, earlier, here)
        elif whole and not allow_unknown:
            raise InputError(
                f"subtract: {here[0].paths or 'unnamed rows'}: never added, by the "
                "history of these moments; give the stores that were accumulated and list the "
                "rows to be removed by their ids, or allow unknown rows (--allow-unknown) where "
                "the same rows now lie in another store"
            )
        else:
            why = "does not name it" if whole else "does not account for all rows"
            doubts.append(
                f"whether the rows of {here[0].paths or 'an unnamed source'} were ever added "
                f"cannot be told: the history {why}"
            )
    return doubts


def _check_known(
    added: Sequence[Operation], earlier: Sequence[Operation], removed: Sequence[Operation]
) -> list[str]:
    there = sum(each.rows for each in added) - sum(each.rows for each in earlier)
    now = accounted_rows(removed)
    if now > there:
        raise InputError(
            f"subtract: {now} rows of {removed[0].paths}, of which {there} are left in these "
            "moments; the others were removed before or never added"
        )
    for each in removed:
        same = [past for past in earlier if (past.rows, past.ids) == (each.rows, each.ids)]
        if each.ids is not None and len(same) >= len(added):
            raise InputError(
                f"subtract: these {each.rows} rows of {each.paths} were removed already, "
                f"at {same[-1].time}"
            )
    if earlier and now < there:
        taken = sum(each.rows for each in earlier)
        doubt = (
            f"{taken} rows of {removed[0].paths} were removed before; whether some of these "
            f"{now} are among them cannot be told"
        )
        return [doubt]
    return []


def _check_weights(added: Sequence[Operation], removed: Sequence[Operation]) -> None:
    known = [each.options.get("weights") for each in added]
    for each in removed:
        if each.options.get("weights") not in known:
            raise InputError(
                f"subtract: the rows of {each.paths} were accumulated "
                f"{'with other' if known[0] else 'without'} weights; give the same "
                "(--weights), or their shares in the moments are not undone"
            )


def _check_fields(values: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    if set(values) != set(fields) or not all(
        isinstance(values[name], kind) and not isinstance(values[name], bool)
        for name, kind in fields.items()
    ):
        raise InputError(f"a step of the history is described as {values}")
    if values["rows"] < 0:
        raise InputError(f"a step of the history has {values['rows']} rows")
