"""Safetensors files with a JSON document of facts: maps and moments on disk."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossgram.documents import parsed
from crossgram.errors import CorruptDataError, InputError
from crossgram.locations import Location, local
from crossgram.output import whole_file

__all__ = ["kind_of", "read_layer", "read_tensors", "write_tensors"]

_FORMAT = 1
_KEY = "crossgram"
_HINTS = {"folded moments": "; load_moments reads both"}
_FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}


def write_tensors(
    path: str | Path,
    kind: str,
    tensors: Mapping[str, NDArray[Any]],
    facts: Mapping[str, Any],
    *,
    overwrite: bool,
    **options: Any,
) -> None:
    """Write arrays and facts to one safetensors file, whole or not at all; as `whole_file`."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    document = json.dumps({"kind": kind, "format": _FORMAT, **facts}, allow_nan=False)
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    with whole_file(local(path), overwrite=overwrite, **options) as temporary:
        try:
            save_file(contiguous, temporary, metadata={_KEY: document})
        except SafetensorError as error:
            raise _os_error(error) from error


def _os_error(error: Exception) -> OSError:
    """Return the OSError that safetensors tells of in words only."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))


def read_tensors(path: str | Path, kind: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the arrays and the facts of a file that `write_tensors` wrote.

    Raises
    ------
    InputError
        If there is no such file, or it is of another kind.
    CorruptDataError
        If it is truncated or not a safetensors file.
    """
    path = local(path)
    facts = _read_facts(path)
    if facts.get("kind") != kind:
        found = facts.get("kind", "nothing that crossgram wrote")
        raise InputError(f"{path}: holds {found}, expected {kind}{_HINTS.get(str(found), '')}")
    if facts.get("format") != _FORMAT:
        raise InputError(
            f"{path}: {kind} format {facts.get('format')!r}, this version reads {_FORMAT}; use "
            "the version of crossgram that wrote it"
        )
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
    except (SafetensorError, TypeError, AttributeError) as error:
        raise CorruptDataError(
            f"{path}: its arrays cannot be read ({error}); make it again"
        ) from error


def read_layer(path: Path) -> dict[str, NDArray[Any]]:
    """Return `weight`, and `bias` if there is one, of a linear layer that any program saved.

    Parameters
    ----------
    path : Path
        A safetensors file with these tensors alone, of float dtypes; bfloat16 becomes float32.

    Raises
    ------
    InputError
        If there is no such file, or it holds other tensors or dtypes.
    CorruptDataError
        If it is truncated or not a safetensors file.
    """
    from safetensors import SafetensorError, deserialize, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            names = sorted(file.keys())
        if names not in (["bias", "weight"], ["weight"]):
            shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
            raise InputError(
                f"{path}: holds the tensors {shown or 'of nothing'}; expected `weight` and "
                "perhaps `bias`, as torch.nn.Linear has them: save the last layer alone"
            )
        parts = dict(deserialize(path.read_bytes()))  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise CorruptDataError(
            f"{path}: not a safetensors file, or truncated ({error}); save it again"
        ) from error
    return {name: _floats(path, name, part) for name, part in parts.items()}


def _floats(path: Path, name: str, part: Mapping[str, Any]) -> NDArray[Any]:
    dtype = part["dtype"]
    if dtype not in _FLOATS:
        raise InputError(f"{path}: {name} is of dtype {dtype}, expected floats; save it as float32")
    values: NDArray[Any] = np.frombuffer(part["data"], _FLOATS[dtype])
    if dtype == "BF16":  # the upper half of a float32
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.reshape(part["shape"])


def kind_of(path: str | Location) -> str | None:
    """Return what kind of crossgram file this is, None if it is none."""
    kind = _read_facts(local(path)).get("kind")
    return str(kind) if kind is not None else None


def _read_facts(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        what = "a folder, expected a file" if path.is_dir() else "no such file"
        raise InputError(f"{path}: {what}")
    try:
        with safe_open(path, framework="numpy") as file:
            document = (file.metadata() or {}).get(_KEY, "{}")
    except SafetensorError as error:
        raise CorruptDataError(
            f"{path}: not a safetensors file, as maps and moments are, or truncated ({error}); "
            "make it again, or if it holds embeddings, use `crossgram ingest`"
        ) from error
    try:
        facts = parsed(document)
    except ValueError as error:
        raise CorruptDataError(
            f"{path}: its description is not JSON ({error}); make it again"
        ) from error
    return facts if isinstance(facts, dict) else {}
