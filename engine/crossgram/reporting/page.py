"""An atlas as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from crossgram.atlases.facts import FACTS, Atlas, check_pydantic, load_atlas
from crossgram.atlases.tables import Matrix, matrices_of, measures_of
from crossgram.atlases.words import headline, split_in_words
from crossgram.errors import CorruptDataError, InputError
from crossgram.evaluation import (
    Identification,
    IdentificationReport,
    Interval,
    Verification,
    VerificationReport,
)
from crossgram.figures import check_matplotlib
from crossgram.locations import local
from crossgram.output import check_output, refuse_overlap, whole_file
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


@dataclass(frozen=True)
class _Table:
    """Head and rows as text; the first column names the row."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class _Section:
    title: str
    words: Sequence[str]
    tables: Sequence[_Table]
    plots: Sequence[Plot]


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
            headline=headline(atlas),
            split=split_in_words(atlas),
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
            )
        ],
        [_matrix(own, atlas) for own in matrices],
        plots,
    )


def _matrix(own: Matrix, atlas: Atlas) -> _Table:
    rows = []
    for source in atlas.names:
        cells = [_with_loss(own, source, target) for target in atlas.names]
        rows.append([source, *cells])
    return _Table(_upper(own.title), ["from / to", *atlas.names], rows)


def _heat_map(name: str, own: Matrix, atlas: Atlas) -> Plot:
    drawn = heat_map(name, own, atlas.names)
    return Plot(_upper(drawn.title), drawn.svg)


def _with_loss(own: Matrix, source: str, target: str) -> str:
    text = own.text(source, target)
    cell, native = own.cells.get((source, target)), own.cells.get((target, target))
    if cell is None or native is None or source == target:
        return text
    return f"{text} ({100 * (cell.value - native.value):+.1f})"


def _verification(atlas: Atlas) -> _Section:
    report = atlas.verification
    assert report is not None
    figures = list(report.comparisons[0].figures())
    rows = [_row(own.comparison, own, figures) for own in report.comparisons]
    losses = [
        [
            own.comparison,
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
        *_intervals_in_words(report, [own.intervals for own in report.comparisons]),
    ]
    return _Section(
        "Verification, 1:1",
        [*words, *_sentences(report.notes)],
        [
            _Table("In percent", ["comparison", *head], rows),
            _Table("Lost against the target by itself, in points", ["comparison", *head], losses),
        ],
        [plot for target in atlas.names for plot in of_verification(atlas, target)],
    )


def _identification(atlas: Atlas) -> _Section:
    first = atlas.identification[0].report
    searches = {own.search: own for pair in atlas.identification for own in pair.report.searches}
    figures = list(next(iter(searches.values())).figures())
    rows = [_row(name, own, figures) for name, own in searches.items()]
    thresholds = [
        [name, *(f"{point.threshold:.4f}" for point in own.open_set)]
        for name, own in searches.items()
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
                moved.append([own.search, share, _percent(own.recall), _percent(own.changed_lists)])
    rates = [f"FPIR {point.fpir:g}" for point in next(iter(searches.values())).open_set]
    words = [
        (
            f"{first.probes:,} images searched for in a gallery of {first.gallery:,}, one "
            f"of everybody; {first.mated:,} are of people who are enrolled. Ties count against the "
            "mate."
        ),
        *_intervals_in_words(first, [own.intervals for own in searches.values()]),
    ]
    nearest = first.nearest
    return _Section(
        "Identification, 1:N",
        [*words, *_sentences(first.notes)],
        [
            _Table("In percent", ["search", *map(_figure, figures)], rows),
            _Table(
                "Moving to another network, in percent",
                [
                    "search",
                    "kept of native rank-1",
                    f"recall of the {nearest} nearest",
                    "lists that change",
                ],
                moved,
            ),
            _Table(
                "Thresholds: one of a space does not hold in another",
                ["search", *rates],
                thresholds,
            ),
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
    rows = [
        [
            name,
            *(f"{100 * share:.2f}" for share in own.top.values()),
            f"{100 * own.agreement:.2f}",
            *(f"{points:+.2f}" for points in own.loss.values()),
        ]
        for name, own in found.items()
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
        [_Table("In percent; lost in points", head, rows)],
        [],
    )


def _maps(atlas: Atlas) -> _Section:
    rows = [
        [
            f"{own.source} to {own.target}",
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
    notes = [f"{own.source} to {own.target}: {note}" for own in atlas.maps for note in own.notes]
    return _Section(
        "Maps and their certificates",
        [
            (
                "Digits is how many decimal digits of a map are correct, by estimate; condition "
                "that of the source's centred rows, columns of length 1. Dotted lines beside a "
                "ridge's curve are the map that was taken."
            ),
            *_sentences(notes),
        ],
        [_Table("Certificates", head, rows)],
        [plot for target in atlas.names for plot in of_maps(atlas, target)],
    )


def _spaces(atlas: Atlas) -> _Section:
    compared = atlas.comparison
    spaces = [
        [own.name, f"{own.dim:,}", f"{own.rank:,}", f"{own.condition:.3g}", f"{own.components:,}"]
        for own in compared.spaces
    ]
    matrices = measures_of(atlas)
    pairs = [
        [
            f"{source} to {target}",
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
            _Table("Spaces", ["space", "columns", "rank", "condition", "SVCCA keeps"], spaces),
            _Table("Measures", ["pair", *(_upper(own.title) for own in matrices)], pairs),
        ],
        plots,
    )


def _intervals_in_words(
    report: VerificationReport | IdentificationReport,
    intervals: Sequence[Mapping[str, Interval | None]],
) -> list[str]:
    if not report.resamples:
        return []
    if not any(any(own.values()) for own in intervals):
        return ["Too few people for confidence intervals."]
    return [
        f"In brackets {report.confidence:.0%} intervals over people, {report.resamples:,} draws."
    ]


def _sentences(notes: Sequence[str]) -> list[str]:
    return [f"{note[:1].upper()}{note[1:]}." for note in notes]


def _row(name: str, own: Verification | Identification, figures: Sequence[str]) -> list[str]:
    values = own.figures()
    return [name, *(_spread(100 * values[one], own.intervals.get(one), 100) for one in figures)]


def _spread(value: float, interval: Interval | None, scale: float) -> str:
    if interval is None:
        return f"{value:.2f}"
    return f"{value:.2f} [{scale * interval.low:.2f}, {scale * interval.high:.2f}]"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def _upper(title: str) -> str:
    return title.replace("R2", "R²")


def _figure(name: str) -> str:
    kind, _, rate = name.partition("@")
    known: Mapping[str, str] = {"area_under_curve": "AUC", "equal_error_rate": "EER"}
    return f"{kind.upper()}@{rate}" if rate else known.get(name, name)
