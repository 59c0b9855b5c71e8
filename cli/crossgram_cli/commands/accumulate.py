"""crossgram accumulate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from crossgram_cli.options import output_option, pass_options
from crossgram_cli.shared import computes, emit, overwrite_option, progress_bar

__all__ = ["command"]


@click.command("accumulate")
@click.argument("stores", nargs=-1, required=True, type=click.Path())
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
@overwrite_option
@computes
def command(
    stores: tuple[str, ...],
    output: str,
    names: tuple[str, ...],
    maps: tuple[str, ...],
    normalize: bool,
    normalize_only: tuple[str, ...],
    folds: int | None,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Accumulate the moments of any number of STORES, the same images in each, in one pass.

    Any map between them can then be solved from the moments alone: see `crossgram solve`.

    \b
    Example:  crossgram accumulate a.zarr b.zarr c.zarr -o moments.safetensors
              crossgram solve moments.safetensors --source c --target a -o c-to-a.safetensors
    """
    import crossgram as cg
    from crossgram.inspection import describe
    from crossgram.output import check_output, refuse_overlap
    from crossgram_cli.text import aligned, moments_lines

    check_output(Path(output), overwrite=overwrite)
    refuse_overlap(Path(output), *stores, *filter(None, [options["weights"]]))
    with progress_bar() as progress:
        moments = cg.accumulate(
            stores,
            names=names or None,
            maps=[_map(text) for text in maps] or None,
            normalize=normalize_only or normalize,
            folds=folds or 0,
            progress=progress,
            **options,
        )
    moments.save(output, overwrite=overwrite)
    result = describe(output) | {"moments": output}
    emit(result, as_json, aligned(moments_lines(result)))


def _map(text: str) -> tuple[str, str]:
    source, separator, target = text.partition(":")
    if not separator:
        raise click.BadParameter(f"{text!r}: write it as SOURCE:TARGET", param_hint="--map")
    return source, target
