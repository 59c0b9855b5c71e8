"""An atlas as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from crossgram.atlases.facts import FACTS, Atlas, check_pydantic, load_atlas
from crossgram.atlases.tables import Matrix, matrices_of, measures_of
from crossgram.atlases.words import basis, headline, is_of_few, map_notes, split_in_words
from crossgram.errors import CorruptDataError, InputError
from crossgram.evaluation import (
    Classification,
    Identification,
    IdentificationReport,
    Interval,
    Verification,
    VerificationReport,
)
from crossgram.evaluation.resampling import fewest_people
from crossgram.figures import check_matplotlib
from crossgram.locations import local
from crossgram.output import check_output, refuse_overlap, whole_file
from crossgram.reporting.names import Names
from crossgram.reporting.paper import Table
from crossgram.reporting.plots import (
    Plot,
    heat_map,
    of_maps,
    of_searches,
    of_spaces,
    of_verification,
)

__all__ = ["REPORT", "check_report", "write_report"]

REPORT = "report.html"
"""The page's name in the folder of an atlas."""

_MOST_HEAT_MAP_SPACES = 30
_MOST_SMALL_SPACES = 7
"""Whose heat maps can be read at the size of other plots."""

_MOST_NOTES = 3
_THRESHOLDS = "Thresholds: one of a space does not hold in another"


@dataclass(frozen=True)
class _Section:
    title: str
    words: Sequence[str]
    tables: Sequence[Table]
    plots: Sequence[Plot]
    has_large_plots: bool = False


def check_report() -> None:
    """Refuse, before any work, to make a report without what it is made with.

    Raises
    ------
    InputError
        If Jinja2, matplotlib or pydantic is missing.
    """
    if find_spec("jinja2") is None:
        raise InputError("report: needs Jinja2; pip install 'crossgram[report]'")
    check_pydantic()
    check_matplotlib("report")


