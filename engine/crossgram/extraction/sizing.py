"""How many images to give a network at a time, and how many processes to decode them in."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from crossgram.errors import InputError
from crossgram.extraction.batches import decoded_batches, geometry
from crossgram.extraction.embedding import geometries_of
from crossgram.images import Collection, ImageList
from crossgram.networks.network import Network
from crossgram.resources import available_threads

__all__ = ["find_batch_size", "find_decoders"]

_SMALLEST, _LARGEST = 8, 512
_WORTHWHILE = 1.05
_LONGEST_SECONDS = 2.0
_MOST_PIXEL_BYTES = 64 << 20

_TRIED_IMAGES = 8
_SMALL_SHARE = 0.2
"""Of the networks' time; lanes that decode in between are then faster than processes beside them,
which take turns with them on the processors and have to hand images over."""


def find_batch_size(networks: Sequence[Network]) -> int:
    """Return the batch size from which on all the networks hardly get faster, by trying.

    Sizes double from 8, until images come less than 5 % faster, a batch takes 2 s, its pixels 64
    MiB, or a GPU's memory is full.
    """
    return min(map(_of_one, networks))


def find_decoders(
    collection: Collection, images: ImageList, networks: Sequence[Network], batch_size: int
) -> int:
    """Return how many processes should decode images beside the networks, by trying a few images.

    One per processor; none where decoding takes less than a fifth of what networks take on a CPU.
    """
    processes = available_threads()
    if any(network.device.type != "cpu" for network in networks):
        return processes
    geometries = geometries_of(networks)
    ranges = [(0, min(_TRIED_IMAGES, batch_size, images.rows))]
    started = time.perf_counter()
    (decode,) = decoded_batches(collection, images, geometries, ranges, decoders=0)
    batch = decode()
    decoded = time.perf_counter()
    for network in networks:
        with network.running():
            network.embed(batch.pixels[geometries.index(geometry(network.recipe))])
    embedded = time.perf_counter()
    return 0 if decoded - started < _SMALL_SHARE * (embedded - decoded) else processes


def _of_one(network: Network) -> int:
    recipe = network.recipe
    best, best_rate, size = 1, 0.0, _SMALLEST
    shape = (*recipe.size, recipe.channels)
    with network.running():
        while size <= _LARGEST and size * torch.Size(shape).numel() <= _MOST_PIXEL_BYTES:
            blank = torch.zeros(size, *shape, dtype=torch.uint8)
            try:
                network.embed(blank)
                started = time.perf_counter()
                network.embed(blank)
                seconds = time.perf_counter() - started
            except InputError:
                if best_rate:
                    break
                raise
            if size / seconds < _WORTHWHILE * best_rate:
                break
            best, best_rate = size, size / seconds
            if seconds > _LONGEST_SECONDS:
                break
            size *= 2
    return best
