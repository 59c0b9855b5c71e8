"""crossgram solve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from crossgram_cli.options import (
    device_option_of,
    forget_option,
    output_option,
    solve_options,
)
from crossgram_cli.shared import computes, emit, overwrite_option

__all__ = ["command"]


@click.command("solve")
@click.argument("moments", type=click.Path())
@click.option("--source", help="Space that the map takes; by default the first.")
@click.option("--target", help="Space that the map gives; by default the second.")
@output_option
@solve_options
@forget_option
@device_option_of(
    "Where matrices of 1,024 columns and more are decomposed; auto takes a GPU where there is one."
)
@overwrite_option
@computes
def command(
    moments: str,
    source: str | None,
    target: str | None,
    output: str,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Solve a map between two spaces of a MOMENTS file, without reading embeddings.

    Moments with folds give the cross-validated R2 too.

    \b
    Example:  crossgram solve moments.safetensors --source a --target c -o a-to-c.safetensors
              crossgram solve moments.safetensors -o r.safetensors --method reduced-rank --rank 64
    """
    import crossgram as cg
    from crossgram.fitting import solve_with_path
    from crossgram.output import check_output, refuse_overlap
    from crossgram_cli.text import aligned, map_lines

    check_output(output, overwrite=overwrite)
    refuse_overlap(Path(output), moments)
    solved, path = solve_with_path(cg.load_moments(moments), source, target, **options)
    solved.save(output, overwrite=overwrite)
    certificate = solved.certificate
    assert certificate is not None
    result = {
        "map": output,
        "source": solved.source.name,
        "target": solved.target.name,
        **certificate.to_dict(),
        "ridge_path": None if path is None else path.to_dict(),
    }
    emit(result, as_json, aligned(map_lines(solved, output)))
