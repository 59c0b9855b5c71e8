"""Settings of all tests."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import plain_message
from hypothesis import settings

from crossgram import blas_threads

# how long an example takes says more of what else runs on the machine
settings.register_profile("crossgram", deadline=None)
settings.load_profile("crossgram")


@pytest.fixture(scope="module", autouse=True)
def _environment() -> Iterator[None]:
    """Give the next tests the environment of these: a cluster of Dask's own leaves settings in it.

    Commands that are started with them multiply on one thread, and round otherwise.
    """
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


@pytest.fixture(scope="module")
def one_blas_thread() -> Iterator[None]:
    """Keep BLAS to one thread in a module whose subject is what is solved, not by how many threads.

    Tests run side by side, one worker to a core; threads of BLAS that wait for each other there
    take several times the work of the small matrices that are solved.
    """
    with blas_threads.one_blas_thread():
        yield


@pytest.fixture(scope="class")
def one_blas_thread_in_class() -> Iterator[None]:
    """Keep BLAS to one thread as `one_blas_thread` does, in a class; others need its threads."""
    with blas_threads.one_blas_thread():
        yield


@pytest.fixture
def refused_here(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command as `command_line.refused` does, but in this process, which has imported all.

    For one of many arguments that are refused alike; that a process ends so is seen with others.
    """
    from crossgram_cli.main import main

    def run(*arguments: object, cwd: Path, status: int = 2) -> str:
        handler, log = signal.getsignal(signal.SIGTERM), logging.getLogger("asyncio")
        level = log.level
        capfd.readouterr()
        try:
            with contextlib.chdir(cwd), pytest.raises(SystemExit) as caught:
                main([str(argument) for argument in arguments])
        finally:
            # main sets both for the whole process
            signal.signal(signal.SIGTERM, handler)
            log.setLevel(level)
        # of file descriptors, so that what libraries in C print is seen as well
        shown = capfd.readouterr()
        return plain_message(caught.value.code, shown.out, shown.err, status)

    return run
