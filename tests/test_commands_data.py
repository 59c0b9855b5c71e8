"""What a person at the command line sees of `crossgram ingest` and `crossgram synth`."""

from __future__ import annotations

import ctypes
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from command_line import crossgram, interrupted, refused, succeeds
from numpy.typing import NDArray
from strategies import rows_of, values_of

import crossgram as cg

ROWS, DIM = 130, 6
SHARDS = np.arange(ROWS // 13, ROWS, ROWS // 13)

SOURCES: dict[str, tuple[list[str], str]] = {
    "rows.npy": (["--ids", "names.txt", "--labels", "people.npy"], "npy"),
    "laion": (["--ids", "image_path", "--labels", "person"], "npy-shards"),
    "rows.h5": (["--embeddings", "net/rows", "--ids", "names", "--labels", "people"], "hdf5"),
    "rows.parquet": (["--ids", "names", "--labels", "people"], "parquet"),
    "v2.zarr": (["--ids", "names", "--labels", "people"], "zarr"),
    "v3.zarr": (["--ids", "names", "--labels", "people"], "zarr"),
}
"""What is ingested: file, the options that it takes, and what the format is called."""

READ_SEARCH, DAC_OVERRIDE, DROP_FROM_BOUNDING_SET = 2, 1, 24


def embeddings() -> NDArray[Any]:
    return np.random.default_rng(0).normal(size=(ROWS, DIM)).astype("float32")


def names() -> list[str]:
    return [f"größe/{row}.jpg" for row in range(ROWS)]


def people() -> list[str]:
    return [f"p{row // 3}" for row in range(ROWS)]


def write_shards(folder: Path) -> None:
    for name in ("img_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    shards = zip(
        *(np.split(values, SHARDS) for values in (embeddings(), names(), people())), strict=True
    )
    for number, (rows, paths, persons) in enumerate(shards):
        np.save(folder / "img_emb" / f"img_emb_{number}.npy", rows)
        table = pa.table({"image_path": paths, "person": persons})
        pq.write_table(table, folder / "metadata" / f"metadata_{number}.parquet")


def write_zarr(path: Path, zarr_format: Any) -> None:
    group = zarr.create_group(path, zarr_format=zarr_format)
    group.create_array("rows", data=embeddings(), chunks=(17, 4))
    for name, values in (("names", names()), ("people", people())):
        group.create_array(name, data=np.array(values, np.dtypes.StringDType()))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same rows, names and people in every format."""
    folder = tmp_path_factory.mktemp("data")
    np.save(folder / "rows.npy", embeddings())
    (folder / "names.txt").write_text("".join(f"{name}\n" for name in names()), encoding="utf-8")
    np.save(folder / "people.npy", people())
    write_shards(folder / "laion")
    with h5py.File(folder / "rows.h5", "w") as file:
        file.create_dataset("net/rows", data=embeddings(), chunks=(17, DIM), compression="gzip")
        file.create_dataset("net/other", data=embeddings()[:, :2])
        file["names"], file["people"] = names(), people()
    vectors = pa.array(list(embeddings()), pa.list_(pa.float32()))
    table = pa.table({"names": names(), "people": people(), "rows": vectors})
    pq.write_table(table, folder / "rows.parquet", row_group_size=37)
    write_zarr(folder / "v2.zarr", 2)
    write_zarr(folder / "v3.zarr", 3)
    return folder


def contents(folder: Path) -> dict[Path, bytes | None]:
    """Everything in a folder, so that what is left behind or changed is seen."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refused_without_a_trace(
    *arguments: object, cwd: Path, run: Callable[..., str] = refused
) -> str:
    """Run, expect exit status 2, one line, and a folder in which nothing has changed."""
    before = contents(cwd)
    message = run(*arguments, cwd=cwd)
    assert message.startswith("Error: ")
    assert message.count("\n") == 1
    assert contents(cwd) == before
    return message


