"""Where in a PyTorch module the embedding is taken, and the classifier head above it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from crossgram.errors import InputError
from crossgram.heads import ClassifierHead

__all__ = ["take_layer", "without_head"]


def without_head(
    module: torch.nn.Module, batch: torch.Tensor, name: str
) -> tuple[torch.nn.Module, ClassifierHead]:
    """Cut the classifier, the linear layer that gives the module's output, off a module.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place.
    batch : torch.Tensor
        Images that it takes, to see which layer is the last.
    name : str
        How messages call the network.

    Returns
    -------
    module, ClassifierHead
        The module gives what the classifier took.

    Raises
    ------
    InputError
        If its output does not come from a linear layer, or from one that is used more than once.
    """
    outputs: list[tuple[str, torch.nn.Linear, Any]] = []
    hooks = [
        child.register_forward_hook(
            lambda linear, _, output, path=path: outputs.append((path, linear, output))
        )
        for path, child in module.named_modules()
        if isinstance(child, torch.nn.Linear)
    ]
    try:
        with torch.inference_mode():
            result = module(batch)
    except Exception as error:
        raise InputError(
            f"{name}: cannot take a batch of shape {tuple(batch.shape)} ({error}); change "
            "the recipe"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    last = [(path, linear) for path, linear, output in outputs if output is result]
    uses = [linear for _, linear, _ in outputs]
    if len(last) != 1 or not last[0][0] or uses.count(last[0][1]) != 1:
        raise InputError(
            f"{name}: its output does not come from one linear layer, so that it has no "
            "penultimate layer that can be found; name the layer (--layer)"
        )
    path, linear = last[0]
    module.set_submodule(path, torch.nn.Identity())
    weight = linear.weight.detach().cpu().double().numpy()
    bias = np.zeros(len(weight)) if linear.bias is None else linear.bias.detach().cpu().numpy()
    return module, ClassifierHead(weight, bias)


def take_layer(module: torch.nn.Module, layer: str, name: str) -> torch.nn.Module:
    """Return a module that gives what one of another's modules gives.

    Raises
    ------
    InputError
        If there is no module of that name.
    """
    try:
        module.get_submodule(layer)
    except AttributeError as error:
        known = [path for path, _ in module.named_children()]
        raise InputError(
            f"{name}: has no layer {layer!r}; its outermost ones are {', '.join(known)}"
        ) from error
    return _Tapped(module, layer, name)


class _Tapped(torch.nn.Module):
    def __init__(self, module: torch.nn.Module, layer: str, name: str) -> None:
        super().__init__()
        self.module = module
        self._layer, self._name = layer, name

    def forward(self, batch: torch.Tensor) -> Any:
        given: list[Any] = []
        # not once for all: a copy of this module would go on noting what this one gives
        hook = self.module.get_submodule(self._layer).register_forward_hook(
            lambda _module, _input, output: given.append(output)
        )
        try:
            self.module(batch)
        finally:
            hook.remove()
        if len(given) != 1:
            raise InputError(
                f"{self._name}: runs its layer {self._layer!r} {len(given)} times for a batch, "
                "expected once; name another layer"
            )
        return given[0]
