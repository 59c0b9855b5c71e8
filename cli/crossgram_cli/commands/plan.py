"""crossgram plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from crossgram_cli.options import normalize_only_option, pass_options, ridge_option
from crossgram_cli.shared import computes, emit

if TYPE_CHECKING:
    from crossgram.plan import Plan

__all__ = ["command"]


@click.command("plan")
@click.argument("x", type=click.Path())
@click.argument("y", type=click.Path())
@pass_options
@normalize_only_option
@ridge_option
@computes
def command(
    x: str,
    y: str,
    normalize: bool,
    normalize_only: str | None,
    folds: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Show what a fit of X and Y would read, hold in memory and compute; read no embeddings.

    \b
    Example:  crossgram plan a.zarr b.zarr --memory 500MB
    """
    import crossgram as cg

    plan = cg.plan_fit(x, y, normalize=normalize_only or normalize, folds=folds or 0, **options)
    emit(plan.to_dict(), as_json, _text(plan))


def _on_device(plan: Plan) -> list[tuple[str, str]]:
    from crossgram_cli.text import size

    if plan.device == "cpu":
        return []
    return [("on " + plan.device, size(plan.device_memory_bytes))]


def _text(plan: Plan) -> str:
    from crossgram_cli.text import aligned, size

    spaces = ", ".join(f"{space.name} ({space.dim})" for space in plan.spaces)
    memory = ", ".join(f"{name} {size(count)}" for name, count in plan.memory.items() if count)
    return aligned(
        [
            ("spaces", spaces),
            ("rows", f"{plan.rows:,}"),
            ("read", size(plan.bytes_to_read)),
            ("compute", f"{plan.flops / 1e9:,.0f} Gflop, {plan.precision}"),
            (
                "segments",
                (
                    f"{plan.segments:,} of {plan.segment_rows:,} rows, in blocks of "
                    f"{plan.block_rows:,}, on {plan.threads} threads"
                ),
            ),
            ("memory", f"{size(plan.planned_memory_bytes)}: {memory}"),
            *_on_device(plan),
        ]
    )
