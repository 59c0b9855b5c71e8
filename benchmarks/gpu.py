"""Passes on a GPU against its ceilings and against straightforward loops, in one run.

The ceilings are copies from pinned memory and dsyrk + dgemm of resident tiles. `gpu_check.sh` runs
this where there is a GPU. zarr, zarrs, numcodecs and google-crc32c must be there too.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import cupy
import cupy.cublas
import numpy as np
from cupy_backends.cuda.libs import cublas
from numpy.typing import NDArray
from page_cache import forget
from results import keep_record, record_of

import crossgram as cg
from crossgram.accumulator import Accumulator, Workspace
from crossgram.evaluation.binned_scores import score_all_pairs
from crossgram.kernels import RUN_TILES, tile_rows_of
from crossgram.kernels.cupy_slices import (
    add_cross_by_slices,
    add_gram_by_slices,
    slices_are_faster,
)
from crossgram.spaces import Space, map_pairs

_REPEATS = 3
_DEVICE = "cuda:0"
_TILE = tile_rows_of(_DEVICE)
_PEER_ROWS = 8192
_EMULATED = 8
"""CUBLAS_FP64_EMULATED_FIXEDPOINT_MATH of cublas_api.h, from CUDA 13.0 update 2 on."""

Rows = NDArray[Any]


def _seconds(
    work: Callable[[], object],
    repeats: int = _REPEATS,
    before: Callable[[], object] = lambda: None,
) -> float:
    """Return the median time of some calls after a first one, the GPU's work included.

    What is to be done before each of them is not.
    """
    measured = []
    for _ in range(repeats + 1):
        before()
        cupy.cuda.Device().synchronize()
        started = time.perf_counter()
        work()
        cupy.cuda.Device().synchronize()
        measured.append(time.perf_counter() - started)
    return median(measured[1:])


def copy_rate() -> float:
    """Return the bytes a second of copies from pinned memory."""
    size = 256 << 20
    host = np.frombuffer(cupy.cuda.alloc_pinned_memory(size), np.uint8, size)
    there = cupy.empty(size, np.uint8)
    stream = cupy.cuda.Stream(non_blocking=True)

    def copy() -> None:
        for _ in range(8):
            there.set(host, stream=stream)
        stream.synchronize()

    return 8 * size / _seconds(copy)


def product_seconds(p: int, q: int) -> float:
    """Return the seconds a row of dsyrk and dgemm, of tiles that are on the GPU."""
    x, y = (cupy.random.standard_normal((_TILE, dim)) for dim in (p, q))
    gram, cross = cupy.zeros((p, p)), cupy.zeros((p, q))

    def multiply() -> None:
        for _ in range(8):
            cupy.cublas.syrk("T", x, out=gram, beta=1.0)
            cupy.cublas.gemm("T", "N", x, y, out=cross, beta=1.0)

    return _seconds(multiply) / (8 * _TILE)


def other_products(dim: int = 2048) -> list[dict[str, Any]]:
    """Measure float64 products made of those of integers, which some GPUs do not need.

    Ours by slices, and cuBLAS's own, where the installed one has them.
    """
    x, y = (cupy.random.standard_normal((_TILE, dim)) for _ in range(2))
    gram, cross = cupy.zeros((dim, dim)), cupy.zeros((dim, dim))
    right = x.T @ y
    lengths = cupy.outer(*(cupy.linalg.norm(z, axis=0) for z in (x, y)))
    float64 = product_seconds(dim, dim) * _TILE

    def by_slices() -> None:
        add_gram_by_slices(x, gram)
        add_cross_by_slices(x, y, cross)

    def emulated() -> None:
        handle = cupy.cuda.device.get_cublas_handle()
        cublas.setMathMode(handle, _EMULATED)
        try:
            cupy.cublas.syrk("T", x, out=gram, beta=1.0)
            cupy.cublas.gemm("T", "N", x, y, out=cross, beta=1.0)
        finally:
            cublas.setMathMode(handle, cublas.CUBLAS_DEFAULT_MATH)

    found = []
    for name, multiply in (("int8 slices", by_slices), ("cuBLAS's emulation", emulated)):
        own: dict[str, Any] = {"what": f"products by {name}, {dim} to {dim}"}
        try:
            cross.fill(0.0)
            multiply()
            own["largest difference, of the lengths"] = float((abs(cross - right) / lengths).max())
            own["times the rate of float64"] = float64 / _seconds(multiply)
        except cublas.CUBLASError as error:
            own["error"] = str(error)
        found.append(own)
    found[0]["are used"] = slices_are_faster(0)
    return found


def rows_of(rows: int, dim: int, dtype: str) -> tuple[Rows, Rows]:
    """Return source and target of a planted map, condition 3,000, with noise."""
    rng = np.random.default_rng(0)
    part = min(rows, 65_536)
    turn, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
    x = rng.standard_normal((part, dim)) @ (turn * np.geomspace(1, 1 / 3000, dim)) @ turn.T + 1
    y = x @ rng.standard_normal((dim, dim)) + 0.1 * rng.standard_normal((part, dim))
    times = -(-rows // part)
    return tuple(np.tile(each.astype(dtype), (times, 1))[:rows] for each in (x, y))  # type: ignore[return-value]


def _blocks(x: Rows, y: Rows) -> Iterator[tuple[Rows, Rows]]:
    for start in range(0, len(x), _PEER_ROWS):
        yield x[start : start + _PEER_ROWS], y[start : start + _PEER_ROWS]


def cupy_loop(x: Rows, y: Rows) -> Rows:
    """Copy, X.T @ X, X.T @ Y, chunk by chunk, in float64."""
    gram = cross = 0.0
    for first, second in _blocks(x, y):
        rows = cupy.asarray(first).astype(np.float64)
        rows = cupy.concatenate([cupy.ones((len(rows), 1)), rows], axis=1)
        gram = gram + rows.T @ rows
        cross = cross + rows.T @ cupy.asarray(second).astype(np.float64)
    found: Rows = cupy.asnumpy(cupy.linalg.solve(gram, cross)[1:])
    return found


def torch_loop(x: Rows, y: Rows) -> Rows:
    """Do the same with PyTorch."""
    import torch

    gram: Any = 0.0
    cross: Any = 0.0
    for first, second in _blocks(x, y):
        rows = torch.from_numpy(first).cuda().double()
        rows = torch.cat([torch.ones(len(rows), 1, device="cuda", dtype=torch.float64), rows], 1)
        gram = gram + rows.T @ rows
        cross = cross + rows.T @ torch.from_numpy(second).cuda().double()
    found: Rows = torch.linalg.solve(gram, cross)[1:].cpu().numpy()
    return found


def cupy_lstsq(x: Rows, y: Rows) -> Rows:
    """Give all rows at once, in float64, to cupy.linalg.lstsq."""
    rows = cupy.asarray(x).astype(np.float64)
    rows = cupy.concatenate([cupy.ones((len(rows), 1)), rows], axis=1)
    found: Rows = cupy.asnumpy(
        cupy.linalg.lstsq(rows, cupy.asarray(y).astype(np.float64), rcond=None)[0][1:]
    )
    return found


def torch_lstsq(x: Rows, y: Rows) -> Rows:
    """Give all rows at once, in float64, to torch.linalg.lstsq."""
    import torch

    rows = torch.from_numpy(x).cuda().double()
    rows = torch.cat([torch.ones(len(rows), 1, device="cuda", dtype=torch.float64), rows], 1)
    found: Rows = torch.linalg.lstsq(rows, torch.from_numpy(y).cuda().double()).solution
    return found[1:].cpu().numpy()  # type: ignore[attr-defined, no-any-return]


PEERS: dict[str, Callable[[Rows, Rows], Rows]] = {
    "CuPy loop": cupy_loop,
    "PyTorch loop": torch_loop,
    "cupy.linalg.lstsq": cupy_lstsq,
    "torch.linalg.lstsq": torch_lstsq,
}


def _digits(found: Rows, right: Rows) -> float:
    return float(-np.log10(np.linalg.norm(found - right) / np.linalg.norm(right)))


def from_host(
    copying: float, sizes: Sequence[tuple[int, int]] = ((512, 2_000_000), (2048, 600_000))
) -> list[dict[str, Any]]:
    """Measure accumulation of rows in the host's memory against the lower ceiling."""
    found = []
    for dim, rows in sizes:
        each = product_seconds(dim, dim)
        for dtype in ("f4", "f2"):
            x, y = rows_of(rows, dim, dtype)
            seconds = _seconds(
                lambda x=x, y=y: cg.accumulate(  # type: ignore[misc]
                    [x, y], maps=[("array 1", "array 2")], device=_DEVICE, remember=False
                )
            )
            ceilings = {"copy": (x.nbytes + y.nbytes) / copying, "products": rows * each}
            lower = max(ceilings, key=lambda name: ceilings[name])
            found.append(
                {
                    "what": f"host memory, {dim} to {dim}, {x.dtype}",
                    "rows": rows,
                    "seconds": seconds,
                    "ceiling": lower,
                    "share": ceilings[lower] / seconds,
                }
            )
    return found


