"""Options that several commands share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from crossgram.codecs import CODECS

__all__ = [
    "FiniteRange",
    "device_option",
    "device_option_of",
    "forget_option",
    "layout_options",
    "normalize_only_option",
    "output_option",
    "pass_options",
    "reading_options",
    "ridge_option",
    "row_options",
    "solve_options",
    "unweighted_row_options",
    "with_options",
]

_Command = TypeVar("_Command", bound=Callable[..., Any])


class FiniteRange(click.FloatRange):
    """Numbers of a range, of which NaN, which is beyond no end, and infinity are none."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


def _bytes(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    from crossgram.plan import parse_bytes

    return None if value is None else parse_bytes(value)


normalize_only_option = click.option(
    "--normalize-only",
    type=click.Choice(["source", "target"]),
    help="Divide the rows of one side only by their lengths.",
)


forget_option = click.option(
    "--forget-ids",
    "remember",
    flag_value=False,
    default=True,
    help="Keep no hashes of ids and labels in the file: it does not tell whom it was made of, nor "
    "`crossgram evaluate` whether it was made of what is evaluated.",
)


def _ridge(ctx: click.Context, param: click.Parameter, value: str) -> float | str:
    try:
        return value if value == "auto" else float(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r}: expected a number, or auto") from error


checkpoint_option = click.option(
    "--checkpoint",
    type=click.Path(),
    metavar="DIR",
    help="Keep what is done in this folder: the same command, if it was stopped, goes on from "
    "there. The folder goes when all is done.",
)

ridge_option = click.option(
    "--ridge",
    default="0",
    show_default=True,
    callback=_ridge,
    metavar="FLOAT|auto",
    help="Strength of the ridge penalty, on the scale of sums of squares: 1 is mild for unit rows. "
    "auto chooses it by cross-validation over the folds; without any, fit keeps 5 (by labels or "
    "else ids, where there are), and solve takes generalised cross-validation.",
)

output_option = click.option(
    "-o", "--output", required=True, type=click.Path(), help="File to write."
)


def with_options(command: _Command, options: Sequence[Callable[[_Command], _Command]]) -> _Command:
    """Add options to a command, in their order."""
    for option in reversed(options):
        command = option(command)
    return command


_READING = {
    "weights": click.option(
        "--weights",
        type=click.Path(),
        metavar="FILE",
        help="A .npy file with a non-negative weight for each row; with --join, for each "
        "joined row, in the order of the first store.",
    ),
    "join": click.option(
        "--join",
        type=click.Choice(["ids"]),
        help="Pair rows by id, leaving out those that not all stores have; without it, "
        "row i must be the same image in every store. Stores in another order are copied to "
        "temporary files (TMPDIR) for it.",
    ),
    "on-nonfinite": click.option(
        "--on-nonfinite",
        type=click.Choice(["stop", "skip"]),
        default="stop",
        show_default=True,
        help="At a row with NaN or infinity: stop, or leave it out of every space.",
    ),
    "memory": click.option(
        "--memory",
        callback=_bytes,
        metavar="SIZE",
        help="Most memory the run may hold above the interpreter, such as 2GB: blocks "
        "shrink to fit it, or the run is refused.",
    ),
    "threads": click.option(
        "--threads",
        type=click.IntRange(1),
        help="Threads; by default one per processor. The result does not depend on it.",
    ),
}


def device_option_of(text: str) -> Callable[[_Command], _Command]:
    """Return the option that chooses a device, with what its help says."""
    return click.option(
        "--device",
        default="cpu",
        show_default=True,
        metavar="cpu|cuda|cuda:K|auto",
        help=text,
    )


device_option = device_option_of(
    "Where products are computed; auto takes a GPU where there is one. A GPU adds up longer "
    "tiles: its results differ from the processor's in their last digits."
)


def pass_options(command: _Command) -> _Command:
    """Add what says how rows are paired, read and accumulated: `crossgram.accumulation.Options`."""
    return with_options(
        row_options(command),
        [
            click.option(
                "--folds",
                type=click.IntRange(2),
                help="Keep so many sets of rows apart, for cross-validation.",
            ),
            click.option(
                "--group-by",
                type=click.Choice(["rows", "ids", "labels"]),
                default="rows",
                show_default=True,
                help="Folds of contiguous rows, by hash of the id, or by label, so that all "
                "images of a person are in one fold.",
            ),
            click.option(
                "--balance",
                is_flag=True,
                help="Weigh each row by one over the number of rows of its label, so that every "
                "person counts alike.",
            ),
        ],
    )


def row_options(command: _Command) -> _Command:
    """Add `pass_options` but those that say which folds rows fall into."""
    return unweighted_row_options(_READING["weights"](command))


def unweighted_row_options(command: _Command) -> _Command:
    """Add `row_options` but the weights."""
    return with_options(
        command,
        [
            click.option(
                "--normalize", is_flag=True, help="Divide every row by its Euclidean length."
            ),
            _READING["join"],
            _READING["on-nonfinite"],
            click.option(
                "--precision",
                type=click.Choice(["exact", "fast"]),
                default="exact",
                show_default=True,
                help="float64 products; or float32 products of centred rows, nearly twice as fast "
                "for about 7 digits fewer.",
            ),
            _READING["memory"],
            _READING["threads"],
            device_option,
        ],
    )


def reading_options(command: _Command) -> _Command:
    """Add what says how rows are paired and read where all else is settled by a moments file."""
    return with_options(command, list(_READING.values()))


def solve_options(command: _Command) -> _Command:
    """Add what says which map is solved: `crossgram.maps.Method`."""
    return with_options(
        command,
        [
            click.option(
                "--method",
                type=click.Choice(["lstsq", "procrustes", "reduced-rank"]),
                default="lstsq",
                show_default=True,
                help="Least squares; the best rotation or reflection, which keeps lengths and "
                "angles; or the best map through --rank directions.",
            ),
            click.option(
                "--rank", type=click.IntRange(1), help="Rank of the map, with reduced-rank."
            ),
            click.option(
                "--scale", is_flag=True, help="Let the rotation be scaled, with procrustes."
            ),
            click.option(
                "--no-intercept",
                "intercept",
                flag_value=False,
                default=True,
                help="Fit no bias: the map goes through the origin.",
            ),
            ridge_option,
        ],
    )


def layout_options(command: _Command) -> _Command:
    """Add how a new store is laid out on disk."""
    return with_options(
        command,
        [
            click.option(
                "--codec",
                type=click.Choice(CODECS),
                default="lz4",
                show_default=True,
                help="Compression: lz4 reads fast; zstd is smaller where many values are zero, and "
                "reads half as fast.",
            ),
            click.option(
                "--chunk-rows",
                type=click.IntRange(1),
                help="Rows of a chunk; by default about 2 MiB of them.",
            ),
            click.option(
                "--shard-rows",
                type=click.IntRange(1),
                help="Rows of a shard file, a multiple of --chunk-rows; by default one file per "
                "chunk.",
            ),
        ],
    )
