"""Two small convolutional networks that have little in common."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from crossgram.demonstration.digits import RECIPE

__all__ = ["NAMES", "Classifier", "build"]

NAMES = ("a", "b")
"""What `build` can build."""

_PLAIN_DIM = 64
_RESIDUAL_DIM = 96
_RESIDUAL_CHANNELS = 48


class Classifier(nn.Module):
    """A network that embeds images, and a linear head over the embeddings.

    Attributes
    ----------
    body : torch.nn.Module
        (n, 1, 8, 8) to (n, d).
    head : torch.nn.Linear
        (n, d) to (n, classes).
    design : str
        What the body is, in words.
    recipe : Recipe
        How images are prepared for it.
    """

    recipe = RECIPE

    def __init__(self, body: nn.Module, dim: int, classes: int, design: str) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(dim, classes)
        self.design = design

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        logits: torch.Tensor = self.head(self.body(images))
        return logits


def build(name: str, classes: int, seed: int) -> Classifier:
    """Return the network of a name, with weights drawn from a seed.

    a: plain 3x3 convolutions, ReLU, max pooling, a dense embedding layer of 64.
    b: residual blocks of depthwise convolutions, batch norm, SiLU, the mean over all positions of
    96 channels as embedding.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if name == "a":
            return Classifier(_plain(), _PLAIN_DIM, classes, "plain convolutions, ReLU")
        return Classifier(_residual(), _RESIDUAL_DIM, classes, "residual, depthwise, SiLU")


a_of_10, b_of_10, a_of_7, b_of_7 = (
    partial(build, name, classes, 0) for classes in (10, 7) for name in NAMES
)
"""What `crossgram extract --model crossgram.demonstration.networks:a_of_10` builds, and others."""


def _plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, _PLAIN_DIM),
    )


def _residual() -> nn.Module:
    channels = _RESIDUAL_CHANNELS
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.SiLU(),
        _Residual(channels),
        nn.AvgPool2d(2),
        _Residual(channels),
        nn.Conv2d(channels, _RESIDUAL_DIM, 1, bias=False),
        nn.BatchNorm2d(_RESIDUAL_DIM),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


class _Residual(nn.Module):
    """x + pointwise(depthwise(x))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = x + self.branch(x)
        return result
