"""Outputs are whole or absent: several processes at once, and readers in between."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from command_line import ENTRY

import crossgram as cg

WRITERS = 6

WRITE = """
import sys
from pathlib import Path
from crossgram.errors import CrossgramError
from crossgram.output import whole_directory, whole_file
kind, path, own, overwrite = sys.argv[1:]
manager = whole_directory if kind == "folder" else whole_file
try:
    with manager(Path(path), overwrite=overwrite == "yes") as temporary:
        if kind == "folder":
            # as crossgram's own stores have, which may be replaced
            (temporary / "zarr.json").write_text('{"attributes": {"crossgram": {}}}')
            for name in ("embeddings", "ids"):
                (temporary / name).write_text(own * 10_000)
        else:
            temporary.write_text(own * 10_000)
        print("there", flush=True)
        sys.stdin.readline()
except CrossgramError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""

READ = """
import json, sys
from pathlib import Path
import crossgram as cg
path, seen, kinds = Path(sys.argv[1]), 0, set()
print("there", flush=True)
while not (path.parent / "stop").exists():
    found = cg.load_moments(path)
    kinds.add(float(found.means[0][0]))
    assert found.rows == 4
    seen += 1
print(json.dumps([seen, sorted(kinds)]))
"""


@pytest.fixture
def running() -> Iterator[list[subprocess.Popen[str]]]:
    """Give a list of processes that end with the test."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def started(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def raced(processes: Sequence[subprocess.Popen[str]]) -> list[str]:
    """Let all that have said that they are there go on at once; return their last words."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return [process.communicate(timeout=60)[1].strip() for process in processes]


def content(path: Path) -> set[str]:
    """Return who wrote what is there: one, unless it is mixed."""
    files = [path] if path.is_file() else [path / "embeddings", path / "ids"]
    texts = [file.read_text() for file in files]
    assert all(len(text) == 10_000 for text in texts)
    return set("".join(texts))


@pytest.mark.parametrize("kind", ["file", "folder"])
class TestWritersOfOneOutput:
    def test_that_finish_at_once_are_all_refused_but_one(
        self, tmp_path: Path, kind: str, running: list[subprocess.Popen[str]]
    ) -> None:
        path = tmp_path / "out"
        running += [started(WRITE, kind, path, k, "no") for k in range(WRITERS)]
        said = raced(running)
        (winner,) = (k for k, words in enumerate(said) if not words)
        assert content(path) == {str(winner)}
        for words in said[:winner] + said[winner + 1 :]:
            assert words.startswith("OutputExistsError: ")
            assert "already exists; choose another name, or overwrite it" in words
        assert [child.name for child in tmp_path.iterdir()] == ["out"]

    def test_that_overwrite_it_leave_that_of_one(
        self, tmp_path: Path, kind: str, running: list[subprocess.Popen[str]]
    ) -> None:
        path = tmp_path / "out"
        (first,) = raced([started(WRITE, kind, path, "x", "no")])
        assert first == ""
        running += [started(WRITE, kind, path, k, "yes") for k in range(WRITERS)]
        assert raced(running) == [""] * WRITERS
        assert len(content(path)) == 1
        assert [child.name for child in tmp_path.iterdir()] == ["out"]

    def test_where_the_system_cannot_rename_in_one_step_keep_it_whole(
        self, tmp_path: Path, kind: str
    ) -> None:
        path = tmp_path / "out"
        code = WRITE.replace("import sys\n", "import sys\nimport crossgram.output as o\n").replace(
            "kind, path", "o._renamed = lambda *given: False\nkind, path", 1
        )
        for own, overwrite in (("1", "no"), ("2", "yes"), ("3", "yes")):
            assert raced([started(code, kind, path, own, overwrite)]) == [""]
            assert content(path) == {own}
        (words,) = raced_or_refused(started(code, kind, path, "4", "no"))
        assert words.startswith("OutputExistsError")
        assert content(path) == {"3"}
        assert [child.name for child in tmp_path.iterdir()] == ["out"]


def raced_or_refused(process: subprocess.Popen[str]) -> list[str]:
    """Return the last words of a process that ends by itself."""
    return [process.communicate(timeout=60)[1].strip()]


def moments_of(mean: float) -> cg.Moments:
    moments = cg.Moments({"a": 300})
    moments.update(mean + np.vstack([np.eye(2, 300), -np.eye(2, 300)]))
    return moments


def test_readers_of_a_file_that_is_replaced_see_one_or_the_other(
    tmp_path: Path, running: list[subprocess.Popen[str]]
) -> None:
    path = tmp_path / "moments"
    kinds = [moments_of(mean) for mean in (1.0, 2.0)]
    kinds[0].save(path)
    running += [started(READ, path) for _ in range(2)]
    for reader in running:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "there\n"
    for k in range(200):
        kinds[k % 2].save(path, overwrite=True)
    (tmp_path / "stop").touch()
    for reader in running:
        out, words = reader.communicate(timeout=60)
        assert reader.returncode == 0, words
        assert out.endswith("[1.0, 2.0]]\n")


def test_a_folder_that_is_replaced_is_there_at_every_moment(
    tmp_path: Path, running: list[subprocess.Popen[str]]
) -> None:
    """Where the system can swap two names, which every Linux of the last ten years can."""
    path = tmp_path / "out"
    assert raced([started(WRITE, "folder", path, "x", "no")]) == [""]
    look = (
        "import os, sys\n"
        "print('there', flush=True)\n"
        "while not os.path.exists(sys.argv[2]):\n"
        "    os.stat(sys.argv[1])\n"
    )
    watcher = started(look, path, tmp_path / "stop")
    running.append(watcher)
    assert watcher.stdout is not None
    assert watcher.stdout.readline() == "there\n"
    for k in range(4):
        assert raced([started(WRITE, "folder", path, k, "yes")]) == [""]
    (tmp_path / "stop").touch()
    assert watcher.communicate(timeout=60)[1] == ""
    assert watcher.returncode == 0


@pytest.mark.parametrize("command", ["fit", "ingest", "accumulate"])
def test_commands_that_write_one_output_leave_that_of_one(tmp_path: Path, command: str) -> None:
    rng = np.random.default_rng(0)
    for name in ("x", "y"):
        np.save(tmp_path / f"{name}.npy", rng.standard_normal((40_000, 16), "f4"))
    arguments = {
        "fit": ["x.npy", "y.npy", "-o", "out"],
        "accumulate": ["x.npy", "y.npy", "-o", "out"],
        "ingest": ["x.npy", "out"],
    }[command]
    processes = [
        subprocess.Popen(
            [*ENTRY, command, *arguments], cwd=tmp_path, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    said = [process.communicate(timeout=120)[1] for process in processes]
    statuses = sorted(process.returncode for process in processes)
    assert statuses == [0, 2, 2], said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "x.npy", "y.npy"]
    if command == "ingest":
        cg.EmbeddingStore.open(tmp_path / "out").validate()
    elif command == "fit":
        cg.LinearMap.load(tmp_path / "out")
    else:
        cg.load_moments(tmp_path / "out")