def write_report(
    folder: str | Path, out: str | Path | None = None, *, overwrite: bool = False
) -> Path:
    """Write the report of an atlas: headline, tables and plots in one HTML file.

    Parameters
    ----------
    folder : path
        What `atlas` made.
    out : path, optional
        The file; by default `report.html` in the folder.
    overwrite : bool
        Whether to replace a file that exists.

    Returns
    -------
    Path
        Of the file.

    Raises
    ------
    InputError
        If the folder is no atlas, or Jinja2, matplotlib or pydantic is missing.
    CorruptDataError
        If its facts are not of their kinds.
    OutputExistsError
        If the file exists and `overwrite` is false.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    check_report()
    path = Path(folder) / REPORT if out is None else local(out)
    check_output(path, overwrite=overwrite)
    atlas = load_atlas(folder)
    if out is not None:
        refuse_overlap(path, *Path(folder).iterdir())
    environment = Environment(
        loader=PackageLoader("crossgram.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    try:
        page = environment.get_template("page.html.jinja").render(
            atlas=atlas,
            numbered=Names(atlas.names).are_numbered,
            headline=headline(atlas),
            basis=basis(atlas),
            is_of_few=is_of_few(atlas),
            split=split_in_words(atlas),
            notes=_sentences([*atlas.notes, *_most_of(map_notes(atlas))]),
            sections=list(_sections(atlas)),
        )
    except (ArithmeticError, LookupError, RuntimeError, StopIteration, ValueError) as error:
        raise CorruptDataError(
            f"{Path(folder) / FACTS}: its facts contradict each other ({error!r}); make the atlas "
            "again"
        ) from error
    with whole_file(path, overwrite=overwrite) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _sections(atlas: Atlas) -> Iterator[_Section]:
    yield _kept(atlas)
    if atlas.verification is not None:
        yield _verification(atlas)
    if atlas.identification:
        yield _identification(atlas)
    if atlas.classification:
        yield _classification(atlas)
    yield _maps(atlas)
    yield _spaces(atlas)


def _kept(atlas: Atlas) -> _Section:
    matrices = matrices_of(atlas)
    plots = []
    if len(atlas.names) <= _MOST_HEAT_MAP_SPACES:
        plots = [_heat_map(f"kept-{k}", own, atlas) for k, own in enumerate(matrices)]
    return _Section(
        "Source by target",
        [
            (
                "Rows are the networks that images come from, columns the spaces that they are "
                "compared in: on the diagonal a network by itself, elsewhere through the map. In "
                "percent; in brackets, in points, what is won or lost against the target by itself."
            ),
            *basis(atlas),
        ],
        [_matrix(own, atlas) for own in matrices],
        plots,
        len(atlas.names) > _MOST_SMALL_SPACES,
    )


def _matrix(own: Matrix, atlas: Atlas) -> Table:
    names = Names(atlas.names)
    rows = []
    for source in atlas.names:
        cells = [_with_loss(own, source, target) for target in atlas.names]
        rows.append([names.numbered(source), *cells])
    return Table(_upper(own.title), ["from / to", *map(names.short, atlas.names)], rows)


def _heat_map(name: str, own: Matrix, atlas: Atlas) -> Plot:
    drawn = heat_map(name, own, atlas.names)
    return Plot(_upper(drawn.title), drawn.svg)


def _with_loss(own: Matrix, source: str, target: str) -> str:
    text = own.text(source, target)
    cell, native = own.cells.get((source, target)), own.cells.get((target, target))
    if cell is None or native is None or source == target:
        return text
    return f"{text} ({_rounded(100 * (cell.value - native.value), 1):+.1f})"


def _verification(atlas: Atlas) -> _Section:
    report = atlas.verification
    assert report is not None
    figures = list(report.comparisons[0].figures())
    names = Names(atlas.names)
    rows = [_row(_called("with", own, names), own, figures) for own in report.comparisons]
    losses = [
        [
            _called("with", own, names),
            *(_spread(own.loss[name], own.loss_intervals.get(name), 1) for name in figures),
        ]
        for own in report.comparisons
        if own.native is not None
    ]
    head = [_figure(name) for name in figures]
    words = [
        (
            f"{report.genuine_pairs:,} pairs of images of one person and {report.impostor_pairs:,} "
            f"of two, by the {report.metric}; {report.images:,} images of {report.people:,} "
            "people. Across spaces every pair is scored both ways."
        ),
        *_intervals_in_words(atlas, report, [own.intervals for own in report.comparisons]),
    ]
    return _Section(
        "Verification, 1:1",
        [*words, *_sentences(report.notes)],
        [
            Table("In percent", ["comparison", *head], rows),
            Table("Lost against the target by itself, in points", ["comparison", *head], losses),
        ],
        [plot for target in atlas.names for plot in of_verification(atlas, target)],
    )


def _identification(atlas: Atlas) -> _Section:
    first = atlas.identification[0].report
    searches = {own.search: own for pair in atlas.identification for own in pair.report.searches}
    figures = list(next(iter(searches.values())).figures())
    names = Names(atlas.names)
    rows = [_row(_called("in", own, names), own, figures) for own in searches.values()]
    thresholds = [
        [_called("in", own, names), *(f"{point.threshold:.4f}" for point in own.open_set)]
        for own in searches.values()
    ]
    moved = []
    for pair in atlas.identification:
        for own in pair.report.searches:
            if own.kind == "mapped":
                kept = own.kept.get("rank-1")
                share = (
                    "-"
                    if kept is None
                    else _spread(100 * kept, own.kept_intervals.get("rank-1"), 100)
                )
                name = _called("in", own, names)
                moved.append([name, share, _percent(own.recall), _percent(own.changed_lists)])
    rates = [f"FPIR {point.fpir:g}" for point in next(iter(searches.values())).open_set]
    words = [
        (
            f"{first.probes:,} images searched for in a gallery of {first.gallery:,}, one "
            f"of everybody; {first.mated:,} are of people who are enrolled. Ties count against the "
            "mate."
        ),
        *_intervals_in_words(atlas, first, [own.intervals for own in searches.values()]),
    ]
    nearest = first.nearest
    return _Section(
        "Identification, 1:N",
        [*words, *_sentences(first.notes)],
        [
            Table("In percent", ["search", *map(_figure, figures)], rows),
            Table(
                "Moving to another network, in percent",
                [
                    "search",
                    "kept of native rank-1",
                    f"recall of the {nearest} nearest",
                    "lists that change",
                ],
                moved,
            ),
            *([Table(_THRESHOLDS, ["search", *rates], thresholds)] if rates else []),
        ],
        [plot for target in atlas.names for plot in of_searches(atlas, target)],
    )


def _classification(atlas: Atlas) -> _Section:
    found = {
        own.embeddings: own
        for pair in atlas.classification
        for own in pair.report.classifications
        # others are there beside it, and their losses are against it
        if own.target == pair.target
    }
    names = Names(atlas.names)
    rows = [
        [
            _called("by", own, names),
            *(f"{100 * share:.2f}" for share in own.top.values()),
            f"{100 * own.agreement:.2f}",
            *(f"{_rounded(points, 2):+.2f}" for points in own.loss.values()),
        ]
        for own in found.values()
    ]
    first = atlas.classification[0].report
    tops = [f"top-{k}" for k in first.classifications[0].top]
    head = ["embeddings by classifier", *tops, "agreement", *(f"{top} lost" for top in tops)]
    words = [
        (
            f"{first.images:,} images of {first.classes:,} classes. Agreement is with what the "
            "target's own embedding gives."
        )
    ]
    return _Section(
        "Classification",
        [*words, *_sentences(first.notes)],
        [Table("In percent; lost in points", head, rows)],
        [],
    )


def _maps(atlas: Atlas) -> _Section:
    names = Names(atlas.names)
    rows = [
        [
            f"{names.short(own.source)} to {names.short(own.target)}",
            f"{own.r2:.4f}",
            f"{own.held_out_r2:.4f}",
            f"{own.rank:,}",
            f"{own.condition:.3g}",
            f"{own.digits:.1f}",
            f"{own.ridge:g}",
            own.method,
        ]
        for own in atlas.maps
    ]
    head = ["map", "R²", "R² held out", "rank", "condition", "digits", "ridge", "method"]
    return _Section(
        "Maps and their certificates",
        [
            (
                "Digits is how many decimal digits of a map are correct, by estimate; condition "
                "that of the source's centred rows, columns of length 1. Dotted lines beside a "
                "ridge's curve are the map that was taken."
            ),
            *_sentences(map_notes(atlas)),
        ],
        [Table("Certificates", head, rows)],
        [plot for target in atlas.names for plot in of_maps(atlas, target)],
    )


def _spaces(atlas: Atlas) -> _Section:
    compared = atlas.comparison
    names = Names(atlas.names)
    spaces = [
        [
            names.numbered(own.name),
            f"{own.dim:,}",
            f"{own.rank:,}",
            f"{own.condition:.3g}",
            f"{own.components:,}",
        ]
        for own in compared.spaces
    ]
    matrices = measures_of(atlas)
    pairs = [
        [
            f"{names.short(source)} to {names.short(target)}",
            *(own.text(source, target) for own in matrices),
        ]
        for source, target in matrices[0].cells
    ]
    plots = [of_spaces(atlas)]
    if len(atlas.names) <= _MOST_HEAT_MAP_SPACES:
        plots += [_heat_map(f"measure-{k}", own, atlas) for k, own in enumerate(matrices)]
    return _Section(
        "Spaces compared",
        [
            (
                f"On the {compared.rows:,} images that the maps were fitted to. SVCCA is of the "
                f"principal directions that hold {compared.variance:.4g} of the variance."
            ),
            *_sentences(compared.notes),
        ],
        [
            Table("Spaces", ["space", "columns", "rank", "condition", "SVCCA keeps"], spaces),
            Table("Measures", ["pair", *(_upper(own.title) for own in matrices)], pairs),
        ],
        plots,
        len(atlas.names) > _MOST_SMALL_SPACES,
    )


def _called(word: str, own: Verification | Identification | Classification, names: Names) -> str:
    """Return what is compared with, searched for in, or read by what, as evaluations call it."""
    source, target = names.short(own.source), names.short(own.target)
    called = {
        "native": f"{target} {word} {target}",
        "mapped": f"{source} to {target} {word} {target}",
        "mapped, with itself": f"{source} to {target} {word} itself",
        "unmapped": f"{source} unmapped {word} {target}",
    }
    return called[own.kind]


def _intervals_in_words(
    atlas: Atlas,
    report: VerificationReport | IdentificationReport,
    intervals: Sequence[Mapping[str, Interval | None]],
) -> list[str]:
    if not report.resamples:
        return []
    if not any(any(own.values()) for own in intervals):
        people, least = atlas.split.recognised_people or 0, fewest_people(report.confidence)
        if people < least:
            return [
                (
                    f"No {report.confidence:.0%} intervals: {people:,} of the people are there "
                    f"with two images or more, and of fewer than {least} one is far too narrow."
                )
            ]
        return ["Too few people for confidence intervals."]
    return [
        f"In brackets {report.confidence:.0%} intervals over people, {report.resamples:,} draws."
    ]


def _most_of(notes: Sequence[str]) -> list[str]:
    """Return so many notes as have room before everything else, and how many there are more."""
    more = len(notes) - _MOST_NOTES
    return [
        *notes[:_MOST_NOTES],
        *([f"{more:,} more notes on maps are beside their certificates"] if more > 0 else []),
    ]


def _sentences(notes: Sequence[str]) -> list[str]:
    return [f"{note[:1].upper()}{note[1:]}." for note in notes]


def _row(name: str, own: Verification | Identification, figures: Sequence[str]) -> list[str]:
    values = own.figures()
    return [name, *(_spread(100 * values[one], own.intervals.get(one), 100) for one in figures)]


def _spread(value: float, interval: Interval | None, scale: float) -> str:
    if interval is None:
        return f"{_rounded(value, 2):.2f}"
    low, high = (_rounded(scale * end, 2) for end in (interval.low, interval.high))
    return f"{_rounded(value, 2):.2f} [{low:.2f}, {high:.2f}]"


def _rounded(value: float, decimals: int) -> float:
    """Round a number, to nothing without a sign where nothing is left of it."""
    return round(value, decimals) + 0.0


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def _upper(title: str) -> str:
    return title.replace("R2", "R²")


def _figure(name: str) -> str:
    kind, _, rate = name.partition("@")
    known: Mapping[str, str] = {"area_under_curve": "AUC", "equal_error_rate": "EER"}
    return f"{kind.upper()}@{rate}" if rate else known.get(name, name)
