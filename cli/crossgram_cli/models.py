"""Options that say which networks embed images, and how."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from crossgram_cli.options import with_options

if TYPE_CHECKING:
    from crossgram.networks.spec import NetworkSpec

__all__ = [
    "given_network_options",
    "model_options",
    "pop_networks",
    "pop_running",
    "running_options",
]

_MODELS = ("models", "model_weights", "layers", "recipes", "flip")
_RUNNING = (
    "on_bad_image",
    "network_device",
    "network_precision",
    "compiled",
    "batch_size",
    "decoders",
)

_Command = TypeVar("_Command", bound=Callable[..., Any])


def model_options(required: bool) -> Callable[[_Command], _Command]:
    """Add what says which networks, from which files, with which recipes."""
    options = [
        click.option(
            "--model",
            "models",
            multiple=True,
            required=required,
            metavar="[NAME=]SPEC",
            help="torchvision:NAME, timm:NAME, onnx:FILE, torchscript:FILE, export:FILE, or "
            "package.module:callable that gives a torch.nn.Module; the last three run code of "
            "whoever made them. Repeatable: images are decoded once for all.",
        ),
        click.option(
            "--model-weights",
            multiple=True,
            metavar="[NAME=]FILE",
            help="Weights of a network, safetensors or torch.save; nothing is downloaded.",
        ),
        click.option(
            "--layer",
            "layers",
            multiple=True,
            metavar="[NAME=]LAYER",
            help="Where the embedding is taken: a module by name, penultimate (default of "
            "torchvision and timm: what the classifier takes), or output (default of others).",
        ),
        click.option(
            "--recipe",
            "recipes",
            multiple=True,
            metavar="[NAME=]RECIPE",
            help="How images are prepared: imagenet, arcface (aligned by landmarks), "
            "arcface-crops, facenet (cut by the box), facenet-crops, or a JSON file. By default "
            "what the network says itself.",
        ),
        click.option(
            "--flip",
            type=click.Choice(["none", "sum", "concatenate"]),
            help="Embed the mirrored image too, and make one embedding of the two; by default as "
            "the recipe says.",
        ),
    ]
    return lambda command: with_options(command, options)


def running_options(device_flag: str, precision_flag: str) -> Callable[[_Command], _Command]:
    """Add what says how networks are run, and what is done with images that cannot be used."""
    options = [
        click.option(
            "--on-bad-image",
            type=click.Choice(["record", "stop"]),
            default="record",
            show_default=True,
            help="An image that cannot be used: mask its row and list it in a table beside the "
            "output, or stop.",
        ),
        click.option(
            device_flag,
            "network_device",
            default="auto",
            show_default=True,
            help="Where networks run: cpu, cuda, or cuda:1 for the second GPU; auto takes a GPU if "
            "there is one.",
        ),
        click.option(
            precision_flag,
            "network_precision",
            type=click.Choice(["float32", "bfloat16", "float16"]),
            default="float32",
            show_default=True,
            help="Of the networks' arithmetic: full float32, or autocast.",
        ),
        click.option("--compile", "compiled", is_flag=True, help="Pass networks to torch.compile."),
        click.option(
            "--batch-size",
            type=click.IntRange(1),
            help="Images that go through a network at a time; by default found by trying.",
        ),
        click.option(
            "--decoders",
            type=click.IntRange(0),
            help="Processes that decode images while networks run, per worker; with 0 the two take "
            "turns. By default found by trying: one per processor, or none where a CPU has more to "
            "do in the networks.",
        ),
    ]
    return lambda command: with_options(command, options)


def pop_running(options: dict[str, Any]) -> dict[str, Any]:
    """Take what `running_options` gave out of a command's options: of `extraction.Options`."""
    taken = {name: options.pop(name) for name in _RUNNING}
    return taken | {
        "device": taken.pop("network_device"),
        "precision": taken.pop("network_precision"),
    }


def given_network_options() -> list[str]:
    """Return the flags of `model_options` and `running_options` that the user wrote."""
    context = click.get_current_context()
    return [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in _MODELS + _RUNNING
        and context.get_parameter_source(parameter.name) is not ParameterSource.DEFAULT
    ]


def pop_networks(options: dict[str, Any]) -> list[NetworkSpec]:
    """Take what `model_options` gave out of a command's options.

    A value without a name is for every network.
    """
    from dataclasses import replace

    models, weights, layers, recipes, flip = (options.pop(name) for name in _MODELS)
    if not models:
        return []

    # not before they are needed: they need packages that those who only fit do not have
    from crossgram.images import Recipe
    from crossgram.networks.spec import NetworkSpec

    specs = [NetworkSpec.parse(model) for model in models]
    names = [spec.name for spec in specs]
    files = _by_name("--model-weights", weights, names)
    taken = _by_name("--layer", layers, names)
    prepared = {
        name: Recipe.load(given) for name, given in _by_name("--recipe", recipes, names).items()
    }
    return [
        replace(
            spec,
            weights=files.get(spec.name),
            layer=taken.get(spec.name),
            recipe=prepared.get(spec.name),
            flip=flip,
        )
        for spec in specs
    ]


def _by_name(option: str, values: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for value in values:
        name, separator, rest = value.partition("=")
        is_for_one = bool(separator) and name in names
        for owner in [name] if is_for_one else names:
            if owner in found:
                raise click.BadParameter(
                    f"{value!r}: {owner} has {found[owner]!r} already; write NAME=VALUE for each "
                    f"of {', '.join(names)}",
                    param_hint=option,
                )
            found[owner] = rest if is_for_one else value
    return found
