"""Networks of well-known cost, with random weights: what extraction is measured on."""

from __future__ import annotations

import torch
from torch import nn

from crossgram.images import PRESETS, Recipe

__all__ = ["resnet18", "resnet18_faces", "tiny"]

_STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))


class _Block(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        shortcut = nn.Sequential(
            nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
        )
        self.shortcut = nn.Identity() if stride == 1 and channels == out else shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet18() -> nn.Module:
    """ResNet-18 (He et al. 2016) up to its 512 features: 1.8 Gflop (multiply-adds) an image."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    channels = 64
    for out, stride in _STAGES:
        layers += [_Block(channels, out, stride), _Block(out, out, 1)]
        channels = out
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.recipe = PRESETS["imagenet"]  # type: ignore[assignment]
    return model


def resnet18_faces() -> nn.Module:
    """Return the same for aligned faces of 112 x 112, a quarter of the work."""
    model = resnet18()
    model.recipe = PRESETS["arcface-crops"]  # type: ignore[assignment]
    return model


def tiny() -> nn.Module:
    """One strided convolution to 64 features: next to nothing."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 64, 16, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    model.recipe = Recipe((112, 112), 3, (0.5,) * 3, (0.5,) * 3)  # type: ignore[assignment]
    return model
