"""Lanes: threads that each take a batch through the networks, on one processor each.

On a CPU, the threads that PyTorch would divide one batch among wait for each other at every layer,
and so for whoever decodes images meanwhile. Batches side by side wait for nobody, and what they
give does not depend on how many there are. That is for networks of known code: others may keep
something of a batch where a copy of them finds it, too.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from queue import SimpleQueue
from typing import Any, TypeVar

import torch
from torch.nn.modules import module

from crossgram.networks.loading import GivenNetwork
from crossgram.networks.network import Network, choose_device
from crossgram.networks.spec import NetworkSpec

__all__ = ["copies", "in_lanes", "lanes_for"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_STATELESS_KINDS = ("torchvision", "timm", "onnx", "export")
_STATELESS_CODE = ("torch.nn.", "torchvision.", "timm.")


@contextmanager
def lanes_for(
    given: Sequence[NetworkSpec | GivenNetwork], device: str, *, compiled: bool
) -> Iterator[int]:
    """Give the number of lanes: PyTorch's threads on a CPU, of which each lane then has one.

    There is one lane on a GPU, for a compiled network, which several threads cannot run, and for
    code that may keep something of a batch; it has all the threads.

    Parameters
    ----------
    given : sequence of NetworkSpec or GivenNetwork
        The networks, not loaded yet: ONNX keeps the number of threads that there is at that time.
    device : str
        Where they are to run.
    compiled : bool
        Whether they go through torch.compile.
    """
    threads = torch.get_num_threads()
    if choose_device(device).type != "cpu" or compiled or not all(map(_is_stateless, given)):
        yield 1
        return
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def copies(networks: Sequence[Network], lanes: int) -> list[list[Network]]:
    """Return the networks once per lane, with the same parameters."""
    return [list(networks), *(list(map(_copy, networks)) for _ in range(lanes - 1))]


def _is_stateless(given: NetworkSpec | GivenNetwork) -> bool:
    """Tell whether a network keeps nothing of a batch but in its own attributes, which are copied.

    A hook, or a method of the caller's, may keep it anywhere.
    """
    if isinstance(given, NetworkSpec):
        return given.kind in _STATELESS_KINDS
    if module._global_forward_hooks or module._global_forward_pre_hooks:
        return False
    return all(
        type(part).__module__.startswith(_STATELESS_CODE)
        and not (part._forward_hooks or part._forward_pre_hooks)
        and not any(map(_is_code, vars(part).values()))
        for part in given.module.modules()
    )


def _is_code(value: Any) -> bool:
    """Tell whether an attribute is a function of the caller's, which may keep anything."""
    if isinstance(value, torch.nn.Module | torch.Tensor | type) or not callable(value):
        return False
    return not str(getattr(value, "__module__", None)).startswith("torch.")


def _copy(network: Network) -> Network:
    shared: dict[int, Any] = {id(tensor): tensor for tensor in network.module.parameters()}
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
