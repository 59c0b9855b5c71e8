"""Lanes: threads that each take a batch through the networks, on one processor each.

On a CPU, the threads that PyTorch would divide one batch among wait for each other at every layer,
and so for whoever decodes images meanwhile. Batches side by side wait for nobody, and what they
give does not depend on how many there are.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from queue import SimpleQueue
from typing import Any, TypeVar

import torch

from crossgram.networks.network import Network, choose_device

__all__ = ["copies", "in_lanes", "lanes_for"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@contextmanager
def lanes_for(device: str, *, compiled: bool) -> Iterator[int]:
    """Give the number of lanes: PyTorch's threads on a CPU, of which each lane then has one.

    A GPU has one lane, and so has a compiled network, which several threads cannot run.
    """
    threads = torch.get_num_threads()
    if choose_device(device).type != "cpu" or compiled:
        yield 1
        return
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def copies(networks: Sequence[Network], lanes: int) -> list[list[Network]]:
    """Return the networks once per lane, with the same weights; fewer if they cannot be copied.

    A module may keep something of a batch while it runs.
    """
    try:
        more = [list(map(_copy, networks)) for _ in range(lanes - 1)]
    except Exception:  # noqa: BLE001  (a module may hold anything)
        more = []
    return [list(networks), *more]


def _copy(network: Network) -> Network:
    if isinstance(network.module, torch.jit.ScriptModule):
        return network
    tensors = chain(network.module.parameters(), network.module.buffers())
    shared: dict[int, Any] = {id(tensor): tensor for tensor in tensors}
    return replace(network, module=copy.deepcopy(network.module, shared))


def in_lanes(
    work: Callable[[int, _Item], _Result], items: Iterable[_Item], lanes: int
) -> Iterator[_Result]:
    """Yield `work(lane, item)` of each item, in their order; lanes run a few items ahead."""
    if lanes == 1:
        yield from (work(0, item) for item in items)
        return
    free: SimpleQueue[int] = SimpleQueue()
    for lane in range(lanes):
        free.put(lane)

    def run(item: _Item) -> _Result:
        lane = free.get()
        try:
            return work(lane, item)
        finally:
            free.put(lane)

    waiting: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(lanes, "crossgram-lane") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(run, item))
                if len(waiting) > 2 * lanes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
