"""Networks run by plain PyTorch: the obviously right twin of networks that crossgram loads."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from photographs import RECIPE

from crossgram.images import Recipe
from crossgram.networks.loading import load_network
from crossgram.networks.network import Network
from crossgram.networks.spec import NetworkSpec

SMALL = NetworkSpec("small", "python", "photographs:network", recipe=RECIPE)
"""`photographs.network`, by the name that it can be imported by."""


def load(spec: NetworkSpec = SMALL, precision: str = "float32", **changes: Any) -> Network:
    """Load a spec, with changes to it, on the CPU."""
    return load_network(replace(spec, **changes), device="cpu", precision=precision)


def pixels_for(recipe: Recipe, count: int = 5, seed: int = 0) -> torch.Tensor:
    """Return images of noise as a recipe takes them, (n, height, width, channels) uint8."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, *recipe.size, recipe.channels)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def batch_of(pixels: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Return what a network is given of images, (n, channels, height, width) float32."""
    mean, scale = torch.tensor(recipe.mean).double(), torch.tensor(recipe.scale).double()
    return ((pixels.double() / 255 - mean) / scale).movedim(3, 1).contiguous().float()


def eager(module: torch.nn.Module, pixels: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Return what a copy of a module gives for images."""
    with torch.no_grad():
        given: torch.Tensor = copy.deepcopy(module).eval()(batch_of(pixels, recipe))
    return given


def eager_layer(
    module: torch.nn.Module, layer: str, pixels: torch.Tensor, recipe: Recipe
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what one layer of a copy of a module takes and gives for images."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def see(_: torch.nn.Module, taken: tuple[Any, ...], given: Any) -> None:
        seen.append((taken[0].clone(), given.clone()))

    twin = copy.deepcopy(module).eval()
    twin.get_submodule(layer).register_forward_hook(see)
    with torch.no_grad():
        twin(batch_of(pixels, recipe))
    assert len(seen) == 1
    return seen[0]


def embed(network: Network, pixels: torch.Tensor) -> torch.Tensor:
    """Return what a network that crossgram loaded gives for images."""
    with network.running():
        return network.embed(pixels)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference in units of the largest value."""
    assert found.shape == expected.shape
    difference = (found.double() - expected.double()).abs().max() / expected.double().abs().max()
    return float(difference)
