"""What the commands have in common: options, output and the progress bar."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from crossgram.progress import Progress

__all__ = [
    "INTERRUPTED",
    "check_reports",
    "computes",
    "debug_option",
    "emit",
    "overwrite_option",
    "progress_bar",
    "write_csv",
]

_Command = TypeVar("_Command", bound=Callable[..., Any])

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def _remember_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and ctx.find_root().obj is not None:
        ctx.find_root().obj["debug"] = True


debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_remember_debug,
    help="Show the traceback of an error.",
)

overwrite_option = click.option("--overwrite", is_flag=True, help="Replace an output that exists.")


def computes(command: _Command) -> _Command:
    """Add --json (passed as `as_json`) and --debug to a command."""
    as_json = click.option(
        "--json", "as_json", is_flag=True, help="One JSON object on standard output."
    )
    return as_json(debug_option(command))


def emit(result: Mapping[str, Any], as_json: bool, text: str) -> None:
    """Print a command's result: one JSON object, or text for people."""
    click.echo(json.dumps(result, allow_nan=False) if as_json else text)


def check_reports(
    csv_file: str | None, plot: str | None, read: Sequence[str], *, overwrite: bool
) -> None:
    """Refuse a --csv or --plot that cannot be written, or that would replace what is read."""
    from crossgram.figures import check_figure
    from crossgram.output import check_output, refuse_overlap

    if csv_file is not None:
        check_output(csv_file, overwrite=overwrite)
        refuse_overlap(Path(csv_file), *read)
    if plot is not None:
        check_figure(plot, overwrite=overwrite)
        refuse_overlap(Path(plot), *read, *([] if csv_file is None else [csv_file]))


def write_csv(records: Sequence[Any], path: str, *, overwrite: bool) -> None:
    """Write dataclass records of one kind, at least one, to a CSV file, a row each."""
    from crossgram.locations import local
    from crossgram.output import whole_file

    rows = [asdict(record) for record in records]
    with (
        whole_file(local(path), overwrite=overwrite) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


@contextmanager
def progress_bar() -> Iterator[Callable[[Progress], None]]:
    """Give a progress callback that draws rows/s, GB/s and time left on a terminal's stderr."""
    from tqdm import tqdm

    bar: tqdm[Any] | None = None
    stage, bytes_before = "", 0

    def show(progress: Progress) -> None:
        nonlocal bar, stage, bytes_before
        if bar is None or progress.stage != stage or progress.rows < bar.n:
            if bar is not None:
                bar.close()
            stage, bytes_before = progress.stage, progress.bytes
            bar = tqdm(
                desc=stage,
                total=progress.total_rows,
                # what was there when it began is not to count as speed
                initial=progress.rows,
                unit="row",
                unit_scale=True,
                dynamic_ncols=True,
                file=sys.stderr,
                disable=None,
            )
        bar.update(progress.rows - bar.n)
        elapsed = bar.format_dict["elapsed"]
        if elapsed and progress.bytes:
            bar.set_postfix_str(
                f"{(progress.bytes - bytes_before) / 1e9 / elapsed:.2f} GB/s", refresh=False
            )

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()
