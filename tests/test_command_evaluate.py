"""crossgram evaluate in real processes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import crossgram, refused, succeeds

import crossgram as cg

LABELS = np.repeat([f"p{k:02}" for k in range(20)], 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two networks' embeddings of people that a map was fitted on, and of others."""
    root = tmp_path_factory.mktemp("evaluate")
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    for part in ("fit", "new"):
        people = rng.normal(size=(20, 6)).repeat(4, axis=0)
        for name, matrix in (("a", np.eye(6)), ("b", turn)):
            rows = (people + 0.3 * rng.normal(size=people.shape)) @ matrix
            with cg.EmbeddingStore.create(root / f"{part}-{name}.zarr", dim=6) as writer:
                ids = [f"{part}/{k}" for k in range(80)]
                writer.append(rows.astype("f4"), ids=ids, labels=[f"{part} {p}" for p in LABELS])
    for one, other in ("ab", "ba"):
        fitted = cg.fit(root / f"fit-{one}.zarr", root / f"fit-{other}.zarr")
        fitted.save(root / f"{one}-to-{other}.safetensors")
    return root


VERIFY = ("evaluate", "verify", "new-a.zarr", "new-b.zarr", "--map", "a-to-b.safetensors")


class TestVerify:
    def test_says_what_is_kept_and_lost(self, folder: Path) -> None:
        result = succeeds(
            *VERIFY, "--back", "b-to-a.safetensors", "--fitted-on", "fit-a.zarr", cwd=folder
        )
        areas = {own["comparison"]: own["area_under_curve"] for own in result["comparisons"]}
        assert list(areas) == [
            "new-a with new-a",
            "new-b with new-b",
            "new-a to new-b with new-b",
            "new-a to new-b with itself",
            "new-b to new-a with new-a",
            "new-b to new-a with itself",
            "new-a unmapped with new-b",
            "new-b unmapped with new-a",
        ]
        assert areas["new-a to new-b with new-b"] > 0.95
        assert areas["new-a unmapped with new-b"] < 0.8
        assert result["overlap"] == {"fitted_on": ["fit-a.zarr"], "images": 0, "people": 0}
        report = cg.verify(
            folder / "new-a.zarr",
            folder / "new-b.zarr",
            linear_map=folder / "a-to-b.safetensors",
        )
        own = json.loads(json.dumps(report.to_dict()["comparisons"][2]))
        assert own == result["comparisons"][2]

    def test_shows_a_table_with_intervals_and_one_of_losses(self, folder: Path) -> None:
        done = crossgram(*VERIFY, "--name", "old", "--name", "new", "--far", 0.01, cwd=folder)
        assert done.returncode == 0, done.stderr
        top, *rows = done.stdout.splitlines()
        assert top.split() == ["comparison", "AUC", "EER", "TAR@0.01"]
        report = cg.verify(
            *(folder / f"new-{name}.zarr" for name in "ab"),
            linear_map=folder / "a-to-b.safetensors",
            names=["old", "new"],
            fars=[0.01],
        )
        own = report.comparisons[2]
        area = own.intervals["area_under_curve"]
        assert area is not None
        shown = next(row for row in rows if row.startswith("old to new with new "))
        figure = f"{100 * own.area_under_curve:.2f} [{100 * area.low:.2f}, {100 * area.high:.2f}]"
        assert figure in shown
        assert any(row.startswith("lost, in points") for row in rows)
        assert "80 of 20 people" in done.stdout
        assert "is not known; say what it was" in done.stdout

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("new-a.zarr", "--map", "a-to-b.safetensors"), "target: none given"),
            (("new-b.zarr", "new-a.zarr", "--name", "x"), "names: 1 given for 2 spaces"),
            (("none.zarr",), "none.zarr"),
            (("new-a.zarr", "--pairs", "none.csv"), "none.csv: cannot be read"),
            ((*VERIFY[2:], "--fitted-on", "new-a.zarr"), "80 of its images, and 20 of its people"),
            (("new-a.zarr", "--far", "1.5"), "Invalid value for '--far'"),
        ],
    )
    def test_a_mistake_is_named(
        self, folder: Path, arguments: tuple[object, ...], message: str
    ) -> None:
        assert message in " ".join(refused("evaluate", "verify", *arguments, cwd=folder).split())
