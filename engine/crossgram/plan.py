"""Plan: what a run will read, hold in memory and compute, fixed before it starts."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from crossgram.errors import InputError, MemoryLimitError
from crossgram.kernels import RUN_TILES, tile_rows_of
from crossgram.resources import available_threads
from crossgram.source import Source
from crossgram.spaces import Pair, Space, elements

__all__ = ["Plan", "Segment", "make_plan", "on_processor", "parse_bytes", "smaller_chunks"]

_MOST_SEGMENTS = 16_384
_ENOUGH_SEGMENTS = 64
"""Of a GPU, for as many threads to read."""

_OUTWEIGHS = 16
"""How many times as heavy as its sums the rows of a segment are to be, on a GPU."""

_BLOCK_BYTES = 16 << 20
_RING_BLOCKS = 3
_SMALLEST_BLOCK = 1024
_SMALLEST_TILE = 1024
_RESERVED_BYTES = 32 << 20
_THREAD_BYTES = 8 << 20
_BLAS_BYTES = 96 << 20
"""What cuBLAS takes for a thread, and its workspaces for two streams."""

_CLIENT_BYTES = 32 << 20
"""What an object store's client takes, with its buffers."""


@dataclass(frozen=True)
class Segment:
    """Rows `start` to `stop`, accumulated in order by one thread."""

    index: int
    start: int
    stop: int


@dataclass(frozen=True)
class Plan:
    """A run, before it starts.

    Attributes
    ----------
    spaces : tuple of Space
        What is read, in order.
    pairs : frozenset of Pair
        The blocks that are accumulated.
    rows : int
        Images.
    segment_rows, block_rows, tile_rows : int
        Rows of a segment, of one read, and of one product.
    ring_blocks : int
        Blocks that each thread's ring holds.
    threads : int
        Segments that are worked on at once; each has a reader thread of its own beside it.
    folds : int
        Sets of moments kept apart.
    precision : {"exact", "fast"}
        Arithmetic of the products.
    device : str
        Where they are computed: "cpu", or "cuda:K".
    bytes_to_read : int
        Size of the embeddings, as decoded.
    flops : int
        Additions and multiplications of the products.
    memory : mapping of str to int
        Bytes held above the interpreter with imports, by purpose.
    device_memory_bytes : int
        Most bytes held at once on the GPU.
    """

    spaces: tuple[Space, ...]
    pairs: frozenset[Pair]
    rows: int
    segment_rows: int
    block_rows: int
    tile_rows: int
    ring_blocks: int
    threads: int
    folds: int
    precision: str
    device: str
    bytes_to_read: int
    flops: int
    memory: Mapping[str, int]
    device_memory_bytes: int

    @property
    def segments(self) -> int:
        """Number of segments."""
        return -(-self.rows // self.segment_rows)

    @property
    def planned_memory_bytes(self) -> int:
        """Most bytes held at once, above the interpreter with imports."""
        return sum(self.memory.values())

    def segment(self, index: int) -> Segment:
        """Return the segment at a position."""
        start = index * self.segment_rows
        return Segment(index, start, min(start + self.segment_rows, self.rows))

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "spaces": [{"name": s.name, "dim": s.dim} for s in self.spaces],
            "blocks": [[self.spaces[i].name, self.spaces[j].name] for i, j in sorted(self.pairs)],
            "rows": self.rows,
            "segments": self.segments,
            "segment_rows": self.segment_rows,
            "block_rows": self.block_rows,
            "tile_rows": self.tile_rows,
            "ring_blocks": self.ring_blocks,
            "threads": self.threads,
            "folds": self.folds,
            "precision": self.precision,
            "device": self.device,
            "bytes_to_read": self.bytes_to_read,
            "flops": self.flops,
            "memory": dict(self.memory),
            "planned_memory_bytes": self.planned_memory_bytes,
            "device_memory_bytes": self.device_memory_bytes,
        }


