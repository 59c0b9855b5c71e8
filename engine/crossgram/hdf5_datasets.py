"""What libhdf5 reads of a file, in a process of its own: the datasets, or the values of one."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from crossgram.apart import Bounds, answer

__all__ = ["TEXT", "listed", "read"]

TEXT = "text"
"""The kind of a dataset of texts; of numbers, it is their dtype."""

_MEMORY = 256 << 20
_COPIES = 4
"""Of a chunk: as stored, as it is decoded, where that grows, and as it is kept."""

_SECONDS = 5
_BYTES_A_SECOND = 16 << 20
_MOST_SECONDS = 300
_LISTING = 16
"""How many times as long as to decode a byte it takes to list what it describes."""


def listed(path: Path) -> Iterator[bytes]:
    """Yield, as JSON, what a file says of each of its datasets, by name."""
    h5py, bounds = _h5py(), Bounds()
    bounds.allow(_MEMORY, _seconds(_LISTING * path.stat().st_size))
    found: dict[str, Any] = {}

    def collect(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            found[name] = _facts(node, h5py)

    with h5py.File(path, "r") as file:
        file.visititems(collect)
    yield json.dumps(found).encode()


def _h5py() -> Any:
    import h5py

    return h5py


def _facts(node: Any, h5py: Any) -> dict[str, Any]:
    dtype, shape = node.dtype, node.shape or ()
    is_text = h5py.check_string_dtype(dtype) is not None
    return {
        "shape": shape,
        "described": f"{shape} {dtype}",
        "kind": TEXT if is_text else dtype.str if dtype.kind in "iuf" else "",
        "chunks": node.chunks,
        "chunk_bytes": _chunk_bytes(node),
        "is_elsewhere": bool(node.is_virtual or node.external),
        "is_part_missing": len(shape) in (1, 2) and _is_part_missing(node),
    }


def _chunk_bytes(node: Any) -> int:
    return math.prod((*node.chunks, int(node.dtype.itemsize))) if node.chunks else 0


def _is_part_missing(node: Any) -> bool:
    if node.chunks is None:
        # of texts, what is stored with the dataset is where they are
        width = 1 if node.dtype.hasobject else node.dtype.itemsize
        return bool(node.id.get_storage_size() < math.prod(node.shape) * width)
    chunks = (-(-n // own) for n, own in zip(node.shape, node.chunks, strict=True))
    return bool(node.id.get_num_chunks() < math.prod(chunks))


def read(path: Path, name: str, step: int) -> Iterator[bytes | memoryview]:
    """Yield the values of a dataset, `step` rows at a time.

    Of texts, first the length of each in bytes, as int64, then all of them in UTF-8.
    """
    h5py, bounds = _h5py(), Bounds()
    bounds.allow(_MEMORY, _SECONDS)
    with h5py.File(path, "r") as file:
        dataset = file[name]
        is_text = h5py.check_string_dtype(dataset.dtype) is not None
        memory = _MEMORY + _COPIES * _chunk_bytes(dataset)
        seconds = _seconds(_decoded(dataset, step))
        rows = dataset.shape[0]
        for start in range(0, rows, step):
            bounds.allow(memory, seconds)
            if is_text:
                texts = dataset[start : start + step].tolist()
                lengths = np.fromiter(map(len, texts), np.int64, len(texts))
                yield b"".join([lengths.tobytes(), *texts])
            else:
                piece = np.empty((min(step, rows - start), *dataset.shape[1:]), dataset.dtype)
                dataset.read_direct(piece, np.s_[start : start + step])
                yield piece.view(np.uint8).reshape(-1).data


def _decoded(dataset: Any, step: int) -> int:
    """Return how many bytes of chunks hold some of `step` rows, at most."""
    own = dataset.chunks or (1, *dataset.shape[1:])
    first, *others = (
        -(-n // one) * one for n, one in zip((step, *dataset.shape[1:]), own, strict=True)
    )
    return math.prod((first + own[0], *others, int(dataset.dtype.itemsize)))


def _seconds(size: int) -> int:
    return min(_SECONDS + size // _BYTES_A_SECOND, _MOST_SECONDS)


if __name__ == "__main__":
    task, path, *rest = sys.argv[1:]
    answer(listed(Path(path)) if task == "list" else read(Path(path), rest[0], int(rest[1])))
