"""Every reader of files, with valid files to begin with."""

from __future__ import annotations

import contextlib
import pickle
import struct
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import zarr

import crossgram as cg

__all__ = ["READERS", "Reader"]

ROWS, DIM, CHUNK = 40, 4, 16


@dataclass(frozen=True)
class Reader:
    """Something that reads a file or a folder.

    Attributes
    ----------
    write : callable
        Writes valid ones of several kinds into a folder, and returns their paths.
    read : callable
        Reads one as a user would.
    share : int
        How many cases it gets beside the others.
    """

    write: Callable[[Path], list[Path]]
    read: Callable[[Path], None]
    share: int = 1


def _rows(rows: int = ROWS, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, DIM)).astype(dtype)


def _ids(rows: int = ROWS) -> list[str]:
    return [f"p{row // 4}/p{row // 4}_{row % 4:04d}.jpg" for row in range(rows)]


def _labels(rows: int = ROWS) -> list[str]:
    return [f"p{row // 4}" for row in range(rows)]


# ---- stores


def _stores(folder: Path) -> list[Path]:
    layouts: list[dict[str, Any]] = [
        {"codec": codec} for codec in ("lz4", "lz4-bitshuffle", "zstd", "none")
    ]
    layouts += [
        {"shard_rows": 2 * CHUNK},
        {"codec": "none", "shard_rows": 2 * CHUNK, "dtype": "float16"},
    ]
    paths = []
    for number, layout in enumerate(layouts):
        path = folder / f"s{number}.zarr"
        rows = _rows()
        rows[3] = np.nan
        masked = np.arange(ROWS) == 3
        with cg.EmbeddingStore.create(
            path, DIM, chunk_rows=CHUNK, provenance={"model": "a"}, **layout
        ) as writer:
            labels = _labels() if number % 2 else np.arange(ROWS) // 4
            writer.append(rows, ids=_ids(), labels=labels, masked=masked)
        paths.append(path)
    path = folder / "old.zarr"
    group = zarr.create_group(path, zarr_format=2)
    for name, values in (("embeddings", _rows()), ("ids", np.arange(ROWS))):
        chunks = (CHUNK, *values.shape[1:])
        group.create_array(name, shape=values.shape, dtype=values.dtype, chunks=chunks)[:] = values
    group.attrs["crossgram"] = {"format": 1}
    return [*paths, path]


def _read_store(path: Path) -> None:
    from crossgram.fingerprint import known_rows
    from crossgram.inspection import describe, validate
    from crossgram.source import open_source

    describe(path)
    source = open_source(path)
    source.read(1, np.empty((min(3, source.rows - 1), source.dim), source.dtype))
    known_rows([source])
    validate(path)


def _arrays(folder: Path) -> list[Path]:
    from numcodecs import GZip, Zlib

    paths = []
    for number, layout in enumerate(
        [
            {},
            {"shards": (32, DIM)},
            {"zarr_format": 2},
            {"compressors": None},
            {"zarr_format": 2, "compressors": GZip(1)},
            {"zarr_format": 2, "compressors": Zlib(1), "order": "F"},
        ]
    ):
        path = folder / f"a{number}"
        array = zarr.create_array(
            path, shape=(ROWS, DIM), dtype="f4", chunks=(CHUNK, 2 if number == 3 else DIM), **layout
        )  # type: ignore[arg-type]
        array[:] = _rows()
        paths.append(path)
    return paths


def _ingested(path: Path) -> None:
    with contextlib.suppress(cg.CrossgramError):
        _ingested_as(path, None, None, None)
    _ingested_by_name(path)


def _ingested_by_name(path: Path) -> None:
    _ingested_as(path, "embeddings", "ids", "labels")


def _ingested_as(path: Path, *names: str | None) -> None:
    """Open as `ingest` does, and take all pieces."""
    from crossgram.ingestion.conversion import _open
    from crossgram.ingestion.table import Cursor

    table = _open(path, *names)
    columns = [
        Cursor(values) for values in (table.ids, table.labels, table.masked) if values is not None
    ]
    for piece in table.embeddings.pieces():
        for column in columns:
            column.take(len(piece))


# ---- safetensors


