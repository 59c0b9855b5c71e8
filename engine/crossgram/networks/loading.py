"""From a `NetworkSpec`, or a module that a caller made, to a `Network`."""

from __future__ import annotations

import importlib
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from crossgram.errors import CrossgramError, InputError
from crossgram.heads import ClassifierHead
from crossgram.images.recipe import PRESETS, Recipe
from crossgram.networks.layers import take_layer, without_head
from crossgram.networks.network import Network, choose_device
from crossgram.networks.onnx import OnnxNetwork, onnx_digest
from crossgram.networks.spec import OUTPUT, PENULTIMATE, NetworkSpec
from crossgram.networks.weights import file_digest, load_weights, module_digest, structure_digest

__all__ = ["GivenNetwork", "load_network", "load_networks"]


@dataclass(frozen=True)
class GivenNetwork:
    """A module that the caller made.

    Attributes
    ----------
    name : str
        What its space is called.
    module : torch.nn.Module
        Takes (n, channels, height, width) float32 on the device of its parameters, gives (n, d).
    recipe : Recipe
        What is done to an image before the network sees it.
    """

    name: str
    module: torch.nn.Module
    recipe: Recipe


def load_networks(
    given: Sequence[NetworkSpec | GivenNetwork], *, device: str, precision: str, compiled: bool
) -> list[Network]:
    """Load several networks in one way; see `load_network`."""
    return [
        load_network(one, device=device, precision=precision, compiled=compiled) for one in given
    ]


def load_network(
    given: NetworkSpec | GivenNetwork,
    *,
    device: str = "auto",
    precision: str = "float32",
    compiled: bool = False,
) -> Network:
    """Load a network and try it on a blank image.

    Parameters
    ----------
    given : NetworkSpec or GivenNetwork
        Which.
    device : str
        "auto", "cpu", "cuda" or "cuda:1"; a module that the caller made stays where it is.
    precision : {"float32", "bfloat16", "float16"}
        Of the arithmetic: full float32, or autocast.
    compiled : bool
        Pass it through torch.compile.

    Raises
    ------
    InputError
        If it cannot be loaded, or does not give one row of floats for each image.
    """
    if isinstance(given, GivenNetwork):
        facts = {"network": given.name, **_digests(given.module)}
        on = next((t.device for t in given.module.parameters()), torch.device("cpu"))
        return Network.of(
            given.name, given.module, given.recipe, on, precision, facts, compiled=compiled
        )
    given.check_files()
    if given.kind == "onnx" and precision != "float32":
        raise InputError(
            f"{given.name}: {precision} asked for, but an ONNX file has a precision of its own; "
            "leave it at float32"
        )
    chosen = choose_device(device)
    parts = _LOADERS[given.kind](given, chosen)
    recipe = parts.recipe
    if recipe is None:
        raise InputError(
            f"{given.name}: nothing says how images are prepared for it; give a recipe (--recipe): "
            f"{', '.join(PRESETS)}, or a JSON file"
        )
    if given.flip is not None:
        recipe = replace(recipe, flip=given.flip)
    facts = {
        "network": given.name,
        "model": given.text,
        "layer": _layer(given),
        **parts.facts,
    }
    make = partial(
        Network.of,
        given.name,
        parts.module,
        recipe,
        chosen,
        precision,
        facts,
        # of an embedding and its mirror image's, there is no classifier
        head=parts.head if recipe.flip == "none" else None,
        compiled=compiled,
    )
    if not parts.is_ours:
        return make()
    try:
        parts.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return make(channels_last=True)
    except (InputError, RuntimeError):
        # convolutions are fastest so, but some modules look at their memory as if it were not
        parts.module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return make()


@dataclass(frozen=True)
class _Parts:
    module: torch.nn.Module
    recipe: Recipe | None
    facts: Mapping[str, Any]
    head: ClassifierHead | None = None
    is_ours: bool = False


_CLASSIFIERS = ("torchvision", "timm")


