"""crossgram verify."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from crossgram_cli.shared import computes, emit, progress_bar

if TYPE_CHECKING:
    from crossgram.integrity import StoreCheck

__all__ = ["command"]

_DAMAGED = 3
_SHOWN = 10


@click.command("verify")
@click.argument("stores", metavar="STORE...", nargs=-1, required=True, type=click.Path())
@computes
@click.pass_context
def command(ctx: click.Context, /, stores: tuple[str, ...], as_json: bool) -> None:
    """Read everything of each STORE, and tell which rows are lost.

    A store is sound if every chunk is there and whole by its checksum, masked rows hold NaN only,
    and no id occurs twice. Exit status 3 if one is not. A bad chunk does not end it.

    STORE is an embedding store or a Zarr array, also by its URL, or a .npy file.

    \b
    Example:  crossgram verify a.zarr b.zarr
              crossgram verify s3://faces/a.zarr --json
    """
    import crossgram as cg

    checks = []
    for store in stores:
        with progress_bar() as progress:
            checks.append(cg.check_store(store, progress))
    is_sound = all(check.is_sound for check in checks)
    emit(
        {"sound": is_sound, "stores": [check.to_dict() for check in checks]},
        as_json,
        "\n".join(line for check in checks for line in _lines(check)),
    )
    if not is_sound:
        ctx.exit(_DAMAGED)


def _lines(check: StoreCheck) -> list[str]:
    if check.is_sound:
        masked = f", {check.masked:,} of them masked" if check.masked else ""
        lines = [f"{check.path}: sound, {check.rows:,} rows of {check.dim}{masked}"]
    else:
        lines = [f"{check.path}: DAMAGED, {_lost(check)}"]
    lines += [f"  {fault.reason}" for fault in check.faults[:_SHOWN]]
    if len(check.faults) > _SHOWN:
        rest = f"  and {len(check.faults) - _SHOWN:,} more chunks (--json lists them)"
        lines.append(rest if check.is_complete else f"{rest}, where reading was given up")
    if check.masked_with_values:
        rows = ", ".join(map(str, check.masked_with_values))
        lines.append(f"  rows that are masked and hold values: {rows}, ...")
    if check.repeated:
        shown = ", ".join(f"{name!r} {count} times" for name, count in check.repeated_ids[:3])
        lines.append(f"  {check.repeated:,} ids occur more than once: {shown}")
    if check.nonfinite:
        lines.append(
            f"  note: {check.nonfinite:,} rows hold NaN or infinity and are not masked, first row "
            f"{check.first_nonfinite}"
        )
    return lines


def _lost(check: StoreCheck) -> str:
    if not check.rows:
        return "it cannot be opened"
    own = [fault for fault in check.faults if fault.array == "embeddings"]
    spans = {(fault.start or 0, fault.stop or 0) for fault in own}
    lost = sum(stop - start for start, stop in spans)
    return f"{len(check.faults):,} bad chunks; {lost:,} of {check.rows:,} embeddings are lost"