def _moments_of(folds: int | None = None) -> Any:
    rows, other = _rows(), _rows()[:, :3] * 2 + 1
    options = {} if folds is None else {"folds": folds}
    return cg.accumulate([rows, other], names=["a", "b"], **options)


def _tensor_files(folder: Path) -> list[Path]:
    cg.fit(_rows(), _rows()[:, :3]).save(folder / "map.safetensors")
    _moments_of().save(folder / "moments.safetensors")
    _moments_of(3).save(folder / "folded.safetensors")
    cg.ClassifierHead(_rows(5), np.zeros(5)).save(folder / "head.safetensors")
    with cg.EmbeddingStore.create(folder / "x.zarr", DIM) as writer:
        writer.append(_rows(), ids=_ids(), labels=_labels())
    cg.fit(folder / "x.zarr", folder / "x.zarr").save(folder / "remembers.safetensors")
    from safetensors.numpy import save_file

    save_file({"weight": _rows(5), "bias": np.zeros(5, "f4")}, folder / "layer.safetensors")
    return sorted(folder.glob("*.safetensors"))


def _read_tensors(path: Path) -> None:
    from crossgram.inspection import describe

    loaders: list[Callable[[Path], Any]] = [
        describe,
        cg.LinearMap.load,
        cg.load_moments,
        cg.ClassifierHead.load,
    ]
    _all_of([lambda load=load: load(path) for load in loaders])


def _all_of(readers: list[Callable[[], Any]]) -> None:
    refused: list[Exception] = []
    for read in readers:
        try:
            read()
        except cg.CrossgramError as error:
            refused.append(error)
    if len(refused) == len(readers):
        raise refused[0]


def _solve(path: Path) -> None:
    moments = cg.load_moments(path)
    cg.solve(moments, source=moments.spaces[0].name, target=moments.spaces[-1].name)


def _moments_files(folder: Path) -> list[Path]:
    _moments_of().save(folder / "moments.safetensors")
    return [folder / "moments.safetensors"]


def _checkpoints(folder: Path) -> list[Path]:
    from crossgram.checkpoint import opened_checkpoint
    from crossgram.moments import Moments

    with opened_checkpoint(folder / "run") as opened:
        kept = opened.next_pass({"rows": 3, "options": {"digits": 6}}, Moments, 1)
        kept.keep(0, 0, [_moments_of()], [])
        kept.keep(1, 1, [_moments_of()], [])
    (folder / "run" / "lock").unlink()
    return [folder / "run"]


def _read_checkpoint(path: Path) -> None:
    from crossgram.checkpoint import opened_checkpoint
    from crossgram.moments import Moments

    with opened_checkpoint(path) as opened:
        opened.next_pass({"rows": 3, "options": {"digits": 6}}, Moments, 1).nodes()


def _records(folder: Path) -> list[Path]:
    from crossgram.extraction.partial import _RECORD

    (folder / "p.partial").mkdir()
    (folder / "p.partial" / _RECORD).write_text(
        '{"work": "0123456789abcdef0123456789abcdef", "rows": 3, "images_sha256": "ab", '
        '"batch_size": 4, "time_ns": 5, "networks": {"a": {"recipe": {"size": [3, 4]}}}}'
    )
    return [folder / "p.partial"]


def _read_record(path: Path) -> None:
    from crossgram.extraction.partial import _recorded

    _recorded(path)


# ---- atlases


def _atlases(folder: Path) -> list[Path]:
    sources = []
    for name in ("a", "b"):
        path = folder / f"{name}.zarr"
        with cg.EmbeddingStore.create(path, DIM) as writer:
            rows = np.random.default_rng(ord(name)).normal(size=(200, DIM)).astype("f4")
            writer.append(
                rows, ids=[f"{k}" for k in range(200)], labels=[f"{k // 4}" for k in range(200)]
            )
        sources.append(path)
    cg.atlas(sources, folder / "atlas", resamples=20)
    small = folder / "small"
    small.mkdir()
    (small / "atlas.json").write_bytes((folder / "atlas" / "atlas.json").read_bytes())
    return [small]


def _read_atlas(path: Path) -> None:
    cg.load_atlas(path)


def _report(path: Path) -> None:
    cg.write_report(path, path.parent / "report.html", overwrite=True)


# ---- arrays and lists


