"""How an extraction is to be made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from crossgram.errors import InputError
from crossgram.networks.network import PRECISIONS
from crossgram.store_writer import Layout, is_json

__all__ = ["Options"]

_CHOICES = {"precision": PRECISIONS, "on_bad_image": ("record", "stop")}
_LEAST = {"batch_size": 1, "decoders": 0, "workers": 1}

_TASKS = 64
"""A small set is cut into about so many chunks, to be shared among workers and resumed."""

_FEWEST_CHUNK_ROWS = 64


@dataclass(frozen=True)
class Options:
    """How an extraction is to be made.

    Attributes
    ----------
    device : str
        "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:1".
    precision : {"float32", "bfloat16", "float16"}
        Of the networks' arithmetic: full float32, or autocast.
    compiled : bool
        Pass networks through torch.compile.
    batch_size : int, optional
        Images that go through a network at a time; by default found by trying.
    decoders : int, optional
        Processes that decode images while networks run, per worker; with 0 the two take turns. By
        default one per processor; none where decoding is little beside what networks take on a CPU,
        and beside Dask workers on a CPU.
    workers : int, optional
        Dask workers to start here.
    scheduler : str, optional
        Address of a Dask cluster whose workers see the images, the models and the output.
    dtype : dtype
        Of the stores: float16, float32 or float64.
    codec, chunk_rows, shard_rows
        Layout of the stores, as for `EmbeddingStore.create`.
    on_bad_image : {"record", "stop"}
        Mask the rows of images that cannot be used, and list them in a table beside the stores; or
        stop at the first.
    heads : bool
        Write the classifiers that were cut off, beside the stores.
    provenance : mapping, optional
        More to record in the stores, or other values.
    restart : bool
        Throw away what an earlier run into the same output has done.
    overwrite : bool
        Replace an output that exists.
    """

    device: str = "auto"
    precision: str = "float32"
    compiled: bool = False
    batch_size: int | None = None
    decoders: int | None = None
    workers: int | None = None
    scheduler: str | None = None
    dtype: DTypeLike = "float32"
    codec: str = "lz4"
    chunk_rows: int | None = None
    shard_rows: int | None = None
    on_bad_image: str = "record"
    heads: bool = False
    provenance: Mapping[str, Any] | None = None
    restart: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"{name}: {getattr(self, name)!r} given, expected one of {allowed}"
                )
        for name, least in _LEAST.items():
            number = getattr(self, name)
            if number is not None and (not isinstance(number, int) or number < least):
                raise InputError(
                    f"{name}: {number!r} given, expected a whole number, at least {least}"
                )
        if not is_json(self.provenance or {}):
            raise InputError("provenance: holds something that is not JSON; give text and numbers")
        self.layout(1, 1)

    def layout(self, dim: int, rows: int) -> Layout:
        """Return the layout of a store of some width and number of rows."""
        layout = Layout.of(
            dim,
            dtype=self.dtype,
            codec=self.codec,
            chunk_rows=self.chunk_rows,
            shard_rows=self.shard_rows,
        )
        if self.chunk_rows is not None or self.shard_rows is not None:
            return layout
        few = max(_FEWEST_CHUNK_ROWS, 1 << (rows // _TASKS).bit_length())
        return replace(layout, chunk_rows=min(few, layout.chunk_rows))

    def to_record(self) -> dict[str, Any]:
        """Return as JSON values what must stay the same when a run goes on."""
        return {
            "dtype": np.dtype(self.dtype).name,
            "layout": [self.codec, self.chunk_rows, self.shard_rows],
            "on_bad_image": self.on_bad_image,
        }
