"""Weights of a PyTorch module: read from a file that is data, and named by a digest."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from crossgram.errors import CorruptDataError, InputError

__all__ = ["file_digest", "load_weights", "module_digest", "structure_digest"]

_WRAPPINGS = ("state_dict", "model_state_dict", "model", "net", "ema")
_PREFIXES = ("module.", "_orig_mod.")
_SHOWN = 3
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def load_weights(module: torch.nn.Module, path: Path, name: str) -> None:
    """Put the weights of a file into a module, all of them and no others.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place.
    path : path
        A .safetensors file, or one of torch.save that holds only tensors; in it, a state dict, or a
        mapping with one under a usual key. Prefixes of DataParallel and torch.compile are dropped.
    name : str
        How messages call the network.

    Raises
    ------
    CorruptDataError
        If the file cannot be read, or only by running code from it.
    InputError
        If it holds other weights than the module has.
    """
    found, wanted = _state(_read(path), path), module.state_dict()
    _drop_prefixes(found, wanted)
    others = {
        key: f"{key} of shape {tuple(found[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in found and found[key].shape != tensor.shape
    }
    for key in others:
        del found[key]
    try:
        # modules may know names of older versions of themselves
        missing, unknown = module.load_state_dict(found, strict=False)
    except Exception as error:
        raise InputError(
            f"{path}: cannot be put into {name} ({type(error).__name__}: {error}); save the state "
            "dict of this network with torch.save"
        ) from error
    missing = [key for key in missing if key not in others]
    problems = [
        f"{len(keys)} {what} ({', '.join(keys[:_SHOWN])}{', ...' if len(keys) > _SHOWN else ''})"
        for keys, what in (
            (missing, "missing"),
            (unknown, "unknown"),
            (list(others.values()), "of other shapes"),
        )
        if keys
    ]
    if problems:
        raise InputError(
            f"{path}: not the weights of {name}: {'; '.join(problems)}; give those that were saved "
            "from this network"
        )


def module_digest(module: torch.nn.Module) -> str:
    """Return the SHA-256 of names, dtypes, shapes and bytes of the parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(chain(module.named_parameters(), module.named_buffers())):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def structure_digest(module: torch.nn.Module) -> str:
    """Return the SHA-256 of what a module is made of beside its weights, as far as can be told.

    Of its parts with their arguments, as it describes itself; of the source of classes that are not
    of PyTorch's own; and of switches that it has.
    """
    digest = hashlib.sha256(_ADDRESS.sub("", repr(module)).encode())
    for kind in dict.fromkeys(type(part) for part in module.modules()):
        digest.update(f"{kind.__module__}.{kind.__qualname__}".encode())
        if not kind.__module__.startswith("torch."):
            # what was typed in has no source
            with suppress(OSError, TypeError):
                digest.update(inspect.getsource(kind).encode())
    digest.update(str(getattr(module, "transform_input", None)).encode())
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CorruptDataError(
            f"{path}: cannot be read as weights ({reason}); save the state dict alone, with "
            "torch.save or as safetensors: a file that needs code to be run is not read"
        ) from error


def _state(content: Any, path: Path) -> dict[str, torch.Tensor]:
    for key in _WRAPPINGS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in content.items()
    ):
        raise InputError(f"{path}: holds no state dict, expected tensors by name")
    return content


def _drop_prefixes(state: dict[str, torch.Tensor], wanted: Collection[str]) -> None:
    """Drop what DataParallel and torch.compile put before every name, where it is not wanted."""
    while state and not any(key in wanted for key in state):
        for prefix in _PREFIXES:
            if all(key.startswith(prefix) for key in state):
                consume_prefix_in_state_dict_if_present(state, prefix)
                break
        else:
            return
