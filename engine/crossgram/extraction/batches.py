"""Decoded batches of images, by worker processes that run ahead."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crossgram.errors import CrossgramError, InputError, RunError
from crossgram.images import Collection, ImageEntry, ImageList, Recipe
from crossgram.images.decoding import UnusableImageError, decode
from crossgram.images.geometry import pixels_of

__all__ = ["BatchRanges", "DecodedBatch", "check_crops", "decoded_batches", "geometry"]

_Decode = Callable[[], "DecodedBatch"]

_NICENESS = 10

_CUT_BY = {"box": "boxes", "align": "landmarks"}


@dataclass(frozen=True)
class DecodedBatch:
    """Images `start` to `stop`, as every geometry takes them.

    Attributes
    ----------
    start, stop : int
        Rows.
    pixels : list of torch.Tensor, shape (stop - start, height, width, channels), uint8
        One per geometry; zeros of an image that cannot be used.
    unusable : list of dict of int to str
        Per geometry: rows that cannot be used, and why.
    """

    start: int
    stop: int
    pixels: list[torch.Tensor]
    unusable: list[dict[int, str]]


class BatchRanges(Sequence[tuple[int, int]]):
    """First row of every batch of some tasks, and the row behind its last, without a list of them.

    Parameters
    ----------
    tasks : sequence of int
        Rising.
    task_rows, rows : int
        Rows of a task, and in all; the last task may have fewer.
    size : int
        Rows of a batch; none crosses the border of a task.
    """

    def __init__(self, tasks: Sequence[int], task_rows: int, rows: int, size: int) -> None:
        self._tasks, self._task_rows, self._rows, self._size = tasks, task_rows, rows, size
        self._per_task = -(-task_rows // size)

    def __len__(self) -> int:
        if not self._tasks:
            return 0
        left = min(self._task_rows, self._rows - self._tasks[-1] * self._task_rows)
        return self._per_task * (len(self._tasks) - 1) + -(-left // self._size)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        task, number = divmod(index, self._per_task)
        first = self._tasks[task] * self._task_rows
        start = first + number * self._size
        return start, min(start + self._size, first + self._task_rows, self._rows)


def geometry(recipe: Recipe) -> Recipe:
    """Return what of a recipe decides the pixels; networks that share it share the decoding."""
    return replace(
        recipe, mean=(0.0,) * recipe.channels, scale=(1.0,) * recipe.channels, flip="none"
    )


def check_crops(collection: Collection, images: ImageList, recipes: Mapping[str, Recipe]) -> None:
    """Refuse recipes that cut images by what not one of them has.

    Parameters
    ----------
    collection, images : Collection, ImageList
        Where they are.
    recipes : mapping of str to Recipe
        By network.

    Raises
    ------
    InputError
        Naming the network.
    """
    for network, recipe in recipes.items():
        field = _CUT_BY.get(recipe.crop)
        if field is not None and not images.has(field):
            raise InputError(
                f"{collection.root}: no image has {field}, by which the recipe of {network} cuts; "
                "give a .csv or .parquet list of images with theirs, or, for images that are cut "
                "already, a recipe such as arcface-crops or facenet-crops"
            )


def decoded_batches(
    collection: Collection,
    images: ImageList,
    geometries: Sequence[Recipe],
    ranges: Sequence[tuple[int, int]],
    *,
    decoders: int,
    pinned: bool = False,
) -> Generator[_Decode, None, None]:
    """Yield, for each range of rows in order, what gives its images when it is called.

    Parameters
    ----------
    collection, images : Collection, ImageList
        Where they are.
    geometries : sequence of Recipe
        What is wanted of each.
    ranges : sequence of (int, int)
        Rows of each batch.
    decoders : int
        Processes that decode ahead; with 0 a batch is decoded where it is asked for.
    pinned : bool
        Whether batches lie in memory that a GPU can copy from.
    """
    batches = _Batches(collection, images, tuple(geometries), ranges)
    if not decoders:
        yield from (partial(_decoded, batches, number) for number in range(len(ranges)))
        return
    with warnings.catch_warnings():
        # it has its own mind about how many processes there should be
        warnings.simplefilter("ignore", UserWarning)
        loader = torch.utils.data.DataLoader(
            batches,
            batch_size=None,
            num_workers=min(decoders, len(ranges)),
            worker_init_fn=_start_worker,
            pin_memory=pinned,
            # or it would draw a seed from the generator of everybody
            generator=torch.Generator(),
        )
        items = iter(loader)
    try:
        for item in items:
            yield partial(_as_batch, item)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise RunError(
            f"{collection.root}: a process that decodes images died ({error}); use fewer decoders "
            "or give them more memory, and run again: finished images are kept"
        ) from error
    finally:
        # the processes end with it, which an error that is being handled would keep
        del items, loader


_Item = tuple[int, list[torch.Tensor], list[dict[int, str]]] | CrossgramError | OSError


def _decoded(batches: _Batches, number: int) -> DecodedBatch:
    return _as_batch(batches[number])


def _as_batch(item: _Item) -> DecodedBatch:
    if isinstance(item, OSError):
        raise RunError(
            f"{item.filename}: cannot be read: {item.strerror or item}; mend that and run again, "
            "what is done is kept"
        ) from item
    if isinstance(item, Exception):
        raise item
    start, pixels, unusable = item
    return DecodedBatch(start, start + len(pixels[0]), pixels, unusable)


@dataclass(frozen=True)
class _Batches(torch.utils.data.Dataset[Any]):
    collection: Collection
    images: ImageList
    geometries: tuple[Recipe, ...]
    ranges: Sequence[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.ranges)

    def __getitem__(self, index: int) -> _Item:
        # as a value: PyTorch would raise it with a traceback as its message
        try:
            return self._batch(*self.ranges[index])
        except (CrossgramError, OSError) as error:
            return error

    def _batch(self, start: int, stop: int) -> _Item:
        pixels = [
            np.zeros((stop - start, *wanted.size, wanted.channels), np.uint8)
            for wanted in self.geometries
        ]
        unusable: list[dict[int, str]] = [{} for _ in self.geometries]
        for k, entry in enumerate(self.images.entries(start, stop)):
            self._prepare(entry, [array[k] for array in pixels], start + k, unusable)
        return start, [torch.from_numpy(array) for array in pixels], unusable

    def _prepare(
        self,
        entry: ImageEntry,
        out: Sequence[NDArray[np.uint8]],
        row: int,
        unusable: Sequence[dict[int, str]],
    ) -> None:
        try:
            data = self.collection.read(entry)
            decoded = {
                channels: decode(data, channels)
                for channels in {wanted.channels for wanted in self.geometries}
            }
        except UnusableImageError as error:
            for reasons in unusable:
                reasons[row] = str(error)
            return
        for wanted, target, reasons in zip(self.geometries, out, unusable, strict=True):
            try:
                image = decoded[wanted.channels]
                target[...] = pixels_of(image, wanted, entry.box, entry.landmarks)
            except UnusableImageError as error:
                reasons[row] = str(error)


def _start_worker(number: int) -> None:
    # Ctrl-C is for the process that collects, which then ends its workers; what they share with
    # it may break off in the middle, and is not worth a traceback
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # to be killed by a signal would raise an error wherever the process that collects is
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    sys.excepthook = lambda *_: None
    # a network whose threads wait for each other suffers more from being interrupted
    os.nice(_NICENESS)