def _npy_files(folder: Path) -> list[Path]:
    np.save(folder / "c.npy", _rows())
    np.save(folder / "f.npy", np.asfortranarray(_rows(dtype="float64")))
    np.save(folder / "ids.npy", _ids())
    np.save(folder / "numbers.npy", np.arange(ROWS))
    np.save(folder / "pixels.npy", np.zeros((3, 4, 5, 3), np.uint8))
    return sorted(folder.glob("*.npy"))


def _read_npy(path: Path) -> None:
    from crossgram.ingestion.value_file import open_values
    from crossgram.source import open_source

    def rows() -> None:
        source = open_source(path)
        source.read(0, np.empty((min(100, source.rows), source.dim), source.dtype))
        source.read(source.rows - 1, np.empty((1, source.dim), source.dtype))

    def weights() -> None:
        cg.accumulate([_rows(), _rows()], weights=path)

    readers = [rows, lambda: list(open_values(path).pieces()), lambda: _read_images(path)]
    _all_of([*readers, weights])


def _pair_lists(folder: Path) -> list[Path]:
    lines = ["1\t3"]
    lines += [f"p{k}\t0\t1" for k in range(3)] + [f"p{k}\t1\tp{k + 1}\t2" for k in range(3)]
    (folder / "pairs.txt").write_text("\n".join(lines) + "\n")
    ids = _ids()
    cells = ["left,right,same,fold"] + [
        f"{ids[k]},{ids[k + 1 + 4 * (k % 2)]},{1 - k % 2},{k % 3}" for k in range(12)
    ]
    (folder / "pairs.csv").write_text("\n".join(cells) + "\n")
    for protocol in range(6):
        content = pickle.dumps(
            ([b"\xff\xd8" + bytes(30)] * 24, [k % 2 == 0 for k in range(12)]), protocol
        )
        (folder / f"p{protocol}.bin").write_bytes(content)
    return sorted([*folder.glob("*.txt"), *folder.glob("*.csv"), *folder.glob("*.bin")])


def _read_pairs(path: Path) -> None:
    from crossgram.evaluation.pair_list import read_pairs

    names = [f"{k:05d}" for k in range(24)] if path.suffix == ".bin" else _ids()
    _all_of([lambda: read_pairs(path, names), lambda: _read_images(path)])


def _template_lists(folder: Path) -> list[Path]:
    place = folder / "t"
    place.mkdir()
    (place / "tid.txt").write_text(
        "".join(f"{name} {k // 4} {k // 2}\n" for k, name in enumerate(_ids()))
    )
    (place / "pairs.txt").write_text(
        "".join(f"{k} {(k + k % 2) % 10} {1 - k % 2}\n" for k in range(10))
    )
    numbers = " ".join(str(k + 0.5) for k in range(10))
    (place / "score.txt").write_text("".join(f"{name} {numbers} 0.9\n" for name in _ids()))
    return [place]


def _read_templates(path: Path) -> None:
    from crossgram.evaluation.templates import read_template_pairs, read_templates
    from crossgram.images.landmark_list import is_landmark_list, landmark_rows

    def templates() -> None:
        found = read_templates(path / "tid.txt", _ids(), detector_scores=path / "score.txt")
        read_template_pairs(path / "pairs.txt", found)

    is_landmark_list(path / "score.txt")
    _all_of([templates, lambda: list(landmark_rows(path / "score.txt"))])


# ---- images


