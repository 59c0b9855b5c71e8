"""crossgram report."""

from __future__ import annotations

import click

from crossgram_cli.shared import computes, emit, overwrite_option

__all__ = ["command"]


@click.command("report")
@click.argument("folder", type=click.Path(), metavar="DIR")
@click.option(
    "-o", "--output", type=click.Path(), help="HTML file to write.  [default: DIR/report.html]"
)
@overwrite_option
@computes
def command(folder: str, output: str | None, overwrite: bool, as_json: bool) -> None:
    """Make one HTML file of an atlas: what is kept, in words, tables and plots.

    DIR is what `crossgram atlas` made. The file needs nothing else: no network, no other file.

    \b
    Example:  crossgram report atlas -o atlas.html
    """
    import crossgram as cg

    written = cg.write_report(folder, output, overwrite=overwrite)
    emit({"report": str(written)}, as_json, f"report  {written}")
