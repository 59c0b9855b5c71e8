"""crossgram accumulate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crossgram_cli.cluster import cluster, cluster_options
from crossgram_cli.models import (
    given_network_options,
    model_options,
    pop_networks,
    pop_running,
    running_options,
)
from crossgram_cli.options import checkpoint_option, forget_option, output_option, pass_options
from crossgram_cli.shared import computes, emit, overwrite_option, progress_bar

if TYPE_CHECKING:
    from crossgram.networks.spec import NetworkSpec

__all__ = ["command"]


@click.command("accumulate")
@click.argument("stores", nargs=-1, type=click.Path())
@output_option
@click.option(
    "--name",
    "names",
    multiple=True,
    help="What to call a space, once per store, in order; by default the stores' file names.",
)
@click.option(
    "--map",
    "maps",
    multiple=True,
    metavar="A:B",
    help="Keep only what the map from A to B needs; repeatable. By default everything is kept.",
)
@pass_options
@click.option(
    "--normalize-only",
    multiple=True,
    metavar="NAME",
    help="Divide only this space's rows by their lengths; repeatable.",
)
@click.option(
    "--norms",
    is_flag=True,
    help="Keep sums of the rows' lengths too, from which `crossgram compare` gives unbiased CKA; "
    "not with --map or --weights.",
)
@cluster_options
@checkpoint_option
@click.option(
    "--from-images",
    type=click.Path(),
    metavar="IMAGES",
    help="Instead of STORES: embed IMAGES, as `crossgram extract` does, and store no embeddings.",
)
@model_options(required=False)
@running_options("--model-device", "--model-precision")
@forget_option
@overwrite_option
@computes
def command(
    stores: tuple[str, ...],
    output: str,
    from_images: str | None,
    names: tuple[str, ...],
    maps: tuple[str, ...],
    normalize: bool,
    normalize_only: tuple[str, ...],
    folds: int | None,
    workers: int | None,
    scheduler: str | None,
    checkpoint: str | None,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Accumulate the moments of any number of STORES, the same images in each, in one pass.

    Or, with --from-images, of networks' embeddings of images that are not stored. Any map between
    the spaces can then be solved from the moments alone: see `crossgram solve`.

    \b
    Example:  crossgram accumulate a.zarr b.zarr c.zarr -o moments.safetensors
              crossgram solve moments.safetensors --source c --target a -o c-to-a.safetensors
              crossgram accumulate --from-images photos/ --model a=onnx:a.onnx \\
                  --model b=onnx:b.onnx --recipe arcface-crops -o moments.safetensors
    """
    import crossgram as cg
    from crossgram.checkpoint import clear_checkpoint
    from crossgram.inspection import describe
    from crossgram.output import beside, check_output, refuse_overlap
    from crossgram_cli.text import aligned, moments_lines

    given = given_network_options()
    networks, running = pop_networks(options), pop_running(options)
    _check_inputs(stores, from_images, networks, names)
    alone = {"--workers": workers, "--scheduler": scheduler, "--checkpoint": checkpoint}
    if from_images is not None and any(value is not None for value in alone.values()):
        raise click.UsageError(f"{', '.join(alone)}: for STORES, not for --from-images")
    if given and from_images is None:
        raise click.UsageError(f"{', '.join(given)}: for --from-images, not for STORES")
    read = stores or tuple(filter(None, [from_images]))
    check_output(output, overwrite=overwrite)
    table = beside(Path(output), "bad-images.csv")
    if from_images is not None:
        check_output(table, overwrite=overwrite)
    refuse_overlap(Path(output), *read, *filter(None, [options["weights"]]))
    options |= {
        "maps": [_map(text) for text in maps] or None,
        "normalize": normalize_only or normalize,
        "folds": folds or 0,
    }
    with cluster(workers, scheduler, options["device"]) as client, progress_bar() as progress:
        if from_images is None:
            moments = cg.accumulate(
                stores,
                names=names or None,
                checkpoint=checkpoint,
                client=client,
                progress=progress,
                **options,
            )
        else:
            from crossgram.extraction import Options

            moments = cg.accumulate_images(
                from_images,
                networks,
                extraction=Options(**running),
                bad_image_table=table,
                progress=progress,
                **options,
            )
    moments.save(output, overwrite=overwrite)
    if checkpoint is not None:
        clear_checkpoint(checkpoint)
    result = describe(output) | {"moments": output}
    lines = moments_lines(result)
    if from_images is not None:
        result["bad_image_table"] = str(table) if table.exists() else None
        if table.exists():
            lines.append(("bad images", f"see {table}"))
    emit(result, as_json, aligned(lines))


def _check_inputs(
    stores: Sequence[str],
    from_images: str | None,
    networks: Sequence[NetworkSpec],
    names: Sequence[str],
) -> None:
    if bool(stores) == (from_images is not None):
        raise click.UsageError("give STORES, or --from-images with --model")
    if (from_images is not None) != bool(networks):
        raise click.UsageError("--from-images and --model go together")
    if names and networks:
        raise click.UsageError("--name is for STORES; write --model NAME=SPEC")


def _map(text: str) -> tuple[str, str]:
    source, separator, target = text.partition(":")
    if not separator:
        raise click.BadParameter(f"{text!r}: write it as SOURCE:TARGET", param_hint="--map")
    return source, target
