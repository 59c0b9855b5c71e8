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
        shared = {"evaluated": 80, "told": 80, "images": 0, "people": 0, "named": 0}
        assert result["overlaps"] == [
            {"known_from": "stores", "fitted_on": ["fit-a.zarr"], **shared},
            # both were fitted on the same
            {"known_from": "map", "fitted_on": ["fit-a to fit-b", "fit-b to fit-a"], **shared},
        ]
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
        assert "no image and no person is among those that the map fit-a to fit-b" in done.stdout

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


class TestWhatAMapRemembers:
    """A map that was fitted on evaluated images is found by id and named."""

    FITTED_ON = ("fit-a.zarr", "fit-b.zarr", "--map", "a-to-b.safetensors")

    def test_refuses_what_it_was_fitted_on(self, folder: Path) -> None:
        said = " ".join(refused("evaluate", "verify", *self.FITTED_ON, cwd=folder).split())
        assert "80 of its images, and 20 of its people, are among those that the map" in said
        assert "the map fit-a to fit-b was fitted on" in said
        for command in ("identify", "gate"):
            options = () if command == "identify" else ("--min", 0.5)
            arguments = (*self.FITTED_ON, "--native", "fit-b.zarr", *options)
            said = " ".join(refused("evaluate", command, *arguments, cwd=folder).split())
            assert "the map fit-a to fit-b was fitted on" in said

    def test_says_so_where_it_is_allowed(self, folder: Path) -> None:
        result = succeeds("evaluate", "verify", *self.FITTED_ON, "--allow-overlap", cwd=folder)
        assert result["overlaps"] == [
            {
                "known_from": "map",
                "fitted_on": ["fit-a to fit-b"],
                "evaluated": 80,
                "told": 80,
                "images": 80,
                "people": 20,
                "named": 20,
            }
        ]
        assert (
            "80 of the images and 20 of the people are among those that the map"
            in (result["notes"][-1])
        )

    def test_forgotten_or_of_moments_of_an_earlier_version_is_not_known(self, folder: Path) -> None:
        options = ("-o", "forgetful.safetensors", "--forget-ids")
        succeeds("fit", "fit-a.zarr", "fit-b.zarr", *options, cwd=folder)
        arguments = (*self.FITTED_ON[:3], "forgetful.safetensors")
        result = succeeds("evaluate", "verify", *arguments, cwd=folder)
        assert result["overlaps"] == []
        assert "is not known; say what it was fitted on" in result["notes"][-1]


@pytest.fixture(scope="module")
def database(folder: Path) -> Path:
    """The new people's first two images as a gallery, the others as probes."""
    for name in "ab":
        store = cg.EmbeddingStore.open(folder / f"new-{name}.zarr")
        assert store.ids is not None
        assert store.labels is not None
        ids, labels = (column.read(0, 80) for column in (store.ids, store.labels))
        first = np.arange(80) % 4 < 2
        for part, own in (("gallery", first), ("probes", ~first)):
            with cg.EmbeddingStore.create(folder / f"{part}-{name}.zarr", dim=6) as writer:
                writer.append(store.embeddings[:][own], ids=ids[own], labels=labels[own])
    return folder


SEARCH = ("probes-a.zarr", "gallery-b.zarr", "--map", "a-to-b.safetensors")
SEARCH += ("--native", "probes-b.zarr")


class TestIdentify:
    def test_says_what_a_migration_keeps(self, database: Path) -> None:
        options = ("--reembedded", "gallery-a.zarr", "--name", "old", "--name", "new")
        result = succeeds("evaluate", "identify", *SEARCH, *options, cwd=database)
        found = {own["search"]: own for own in result["searches"]}
        assert list(found) == [
            "new in new",
            "old to new in new",
            "old in old",
            "old unmapped in new",
        ]
        assert found["old to new in new"]["kept"]["rank-1"] > 0.9
        assert found["old unmapped in new"]["kept"]["rank-1"] < 0.5
        done = crossgram("evaluate", "identify", *SEARCH, *options, "--rank", 1, cwd=database)
        assert done.returncode == 0, done.stderr
        lines = {line.split("  ")[0]: line for line in done.stdout.splitlines()}
        top = done.stdout.splitlines()[0].split()
        assert top == ["search", "rank-1", "TPIR@0.1"]
        share = 100 * found["old to new in new"]["recall"]
        assert f"{share:.2f}" in lines["old to new in new"]
        assert "threshold" in lines
        assert "everybody is enrolled" in done.stdout

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("probes-a.zarr", "fit-a.zarr"), "nobody of probes-a.zarr is enrolled there"),
            (("probes-a.zarr", "none.zarr"), "none.zarr"),
            ((*SEARCH, "--rank", 0), "Invalid value for '--rank'"),
        ],
    )
    def test_a_mistake_is_named(
        self, database: Path, arguments: tuple[object, ...], message: str
    ) -> None:
        assert message in refused("evaluate", "identify", *arguments, cwd=database)


class TestGate:
    def test_is_met_or_not_by_its_exit_status(self, database: Path) -> None:
        met = succeeds("evaluate", "gate", *SEARCH, "--min", 0.5, cwd=database)
        assert met["gate"]["met"]
        kept = met["gate"]["kept"]
        done = crossgram("evaluate", "gate", *SEARCH, "--min", kept + 0.01, cwd=database)
        assert done.returncode == 3
        assert done.stdout.startswith("NOT met: probes-a to gallery-b in gallery-b keeps")
        done = crossgram("evaluate", "gate", *SEARCH, "--min", kept, cwd=database)
        assert done.returncode == 0
        assert done.stdout.startswith("met: ")
        for number in ("nan", "inf"):
            said = refused("evaluate", "gate", *SEARCH, "--min", number, cwd=database)
            assert f"'{number}' is not a finite number" in said
        done = crossgram("evaluate", "gate", *SEARCH, "--min", 9, "--json", cwd=database)
        assert done.returncode == 3
        assert json.loads(done.stdout)["gate"] == {
            "figure": "rank-1",
            "kept": kept,
            "min": 9.0,
            "met": False,
        }

    def test_a_figure_that_is_none_is_named(self, database: Path) -> None:
        said = refused(
            *("evaluate", "gate", *SEARCH, "--min", 0.9, "--figure", "rank-3"), cwd=database
        )
        assert "'rank-3' is not among the figures: rank-1, rank-5, rank-10, tpir@0.1" in said
