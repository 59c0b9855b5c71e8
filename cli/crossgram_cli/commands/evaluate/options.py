"""What the evaluations have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from crossgram_cli.options import FiniteRange, device_option_of, with_options

if TYPE_CHECKING:
    from crossgram.evaluation import IdentificationReport, Interval, VerificationReport

__all__ = [
    "device_option",
    "fars_option",
    "interval_options",
    "interval_text",
    "intervals_text",
    "names_option",
    "split_options",
]

_Command = TypeVar("_Command", bound=Callable[..., Any])

_FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)

device_option = device_option_of(
    "Where cosines are computed, of verification where pairs are more than 20 million; auto "
    "takes a GPU where there is one."
)

fars_option = click.option(
    "--far",
    "fars",
    type=FiniteRange(0, 1, min_open=True, max_open=True),
    multiple=True,
    default=_FARS,
    show_default="1e-1 to 1e-6",
    help="False accept rate to give the true accept rate at. Repeatable.",
)

names_option = click.option(
    "--name",
    "names",
    multiple=True,
    help="What to call a space, once per store, in order; by default the stores' file names.",
)


def split_options(command: _Command) -> _Command:
    """Add what says what must not be evaluated."""
    options = [
        click.option(
            "--fitted-on",
            multiple=True,
            type=click.Path(),
            help="A store that the maps were fitted on, where they do not remember it: its images "
            "and people must not be evaluated. Repeatable.",
        ),
        click.option(
            "--allow-overlap",
            is_flag=True,
            help="Evaluate what was fitted on; the report says so.",
        ),
    ]
    return with_options(command, options)


def interval_options(command: _Command) -> _Command:
    """Add what says how sure figures are."""
    options = [
        click.option(
            "--resamples",
            type=click.IntRange(0),
            default=200,
            show_default=True,
            help="Draws of people for the confidence intervals; 0 for none.",
        ),
        click.option(
            "--confidence",
            type=FiniteRange(0, 1, min_open=True, max_open=True),
            default=0.95,
            show_default=True,
            help="Of the intervals.",
        ),
        click.option(
            "--seed",
            type=click.IntRange(0),
            default=0,
            show_default=True,
            help="Of the draws.",
        ),
    ]
    return with_options(command, options)


def interval_text(interval: Interval | None, scale: float) -> str:
    """Return the ends of an interval in brackets, behind a figure."""
    if interval is None:
        return ""
    return f" [{scale * interval.low:.2f}, {scale * interval.high:.2f}]"


def intervals_text(report: VerificationReport | IdentificationReport) -> str:
    """Say what is in brackets behind figures."""
    if not report.resamples:
        return ""
    own = report.comparisons if hasattr(report, "comparisons") else report.searches
    if all(interval is None for one in own for interval in one.intervals.values()):
        return "; too few people for intervals"
    return f"; in brackets {report.confidence:.0%} intervals over people"
