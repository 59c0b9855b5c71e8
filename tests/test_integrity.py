"""What of a store is lost is told by chunk and row, and nothing else is called lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
import zarr
from command_line import crossgram, refused, succeeds
from numpy.typing import NDArray
from object_server import web_server

import crossgram as cg
from crossgram.codecs import CODECS, compressors
from crossgram.repeats import repeated_ids
from crossgram.source import open_source
from crossgram.store import Column

ROWS, DIM, CHUNK = 150, 5, 16


def embeddings() -> NDArray[Any]:
    return np.random.default_rng(0).normal(size=(ROWS, DIM)).astype("float32")


def write(path: Path, **layout: Any) -> Path:
    rows = embeddings()
    rows[3] = np.nan
    with cg.EmbeddingStore.create(path, DIM, chunk_rows=CHUNK, **layout) as writer:
        ids = [f"i{row}" for row in range(ROWS)]
        writer.append(rows, ids=ids, labels=np.arange(ROWS), masked=np.arange(ROWS) == 3)
    return path


def chunk(path: Path, number: int, array: str = "embeddings") -> Path:
    return path / array / "c" / (f"{number}/0" if array == "embeddings" else f"{number}")


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


def lengthen(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"more")


def enlarge(file: Path) -> None:
    """Put a sound chunk of twice the rows in its place."""
    other = file.parents[4] / "other.zarr"
    with cg.EmbeddingStore.create(other, DIM, chunk_rows=2 * CHUNK, overwrite=True) as writer:
        writer.append(np.ones((2 * CHUNK, DIM)))
    shutil.copy(chunk(other, 0), file)


LAYOUTS = [{"codec": codec} for codec in CODECS] + [
    {"codec": codec, "shard_rows": 2 * CHUNK} for codec in CODECS
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_bad_chunk_is_found_and_the_sound_ones_are_read(
    tmp_path: Path, layout: dict[str, Any]
) -> None:
    path = write(tmp_path / "a.zarr", **layout)
    sound = cg.check_store(path)
    assert sound.is_sound
    assert (sound.rows, sound.dim, sound.bytes) == (ROWS, DIM, ROWS * DIM * 4)
    assert (sound.masked, sound.nonfinite) == (1, 0)
    unit = layout.get("shard_rows", CHUNK)
    damages: list[Callable[[Path], None]] = [flip, cut, Path.unlink, enlarge]
    for number, damage in enumerate(damages):
        damage(chunk(path, number))
    check = cg.check_store(path)
    lost = [(fault.array, fault.start, fault.stop) for fault in check.faults]
    assert lost == [("embeddings", k * unit, (k + 1) * unit) for k in range(4)]
    for number, fault in enumerate(check.faults):
        assert f"chunk c/{number}/0 (rows {number * unit} to {(number + 1) * unit - 1})" in (
            fault.reason
        )
    assert check.bytes == (ROWS - 4 * unit) * DIM * 4
    assert not check.is_sound
    assert check.is_complete


@pytest.mark.parametrize("column", ["ids", "labels", "masked"])
@pytest.mark.parametrize("damage", [lengthen, Path.unlink])
def test_columns_are_checked_as_well(
    tmp_path: Path, column: str, damage: Callable[[Path], None]
) -> None:
    path = write(tmp_path / "a.zarr")
    damage(chunk(path, 0, column))
    faults = cg.check_store(path).faults
    assert [(fault.array, fault.start, fault.stop) for fault in faults] == [(column, 0, ROWS)]


@pytest.mark.parametrize("damage", [flip, cut, lengthen, Path.unlink])
def test_lost_columns_of_an_array_are_told_apart(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    layout: dict[str, Any] = {"chunks": (CHUNK, 2), "compressors": compressors("lz4")}
    zarr.create_array(tmp_path / "x", data=embeddings(), **layout)
    for place in ("1/0", "1/2", "9/1"):
        damage(tmp_path / "x" / "c" / place)
    check = cg.check_store(tmp_path / "x")
    assert [(fault.start, fault.stop) for fault in check.faults] == [(16, 32)] * 2 + [(144, 150)]


def test_what_masked_rows_hold_and_what_is_not_finite_is_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr")
    array = zarr.open_group(path)["embeddings"]
    array[3, 1] = 1.0
    array[40, 0] = np.inf
    array[41] = np.nan
    check = cg.check_store(path)
    assert check.masked_with_values == (3,)
    assert (check.nonfinite, check.first_nonfinite) == (2, 40)
    assert not check.is_sound
    array[3] = np.nan
    assert cg.check_store(path).is_sound


def test_ids_that_occur_twice_are_named(tmp_path: Path) -> None:
    ids = [f"i{row % 148}" for row in range(ROWS)]
    with cg.EmbeddingStore.create(tmp_path / "a.zarr", DIM, chunk_rows=CHUNK) as writer:
        writer.append(embeddings(), ids=ids)
    check = cg.check_store(tmp_path / "a.zarr")
    assert check.repeated == 2
    assert set(check.repeated_ids) == {("i0", 2), ("i1", 2)}
    assert not check.is_sound


def test_repeats_are_found_among_the_rows_that_are_there() -> None:
    ids = Column(np.array(["a", "b", "a", "c", "b", "b"]), "ids")
    assert repeated_ids(ids) == {"a": 2, "b": 3}
    assert repeated_ids(ids, [(1, 3), (4, 5)]) == {"b": 2}
    assert repeated_ids(ids, []) == {}


def test_npy_files_are_read_to_their_ends(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", embeddings())
    assert cg.check_store(tmp_path / "x.npy").is_sound
    cut(tmp_path / "x.npy")
    (fault,) = cg.check_store(tmp_path / "x.npy").faults
    assert (fault.array, fault.start) == ("store", None)
    assert "truncated" in fault.reason


@pytest.mark.parametrize("name", ["zarr.json", "embeddings/zarr.json", "ids/zarr.json"])
def test_metadata_that_cannot_be_read_are_a_lost_store(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "a.zarr")
    (path / name).write_text("{")
    (fault,) = cg.check_store(path).faults
    assert (fault.array, fault.start, fault.stop) == ("store", None, None)
    assert "cannot be read" in fault.reason


def test_what_is_no_store_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    for name in ("none.zarr", "a.txt"):
        with pytest.raises(cg.InputError, match=name):
            cg.check_store(tmp_path / name)


@pytest.mark.parametrize("name", ["embeddings", "labels"])
def test_after_very_many_faults_the_rest_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("crossgram.integrity._MOST_FAULTS", 3)
    path = tmp_path / "a.zarr"
    group = zarr.create_group(path)
    group.create_array("embeddings", data=embeddings(), chunks=(CHUNK, 1))
    group.create_array("labels", data=np.arange(ROWS), chunks=(CHUNK,))
    group.attrs["crossgram"] = {"format": 1, "columns": ["labels"]}
    assert cg.check_store(path).is_sound
    shutil.rmtree(path / name / "c")
    check = cg.check_store(path)
    assert not check.is_complete
    assert [fault.array for fault in check.faults] == [name] * 3


def test_stores_at_a_url_are_checked_alike(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr")
    sharded = write(tmp_path / "b.zarr", shard_rows=2 * CHUNK)
    with web_server(tmp_path) as url:
        assert cg.check_store(f"{url}/a.zarr").is_sound
        assert cg.check_store(f"{url}/b.zarr").is_sound
        large = write(tmp_path / "large.zarr")
        with (large / "ids" / "zarr.json").open("ab") as file:
            file.truncate(1 << 25)
        (fault,) = cg.check_store(f"{url}/large.zarr").faults
        assert "ids/zarr.json: has 33,554,432 bytes, at most 16,777,216" in fault.reason
        for store in (path, sharded):
            for number, damage in enumerate((flip, cut, Path.unlink)):
                damage(chunk(store, number))
        for name, unit in (("a.zarr", CHUNK), ("b.zarr", 2 * CHUNK)):
            faults = cg.check_store(f"{url}/{name}").faults
            assert [(one.start, one.stop) for one in faults] == [
                (k * unit, (k + 1) * unit) for k in range(3)
            ]
            assert faults[2].reason.startswith(f"{url}/{name}: chunk c/2/0")
            assert "is missing" in faults[2].reason


def lose_inside(file: Path) -> None:
    """Have the index of a shard say that its second chunk is not there."""
    from google_crc32c import value

    content = bytearray(file.read_bytes())
    index = content[-36:-4]
    index[16:32] = b"\xff" * 16
    content[-36:] = bytes(index) + value(bytes(index)).to_bytes(4, "little")
    file.write_bytes(content)


@pytest.mark.parametrize("rows", [(0, 32), (20, 30)])
def test_a_chunk_that_a_shard_does_not_hold_is_lost(tmp_path: Path, rows: tuple[int, int]) -> None:
    path = write(tmp_path / "a.zarr", shard_rows=2 * CHUNK)
    lose_inside(chunk(path, 0))
    out = np.empty((rows[1] - rows[0], DIM), "float32")
    for given in (path, _opened_elsewhere(path)):
        with pytest.raises(cg.CorruptDataError, match=r"chunk c/0/0 .* are missing|is missing"):
            open_source(given).read(rows[0], out)


def _opened_elsewhere(path: Path) -> zarr.Array[Any]:
    """Open the array of a store as one that is not on this machine."""
    there = zarr.storage.ObjectStore(obstore.store.LocalStore(path), read_only=True)
    array = zarr.open_group(there, mode="r")["embeddings"]
    assert isinstance(array, zarr.Array)
    return array


@pytest.mark.parametrize("shard_rows", [None, 2 * CHUNK])
@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_an_array_of_any_store_of_zarr_misses_what_is_lost(
    tmp_path: Path, damage: Callable[[Path], None], shard_rows: int | None
) -> None:
    path = write(tmp_path / "a.zarr", shard_rows=shard_rows)
    out = np.empty((ROWS, DIM), "float32")
    open_source(_opened_elsewhere(path)).read(0, out)
    np.testing.assert_array_equal(np.delete(out, 3, 0), np.delete(embeddings(), 3, 0))
    damage(chunk(path, 1))
    source = open_source(_opened_elsewhere(path))
    for start, stop in ((0, ROWS), (33, 40) if shard_rows else (17, 20)):
        if shard_rows and damage is flip and stop < ROWS:
            continue  # not in the part that is read
        with pytest.raises(cg.CorruptDataError, match="chunk c/1/0"):
            source.read(start, np.empty((stop - start, DIM), "float32"))


def test_an_array_in_memory_without_a_chunk_is_refused() -> None:
    array = zarr.create_array({}, shape=(ROWS, DIM), chunks=(CHUNK, DIM), dtype="f4")
    array[: 2 * CHUNK] = 1
    with pytest.raises(cg.CorruptDataError, match=r"chunk c/2/0 \(rows 32 to 47\) is missing"):
        open_source(array).read(0, np.empty((ROWS, DIM), "float32"))


class TestCommand:
    """crossgram verify."""

    def test_tells_sound_stores(self, tmp_path: Path) -> None:
        write(tmp_path / "a.zarr")
        done = crossgram("verify", "a.zarr", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (
            0,
            "a.zarr: sound, 150 rows of 5, 1 of them masked\n",
        )

    def test_tells_what_is_lost_of_each_and_exits_with_3(self, tmp_path: Path) -> None:
        write(tmp_path / "a.zarr")
        flip(chunk(write(tmp_path / "b.zarr"), 2))
        done = crossgram("verify", "b.zarr", "a.zarr", "--json", cwd=tmp_path)
        assert done.returncode == 3
        result = json.loads(done.stdout)
        assert [store["sound"] for store in result["stores"]] == [False, True]
        assert result["sound"] is False
        (fault,) = result["stores"][0]["faults"]
        assert (fault["array"], fault["start"], fault["stop"]) == ("embeddings", 32, 48)
        done = crossgram("verify", "b.zarr", cwd=tmp_path)
        assert "b.zarr: DAMAGED, 1 bad chunks; 16 of 150 embeddings are lost\n" in done.stdout
        assert "chunk c/2/0 (rows 32 to 47)" in done.stdout

    def test_calls_what_is_not_there_a_mistake(self, tmp_path: Path) -> None:
        assert "none.zarr: no such file" in refused("verify", "none.zarr", cwd=tmp_path)

    def test_gives_one_object(self, tmp_path: Path) -> None:
        write(tmp_path / "a.zarr")
        assert succeeds("verify", "a.zarr", cwd=tmp_path)["sound"] is True
