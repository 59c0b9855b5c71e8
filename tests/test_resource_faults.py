"""Real commands with too little of something: disk, memory, files, permission, time."""

from __future__ import annotations

import json
import os
import pty
import resource
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import crossgram, interrupted, refused, succeeds
from faulty import few_descriptors, heed_permissions, small_disk
from ten_segments import ROWS, SEGMENT, assert_same_bits, write_stores

import crossgram as cg

FULL = "the disk is full|cannot be written: File too large"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a.zarr, b.zarr, x.npy, the moments of both stores, and a map."""
    folder = tmp_path_factory.mktemp("data")
    stores = write_stores(folder)
    x = np.random.default_rng(1).standard_normal((ROWS, 12), "f4")
    np.save(folder / "x.npy", x)
    moments = cg.accumulate(stores)
    moments.save(folder / "moments")
    cg.solve(moments).save(folder / "map")
    return folder


def inside(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


class TestFullDisk:
    @pytest.mark.parametrize(
        ("room", "arguments"),
        [
            (64 << 10, ["fit", "a.zarr", "b.zarr", "-o", "OUT"]),
            (64 << 10, ["solve", "moments", "-o", "OUT"]),
            # in the middle of the embeddings
            (1 << 20, ["apply", "map", "a.zarr", "OUT"]),
            (1 << 20, ["ingest", "x.npy", "OUT"]),
            (1 << 20, ["synth", "OUT", "--rows=100000"]),
            (0, ["compare", "moments", "--csv", "OUT"]),
        ],
        ids=lambda value: value[0] if isinstance(value, list) else "",
    )
    def test_leaves_nothing_and_is_told_in_one_line(
        self, data: Path, tmp_path: Path, room: int, arguments: list[str]
    ) -> None:
        with small_disk(room, tmp_path) as disk:
            given = [disk.path / "out" if part == "OUT" else part for part in arguments]
            done = crossgram(*given, cwd=data, before=disk.before)
            assert done.returncode == 1, done.stderr
            assert any(part in done.stderr for part in FULL.split("|"))
            assert done.stderr.count("\n") == 1
            assert inside(disk.path) == []

    def test_keeps_what_stood_there(self, data: Path, tmp_path: Path) -> None:
        with small_disk(1 << 20, tmp_path) as disk:
            shutil.copy(data / "moments", disk.path / "out")
            before = (disk.path / "out").read_bytes()
            message = refused(
                *("accumulate", "a.zarr", "b.zarr", "-o", disk.path / "out", "--overwrite"),
                cwd=data,
                status=1,
                before=disk.before,
            )
            assert any(part in message for part in FULL.split("|"))
            assert inside(disk.path) == ["out"]
            assert (disk.path / "out").read_bytes() == before

    @pytest.mark.parametrize("threads", [1, 2])
    def test_of_a_checkpoint_keeps_what_was_done(
        self, data: Path, tmp_path: Path, threads: int
    ) -> None:
        with small_disk(16 << 10, tmp_path) as disk:
            kept = disk.path / "kept"
            run = ["accumulate", "a.zarr", "b.zarr", "--checkpoint", kept, "--threads", threads]
            run += ["-o", tmp_path / "found"]
            message = refused(*run, cwd=data, status=1, before=disk.before)
            assert any(part in message for part in FULL.split("|"))
            # no file that is half written, and every whole one of use
            assert not list(kept.rglob(".*"))
            there = {path.name for path in kept.glob("pass-0/*.safetensors")}
            disk.free()
            assert succeeds(*run, cwd=data)["rows"] == ROWS
            assert not kept.exists()
        assert_same_bits(cg.load_moments(tmp_path / "found"), cg.load_moments(data / "moments"))
        if disk.path != tmp_path / "own":
            assert there
            assert "what was done before is kept" in message

    def test_of_temporary_files_ends_a_join(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with small_disk(64 << 10, tmp_path) as disk:
            monkeypatch.setenv("TMPDIR", str(disk.path))
            message = refused(
                *("fit", "a.zarr", "b.zarr", "-o", tmp_path / "map", "--join", "ids"),
                cwd=data,
                status=1,
                before=disk.before,
            )
            assert any(part in message for part in FULL.split("|"))
            assert inside(disk.path) == []
        assert not (tmp_path / "map").exists()


class TestFewDescriptors:
    """40 files, and stores of more chunks than that."""

    @pytest.mark.parametrize(
        "arguments",
        [
            ["fit", "a.zarr", "b.zarr", "--checkpoint", "KEPT", "-o", "OUT"],
            ["fit", "a.zarr", "b.zarr", "--join", "ids", "-o", "OUT"],
            ["apply", "map", "a.zarr", "OUT"],
            ["ingest", "x.npy", "OUT", "--chunk-rows", "1024"],
        ],
        ids=lambda arguments: arguments[0] + "-" + arguments[-3].strip("-"),
    )
    def test_are_enough(self, data: Path, tmp_path: Path, arguments: list[str]) -> None:
        names = {"OUT": tmp_path / "out", "KEPT": tmp_path / "kept"}
        given = [names.get(part, part) for part in arguments]
        done = crossgram(*given, cwd=data, before=few_descriptors)
        assert done.returncode == 0, done.stderr
        assert inside(tmp_path)[0] == "out"

    @pytest.mark.parametrize(
        "arguments", [["fit", "a.zarr", "b.zarr"], ["accumulate", "a.zarr", "b.zarr"]]
    )
    def test_for_workers_are_refused_at_once(
        self, data: Path, tmp_path: Path, arguments: list[str]
    ) -> None:
        given = [*arguments, "--workers", "2", "-o", tmp_path / "out"]
        message = refused(*given, cwd=data, before=few_descriptors)
        assert "workers: 2 need 84 open files, the limit of this process is 40" in message
        assert "ulimit -n 84" in message
        assert message.count("\n") == 1
        assert inside(tmp_path) == []

    def test_as_many_as_are_asked_for_are_enough_for_workers(
        self, data: Path, tmp_path: Path
    ) -> None:
        given = ["fit", "a.zarr", "b.zarr", "--workers", "2", "-o", tmp_path / "out"]
        done = crossgram(
            *given, cwd=data, before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (84, 84))
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("Traceback") == 0


class TestFoldersThatCannotBeWritten:
    @pytest.fixture
    def closed(self, tmp_path: Path) -> Path:
        folder = tmp_path / "closed"
        folder.mkdir()
        folder.chmod(0o555)
        return folder

    @pytest.mark.parametrize(
        "arguments",
        [
            ["fit", "a.zarr", "b.zarr", "-o", "OUT"],
            ["fit", "a.zarr", "b.zarr", "-o", "FREE", "--checkpoint", "OUT"],
            ["apply", "map", "a.zarr", "OUT"],
            ["ingest", "x.npy", "OUT"],
            ["compare", "moments", "--csv", "OUT"],
        ],
        ids=lambda arguments: arguments[0] + arguments[-2],
    )
    def test_are_refused_by_name_before_any_work(
        self, data: Path, tmp_path: Path, closed: Path, arguments: list[str]
    ) -> None:
        names = {"OUT": closed / "out", "FREE": tmp_path / "free"}
        given = [names.get(part, part) for part in arguments]
        done = crossgram(*given, cwd=data, before=heed_permissions)
        assert done.returncode in (1, 2), done.stderr
        assert str(closed) in done.stderr
        assert "cannot be written" in done.stderr
        assert done.stderr.count("\n") == 1
        assert inside(tmp_path) == ["closed"]

    def test_may_hold_what_is_read(self, data: Path, tmp_path: Path, closed: Path) -> None:
        closed.chmod(0o755)
        for name in ("a.zarr", "b.zarr"):
            shutil.copytree(data / name, closed / name)
        for path in [*closed.rglob("*"), closed]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        done = crossgram(
            *("fit", closed / "a.zarr", closed / "b.zarr", "-o", "map"),
            cwd=tmp_path,
            before=heed_permissions,
        )
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a.zarr and b.zarr of 100,000 rows and six segments."""
    folder = tmp_path_factory.mktemp("wide")
    rng = np.random.default_rng(0)
    for name, dim in (("a", 192), ("b", 128)):
        with cg.EmbeddingStore.create(folder / f"{name}.zarr", dim) as writer:
            for start in range(0, 100_000, 20_000):
                ids = [str(k) for k in range(start, start + 20_000)]
                writer.append(rng.standard_normal((20_000, dim), "f4"), ids=ids)
    return folder


