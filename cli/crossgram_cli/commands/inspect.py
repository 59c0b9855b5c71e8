"""crossgram inspect."""

from __future__ import annotations

from typing import Any

import click

from crossgram_cli.shared import computes, emit

__all__ = ["command"]


@click.command("inspect")
@click.argument("path", type=click.Path())
@click.option(
    "--validate",
    is_flag=True,
    help="Read everything; of a store, check that no id occurs twice and masked rows hold NaN.",
)
@computes
def command(path: str, validate: bool, as_json: bool) -> None:
    """Tell what PATH is: a store, an array, a moments, map or classifier head file.

    \b
    Example:  crossgram inspect a-to-b.safetensors
              crossgram inspect a.zarr --validate
    """
    from crossgram import inspection

    result = inspection.describe(path)
    if validate:
        inspection.validate(path)
        result["validated"] = True
    emit(result, as_json, _text(result))


def _text(result: dict[str, Any]) -> str:
    from crossgram.certificate import Certificate
    from crossgram_cli.text import aligned, certificate_lines, moments_lines

    certificate = result.get("certificate")
    lines = moments_lines({name: v for name, v in result.items() if name != "certificate"})
    if certificate is not None:
        lines += certificate_lines(Certificate.from_dict(certificate))
    return aligned(lines)
