"""crossgram evaluate."""

from __future__ import annotations

import click

from crossgram_cli.commands.evaluate.classify import classify
from crossgram_cli.commands.evaluate.identify import gate, identify
from crossgram_cli.commands.evaluate.verify import verify

__all__ = ["command"]


@click.group("evaluate")
def command() -> None:
    """Measure what recognition a map keeps.

    \b
    Example:  crossgram evaluate verify a.zarr b.zarr --map a-to-b.safetensors
              crossgram evaluate identify a-probes.zarr b-gallery.zarr \\
                  --map a-to-b.safetensors --native b-probes.zarr
              crossgram evaluate gate a-probes.zarr b-gallery.zarr \\
                  --map a-to-b.safetensors --native b-probes.zarr --min 0.98
              crossgram evaluate classify a.zarr b.zarr --map a-to-b.safetensors \\
                  --head b.zarr.head.safetensors
    """


for _command in (verify, identify, gate, classify):
    command.add_command(_command)