class TestMemory:
    """The kernel's high-water mark of the resident set, above the interpreter with imports."""

    @pytest.mark.parametrize(
        ("limit", "options"),
        [
            (None, ["--threads", "2"]),
            (70_000_000, ["--threads", "2"]),
            (None, ["--threads", "1", "--folds", "5"]),
            (None, ["--threads", "2", "--checkpoint", "kept"]),
        ],
        ids=["plain", "limited", "folds", "checkpoint"],
    )
    def test_stays_within_the_plan_and_the_limit(
        self, wide: Path, tmp_path: Path, limit: int | None, options: list[str]
    ) -> None:
        stores = wide / "a.zarr", wide / "b.zarr"
        given = [] if limit is None else ["--memory", str(limit)]
        result = succeeds("fit", *stores, *options, *given, "-o", "map", cwd=tmp_path)
        peak, planned = result["peak_memory_bytes"], result["planned_memory_bytes"]
        assert planned <= (limit or planned)
        # a tenth is for what the allocator keeps of what was freed
        assert peak <= 1.1 * (limit or planned)

    def test_that_cannot_suffice_is_refused_before_anything_is_read(
        self, wide: Path, tmp_path: Path
    ) -> None:
        stores = wide / "a.zarr", wide / "b.zarr"
        message = refused("fit", *stores, "--memory", "1MB", "-o", "map", cwd=tmp_path)
        assert "memory: 1,000,000 bytes given, with the smallest blocks and one thread" in message
        assert inside(tmp_path) == []

    def test_that_the_system_refuses_fails_in_one_line(self, tmp_path: Path) -> None:
        def little() -> None:
            resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))

        np.save(tmp_path / "x.npy", np.ones((10, 9000), "f4"))
        run = ("accumulate", "x.npy", "x.npy", "--name", "a", "--name", "b", "-o", "moments")
        message = refused(*run, cwd=tmp_path, status=1, before=little)
        assert message.startswith("Error: ")
        assert inside(tmp_path) == ["x.npy"]


