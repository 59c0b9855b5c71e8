"""A module run in a process of its own, within bounds: what it does to itself ends there."""

from __future__ import annotations

import math
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossgram.errors import RunError

__all__ = ["Bounds", "answer", "apart"]

_HEAD = struct.Struct("<cQ")
_VALUES, _FAILURE = b"V", b"F"
_MOST_REASON = 1000
_PATIENCE = 600
"""Seconds that an answer, or the next part of it, may take by the clock."""

_STATM = Path("/proc/self/statm")


@contextmanager
def apart(module: str, *arguments: str) -> Iterator[Callable[[int], NDArray[np.uint8]]]:
    """Run a module that calls `answer`, and give a function that takes its answers.

    The function takes the next answer, of so many bytes at most. It raises OSError, with what
    happened, if the module failed, died or fell silent. The process ends with the context.

    Raises
    ------
    RunError
        If the process does not start.
    """
    command = [sys.executable, "-P", "-m", module, *arguments]
    # the modules of this process, wherever it has them from
    places = os.pathsep.join(place or str(Path.cwd()) for place in sys.path)
    try:
        process = subprocess.Popen(  # noqa: S603 (a module of this library)
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": places},
            bufsize=0,
            # a Ctrl-C is for this process, which ends the other
            process_group=0,
        )
    except OSError as error:
        raise RunError(f"{command[0]}: cannot be started to run {module} ({error})") from error
    with process:
        try:
            _await_start(process, module)
            yield lambda most: _answer_of(process, most)
        finally:
            process.kill()


def _await_start(process: subprocess.Popen[bytes], module: str) -> None:
    try:
        _answer_of(process, 0)
    except OSError as error:
        raise RunError(
            f"{module}: does not run in a process of its own ({error}); try "
            f"`{sys.executable} -c 'import {module}'`"
        ) from error


def _answer_of(process: subprocess.Popen[bytes], most: int) -> NDArray[np.uint8]:
    head = bytearray(_HEAD.size)
    _fill(memoryview(head), process)
    kind, size = _HEAD.unpack(head)
    if kind == _FAILURE:
        most = _MOST_REASON
    if size > most:
        raise OSError(f"it would become {size:,} bytes, at most {most:,} are read at once")
    content = np.empty(size, np.uint8)
    _fill(content.data, process)
    if kind == _FAILURE:
        raise OSError(content.tobytes().decode("utf-8", "replace"))
    return content


def _fill(out: memoryview, process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    while out:
        # by single seconds, so that the time for which this process is stopped does not count
        if not any(poll.poll(1000) for _ in range(_PATIENCE)):
            raise OSError(f"the process that reads it was silent for {_PATIENCE} s")
        count = os.readv(pipe, [out])
        if not count:
            raise OSError(f"the process that reads it ended: {_end(process.wait())}")
        out = out[count:]


def _end(status: int) -> str:
    return f"status {status}" if status >= 0 else signal.strsignal(-status) or f"signal {-status}"


# ---- in the other process


class Bounds:
    """What this process may take from now on; begins with nothing."""

    def __init__(self) -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        self._addresses = 0
        if _STATM.exists():
            pages = int(_STATM.read_text(encoding="ascii").split()[0])
            self._addresses = pages * resource.getpagesize()

    def allow(self, memory: int, seconds: int) -> None:
        """Allow bytes beyond what was there at the beginning, and seconds of processor time.

        Beyond the memory, allocations fail; beyond the time, the process is ended. Memory is
        bounded on Linux only.
        """
        if self._addresses:
            _limit(resource.RLIMIT_AS, self._addresses + memory)
        _limit(resource.RLIMIT_CPU, math.ceil(time.process_time()) + seconds)


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def answer(contents: Iterable[bytes | memoryview]) -> None:
    """Send each of the contents to the process that called `apart`, or why there is none."""
    _send(_VALUES, b"")
    try:
        for content in contents:
            _send(_VALUES, content)
    except MemoryError:
        reason = "it takes more memory than it may"
    except Exception as error:  # noqa: BLE001
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    else:
        return
    _send(_FAILURE, reason.encode("utf-8", "replace")[:_MOST_REASON])


def _send(kind: bytes, content: bytes | memoryview) -> None:
    rest = memoryview(content).cast("B") if len(content) else memoryview(b"")
    for part in (memoryview(_HEAD.pack(kind, len(rest))), rest):
        while part:
            part = part[os.write(sys.stdout.fileno(), part) :]