def _jpeg(size: tuple[int, int] = (8, 6), kind: str = "JPEG") -> bytes:
    from PIL import Image

    out = BytesIO()
    pixels = np.random.default_rng(1).integers(0, 255, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def _image_sets(folder: Path) -> list[Path]:
    place = folder / "images"
    place.mkdir()
    (place / "a.jpg").write_bytes(_jpeg())
    (place / "list.csv").write_text(
        "path,id,label,box,landmarks\n"
        + "".join(f"a.jpg,{k},p,0 0 4 4,{' '.join(map(str, range(10)))}\n" for k in range(4))
    )
    records = folder / "records"
    records.mkdir()
    body, index = b"", ""
    for key in range(1, 4):
        data = struct.pack("<IfQQ", 0, float(key), key, 0) + _jpeg()
        index += f"{key}\t{len(body)}\n"
        body += struct.pack("<II", 0xCED7230A, len(data)) + data + bytes(-len(data) % 4)
    (records / "a.rec").write_bytes(body)
    (records / "a.idx").write_text(index)
    shards = folder / "shards"
    shards.mkdir()
    for number in range(2):
        with tarfile.open(shards / f"{number}.tar", "w") as archive:
            for key in range(3):
                for ending, content in (
                    ("jpg", _jpeg()),
                    ("cls", b"7"),
                    ("json", b'{"label": "x"}'),
                ):
                    member = tarfile.TarInfo(f"{key}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, BytesIO(content))
    arrays = folder / "pixels"
    pixels = zarr.create_array(arrays, shape=(6, 4, 5, 3), dtype="u1", chunks=(2, 4, 5, 3))
    pixels[:] = np.arange(360).reshape(6, 4, 5, 3) % 251
    return [place, records, shards, arrays]


def _read_image_set(path: Path) -> None:
    for name in ("list.csv", "a.rec"):
        if (path / name).exists():
            return _read_images(path / name)
    return _read_images(path)


def _read_images(path: Path) -> None:
    from itertools import islice

    from crossgram.images.decoding import UnusableImageError, decode
    from crossgram.images.opening import open_collection

    collection = open_collection(path)
    entries = list(islice(collection.entries(), 10_000))
    for entry in entries[:4]:
        try:
            decode(collection.read(entry), 3)
        except UnusableImageError:
            continue


def _pictures(folder: Path) -> list[Path]:
    paths = []
    for kind in ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP"):
        paths.append(folder / f"a.{kind.lower()}")
        paths[-1].write_bytes(_jpeg(kind=kind))
    return paths


def _read_picture(path: Path) -> None:
    from crossgram.images.decoding import UnusableImageError, decode
    from crossgram.images.entry import read_bytes

    try:
        decode(read_bytes(path), 1)
    except UnusableImageError as error:
        raise cg.InputError(str(error)) from error


# ---- other tools' tables


def _parquets(folder: Path) -> list[Path]:
    import pyarrow as pa
    from pyarrow import parquet

    vectors = pa.array(_rows().tolist(), pa.list_(pa.float32()))
    table = pa.table({"embeddings": vectors, "ids": _ids(), "labels": _labels(), "path": _ids()})
    parquet.write_table(table, folder / "a.parquet")
    parquet.write_table(table, folder / "b.parquet", compression="zstd", use_dictionary=False)
    return [folder / "a.parquet", folder / "b.parquet"]


def _read_parquet(path: Path) -> None:
    _all_of([lambda: _ingested(path), lambda: _read_images(path)])


def _hdf5s(folder: Path) -> list[Path]:
    import h5py

    for number, options in enumerate(
        ({}, {"chunks": (CHUNK, DIM), "compression": "gzip", "fletcher32": True})
    ):
        with h5py.File(folder / f"{number}.h5", "w") as file:
            file.create_dataset("embeddings", data=_rows(), **options)
            file.create_dataset("ids", data=_ids())
            file.create_dataset("labels", data=np.arange(ROWS))
    return sorted(folder.glob("*.h5"))


READERS: Mapping[str, Reader] = {
    "stores": Reader(_stores, _read_store, 6),
    "arrays": Reader(_arrays, _read_store, 2),
    "ingested stores": Reader(_stores, _ingested),
    "safetensors": Reader(_tensor_files, _read_tensors, 40),
    "solved moments": Reader(_moments_files, _solve, 10),
    "checkpoints": Reader(_checkpoints, _read_checkpoint, 3),
    "extraction records": Reader(_records, _read_record, 60),
    "atlases": Reader(_atlases, _read_atlas, 20),
    "reports": Reader(_atlases, _report),
    "npy": Reader(_npy_files, _read_npy, 30),
    "pair lists": Reader(_pair_lists, _read_pairs, 100),
    "template lists": Reader(_template_lists, _read_templates, 80),
    "image sets": Reader(_image_sets, _read_image_set, 20),
    "pictures": Reader(_pictures, _read_picture, 30),
    "parquet": Reader(_parquets, _read_parquet, 4),
    "hdf5": Reader(_hdf5s, _ingested_by_name, 1),
}