def _layer(spec: NetworkSpec) -> str:
    return spec.layer or (PENULTIMATE if spec.kind in _CLASSIFIERS else OUTPUT)


def _torchvision(spec: NetworkSpec, device: torch.device) -> _Parts:
    models = _package(spec, "torchvision").models
    # detectors and the like are no embedding networks, and download a part of themselves
    if spec.what.lower() not in models.list_models(module=models):
        raise InputError(f"{spec.name}: torchvision has no classifier {spec.what!r}")
    module = models.get_model(spec.what, weights=None)
    file, recipe = Path(str(spec.weights)).name, None
    for published in models.get_model_weights(spec.what):
        if published.url.endswith(f"/{file}"):
            recipe = _torchvision_recipe(published.transforms())
            if hasattr(module, "transform_input"):
                # Inception and GoogLeNet were published for pixels of another scale
                module.transform_input = True
    return _with_weights(spec, module, spec.recipe or recipe, device)


def _package(spec: NetworkSpec, name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(f"{spec.name}: needs {name}; pip install {name}") from error
    except Exception as error:
        # what was built for another release of PyTorch fails in many ways
        raise InputError(
            f"{spec.name}: {name} cannot be imported beside PyTorch {torch.__version__} "
            f"({type(error).__name__}: {error}); install the release that belongs to it"
        ) from error


def _torchvision_recipe(transform: Any) -> Recipe:
    """Return how torchvision prepares images for published weights."""
    side, short = transform.crop_size[0], transform.resize_size[0]
    return Recipe(
        (side, side),
        3,
        tuple(transform.mean),
        tuple(transform.std),
        crop="centre",
        resize=short,
        interpolation=transform.interpolation.value,
    )


def _timm(spec: NetworkSpec, device: torch.device) -> _Parts:
    timm = _package(spec, "timm")
    if not timm.is_model(spec.what):  # create_model would look for other names on the internet
        raise InputError(f"{spec.name}: timm has no model {spec.what!r}")
    try:
        module = timm.create_model(spec.what, pretrained=False)
    except RuntimeError as error:
        raise InputError(f"{spec.name}: timm has no model {spec.what!r} ({error})") from error
    return _with_weights(spec, module, spec.recipe or _timm_recipe(module), device)


def _timm_recipe(module: Any) -> Recipe | None:
    """Return how timm prepares images for a model's published weights."""
    facts: Mapping[str, Any] = module.pretrained_cfg
    channels, height, width = facts["input_size"]
    cut = facts.get("crop_mode", "center") == "center" and facts["crop_pct"] <= 1
    if not cut or channels != 3 or height != width:
        return None
    return Recipe(
        (height, width),
        channels,
        tuple(facts["mean"]),
        tuple(facts["std"]),
        crop="centre",
        resize=math.floor(height / facts["crop_pct"]),
        interpolation=facts["interpolation"],
    )


def _with_weights(
    spec: NetworkSpec, module: torch.nn.Module, recipe: Recipe | None, device: torch.device
) -> _Parts:
    if spec.weights is not None:
        load_weights(module, Path(spec.weights), spec.name)
    facts = _digests(module)
    module = module.eval().to(device)
    layer = _layer(spec)
    if layer == OUTPUT or recipe is None:
        return _Parts(module, recipe, facts, is_ours=True)
    if layer != PENULTIMATE:
        return _Parts(take_layer(module, layer, spec.name), recipe, facts, is_ours=True)
    blank = torch.zeros(1, recipe.channels, *recipe.size, device=device)
    embedding, head = without_head(module, blank, spec.name)
    return _Parts(embedding, recipe, facts, head, is_ours=True)


def _digests(module: torch.nn.Module) -> dict[str, str]:
    return {
        "weights_sha256": module_digest(module),
        "structure_sha256": structure_digest(module),
    }


def _python(spec: NetworkSpec, device: torch.device) -> _Parts:
    where, _, what = spec.what.partition(":")
    with _start_folder():
        made = _imported(spec.name, where, what)
        try:
            module = made()
        except Exception as error:
            raise InputError(
                f"{spec.name}: {spec.what}() failed with {type(error).__name__}: {error}; "
                "expected a callable without arguments that gives a torch.nn.Module"
            ) from error
    if not isinstance(module, torch.nn.Module):
        raise InputError(
            f"{spec.name}: {spec.what}() gave {type(module).__name__}, expected a torch.nn.Module"
        )
    own = getattr(module, "recipe", None)
    recipe = spec.recipe or (own if isinstance(own, Recipe) else None)
    return _with_weights(spec, module, recipe, device)


@contextmanager
def _start_folder() -> Iterator[None]:
    """Look for modules where the program was started, too, as an installed one does not."""
    added = str(Path.cwd())
    sys.path.insert(0, added)
    try:
        yield
    finally:
        sys.path.remove(added)


def _imported(name: str, where: str, what: str) -> Callable[[], Any]:
    try:
        made = getattr(importlib.import_module(where), what, None)
    except Exception as error:
        raise InputError(
            f"{name}: {where} cannot be imported ({type(error).__name__}: {error})"
        ) from error
    if not callable(made):
        raise InputError(f"{name}: {where} has no callable {what!r}")
    return made  # type: ignore[no-any-return]


def _torchscript(spec: NetworkSpec, device: torch.device) -> _Parts:
    _refuse_layer(spec)
    return _from_file(spec, lambda path: torch.jit.load(path, map_location=device).eval())


def _export(spec: NetworkSpec, device: torch.device) -> _Parts:
    _refuse_layer(spec)
    return _from_file(spec, lambda path: _Exported(_program(path).module().to(device)))


def _program(path: Path) -> torch.export.ExportedProgram:
    with warnings.catch_warnings():
        # PyTorch's, of its own older ways
        warnings.simplefilter("ignore")
        program = torch.export.load(path)
        # what it changes shows in a program of functions only
        changed = program.run_decompositions({}).graph_signature.buffers_to_mutate.values()
    if changed:
        raise InputError(
            f"{path}: changes {', '.join(changed)} while it runs, so that an embedding would "
            "depend on the images before it; export the network in evaluation mode"
        )
    return program


class _Exported(torch.nn.Module):
    """An exported program, which was fixed in its mode and cannot be told to evaluate."""

    def __init__(self, program: torch.nn.Module) -> None:
        super().__init__()
        self._programs = [program]

    def __deepcopy__(self, memo: dict[int, Any]) -> _Exported:
        # a graph of operations that changes nothing, which any number of threads may run
        return self

    def forward(self, batch: torch.Tensor) -> Any:
        return self._programs[0](batch)


def _from_file(spec: NetworkSpec, load: Callable[[Path], torch.nn.Module]) -> _Parts:
    path = Path(spec.what)
    try:
        module = load(path)
    except CrossgramError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: cannot be loaded as {spec.kind} ({reason})") from error
    return _Parts(module, spec.recipe, {"weights_sha256": file_digest(path)})


def _refuse_layer(spec: NetworkSpec) -> None:
    if spec.layer not in (None, OUTPUT):
        raise InputError(
            f"{spec.name}: the layer {spec.layer!r} asked for, but a {spec.kind} file gives its "
            "output only; leave the layer out"
        )


def _onnx(spec: NetworkSpec, device: torch.device) -> _Parts:
    path = Path(spec.what)
    output = None if spec.layer == OUTPUT else spec.layer
    module = OnnxNetwork(path, output, device)
    return _Parts(module, spec.recipe, {"weights_sha256": onnx_digest(path)})


_LOADERS: Mapping[str, Callable[[NetworkSpec, torch.device], _Parts]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "python": _python,
    "torchscript": _torchscript,
    "export": _export,
    "onnx": _onnx,
}
