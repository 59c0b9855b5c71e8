"""Maps between two real face networks, on photographs of people that the fit has not seen."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from strategies import column_scaled_digits, rows_of

import crossgram as cg
from crossgram.networks.spec import NetworkSpec

FACES = Path(
    os.environ.get("CROSSGRAM_FACES", Path(__file__).parents[2] / "shared" / "faces")
).resolve()
FILES = ("images", "network_a.onnx", "network_b.onnx")

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(
        not all((FACES / name).exists() for name in FILES),
        reason=f"{', '.join(FILES)} are not in {FACES}; CROSSGRAM_FACES names another folder",
    ),
]

RECIPES = {
    "a": cg.Recipe((112, 96), 3, (0.5,) * 3, (128 / 255,) * 3),
    "b": cg.Recipe((112, 112), 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
FIT_PEOPLE = 11
SHIFTS = ((0, 0), (4, 4), (-4, 2), (2, -4))
RIDGE = 1.0


def people() -> list[Path]:
    return sorted((FACES / "images").iterdir(), key=lambda folder: int(folder.name[1:]))


def write_variants(folder: Path, out: Path) -> None:
    """Write every photograph of a person moved about a little, and mirrored."""
    (out / folder.name).mkdir(parents=True)
    for file in folder.iterdir():
        with Image.open(file) as photograph:
            for across, down in SHIFTS:
                moved = photograph.transform(
                    photograph.size, Image.Transform.AFFINE, (1, 0, across, 0, 1, down)
                )
                name = f"{file.stem}-{across}-{down}"
                moved.save(out / folder.name / f"{name}.png")
                ImageOps.mirror(moved).save(out / folder.name / f"{name}-mirrored.png")


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("faces")
    for folder in people()[:FIT_PEOPLE]:
        write_variants(folder, root / "fit")
    (root / "held-out").mkdir()
    for folder in people()[FIT_PEOPLE:]:
        (root / "held-out" / folder.name).symlink_to(folder)
    specs = [
        NetworkSpec(name, "onnx", str(FACES / f"network_{name}.onnx"), recipe=recipe)
        for name, recipe in RECIPES.items()
    ]
    stores: dict[str, Any] = {}
    for part in ("fit", "held-out"):
        report = cg.extract_with_report(root / part, specs, root / f"{part}-stores")
        stores |= {f"{name} {part}": store for name, store in report.stores.items()}
    return stores


def auc(x: cg.EmbeddingStore, y: cg.EmbeddingStore) -> float:
    """Compare every image in one space with every other image in another."""
    labels = x.labels.read(0, x.rows)
    return cg.area_under_curve(cg.pair_scores(labels, rows_of(x), rows_of(y)))


def test_each_network_knows_people_apart(faces: dict[str, Any]) -> None:
    for name in RECIPES:
        held_out = faces[f"{name} held-out"]
        assert (held_out.rows, held_out.dim) == (110, 128)
        assert auc(held_out, held_out) > 0.97


def test_a_map_makes_the_spaces_comparable_for_people_it_has_not_seen(
    faces: dict[str, Any], tmp_path: Path
) -> None:
    for source, target in (("a", "b"), ("b", "a")):
        unmapped = auc(faces[f"{source} held-out"], faces[f"{target} held-out"])
        fitted = cg.fit(faces[f"{source} fit"], faces[f"{target} fit"], normalize=True, ridge=RIDGE)
        mapped = cg.apply(fitted, faces[f"{source} held-out"], tmp_path / f"{source}.zarr")
        assert abs(unmapped - 0.5) < 0.1
        assert auc(mapped, faces[f"{target} held-out"]) > 0.75


def test_folds_by_person_do_not_flatter_a_map_as_folds_by_image_do(
    faces: dict[str, Any],
) -> None:
    by_image, by_person = (
        cg.fit(
            faces["a fit"], faces["b fit"], normalize=True, ridge=RIDGE, folds=3, group_by=group
        ).certificate.cross_validated_r2
        for group in ("ids", "labels")
    )
    assert by_image > by_person + 0.3


def test_the_map_is_the_exact_one_to_the_digits_it_claims(faces: dict[str, Any]) -> None:
    x, y = (rows_of(faces[f"{name} fit"]).astype(float) for name in ("a", "b"))
    fitted = cg.fit(faces["a fit"], faces["b fit"])
    centred = x - x.mean(axis=0)
    by_svd = np.linalg.lstsq(centred, y - y.mean(axis=0), rcond=None)[0]
    claimed = fitted.certificate.digits
    assert claimed > 8
    assert column_scaled_digits(fitted.weight.T, by_svd, centred.std(axis=0)) > claimed - 1


def test_verification_within_the_spaces_is_as_it_was_measured_elsewhere(tmp_path: Path) -> None:
    """By a plain script, over all 22 people: 0.992 and 0.979, across without a map by chance."""
    specs = [
        NetworkSpec(name, "onnx", str(FACES / f"network_{name}.onnx"), recipe=recipe)
        for name, recipe in RECIPES.items()
    ]
    stores = cg.extract_with_report(FACES / "images", specs, tmp_path / "all").stores
    report = cg.verify(stores["a"], stores["b"], resamples=50)
    areas = {own.comparison: own.area_under_curve for own in report.comparisons}
    # its three digits
    assert areas["a with a"] == pytest.approx(0.992, abs=0.0005)
    assert areas["b with b"] == pytest.approx(0.979, abs=0.0005)
    for name in ("a unmapped with b", "b unmapped with a"):
        interval = next(one for one in report.comparisons if one.comparison == name).intervals[
            "area_under_curve"
        ]
        assert interval is not None
        assert interval.low < 0.55
    assert (report.genuine_pairs, report.impostor_pairs) == (990, 23_100)
