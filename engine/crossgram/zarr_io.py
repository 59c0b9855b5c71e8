"""Reading rows of Zarr arrays into memory that already exists.

Chunks of whole rows are decoded by `row_chunks` where they are stored simply, others through the
Rust `zarrs` pipeline; both decode into the caller's buffer. Parts of those others are read through
zarr's own pipeline: `zarrs` does not verify the checksum of a chunk that it decodes in part. So are
objects in buckets, which `zarrs` would read by a client of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import uuid
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr
import zarr.errors
from numpy.typing import NDArray
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.core.sync import sync as wait_for
from zarr.storage import StorePath

from crossgram.chunk_bytes import codec_names, split_checksum, stored_bytes_of, without_checksum
from crossgram.errors import AccessDeniedError, CorruptDataError, CrossgramError, InputError
from crossgram.locations import Location, ObjectPath, locate
from crossgram.objects import METADATA, MOST_METADATA_BYTES, Objects, open_objects
from crossgram.output import begin_writing, sync
from crossgram.resources import available_threads
from crossgram.row_chunks import RowChunks, row_chunks_of
from crossgram.stored_chunks import (
    MAX_CHUNK_BYTES,
    InFile,
    StoredForm,
    check_parts_are_own,
    opened_chunk,
    stored_form,
)
from crossgram.text_chunks import text_chunks_of
from crossgram.watched_store import WatchedStore

__all__ = [
    "MAX_CHUNK_BYTES",
    "MAX_COLUMNS",
    "MAX_ROWS",
    "bad_chunks",
    "check_array",
    "check_chunks",
    "chunk_rows",
    "copy_chunks",
    "is_fetched",
    "open_member",
    "open_node",
    "read_rows",
    "stored_alike",
    "stored_bytes",
    "stored_hashes",
    "sync_rows",
    "write_rows",
]

MAX_ROWS = 1 << 40
"""No array may declare more."""

MAX_COLUMNS = 1 << 17
"""Of an embedding; moments of more would take over 100 GB."""

_FAST = "zarrs.ZarrsCodecPipeline"
_VERIFYING = "zarr.core.codec_pipeline.BatchedCodecPipeline"
_PIPELINE_LOCK = threading.Lock()


def open_node(path: str | Location) -> zarr.Array[Any] | zarr.Group:
    """Open the Zarr array or group at `path`, v3 or v2, for reading.

    Raises
    ------
    InputError
        If nothing is there, or it is not Zarr; of a URL, if it cannot be reached by what the
        environment says.
    RunError
        If a service of objects fails.
    """
    location = locate(path)
    storage = open_objects(location) if isinstance(location, ObjectPath) else _folder(location)
    if isinstance(storage, Path):
        _check_metadata_files(storage, storage)
    try:
        with _pipeline_of(storage):
            return _opened(storage)
    except (zarr.errors.NodeNotFoundError, FileNotFoundError) as error:
        if isinstance(storage, Objects):
            raise _no_store(storage) from error
        raise InputError(
            f"{path}: not a Zarr store (no zarr.json, .zarray or .zgroup in it); "
            "convert it with `crossgram ingest`"
        ) from error
    except CrossgramError:
        raise
    except Exception as error:
        raise CorruptDataError(f"{path}: its Zarr metadata cannot be read: {error}") from error


def _opened(storage: Path | Objects) -> zarr.Array[Any] | zarr.Group:
    # by what each array says of itself: what a group says of arrays in it could be of any path
    options: dict[str, Any] = {"mode": "r", "use_consolidated": False}
    if isinstance(storage, Path):
        return zarr.open(storage, **options)
    # one version after the other: a bucket that may not be listed denies what is not there
    try:
        return zarr.open(storage, zarr_format=3, **options)
    except (zarr.errors.NodeNotFoundError, FileNotFoundError):
        return zarr.open(storage, zarr_format=2, **options)


def _folder(path: Path) -> Path:
    if not path.exists():
        raise InputError(f"{path}: no such file or directory")
    if not path.is_dir():
        raise InputError(
            f"{path}: not a Zarr store (a file, where a directory was expected); convert "
            "it with `crossgram ingest`"
        )
    return path


def _check_metadata_files(folder: Path, root: Path) -> None:
    """Refuse metadata that are larger than any, or lie behind links out of a store."""
    for path in (folder / name for name in METADATA):
        try:
            size = path.stat().st_size
            check_parts_are_own(path, root)
        except OSError:
            continue
        except ValueError as error:
            raise CorruptDataError(f"{path}: {error}") from error
        if size > MOST_METADATA_BYTES:
            raise CorruptDataError(
                f"{path}: has {size:,} bytes, at most {MOST_METADATA_BYTES:,} of metadata are "
                "read; take out what is not of the store"
            )


def _no_store(objects: Objects) -> InputError:
    """Say what is under a URL instead of a store."""
    if not objects.supports_listing:
        return InputError(
            f"{objects}: no Zarr store is there (no zarr.json, .zarray or .zgroup); check the URL"
        )
    return InputError(
        f"{objects}: no Zarr store is there (no zarr.json, .zarray or .zgroup; the first object "
        f"is {next(objects.object_names(), 'not there either')}); check the URL"
    )


def open_member(group: zarr.Group, name: str) -> zarr.Array[Any] | zarr.Group | None:
    """Open an array or group inside a group, None if there is none of that name.

    In a bucket that may not be listed, what is not there is denied, and taken to be absent.

    Raises
    ------
    CorruptDataError
        If its metadata cannot be read.
    """
    root = getattr(group.store, "root", None)
    if root is not None:
        _check_metadata_files(Path(root) / group.path / name, Path(root))
    try:
        with _pipeline_of(group.store):
            return group.get(name)
    except AccessDeniedError:
        return None
    except CrossgramError:
        raise
    except Exception as error:
        raise CorruptDataError(
            f"{str(group.store_path).removeprefix('file://')}: the Zarr metadata of {name!r} "
            f"cannot be read: {error}"
        ) from error


def _pipeline_of(storage: Any) -> AbstractContextManager[None]:
    return _pipeline(_VERIFYING if isinstance(storage, Objects) else _FAST)


@contextmanager
def _pipeline(path: str) -> Iterator[None]:
    """Have arrays that are opened inside the block read by a pipeline."""
    import zarrs  # noqa: F401  (registers its pipeline)

    with _PIPELINE_LOCK, warnings.catch_warnings(), zarr.config.set({"codec_pipeline.path": path}):
        warnings.simplefilter("ignore")
        yield


def chunk_rows(array: zarr.Array[Any]) -> int:
    """Rows that one stored object holds: of a shard where there are shards, else of a chunk."""
    return int((array.shards or array.chunks)[0])


def check_array(array: zarr.Array[Any], label: str) -> None:
    """Refuse an array of strange codecs, or that declares more than `MAX_CHUNK_BYTES`, `MAX_ROWS`.

    Raises
    ------
    InputError
        Saying which, before any of it is read.
    """
    shape = array.shards or array.chunks
    if min((*shape, *array.chunks), default=1) < 1:
        raise CorruptDataError(
            f"{label}: declares chunks of shape {shape}; its metadata is damaged, make it again"
        )
    if max(array.shape, default=0) > MAX_ROWS:
        raise CorruptDataError(
            f"{label}: declares the shape {array.shape}, of which at most {MAX_ROWS:,} are read; "
            "its metadata is damaged, make it again"
        )
    size = int(np.prod(shape, dtype=object)) * array.dtype.itemsize
    if size > MAX_CHUNK_BYTES:
        raise InputError(
            f"{label}: declares chunks of {size:,} bytes each, at most {MAX_CHUNK_BYTES:,} are "
            "read; write it again with smaller chunks"
        )
    stored_form(array, label)


def is_fetched(array: zarr.Array[Any]) -> bool:
    """Tell whether an array lies in a bucket or on a web server."""
    return isinstance(array.store, Objects)


def read_rows(array: zarr.Array[Any], start: int, out: NDArray[Any], label: str) -> None:
    """Decode rows `start` to `start + len(out)` of `array` into `out`.

    Parameters
    ----------
    array : zarr.Array
        Of any dimensions, the first one that of rows.
    start : int
        First row.
    out : ndarray, the array's dtype, C-contiguous
        Receives the rows.
    label : str
        How messages name the array.

    Raises
    ------
    CorruptDataError
        Names the first chunk that is missing or cannot be decoded. Zarr reads a missing chunk as
        its fill value; of embeddings, which are never all zeros, it is lost data.
    RunError
        Names the object that a service failed to deliver.
    """
    stop = start + len(out)
    if not _is_local(array):
        # asking whether each is there would double the requests
        array = _watched(array, start, stop, label)
    try:
        _decode(array, start, out, label)
    except CrossgramError:
        raise
    except Exception as error:
        raise _first_bad_chunk(array, start, stop, label, error) from error


def write_rows(
    array: zarr.Array[Any], start: int, values: NDArray[Any], *, threads: int | None = None
) -> None:
    """Write rows of an array, whole chunks of them but for the last rows of all.

    Parameters
    ----------
    array : zarr.Array
        That is being made.
    start : int
        Of the first row; a multiple of the rows of a chunk, or shard.
    values : ndarray, the array's dtype, C-contiguous
        Rows to the end of a chunk, or of the array.
    threads : int, optional
        Which encode chunks of whole rows on the disk here; by default as many as there are.
    """
    form = row_chunks_of(array) if _is_local(array) else None
    if form is None:
        array[start : start + len(values)] = values
        return

    def write_chunk(index: _Index) -> None:
        first = index[0] * form.rows - start
        rows = values[first : first + form.rows]
        if len(rows) < form.rows:
            rest = np.full((form.rows - len(rows), *rows.shape[1:]), array.fill_value, rows.dtype)
            rows = np.concatenate([rows, rest])
        _replace(_chunk_file(array, index), form.encode(rows))

    chunks = _chunks(array, start, start + len(values))
    if threads == 1:
        for index in chunks:
            write_chunk(index)
        return
    with ThreadPoolExecutor(threads or available_threads(), "crossgram-encoding") as pool:
        for _ in pool.map(write_chunk, chunks):
            pass


def copy_chunks(source: zarr.Array[Any], target: zarr.Array[Any], label: str) -> bool:
    """Copy all rows of an array into an empty one as they are stored, with nothing decoded.

    Returns
    -------
    bool
        False, and nothing is done, unless both lie on this disk, and are stored alike.

    Raises
    ------
    CorruptDataError
        Names a chunk that is missing, is not what the array declares, or has another checksum.
    """
    form = stored_form(source, label)
    if not (_is_local(source) and _is_local(target)) or form.inner is not None:
        return False
    if _layout(source) != _layout(target):
        return False
    target.resize(source.shape)
    _, has_checksum = split_checksum(codec_names(source))
    for index in _chunks(source, 0, source.shape[0]):
        with _looked_at(source, form, index, label) as content:
            stored = stored_bytes_of(content, has_checksum=False)
            if has_checksum:
                without_checksum(stored)
        _replace(_chunk_file(target, index), [stored.tobytes()])
    return True


def _replace(file: Path | None, parts: Sequence[bytes]) -> None:
    """Write a chunk, whole or not at all: two workers may come to write the same one."""
    assert file is not None
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.{uuid.uuid4().hex}.partial")
    try:
        with temporary.open("wb") as opened:
            opened.writelines(parts)
            opened.flush()
            begin_writing(opened.fileno())
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_chunks(array: zarr.Array[Any], start: int, stop: int, label: str) -> None:
    """Refuse rows of which a chunk is missing or not what the array declares.

    Of an array on this machine; elsewhere it is found out when they are read.

    Raises
    ------
    CorruptDataError
        Names the first one.
    """
    if not _is_local(array):
        return
    form = stored_form(array, label)
    for index in _chunks(array, start, stop):
        _check_chunk(array, form, index, label)


def bad_chunks(
    array: zarr.Array[Any], start: int, stop: int, label: str
) -> Iterator[tuple[int, int, CorruptDataError]]:
    """Yield first row, row behind the last, and what is wrong with it, of each bad chunk.

    Raises
    ------
    RunError
        Names the object that a service failed to deliver.
    """
    if not _is_local(array):
        array = _watched(array, start, stop, label)
    form = stored_form(array, label)
    for index in _chunks(array, start, stop):
        found = _fault(array, form, index, label)
        if found is not None:
            rows = chunk_rows(array)
            yield index[0] * rows, min((index[0] + 1) * rows, array.shape[0]), found


def stored_alike(first: zarr.Array[Any], second: zarr.Array[Any], start: int, stop: int) -> bool:
    """Tell whether the chunks of rows `start` to `stop` are stored with the same bytes.

    Where they are, the rows are equal, and nothing has to be decoded to know it. False says
    nothing: equal rows may be stored in different ways.
    """
    if _layout(first) != _layout(second):
        return False
    contents = [_stored(array, start, stop) for array in (first, second)]
    return None not in contents[0] and contents[0] == contents[1]


def stored_hashes(
    array: zarr.Array[Any], start: int, stop: int, label: str
) -> NDArray[np.uint64] | None:
    """Return the hashes of the texts of rows `start` to `stop`, as `text_hashes` has them.

    Made of what is stored, many times as fast as of texts that were read. None if it is not stored
    simply, on the disk here.

    Raises
    ------
    CorruptDataError
        As `read_rows` does.
    """
    form = text_chunks_of(array) if _is_local(array) else None
    if form is None:
        return None
    stored, found = stored_form(array, label), []
    for index in _chunks(array, start, stop):
        first = index[0] * form.rows
        with _looked_at(array, stored, index, label) as content:
            found.append(form.hashes(content)[max(0, start - first) : stop - first])
    return np.concatenate([np.empty(0, np.uint64), *found])


def sync_rows(array: zarr.Array[Any], start: int, stop: int) -> None:
    """Have the disk keep the chunks of rows `start` to `stop`, of an array on the local disk."""
    folders = set()
    for index in _chunks(array, start, stop):
        file = _chunk_file(array, index)
        if file is not None:
            sync(file)
            folders.update(list(file.parents)[: len(array.shape)])
    for folder in folders:
        sync(folder)


def stored_bytes(array: zarr.Array[Any]) -> int | None:
    """Return how many bytes an array takes where it is stored, None if that cannot be known."""
    return array.nbytes_stored() if array.store.supports_listing else None


def _stored(array: zarr.Array[Any], start: int, stop: int) -> list[bytes | None]:
    """Return the chunks of rows `start` to `stop` as they are stored, None where there is none."""
    if not isinstance(array.store, Objects):
        files = [_chunk_file(array, index) for index in _chunks(array, start, stop)]
        return [_content(file) for file in files]
    found = wait_for(_fetched(array.store, [_key(array, k) for k in _chunks(array, start, stop)]))
    return [None if buffer is None else buffer.to_bytes() for buffer in found]


def _content(file: Path | None) -> bytes | None:
    is_chunk = file is not None and file.is_file() and file.stat().st_size <= 2 * MAX_CHUNK_BYTES
    return file.read_bytes() if file is not None and is_chunk else None


async def _fetched(objects: Objects, keys: list[str]) -> list[Buffer | None]:
    prototype = default_buffer_prototype()
    return await asyncio.gather(*(objects.get(key, prototype) for key in keys))


def _layout(array: zarr.Array[Any]) -> dict[str, Any]:
    facts = array.metadata.to_dict()
    return {name: facts[name] for name in facts if name not in ("shape", "attributes")}


def _decode(array: zarr.Array[Any], start: int, out: NDArray[Any], label: str) -> None:
    simple = row_chunks_of(array) if _is_local(array) else None
    if simple is not None:
        _decode_simple(array, simple, start, out, label)
        return
    first, last = _whole_chunks(array, start, start + len(out))
    head, middle, tail = np.split(out, [first - start, last - start])
    if len(middle):
        check_chunks(array, first, last, label)
        _decode_with(array, first, middle)
    if len(head) or len(tail):
        verifying = _verifying(array)
        for position, part in ((start, head), (last, tail)):
            if len(part):
                check_chunks(array, position, position + len(part), label)
                _decode_with(verifying, position, part)


def _decode_simple(
    array: zarr.Array[Any], form: RowChunks, start: int, out: NDArray[Any], label: str
) -> None:
    stored, stop = stored_form(array, label), start + len(out)
    for index in _chunks(array, start, stop):
        first = index[0] * form.rows
        wanted = slice(max(start, first), min(stop, first + form.rows))
        place = out[wanted.start - start : wanted.stop - start]
        is_whole = len(place) == form.rows
        rows = place if is_whole else np.empty((form.rows, *out.shape[1:]), out.dtype)
        with _looked_at(array, stored, index, label) as content:
            form.decode(content, rows)
        if not is_whole:
            place[:] = rows[wanted.start - first : wanted.stop - first]


def _whole_chunks(array: zarr.Array[Any], start: int, stop: int) -> tuple[int, int]:
    """Return the first and the last row of the chunks that lie between two rows."""
    rows, *columns = array.shards or array.chunks
    first, last = -(-start // rows) * rows, stop // rows * rows
    is_cut = any(size % chunk for size, chunk in zip(array.shape[1:], columns, strict=True))
    if first >= last or is_cut or not array.dtype.isnative:
        return stop, stop
    return first, last


def _verifying(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """Return the same array, read by zarr's own pipeline."""
    return _stored_in(array, array.store)


