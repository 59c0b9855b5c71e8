"""crossgram heads."""

from __future__ import annotations

from pathlib import Path

import click

from crossgram_cli.options import output_option
from crossgram_cli.shared import computes, emit, overwrite_option

__all__ = ["command"]


@click.command("heads")
@click.argument("head_a", type=click.Path())
@click.argument("head_b", type=click.Path())
@output_option
@overwrite_option
@computes
def command(head_a: str, head_b: str, output: str, overwrite: bool, as_json: bool) -> None:
    """Make the map from A's space to B's that their classifiers imply, without any images.

    HEAD_A and HEAD_B are the last, linear layers of two classifiers of the same classes in the
    same order: safetensors files with `weight` (classes x width) and perhaps `bias` (classes), as
    saved from a torch.nn.Linear. On mapped rows B's classifier gives A's logits: exactly where the
    rank of B's weight is the number of classes, else as nearly as least squares can. The map
    serves these classes alone: it is no evidence that the spaces are alike.

    \b
    Example:  crossgram heads head-a.safetensors head-b.safetensors -o a-to-b.safetensors
              crossgram apply a-to-b.safetensors a.zarr a-in-b.zarr
    """
    import crossgram as cg
    from crossgram.output import check_output, refuse_overlap
    from crossgram.spaces import unique_names
    from crossgram_cli.text import aligned

    check_output(output, overwrite=overwrite)
    refuse_overlap(Path(output), head_a, head_b)
    source, target = cg.ClassifierHead.load(head_a), cg.ClassifierHead.load(head_b)
    first, second = unique_names([Path(head_a).stem, Path(head_b).stem])
    implied = cg.head_map(source, target, names=(first, second))
    implied.save(output, overwrite=overwrite)
    rank = target.rank
    result = {
        "map": output,
        "source": first,
        "target": second,
        "source_dim": source.dim,
        "target_dim": target.dim,
        "classes": target.classes,
        "target_rank": rank,
        "exact": rank == target.classes,
    }
    how = "exactly" if result["exact"] else "only in least squares"
    lines = [
        ("map", output),
        ("from, to", f"{first} ({source.dim}) to {second} ({target.dim})"),
        ("classes", f"{target.classes:,}"),
        ("head rank", f"{rank} of {target.classes} for {second}"),
        ("logits", f"{first}'s are reproduced {how}"),
    ]
    emit(result, as_json, aligned(lines))