def make_plan(
    sources: Sequence[Source],
    spaces: Sequence[Space],
    pairs: Iterable[Pair],
    *,
    folds: int = 1,
    precision: str = "exact",
    device: str = "cpu",
    device_memory: int | None = None,
    memory: int | None = None,
    threads: int | None = None,
    joining: int = 0,
    solve: Pair | None = None,
    scoring: int = 0,
    recording: int = 0,
    norms: bool = False,
) -> Plan:
    """Plan a pass over paired sources.

    Parameters
    ----------
    sources, spaces : sequences of the same length
        What is read and how it is named.
    pairs : iterable of Pair
        The blocks to accumulate.
    folds : int
        Sets of moments to keep apart.
    precision : {"exact", "fast"}
        Arithmetic of the products.
    device : str
        "cpu", or "cuda:K".
    device_memory : int, optional
        Bytes that the run may hold on it.
    memory : int, optional
        Bytes that the run may hold above the interpreter with imports.
    threads : int, optional
        Segments to work on at once; by default the processors that this process may use.
    joining : int
        Bytes that were held before the pass, to pair its rows.
    solve : Pair, optional
        The map that will be solved afterwards, whose memory counts too.
    scoring : int
        Bytes that scoring pairs of rows will take afterwards.
    recording : int
        Bytes that describing the rows took before.
    norms : bool
        Whether the sums that unbiased CKA needs are kept.

    Raises
    ------
    MemoryLimitError
        If not even the smallest blocks and one thread fit `memory`, or one thread `device_memory`.
    """
    rows = sources[0].rows
    wanted = frozenset(pairs)
    dims = [space.dim for space in spaces]
    kept = elements(dims, wanted) + (len(dims) * (len(dims) + sum(dims)) if norms else 0)
    tile_rows = tile_rows_of(device)
    segment_rows = _segment_rows(sources, rows, _least_rows(sources, folds * kept, device))
    count = min(threads or available_threads(), -(-rows // segment_rows))
    ring = _RING_BLOCKS
    lane_bytes = 0
    if device != "cpu":
        lane = partial(_on_device, sources, spaces, kept, folds, precision)
        tile_rows = _tile_that_fits(lane, tile_rows, device_memory)
        lane_bytes = lane(tile_rows)
        count = min(count, _lanes_that_fit(device, lane_bytes, device_memory))
    block_rows = _block_rows(sources, segment_rows, tile_rows)

    def estimate() -> dict[str, int]:
        terms = _streaming(
            sources,
            spaces,
            kept,
            segment_rows,
            block_rows,
            ring,
            count,
            folds,
            precision,
            tile_rows,
            device == "cpu",
        )
        if solve is not None:
            terms["further passes"] = _further(dims, elements(dims, wanted), solve)
        held = sum(terms.values())
        terms["solving"] = max(0, _solving(dims, wanted, folds, solve) - held)
        terms["joining"] = max(0, joining - held - terms["solving"])
        # not instead of what streaming held, of which the allocator gives back only a part
        terms["scoring"] = scoring
        terms["recording"] = recording
        return {"reserved": _RESERVED_BYTES + count * _THREAD_BYTES, **terms}

    # of whole tiles and one fold, smaller blocks give the same bits; of others they do not, and
    # are cut only when one lane is left, so that the result does not depend on the threads
    same_bits = folds == 1 and block_rows % tile_rows == 0
    while memory is not None and sum(estimate().values()) > memory:
        if ring > 2:
            ring -= 1
        elif same_bits and block_rows > tile_rows:
            block_rows = max(1, block_rows // 2 // tile_rows) * tile_rows
        elif count > 1:
            count -= 1
        elif block_rows > _SMALLEST_BLOCK:
            block_rows = max(_SMALLEST_BLOCK, block_rows // 2)
        else:
            advice = smaller_chunks(sources, memory)
            raise MemoryLimitError(_refusal(memory, estimate(), advice))
    return Plan(
        spaces=tuple(spaces),
        pairs=wanted,
        rows=rows,
        segment_rows=segment_rows,
        block_rows=block_rows,
        tile_rows=tile_rows,
        ring_blocks=ring,
        threads=count,
        folds=folds,
        precision=precision,
        device=device,
        bytes_to_read=sum(rows * source.dim * source.dtype.itemsize for source in sources),
        flops=rows * sum(dims[i] * dims[j] * (1 if i == j else 2) for i, j in wanted),
        memory=estimate(),
        device_memory_bytes=count * lane_bytes,
    )


def on_processor(plan: Plan, sources: Sequence[Source], threads: int | None) -> Plan:
    """Return a plan of a GPU as one of the processor, whose segments are shorter.

    Parameters
    ----------
    plan : Plan
        Whose blocks are not longer than the processor's segments.
    sources : sequence of Source
        What it reads.
    threads : int, optional
        Segments to work on at once; by default the processors that this process may use.
    """
    rows = _segment_rows(sources, plan.rows, _least_rows(sources, 0, "cpu"))
    count = min(threads or available_threads(), -(-plan.rows // rows))
    return replace(
        plan,
        device="cpu",
        segment_rows=rows,
        tile_rows=tile_rows_of("cpu"),
        threads=count,
        device_memory_bytes=0,
    )


def parse_bytes(text: str) -> int:
    """Return the bytes of a size such as "2GB", "512MiB" or "1500000000".

    Raises
    ------
    InputError
        If it is no size.

    Examples
    --------
    >>> parse_bytes("2GB"), parse_bytes("512 MiB")
    (2000000000, 536870912)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text, re.IGNORECASE)
    if match is None:
        raise InputError(f"memory: {text!r} is not a size; write it like 2GB or 512MiB")
    number, prefix, binary = match.groups()
    power = " kmgt".index(prefix.lower()) if prefix else 0
    return int(float(number) * (1024 if binary else 1000) ** power)


def smaller_chunks(sources: Sequence[Source], memory: int) -> str | None:
    """Say which source's chunks are to be smaller; None if half of the memory has room for one.

    Half, because a chunk is held as it is stored and as it is decoded.
    """
    largest = max(sources, key=_chunk_bytes)
    size = _chunk_bytes(largest)
    if 2 * size <= memory:
        return None
    return (
        f"{largest.label} has chunks of {largest.chunk_rows:,} rows, {size / 1e6:,.0f} MB each, "
        "which are held as stored and as decoded: write it again with smaller ones (crossgram "
        "ingest --chunk-rows), or give more memory"
    )


def _chunk_bytes(source: Source) -> int:
    return min(source.chunk_rows, source.rows) * source.dim * source.dtype.itemsize


def _least_rows(sources: Sequence[Source], sums: int, device: str) -> int:
    """Return the least rows of a segment, which go by the rows there are, never by the threads.

    Tiles of a GPU are so long that of a run each there would be few segments, and a segment is
    read by one thread. So it has fewer of them where rows are few, unless the sums, which come to
    the host at its end, are heavy beside them.
    """
    tile_rows = tile_rows_of(device)
    if device == "cpu":
        return RUN_TILES * tile_rows
    tile_bytes = tile_rows * sum(source.dim * source.dtype.itemsize for source in sources)
    enough = sources[0].rows // (_ENOUGH_SEGMENTS * tile_rows)
    outweighing = -(-_OUTWEIGHS * 8 * sums // tile_bytes)
    return min(max(1, enough, outweighing), RUN_TILES) * tile_rows


def _segment_rows(sources: Sequence[Source], rows: int, least: int) -> int:
    unit = math.lcm(*(source.chunk_rows for source in sources))
    if unit > least:
        unit = max(source.chunk_rows for source in sources)
    wanted = max(least, -(-rows // _MOST_SEGMENTS))
    return -(-wanted // unit) * unit


def _block_rows(sources: Sequence[Source], segment_rows: int, tile_rows: int) -> int:
    row_bytes = sum(source.dim * source.dtype.itemsize for source in sources)
    # whole chunks of every source, unless a narrow one's are too long for the wide ones: then
    # parts of those are decoded again and again, which costs little because they are narrow
    fitting = [s.chunk_rows for s in sources if s.chunk_rows * row_bytes <= 2 * _BLOCK_BYTES]
    unit = max(tile_rows, *fitting, min(source.chunk_rows for source in sources))
    wanted = max(1, _BLOCK_BYTES // (row_bytes * unit)) * unit
    return min(wanted, segment_rows, -(-sources[0].rows // tile_rows) * tile_rows)


def _streaming(
    sources: Sequence[Source],
    spaces: Sequence[Space],
    kept: int,
    segment_rows: int,
    block_rows: int,
    ring: int,
    threads: int,
    folds: int,
    precision: str,
    tile_rows: int,
    is_on_host: bool,
) -> dict[str, int]:
    row_bytes = sum(source.dim * source.dtype.itemsize for source in sources)
    # a chunk that is read in part is held as it is stored and as a whole besides
    chunk_bytes = sum(_chunk_bytes(s) * (2 if block_rows % s.chunk_rows else 1) for s in sources)
    moments = 8 * folds * kept
    # the sums, their corrected copy, and that of earlier runs of a long segment
    sets = 3 if segment_rows > RUN_TILES * tile_rows else 2
    # while the last segments are being finished, one node waits for each bit of those before
    waiting = (-(-sources[0].rows // segment_rows) - threads + 1).bit_length() - 1
    # a lane reads one source after the other, all chunks of a block at once, the last of which
    # may end in the next one
    fetched = [
        2 * block_rows * s.dim * s.dtype.itemsize
        + (2 * _chunk_bytes(s) if block_rows % s.chunk_rows else 0)
        for s in sources
        if s.fetched
    ]
    return {
        "ring": threads * ring * block_rows * row_bytes,
        "decoding": threads * chunk_bytes,
        "fetching": _CLIENT_BYTES + threads * max(fetched) if fetched else 0,
        "tiles": threads * _tile_bytes(spaces, kept, precision, tile_rows) if is_on_host else 0,
        "accumulators": threads * sets * moments,
        "merging": waiting * moments,
    }


def _tile_bytes(spaces: Sequence[Space], kept: int, precision: str, tile_rows: int) -> int:
    """Return the bytes of a tile of every space, and of what is made on the way to one."""
    tile_bytes = tile_rows * sum(space.dim for space in spaces) * 8
    if precision == "fast":
        tile_bytes = tile_bytes // 2 + 4 * kept
    return tile_bytes + _unit_row_bytes(spaces, tile_rows)


def _unit_row_bytes(spaces: Sequence[Space], tile_rows: int) -> int:
    return tile_rows * max([space.dim for space in spaces if space.normalized], default=0) * 8


def _on_device(
    sources: Sequence[Source],
    spaces: Sequence[Space],
    kept: int,
    folds: int,
    precision: str,
    tile_rows: int,
) -> int:
    """Return the bytes that a lane holds on a GPU: rows as they are read, two tiles, the sums.

    Slices of a tile, which some GPUs multiply instead, take as much as the tile; whether this one
    does, is not known before it is used.
    """
    row_bytes = sum(source.dim * source.dtype.itemsize for source in sources)
    # of a further pass, the triangle
    triangle = 8 * max(space.dim for space in spaces) ** 2
    tiles = 2 * _tile_bytes(spaces, kept, precision, tile_rows)
    if precision == "exact":
        tiles += _tile_bytes(spaces, kept, precision, tile_rows) + 8 * kept
    # of unit rows, those of one space are still there when the next are made
    tiles += _unit_row_bytes(spaces, tile_rows)
    return _BLAS_BYTES + tile_rows * row_bytes + tiles + 8 * folds * kept + triangle


def _tile_that_fits(lane: Callable[[int], int], tile_rows: int, free: int | None) -> int:
    """Return the rows of a tile, halved until a lane of so many fits, or they are too few."""
    while free is not None and lane(tile_rows) > free and tile_rows > _SMALLEST_TILE:
        tile_rows //= 2
    return tile_rows


def _lanes_that_fit(device: str, lane_bytes: int, free: int | None) -> int:
    if free is None:
        return sys.maxsize
    if free < lane_bytes:
        raise MemoryLimitError(
            f"device: {device} has {free / 1e6:,.0f} MB free, the run holds "
            f"{lane_bytes / 1e6:,.0f} MB there; end what else uses it, use fewer folds or spaces, "
            "or the device cpu"
        )
    return free // lane_bytes


def _further(dims: Sequence[int], numbers: int, solve: Pair) -> int:
    """Return the bytes that a further pass has besides those of the first."""
    p, q = (dims[k] for k in solve)
    # the moments of the first, a triangle, singular vectors, coefficients, and what the allocator
    # keeps of the first solution: at most three matrices were measured
    return 8 * (numbers + 6 * p * p + p * q)


def _solving(dims: Sequence[int], pairs: frozenset[Pair], folds: int, solve: Pair | None) -> int:
    """Return the bytes of the moments and of what solving a map from them takes besides."""
    if solve is None:
        return 0
    p, q = (dims[k] for k in solve)
    # of folds, the total and the rest without one of them are made besides
    sets = folds + 2 if folds > 1 else 1
    return 8 * (sets * elements(dims, pairs) + 6 * p * p + 4 * p * q)


def _refusal(memory: int, terms: Mapping[str, int], advice: str | None) -> str:
    listed = ", ".join(f"{name} {size / 1e6:,.0f} MB" for name, size in terms.items() if size)
    return (
        f"memory: {memory:,} bytes given, with the smallest blocks and one thread the run "
        f"holds {sum(terms.values()) / 1e6:,.0f} MB ({listed}); "
        f"{advice or 'give it more, or use fewer folds or spaces'}"
    )