class TestIngest:
    @pytest.mark.parametrize("name", SOURCES)
    def test_makes_a_store_of_every_format(self, data: Path, tmp_path: Path, name: str) -> None:
        options, kind = SOURCES[name]
        out = tmp_path / "out.zarr"
        result = succeeds("ingest", name, out, *options, cwd=data)
        assert result.pop("seconds") > 0
        assert result == {
            "store": str(out),
            "format": kind,
            "rows": ROWS,
            "dim": DIM,
            "dtype": "float32",
            "ids": True,
            "labels": True,
        }
        shown = succeeds("inspect", out, "--validate", cwd=tmp_path)
        assert shown["kind"] == "embedding store"
        assert (shown["rows"], shown["dim"], shown["dtype"]) == (ROWS, DIM, "float32")
        assert shown["ids"] == {"kind": "text", "first": "größe/0.jpg"}
        assert shown["labels"] == {"kind": "text", "first": "p0"}
        assert shown["provenance"]["format"] == kind
        assert shown["provenance"]["ingested_from"] == str(data / name)
        store = cg.EmbeddingStore.open(out)
        np.testing.assert_array_equal(rows_of(store), embeddings())
        assert values_of(store.ids) == names()
        assert values_of(store.labels) == people()

    def test_stores_as_asked(self, data: Path, tmp_path: Path) -> None:
        layout = ("--dtype", "float16", "--codec", "zstd", "--chunk-rows", 8, "--shard-rows", 16)
        succeeds("ingest", data / "rows.npy", "out.zarr", *layout, cwd=tmp_path)
        shown = succeeds("inspect", "out.zarr", cwd=tmp_path)
        assert (shown["dtype"], shown["chunk_rows"], shown["shard_rows"]) == ("float16", 8, 16)
        assert shown["codecs"] == ["ZstdCodec", "Crc32cCodec"]
        assert (shown["ids"], shown["labels"]) == (None, None)
        np.testing.assert_array_equal(
            rows_of(cg.EmbeddingStore.open(tmp_path / "out.zarr")), embeddings().astype("f2")
        )

    def test_says_in_a_line_what_it_made(self, data: Path, tmp_path: Path) -> None:
        for options, columns in (
            ([], "no ids"),
            (["--labels", "people"], "labels"),
            (["--ids", "names", "--labels", "people"], "ids and labels"),
        ):
            source = data / "rows.parquet"
            done = crossgram("ingest", source, "o.zarr", *options, "--overwrite", cwd=tmp_path)
            assert done.stdout == f"o.zarr: 130 rows of 6 float32, with {columns}\n"
            assert (done.returncode, done.stderr) == (0, "")


class TestIngestRefuses:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("nothing.npy", "nothing.npy: no such file or directory"),
            ("rows.h5", "'net/other', 'net/rows' could all be the embeddings; name one (--emb"),
            ("rows.h5 --embeddings net", "rows.h5: there is no 'net' in it, only 'names', 'net/o"),
            ("rows.parquet --ids url", "rows.parquet: there is no 'url' in it, only 'names', 'p"),
            ("rows.parquet --ids rows", "the column 'rows' is list<element: float>, expected tex"),
            ("v3.zarr --labels url", "v3.zarr: there is no 'url' in it, only 'names', 'people'"),
            ("laion --ids url", "metadata_0.parquet: there is no 'url' in it, only 'image_path'"),
            ("rows.npy --ids url", "rows.npy: a .npy file has no named parts; ids and labels can"),
            ("rows.npy --ids url.txt", "url.txt: no such file"),
            ("rows.npy --ids short.txt", "short.txt has 2 values, rows.npy has 130 rows; expected"),
            ("rows.npy --ids latin.txt", "latin.txt: cannot be read as UTF-8 text (invalid"),
            ("text.npy", "text.npy: has dtype <U1, expected float16, float32 or float64"),
            ("empty.npy", "empty.npy: has shape (0, 3); expected at least one row and one column"),
            ("flat.npy", "flat.npy: has shape (3,), expected rows x columns"),
            ("large.npy --dtype float16", "large.npy: row 1 holds a value too large for float16"),
            ("broken.npy", "broken.npy: not a .npy file"),
            ("broken.h5", "broken.h5: cannot be read (Unable to"),
            ("broken.parquet", "broken.parquet: cannot be read (Parquet"),
            ("latin.txt", "latin.txt: a file of an unknown format; expected one of .npy, .h5"),
            ("rows.npy --shard-rows 7", "shard_rows: 7 is not a multiple of chunk_rows"),
        ],
    )
    def test_what_cannot_be_used(
        self,
        data: Path,
        tmp_path: Path,
        arguments: str,
        message: str,
        refused_here: Callable[..., str],
    ) -> None:
        for path in data.iterdir():
            (tmp_path / path.name).symlink_to(path)
        (tmp_path / "short.txt").write_text("a\nb\n")
        (tmp_path / "latin.txt").write_bytes("größe\n".encode("latin-1") * ROWS)
        arrays = {"text": [["a"] * 3] * 4, "empty": np.ones((0, 3)), "flat": np.ones(3)}
        for name, values in {**arrays, "large": np.array([[1.0], [1e5]])}.items():
            np.save(tmp_path / f"{name}.npy", values)
        for suffix in ("npy", "h5", "parquet"):
            (tmp_path / f"broken.{suffix}").write_text("not what its name says")
        source, *options = arguments.split()
        assert message in refused_without_a_trace(
            "ingest", source, "out.zarr", *options, cwd=tmp_path, run=refused_here
        )

    def test_an_output_that_exists(self, data: Path, tmp_path: Path) -> None:
        succeeds("ingest", data / "rows.npy", "out.zarr", cwd=tmp_path)
        again = "ingest", data / "rows.parquet", "out.zarr", "--ids", "names"
        message = refused_without_a_trace(*again, cwd=tmp_path)
        assert "out.zarr: already exists; choose another name, or overwrite it" in message
        source = tmp_path / "x.npy"
        np.save(source, np.full((4, 2), 1e5))
        options = "--dtype", "float16", "--overwrite"
        refused_without_a_trace("ingest", source, "out.zarr", *options, cwd=tmp_path)
        assert succeeds(*again, "--overwrite", cwd=tmp_path)["ids"]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out.zarr", "x.npy"]

    def test_an_output_in_no_folder(self, data: Path, tmp_path: Path) -> None:
        arguments = "ingest", data / "rows.npy", "no/out.zarr"
        message = refused_without_a_trace(*arguments, cwd=tmp_path)
        assert "the directory no does not exist" in message

    @pytest.mark.parametrize(
        "locked",
        ["laion/img_emb/img_emb_3.npy", "laion/metadata/metadata_3.parquet", "people.npy"],
    )
    def test_a_file_that_may_not_be_read(self, tmp_path: Path, locked: str) -> None:
        write_shards(tmp_path / "laion")
        np.save(tmp_path / "people.npy", people())
        path = tmp_path / locked
        path.chmod(0)
        if may_read(path):
            pytest.skip("this user may read everything")
        before = sorted(tmp_path.rglob("*"))
        arguments = ["--ids", "image_path", "--labels", tmp_path / "people.npy"]
        done = crossgram(
            "ingest", tmp_path / "laion", "out.zarr", *arguments, cwd=tmp_path, before=drop_rights
        )
        assert done.returncode == 2
        assert done.stderr == f"Error: {path}: cannot be read (permission denied)\n"
        assert sorted(tmp_path.rglob("*")) == before