def resident(dim: int = 2048) -> dict[str, Any]:
    """Measure accumulation of rows that are on the GPU."""
    x, y = (cupy.random.standard_normal((_TILE, dim), dtype=np.float32) for _ in range(2))
    spaces = (Space("a", dim), Space("b", dim))
    pairs = map_pairs(spaces, [("a", "b")])
    work = Workspace.allocate(spaces, pairs, "exact", _DEVICE)
    accumulator = Accumulator(spaces, pairs, workspace=work)

    def add() -> None:
        for _ in range(RUN_TILES):
            accumulator.add([x, y])

    seconds = _seconds(add)
    # the end of a run before, brought to the host and corrected there, which other lanes hide
    taking = _seconds(lambda: [accumulator.add([x, y]), accumulator.moments()])
    rows = RUN_TILES * _TILE
    return {
        "what": f"GPU memory, {dim} to {dim}, float32",
        "rows": rows,
        "seconds": seconds,
        "seconds of a run's end and one tile": taking,
        "ceiling": "products",
        "share": rows * product_seconds(dim, dim) / seconds,
    }


def side_by_side(
    keep: Callable[[list[dict[str, Any]]], None], dim: int = 512, rows: int = 400_000
) -> list[dict[str, Any]]:
    """Measure whole fits, with their digits against the processor's; each is kept at once."""
    x, y = rows_of(rows, dim, "f4")
    right = cg.fit(x, y).weight.T
    found: list[dict[str, Any]] = []
    fits: dict[str, Callable[[Rows, Rows], Rows]] = {
        "crossgram": lambda x, y: cg.fit(x, y, device=_DEVICE, remember=False).weight.T,
        **PEERS,
    }
    for name, fit in fits.items():
        try:
            repeats = 1 if "lstsq" in name else _REPEATS
            seconds = _seconds(lambda fit=fit: fit(x, y), repeats)  # type: ignore[misc]
            digits = _digits(fit(x, y), right)
        except Exception as error:  # noqa: BLE001  (peers raise what they like)
            found.append({"what": name, "error": f"{type(error).__name__}: {error}"[:200]})
            cupy.get_default_memory_pool().free_all_blocks()
            continue
        found.append({"what": name, "seconds": seconds, "digits": digits})
        keep(found)
    return found


