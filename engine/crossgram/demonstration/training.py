"""Training a classifier on a folder of images, the same way every time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

from crossgram.demonstration.networks import Classifier
from crossgram.images import Recipe, open_collection
from crossgram.images.decoding import decode
from crossgram.images.geometry import pixels_of
from crossgram.networks.network import normalized
from crossgram.progress import Progress, ProgressCallback, ignore

__all__ = ["one_thread", "train"]

_EPOCHS = 30
_BATCH = 64
_LEARNING_RATE = 2e-3
_WEIGHT_DECAY = 1e-2


@contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch use one thread: fastest for networks this small, and the same on any machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train(
    network: Classifier,
    folder: Path,
    recipe: Recipe,
    *,
    seed: int,
    epochs: int = _EPOCHS,
    progress: ProgressCallback = ignore,
) -> None:
    """Train a network in place on the images of a folder, whose folders are the classes.

    AdamW with a learning rate that falls linearly to zero; batches in an order drawn from `seed`.
    """
    images, classes = _read(folder, recipe)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=epochs)
    network.train()
    for epoch in range(1, epochs + 1):
        order = torch.randperm(len(images), generator=generator)
        for start in range(0, len(images), _BATCH):
            batch = order[start : start + _BATCH]
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(images[batch]), classes[batch])
            torch.autograd.backward(loss)
            optimizer.step()
        schedule.step()
        done = epoch * len(images)
        progress(Progress("train", done, epochs * len(images), epoch * images.nbytes))
    network.eval()


def _read(folder: Path, recipe: Recipe) -> tuple[torch.Tensor, torch.Tensor]:
    collection = open_collection(folder)
    entries = list(collection.entries())
    images = [decode(collection.read(entry), recipe.channels) for entry in entries]
    pixels = np.stack([pixels_of(image, recipe) for image in images])
    _, classes = np.unique([str(entry.label) for entry in entries], return_inverse=True)
    return normalized(torch.from_numpy(pixels), recipe), torch.from_numpy(classes)
