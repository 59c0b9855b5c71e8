"""What a module does in a process of its own ends there, and is told."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import crossgram
from crossgram import apart as module
from crossgram.apart import apart
from crossgram.errors import RunError

PROGRAM = """
import os, signal, sys, time
from crossgram.apart import Bounds, answer

def contents(task):
    yield b"%d" % os.getpid()
    Bounds().allow(1 << 28, 1)
    match task:
        case "files": yield b",".join(os.readlink(f"/proc/self/fd/{k}").encode() for k in
                                      os.listdir("/proc/self/fd") if int(k) > 2 and
                                      os.path.exists(f"/proc/self/fd/{k}"))
        case "memory": yield bytes(1 << 29)
        case "time":
            while True: pass
        case "wait": time.sleep(1000)
        case "crash": os.kill(os.getpid(), signal.SIGSEGV)
        case "exit": os._exit(7)
        case "fail": raise ValueError("what\\nhappened")
        case "much": yield bytes(1000)

answer(contents(sys.argv[1]))
"""


@pytest.fixture(autouse=True)
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ("memory", "it takes more memory than it may"),
        ("time", "the process that reads it ended: CPU time limit exceeded"),
        ("crash", "the process that reads it ended: Segmentation fault"),
        ("exit", "the process that reads it ended: status 7"),
        ("nothing", "the process that reads it ended: status 0"),
        ("fail", "what"),
        ("much", "it would become 1,000 bytes, at most 999 are read at once"),
    ],
)
def test_how_it_ended_is_told(task: str, reason: str) -> None:
    with apart("program", task) as take:
        process = int(take(20).tobytes())
        with pytest.raises(OSError, match=f"^{re.escape(reason)}$"):
            take(999)
    assert not psutil.pid_exists(process)


def test_it_is_killed_when_it_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    with apart("program", "wait") as take:
        process = int(take(20).tobytes())
        monkeypatch.setattr(module, "_PATIENCE", 1)
        with pytest.raises(OSError, match="was silent for 1 s"):
            take(999)
        assert psutil.pid_exists(process)
    assert not psutil.pid_exists(process)


def test_it_has_no_files_of_ours(program: Path) -> None:
    with (program / "output").open("wb") as file:
        os.set_inheritable(file.fileno(), True)
        with apart("program", "files") as take:
            take(20)
            assert not take(999).size


def test_one_that_does_not_start_is_no_fault_of_a_file() -> None:
    message = "no_such_module: does not run in a process of its own"
    with pytest.raises(RunError, match=message), apart("no_such_module"):
        pass


def test_nothing_is_imported_from_the_folder_it_is_started_in(tmp_path: Path) -> None:
    """Also not where there are files beside those that are read; from a script without a guard."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "h5py.py").write_text("print('found')")
    script = tmp_path / "script.py"
    script.write_text(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from crossgram.apart import apart\n"
        "with apart('crossgram.hdf5_datasets', 'list', 'a.h5') as take:\n"
        "    try: take(99)\n"
        "    except OSError as error: print(error)\n"
    )
    engine = Path(crossgram.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, script, engine],
        cwd=tmp_path / "here",
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        timeout=100,
    )
    assert done.stdout == "[Errno 2] No such file or directory: 'a.h5'\n", done.stderr