def solution(dim: int = 4096) -> dict[str, Any]:
    """Measure the solution of a wide map, with its certificate, against a Cholesky alone."""
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((2 * dim, dim), dtype=np.float32) for _ in range(2))
    moments = cg.accumulate([x, y], names=["a", "b"], maps=[("a", "b")], device=_DEVICE)
    gram = cupy.asarray(moments.scatter("a", "a"))  # type: ignore[union-attr]
    return {
        "what": f"solution, {dim} to {dim}",
        "seconds": _seconds(lambda: cg.solve(moments, "a", "b", device=_DEVICE)),
        "seconds on the processor": _seconds(lambda: cg.solve(moments, "a", "b"), 1),
        "cuSOLVER's Cholesky": _seconds(lambda: cupy.linalg.cholesky(gram)),
    }


def mapping(copying: float, dim: int = 512, rows: int = 400_000) -> dict[str, Any]:
    """Measure rows that are mapped, from the host's memory and back, against copies of them."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, dim), dtype=np.float32)
    spaces = Space("a", dim), Space("b", dim)
    own = cg.LinearMap(rng.standard_normal((dim, dim)), rng.standard_normal(dim), *spaces)
    mapped = own.on_device(_DEVICE)

    def run() -> None:
        for first, _ in _blocks(x, x):
            mapped(first)

    seconds = _seconds(run)
    return {
        "what": f"mapping, {dim} to {dim}, float32",
        "rows": rows,
        "seconds": seconds,
        "ceiling": "copies there and back, from pinned memory",
        "share": 2 * x.nbytes / copying / seconds,
    }


def scoring(dim: int = 512, images: int = 60_000) -> dict[str, Any]:
    """Measure the scoring of all pairs of images, which multiplies them twice."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((images, dim), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    person = rng.integers(0, images // 10, images)
    seconds = _seconds(
        lambda: score_all_pairs(
            rows, rows, person, (1e-4,), ordered=False, threads=1, device=_DEVICE
        )
    )
    block = cupy.asarray(rows[:4096])
    each = _seconds(lambda: block @ block.T) / 4096**2
    pairs = images * (images - 1) // 2
    return {
        "what": f"all pairs of {images} images",
        "pairs": pairs,
        "seconds": seconds,
        "ceiling": "sgemm, twice",
        "share": 2 * pairs * each / seconds,
    }