def _stored_in(array: zarr.Array[Any], store: Any) -> zarr.Array[Any]:
    with _pipeline(_VERIFYING):
        return zarr.Array(zarr.AsyncArray(array.metadata, StorePath(store, array.path)))


def _decode_with(array: zarr.Array[Any], start: int, out: NDArray[Any]) -> None:
    selection = (slice(start, start + len(out)), *(slice(None),) * (array.ndim - 1))
    buffer = default_buffer_prototype().nd_buffer.from_numpy_array(out)
    array.get_basic_selection(selection, out=buffer)


_Index = tuple[int, ...]


def _chunks(array: zarr.Array[Any], start: int, stop: int) -> Iterator[_Index]:
    """Return the indices of the stored objects that hold rows `start` to `stop`."""
    rows, *columns = array.shards or array.chunks
    counts = [-(-size // chunk) for size, chunk in zip(array.shape[1:], columns, strict=True)]
    return itertools.product(range(start // rows, -(-stop // rows)), *map(range, counts))


def _key(array: zarr.Array[Any], index: _Index) -> str:
    return f"{array.path}/{array.metadata.encode_chunk_key(index)}".lstrip("/")


def _chunk_file(array: zarr.Array[Any], index: _Index) -> Path | None:
    root = getattr(array.store, "root", None)
    return None if root is None else Path(root) / _key(array, index)


def _is_local(array: zarr.Array[Any]) -> bool:
    return _chunk_file(array, (0,) * array.ndim) is not None


def _watched(array: zarr.Array[Any], start: int, stop: int, label: str) -> zarr.Array[Any]:
    """Return an array that is not on this machine, with the chunks of rows looked at."""
    store, form = array.store, stored_form(array, label)
    if isinstance(store, Objects):
        store = store.where_all_are_stored()
    shards = _chunks(array, start, stop) if form.inner is not None else ()
    within = {_key(array, index): _within(array, index) for index in shards}
    return _stored_in(array, WatchedStore(store, form, within))


def _within(array: zarr.Array[Any], index: _Index) -> tuple[int, ...]:
    """Return how many chunks of a shard lie in the array, by dimension."""
    shards = array.shards or array.chunks
    return tuple(
        -(-min(shard, size - k * shard) // chunk)
        for k, shard, size, chunk in zip(index, shards, array.shape, array.chunks, strict=True)
    )


def _check_chunk(array: zarr.Array[Any], form: StoredForm, index: _Index, label: str) -> None:
    with _looked_at(array, form, index, label):
        pass


@contextmanager
def _looked_at(
    array: zarr.Array[Any], form: StoredForm, index: _Index, label: str
) -> Iterator[InFile]:
    """Give a chunk that is what the array declares, or say what is wrong with it."""
    file = _chunk_file(array, index)
    assert file is not None
    try:
        with opened_chunk(file, Path(array.store.root)) as content:  # type: ignore[attr-defined]
            form.check(content, _within(array, index) if form.inner else None)
            yield content
    except FileNotFoundError as error:
        raise _missing(array, index, label) from error
    except (ValueError, RuntimeError) as error:
        raise _damaged(array, index, label, error) from error
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error


def _chunk_name(array: zarr.Array[Any], index: _Index) -> str:
    rows = chunk_rows(array)
    last = min((index[0] + 1) * rows, array.shape[0]) - 1
    return f"chunk {array.metadata.encode_chunk_key(index)} (rows {index[0] * rows} to {last})"


def _missing(array: zarr.Array[Any], index: _Index, label: str) -> CorruptDataError:
    return CorruptDataError(
        f"{label}: {_chunk_name(array, index)} is missing; restore the file from a copy "
        "or make the store again (a writer that leaves out chunks of zeros must be told "
        "to write them)"
    )


def _damaged(
    array: zarr.Array[Any], index: _Index, label: str, error: Exception
) -> CorruptDataError:
    return CorruptDataError(
        f"{label}: {_chunk_name(array, index)} cannot be decoded, it is truncated or "
        f"damaged ({_first_line(error)}); restore the file from a copy or make the store again"
    )


def _first_bad_chunk(
    array: zarr.Array[Any], start: int, stop: int, label: str, error: Exception
) -> CorruptDataError:
    form = stored_form(array, label)
    for index in _chunks(array, start, stop):
        found = _fault(array, form, index, label)
        if found is not None:
            return found
    return CorruptDataError(f"{label}: rows {start} to {stop - 1}: {_first_line(error)}")


def _fault(
    array: zarr.Array[Any], form: StoredForm, index: _Index, label: str
) -> CorruptDataError | None:
    """Return what is wrong with a chunk, by either pipeline, None if it is sound."""
    shape = array.shards or array.chunks
    chunk = tuple(slice(k * size, (k + 1) * size) for k, size in zip(index, shape, strict=True))
    try:
        if _is_local(array):
            _check_chunk(array, form, index, label)
        for reader in (array, _verifying(array)) if _is_local(array) else (array,):
            reader[chunk]
    except CorruptDataError as error:
        return error
    except CrossgramError:
        raise
    except FileNotFoundError:
        return _missing(array, index, label)
    except Exception as error:  # noqa: BLE001  (codecs raise what they like)
        return _damaged(array, index, label, error)
    return None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