def may_read(path: Path) -> bool:
    reading = [sys.executable, "-c", f"open({str(path)!r}, 'rb')"]
    return not subprocess.run(reading, preexec_fn=drop_rights, capture_output=True).returncode


def drop_rights() -> None:
    """Take from root the right to read what nobody may read; others do not have it."""
    libc = ctypes.CDLL(None)
    for capability in (DAC_OVERRIDE, READ_SEARCH):
        libc.prctl(DROP_FROM_BOUNDING_SET, capability, 0, 0, 0)


class TestSynth:
    def test_is_fitted_back_to_the_planted_map(self, tmp_path: Path) -> None:
        rows, condition, p, q = 3000, 10, 8, 5
        made = succeeds(
            *("synth", "pair", "--rows", rows, "--source-dim", p, "--target-dim", q),
            *("--condition", condition, "--noise", 0, "--mean", 1, "--dtype", "float64"),
            cwd=tmp_path,
        )
        assert made.pop("seconds") > 0
        assert made == {
            "source": "pair/a.zarr",
            "target": "pair/b.zarr",
            "truth": "pair/truth.safetensors",
            "rows": rows,
            "source_dim": p,
            "target_dim": q,
        }
        fitted = succeeds("fit", made["source"], made["target"], "-o", "m", cwd=tmp_path)
        assert (fitted["rows"], fitted["rank"]) == (rows, p)
        shown = succeeds("inspect", "m", cwd=tmp_path)
        assert shown["kind"] == "map"
        assert shown["certificate"]["rank"] == p
        # singular values of random rows are off by (sqrt(p) + 5) / sqrt(n) at most
        margin = (np.sqrt(p) + 5) / np.sqrt(rows)
        ratio = shown["certificate"]["condition"] / condition
        assert (1 - margin) / (1 + margin) < ratio < (1 + margin) / (1 - margin)
        truth = cg.LinearMap.load(tmp_path / made["truth"])
        # sums of n products lose n units in the last place, normal equations the condition twice
        tolerance = rows * condition**2 * np.finfo(np.float64).eps * np.abs(truth.weight).max()
        found = cg.LinearMap.load(tmp_path / "m").weight
        np.testing.assert_allclose(found, truth.weight, rtol=0, atol=tolerance)

    def test_takes_every_option(self, tmp_path: Path) -> None:
        options = {"rows": 50, "source_dim": 4, "target_dim": 3, "condition": 7.0, "noise": 0.5}
        options |= {"mean": -2.0, "people": 6, "seed": 11, "dtype": "float16", "codec": "zstd"}
        options |= {"chunk_rows": 8, "shard_rows": 16}
        given = [
            item
            for name, value in options.items()
            for item in (f"--{name.replace('_', '-')}", value)
        ]
        succeeds("synth", "pair", *given, cwd=tmp_path)
        cg.synth(tmp_path / "expected", **options)
        found, expected = (
            {path.relative_to(root): content for path, content in contents(root).items()}
            for root in (tmp_path / "pair", tmp_path / "expected")
        )
        assert found == expected

    def test_says_in_a_line_what_it_made(self, tmp_path: Path) -> None:
        done = crossgram("synth", "pair", "--rows", 1200, "--target-dim", 3, cwd=tmp_path)
        files = "pair/a.zarr, pair/b.zarr, pair/truth.safetensors"
        assert done.stdout == f"1,200 rows of 512 and 3 float32: {files}\n"
        assert (done.returncode, done.stderr) == (0, "")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("there --rows 9", "there: already exists; choose another name, or overwrite it"),
            ("no/pair --rows 9", "no/pair: the directory no does not exist"),
            ("pair --rows 9 --dtype float16 --mean 1e5", "dtype: float16 cannot hold 1e+05"),
            ("pair --rows 9 --condition inf", "condition: inf given, expected a number"),
            ("pair --rows 9 --noise nan", "noise: nan given, expected a number"),
            ("pair --rows 9 --shard-rows 7", "shard_rows: 7 is not a multiple of chunk_rows"),
        ],
    )
    def test_refuses_what_it_cannot_make(
        self, tmp_path: Path, arguments: str, message: str
    ) -> None:
        (tmp_path / "there").mkdir()
        (tmp_path / "there" / "file").write_text("precious")
        assert message in refused_without_a_trace("synth", *arguments.split(), cwd=tmp_path)

    @pytest.mark.parametrize("option", ["--rows=0", "--condition=0.5", "--people=-1", "--seed=-1"])
    def test_refuses_numbers_out_of_range_with_the_usage(self, tmp_path: Path, option: str) -> None:
        message = refused("synth", "pair", "--rows", 9, option, cwd=tmp_path)
        assert f"Invalid value for '{option.partition('=')[0]}'" in message
        assert not list(tmp_path.iterdir())


