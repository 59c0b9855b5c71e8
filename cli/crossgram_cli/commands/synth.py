"""crossgram synth."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from crossgram_cli.options import layout_options
from crossgram_cli.shared import computes, emit, overwrite_option, progress_bar

__all__ = ["command"]


@click.command("synth")
@click.argument("out", metavar="OUT", type=click.Path())
@click.option("--rows", type=click.IntRange(min=1), required=True, help="Number of images.")
@click.option(
    "--source-dim",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    help="Columns of a.",
)
@click.option(
    "--target-dim",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    help="Columns of b.",
)
@click.option(
    "--condition",
    type=click.FloatRange(min=1),
    default=1000.0,
    show_default=True,
    help="Condition number of the centred rows of a.",
)
@click.option(
    "--noise",
    type=click.FloatRange(min=0),
    default=0.1,
    show_default=True,
    help="Standard deviation of the noise on b, whose own is about 1.",
)
@click.option(
    "--mean",
    type=float,
    default=0.0,
    show_default=True,
    help="Added to every column of a, whose standard deviations are about 1.",
)
@click.option(
    "--people",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Give rows labels of this many people, who look alike; 0: no labels.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of everything random.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float16", "float32", "float64"]),
    default="float32",
    show_default=True,
    help="Of both stores.",
)
@layout_options
@overwrite_option
@computes
def command(
    out: str,
    rows: int,
    source_dim: int,
    target_dim: int,
    condition: float,
    noise: float,
    mean: float,
    people: int,
    seed: int,
    dtype: str,
    overwrite: bool,
    as_json: bool,
    **layout: Any,
) -> None:
    """Make two stores of synthetic embeddings with a known map between them.

    The directory OUT gets a.zarr and b.zarr, rows of the same made-up images, and
    truth.safetensors, the map that b was made with. The same options make the same rows.

    \b
    Example:  crossgram synth pair --rows 200000 --condition 3000
              crossgram fit pair/a.zarr pair/b.zarr -o map.safetensors
    """
    from crossgram.synthesis import synth

    started = time.perf_counter()
    with progress_bar() as progress:
        synth(
            out,
            rows=rows,
            source_dim=source_dim,
            target_dim=target_dim,
            condition=condition,
            noise=noise,
            mean=mean,
            people=people,
            seed=seed,
            dtype=dtype,
            overwrite=overwrite,
            progress=progress,
            **layout,
        )
    parts = {"source": "a.zarr", "target": "b.zarr", "truth": "truth.safetensors"}
    result = {
        **{name: str(Path(out) / file) for name, file in parts.items()},
        "rows": rows,
        "source_dim": source_dim,
        "target_dim": target_dim,
        "seconds": time.perf_counter() - started,
    }
    text = f"{rows:,} rows of {source_dim} and {target_dim} {dtype}: " + ", ".join(
        str(result[name]) for name in parts
    )
    emit(result, as_json, text)