class TestClock:
    # from now on, every look at the wall clock is an hour before the last one
    BACKWARDS = (
        "import itertools, time\n"
        "ticks = itertools.count(time.time(), -3600)\n"
        "time.time = lambda: next(ticks)\n"
        "time.time_ns = lambda: int(next(ticks) * 1e9)\n"
        "from crossgram_cli.main import main; main()"
    )

    def test_that_goes_backwards_changes_nothing(self, data: Path, tmp_path: Path) -> None:
        """Also where finished parts are of tomorrow, and with a progress bar."""
        run = ["accumulate", str(data / "a.zarr"), str(data / "b.zarr"), "-o", "found"]
        run += ["--checkpoint", "kept", "--threads", "1"]
        interrupted(
            *run, cwd=tmp_path, number=signal.SIGTERM, once="kept/pass-0/[0-9]*.safetensors"
        )
        tomorrow = time.time() + 86_400
        for path in (tmp_path / "kept").rglob("*"):
            os.utime(path, (tomorrow, tomorrow))
        leader, follower = pty.openpty()
        termios.tcsetwinsize(follower, (24, 100))
        done = subprocess.run(
            [sys.executable, "-c", self.BACKWARDS, *run, "--json"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=follower,
            check=False,
        )
        os.close(follower)
        shown = os.read(leader, 65536).decode()
        assert done.returncode == 0, shown
        assert "Traceback" not in shown
        assert json.loads(done.stdout)["rows"] == ROWS
        found = cg.load_moments(tmp_path / "found")
        assert_same_bits(found, cg.load_moments(data / "moments"))


class TestSignals:
    @pytest.mark.parametrize(
        ("number", "options"),
        [
            (signal.SIGINT, ["--threads", "1"]),
            (signal.SIGTERM, ["--threads", "2"]),
            (signal.SIGTERM, ["--workers", "2"]),
        ],
    )
    def test_keep_finished_work_and_nothing_half_done(
        self, data: Path, tmp_path: Path, number: signal.Signals, options: list[str]
    ) -> None:
        run = ["accumulate", str(data / "a.zarr"), str(data / "b.zarr"), "-o", "found"]
        run += ["--checkpoint", "kept", *options]
        message = interrupted(
            *run, cwd=tmp_path, number=number, once="kept/pass-0/[0-9]*.safetensors"
        )
        assert message.strip().endswith("Interrupted: stopped; unfinished outputs were removed.")
        assert "Traceback" not in message
        assert not list(tmp_path.rglob(".*"))
        assert list(tmp_path.glob("kept/pass-0/*.safetensors"))
        assert not (tmp_path / "found").exists()
        done: list[int] = []
        found = cg.accumulate(
            [data / "a.zarr", data / "b.zarr"],
            checkpoint=tmp_path / "kept",
            progress=lambda progress: done.append(progress.rows),
        )
        assert done[0] >= SEGMENT
        assert_same_bits(found, cg.load_moments(data / "moments"))