class TestInterruptions:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    @pytest.mark.parametrize("command", ["ingest", "synth"])
    def test_in_the_middle_leave_nothing_half_written(
        self, tmp_path: Path, command: str, number: signal.Signals
    ) -> None:
        rows, dim = 4_000_000, 64
        if command == "ingest":
            np.lib.format.open_memmap(tmp_path / "x.npy", "w+", "float32", (rows, dim)).flush()
            arguments, chunk = ["x.npy", "out"], ".out.*/embeddings/c/3"
        else:
            sizes = [f"--rows={rows}", f"--source-dim={dim}", f"--target-dim={dim}"]
            arguments, chunk = ["out", *sizes], ".out.*/.b.zarr.*/embeddings/c/3"
        before = sorted(tmp_path.iterdir())
        message = interrupted(command, *arguments, cwd=tmp_path, number=number, once=chunk)
        assert message.strip() == "Interrupted: stopped; unfinished outputs were removed."
        assert sorted(tmp_path.iterdir()) == before

    def test_end_the_process_that_reads_hdf5(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "x.h5", "w") as file:
            rows = file.create_dataset("x", (4_000_000, 64), "float32", fill_time="never")
            rows[-1] = 0  # takes room for all
        source = str(tmp_path / "x.h5")
        chunk = ".out.*/embeddings/c/3"
        message = interrupted(
            "ingest", source, "out", cwd=tmp_path, number=signal.SIGINT, once=chunk
        )
        assert message.strip() == "Interrupted: stopped; unfinished outputs were removed."
        assert [path.name for path in tmp_path.iterdir()] == ["x.h5"]
        commands = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]
        assert not any(source in (command or ()) for command in commands)

    @pytest.mark.parametrize(
        "arguments", [["ingest", "x.npy", "out"], ["synth", "out", "--rows=9"]]
    )
    def test_by_a_full_disk_leave_nothing_and_fail(
        self, tmp_path: Path, arguments: list[str]
    ) -> None:
        def no_room() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

        np.save(tmp_path / "x.npy", embeddings())
        done = crossgram(*arguments, cwd=tmp_path, before=no_room)
        assert done.returncode == 1
        assert "cannot be written: File too large" in done.stderr
        assert done.stderr.count("\n") == 1
        assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]
