"""Threads that requests wait on, and that a process which ends does not wait for."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

__all__ = ["RequestThreads"]

_LAST_SECONDS = 2
"""For requests that are under way at the end: an answer while the interpreter is taken down would
find nobody."""

_Answer = TypeVar("_Answer")


class RequestThreads:
    """At most so many threads, started as they are needed.

    Unlike those of an executor they do not hold a process up that is interrupted while a service is
    silent.

    Parameters
    ----------
    most : int
        How many.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._threads = 0
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._waiting: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._running: set[Future[Any]] = set()
        atexit.register(self._finish)

    def submit(self, request: Callable[[], _Answer]) -> Future[_Answer]:
        """Have a request made; its answer, or what it raised, comes with the future."""
        future: Future[_Answer] = Future()
        self._waiting.put((future, request))
        if not self._idle.acquire(blocking=False):
            with self._lock:
                if self._threads < self._most:
                    self._threads += 1
                    threading.Thread(
                        target=self._work, name="crossgram-request", daemon=True
                    ).start()
        return future

    def _work(self) -> None:
        while True:
            future, request = self._waiting.get()
            if future.set_running_or_notify_cancel():
                self._running.add(future)
                try:
                    future.set_result(request())
                except BaseException as error:  # noqa: BLE001  (raised where the answer is wanted)
                    future.set_exception(error)
                self._running.discard(future)
            # not kept until the next one comes: an answer may be a large chunk
            del future, request
            self._idle.release()

    def _finish(self) -> None:
        while True:
            try:
                self._waiting.get_nowait()[0].cancel()
            except Empty:
                break
        wait(list(self._running), timeout=_LAST_SECONDS)