def from_store(rows: int = 1_000_000, dim: int = 512) -> list[dict[str, Any]]:
    """Measure a pass from a store, in page cache and not, against what reading it can reach."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "pair"
        cg.synth(out, rows=rows, source_dim=dim, target_dim=dim)
        stores = [out / "a.zarr", out / "b.zarr"]
        files = [path for path in out.rglob("*") if path.is_file()]
        ceilings = cg.bench(*stores).ceilings

        def read() -> None:
            cg.accumulate(stores, maps=[("a", "b")], device=_DEVICE, remember=False)

        for where, forgotten in (("page cache", []), ("disk", files)):
            seconds = _seconds(read, before=partial(forget, forgotten))
            lower = min(where, "decoding", key=lambda name: ceilings[name])
            found.append(
                {
                    "what": f"store in {where}, {dim} to {dim}, float32",
                    "rows": rows,
                    "seconds": seconds,
                    "ceiling": lower,
                    "share": rows / seconds / ceilings[lower],
                    "ceilings": dict(ceilings),
                }
            )
    return found


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def main(folder: Path) -> None:
    """Measure, and write FOLDER/gpu.json, a record for results/, and FOLDER/gpu.md."""
    properties = cupy.cuda.runtime.getDeviceProperties(0)
    copying = copy_rate()
    results = {
        "gpu": properties["name"].decode(),
        "date": time.strftime("%Y-%m-%d"),
        "cupy": cupy.__version__,
        "copy_bytes_per_second": copying,
        "dsyrk_dgemm_rows_per_second": {dim: 1 / product_seconds(dim, dim) for dim in (512, 2048)},
    }
    folder.mkdir(parents=True, exist_ok=True)

    def keep(name: str, measured: Any) -> None:
        results[name] = measured
        lines = _lines(results)
        text = "\n".join([f"## On a GPU, {results['gpu']}", "", *(f"- {line}" for line in lines)])
        record = {**record_of("gpu", text, results), "command": "benchmarks/gpu_check.sh"}
        # what is there, if time runs out
        keep_record(record, folder)
        (folder / "gpu.md").write_text("\n".join(lines) + "\n")

    parts: dict[str, Callable[[], Any]] = {
        "resident": resident,
        "other products": other_products,
        "host": lambda: from_host(copying),
        "side by side": lambda: side_by_side(lambda found: keep("side by side", found)),
        "solution": solution,
        "mapping": lambda: mapping(copying),
        "scoring": scoring,
        "store": from_store,
    }
    for name, measure in parts.items():
        keep(name, measure())
    print(*_lines(results), sep="\n")


def _lines(results: dict[str, Any]) -> list[str]:
    machine = f"{results['gpu']}, {results['date']}, CuPy {results['cupy']}"
    lines = [f"{machine}: copies {results['copy_bytes_per_second'] / 1e9:.1f} GB/s"]
    lines += [
        f"{each['what']}: {each['rows'] / each['seconds']:,.0f} rows/s, "
        f"{each['share']:.0%} of {each['ceiling']}"
        for each in [results["resident"], *results.get("host", []), *results.get("store", [])]
    ]
    for each in results.get("side by side", []):
        how = each.get("error") or f"{each['seconds']:.2f} s, {each['digits']:.1f} digits"
        lines.append(f"{each['what']}: {how}")
    lines += [str(each) for each in results.get("other products", [])]
    names = ("solution", "mapping", "scoring")
    lines += [str(results[name]) for name in names if results.get(name)]
    return lines


if __name__ == "__main__":
    main()
