"""Small ONNX files, written as the protocol buffers that they are, without the onnx package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

KINDS = {"float32": 1, "float16": 10}


def _number(value: int) -> bytes:
    low, high = value & 127, value >> 7
    return bytes([low | 128]) + _number(high) if high else bytes([low])


def _field(place: int, content: int | str | bytes) -> bytes:
    """Return a field of a protocol buffer: a number, or text or a message with its length."""
    if isinstance(content, int):
        return _number(place << 3) + _number(content)
    data = content.encode() if isinstance(content, str) else content
    return _number(place << 3 | 2) + _number(len(data)) + data


def _value(name: str, shape: Sequence[int | str], kind: str) -> bytes:
    sides = [_field(1, _field(1 if isinstance(side, int) else 2, side)) for side in shape]
    tensor = _field(1, KINDS[kind]) + _field(2, b"".join(sides))
    return _field(1, name) + _field(2, _field(1, tensor))


def _node(operator: str, taken: str | Sequence[str], given: str) -> bytes:
    names = (taken,) if isinstance(taken, str) else taken
    return b"".join(_field(1, name) for name in names) + _field(2, given) + _field(4, operator)


def _kept_apart(name: str, values: NDArray[np.float32], path: Path) -> bytes:
    """Write values to a file, and return the tensor that is kept there."""
    path.write_bytes(values.tobytes())
    sides = b"".join(_field(1, side) for side in values.shape)
    place = _field(13, _field(1, "location") + _field(2, path.name))
    return sides + _field(2, KINDS["float32"]) + _field(8, name) + place + _field(14, 1)


def write_onnx(
    path: Path,
    shape: Sequence[int | str],
    kind: str = "float32",
    weights: tuple[str, NDArray[np.float32]] | None = None,
) -> Path:
    """Write a network from `images` to `flat`, (n, pixels), and to `negative`, the same below 0.

    Text in the shape is an axis of any length. Weights are kept in another file, of a name, and
    multiply what becomes `negative`. The numbers are those of the fields in onnx.proto.
    """
    negative = _field(1, _node("Neg", "flat", "negative"))
    if weights is not None:
        file, values = weights
        negative = (
            _field(1, _node("Neg", "flat", "below"))
            + _field(1, _node("Mul", ("below", "weights"), "negative"))
            + _field(5, _kept_apart("weights", values, path.parent / file))
        )
    graph = (
        _field(1, _node("Flatten", "images", "flat"))
        + negative
        + _field(2, "small")
        + _field(11, _value("images", shape, kind))
        + _field(12, _value("flat", (shape[0], "pixels"), kind))
        + _field(12, _value("negative", (shape[0], "pixels"), kind))
    )
    path.write_bytes(_field(1, 8) + _field(8, _field(2, 13)) + _field(7, graph))
    return path
