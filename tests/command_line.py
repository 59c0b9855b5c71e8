"""Running the real command in a real process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ENTRY = [sys.executable, "-c", "from crossgram_cli.main import main; main()"]


def crossgram(
    *arguments: object, cwd: Path, before: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run to the end and return exit status and output."""
    return subprocess.run(
        [*ENTRY, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        preexec_fn=before,
    )


def succeeds(*arguments: object, cwd: Path) -> dict[str, Any]:
    """Run with --json, expect success, and return the object."""
    done = crossgram(*arguments, "--json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def refused(
    *arguments: object, cwd: Path, status: int = 2, before: Callable[[], None] | None = None
) -> str:
    """Run, expect an exit status and a plain message, and return the message."""
    done = crossgram(*arguments, cwd=cwd, before=before)
    return plain_message(done.returncode, done.stdout, done.stderr, status)


def plain_message(found: object, stdout: str, stderr: str, status: int) -> str:
    """Return the message of a command that ended, expecting an exit status and nothing else."""
    assert found == status, stdout + stderr
    assert stdout == ""
    assert "Traceback" not in stderr
    return stderr


def interrupted(*arguments: object, cwd: Path, number: signal.Signals, once: str) -> str:
    """Run, send a signal once a file of the given pattern is there, and return the message."""
    process = subprocess.Popen(
        [*ENTRY, *map(str, arguments)],
        cwd=cwd,
        stderr=subprocess.PIPE,
        text=True,
        # A shell lets its background jobs ignore SIGINT, and what they start inherits that.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list(cwd.glob(once)):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    # to all that it started, too, as a terminal does
    os.killpg(process.pid, number)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130, (process.returncode, message)
    return message
