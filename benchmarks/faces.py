"""What maps between two real face networks keep, on people that the fit has not seen."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
from PIL import Image, ImageOps
from results import table, write

import crossgram as cg
from crossgram.evaluation import Interval, Verification
from crossgram.networks.spec import NetworkSpec

_RECIPES = {
    "a": cg.Recipe((112, 96), 3, (0.5,) * 3, (128 / 255,) * 3),
    "b": cg.Recipe((112, 112), 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
_FIT_PEOPLE = 11
_SHIFTS = ((0, 0), (4, 4), (-4, 2), (2, -4))
_FARS = (1e-1, 1e-2)
_RESAMPLES = 1000
_METHODS: dict[str, dict[str, object]] = {
    "least squares, ridge by folds of people": {"ridge": "auto"},
    "rotation": {"method": "procrustes"},
}


@click.command()
@click.argument("faces", type=click.Path(exists=True, path_type=Path))
def main(faces: Path) -> None:
    """Measure on FACES, a folder with images/, network_a.onnx and network_b.onnx."""
    with tempfile.TemporaryDirectory() as folder:
        stores = _stores(faces, Path(folder))
        natives: list[Verification] = []
        lines: list[list[str]] = []
        for method, options in _METHODS.items():
            there, back = (
                cg.fit(stores["fit", x], stores["fit", y], normalize=True, **options)  # type: ignore[arg-type]
                for x, y in ("ab", "ba")
            )
            report = cg.verify(
                stores["new", "a"],
                stores["new", "b"],
                linear_map=there,
                back=back,
                fars=_FARS,
                resamples=_RESAMPLES,
                fitted_on=[stores["fit", "a"]],
            )
            if not natives:
                natives = [own for own in report.comparisons if " to " not in own.comparison]
                lines += [_line("", own) for own in natives]
            lines += [_line(method, own) for own in report.comparisons if " to " in own.comparison]
    write(
        "faces",
        "## Verification across two face networks\n\n"
        f"Two MobileFaceNets, of CASIA-WebFace (a) and MS-Celeb-1M (b); {report.images} "
        f"photographs of {report.people} people of the AT&T Database of Faces; maps of unit rows, "
        f"fitted on the other {_FIT_PEOPLE} people's photographs, each moved about and mirrored to "
        "8. Percent, "
        f"with 95 % intervals of {_RESAMPLES:,} draws of people; what is lost against the "
        "reference's own network in points, the same people drawn for both. All pairs: "
        f"{report.genuine_pairs:,} genuine, {report.impostor_pairs:,} impostor; across networks "
        "both ways.\n\n"
        + table(
            ["map", "probes with references", "AUC", "lost", "EER", "TAR@0.1", "TAR@0.01", "lost"],
            lines,
        ),
    )


def _stores(faces: Path, folder: Path) -> dict[tuple[str, str], cg.EmbeddingStore]:
    people = sorted((faces / "images").iterdir(), key=lambda path: int(path.name[1:]))
    for person in people[:_FIT_PEOPLE]:
        _write_variants(person, folder / "fit" / person.name)
    (folder / "new").mkdir()
    for person in people[_FIT_PEOPLE:]:
        (folder / "new" / person.name).symlink_to(person.absolute())
    specs = [
        NetworkSpec(name, "onnx", str(faces / f"network_{name}.onnx"), recipe=recipe)
        for name, recipe in _RECIPES.items()
    ]
    return {
        (part, name): store
        for part in ("fit", "new")
        for name, store in cg.extract_with_report(
            folder / part, specs, folder / f"{part}-stores"
        ).stores.items()
    }


def _write_variants(person: Path, out: Path) -> None:
    """Write every photograph moved about a little, and mirrored."""
    out.mkdir(parents=True)
    for file in person.iterdir():
        with Image.open(file) as photograph:
            for across, down in _SHIFTS:
                moved = photograph.transform(
                    photograph.size, Image.Transform.AFFINE, (1, 0, across, 0, 1, down)
                )
                moved.save(out / f"{file.stem}-{across}-{down}.png")
                ImageOps.mirror(moved).save(out / f"{file.stem}-{across}-{down}-mirrored.png")


def _line(method: str, own: Verification) -> list[str]:
    figures = own.figures()
    area, *_ = figures
    last = f"tar@{_FARS[-1]:g}"
    cells = {
        name: f"{100 * value:.1f}{_spread(own.intervals[name], 100)}"
        for name, value in figures.items()
    }
    lost = {
        name: f"{own.loss[name]:+.1f}{_spread(own.loss_intervals[name], 1)}" if own.loss else ""
        for name in (area, last)
    }
    first, error, *rates = cells.values()
    return [method, own.comparison, first, lost[area], error, *rates, lost[last]]


def _spread(interval: Interval | None, scale: float) -> str:
    if interval is None:
        return ""
    return f" [{scale * interval.low:.1f}, {scale * interval.high:.1f}]"


if __name__ == "__main__":
    main()
