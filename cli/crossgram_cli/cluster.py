"""Commands on the workers of a cluster."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from crossgram_cli.options import with_options

__all__ = ["cluster", "cluster_options"]

_Command = TypeVar("_Command", bound=Callable[..., Any])


def cluster_options(command: _Command) -> _Command:
    """Add what says which Dask workers do the work."""
    options = [
        click.option("--workers", type=click.IntRange(1), help="Start so many Dask workers here."),
        click.option(
            "--scheduler",
            metavar="ADDRESS",
            help="Use the Dask cluster at this address; its workers must see all files that are "
            "named, under the same names.",
        ),
    ]
    return with_options(command, options)


@contextmanager
def cluster(workers: int | None, scheduler: str | None, device: str = "cpu") -> Iterator[Any]:
    """Give the client of a cluster, if one is asked for, and say where its dashboard is."""
    from crossgram.cluster import cluster_client

    with cluster_client(workers, scheduler, device) as client:
        # without Bokeh there is none at the address
        if client is not None and importlib.util.find_spec("bokeh") is not None:
            click.echo(f"dashboard: {client.dashboard_link}", err=True)
        yield client
