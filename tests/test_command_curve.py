"""crossgram curve, as a person at the command line sees it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import crossgram, refused, succeeds
from strategies import write_store

import crossgram as cg


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two stores of 600 rows of 100 people, and the same without labels."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(100, 12)), 6, axis=0) + rng.normal(size=(600, 12)) / 2
    y = x @ rng.normal(size=(12, 10)) + rng.normal(size=(600, 10))
    for name, rows in (("a", x), ("b", y)):
        rows = rows.astype(np.float32)
        write_store(folder / f"{name}.zarr", rows, labels=np.repeat(np.arange(100), 6))
        np.save(folder / f"{name}.npy", rows)
    return folder


class TestCurve:
    def test_gives_what_the_library_gives(self, data: Path) -> None:
        found = succeeds("curve", "a.zarr", "b.zarr", cwd=data)
        expected = cg.learning_curve(data / "a.zarr", data / "b.zarr").to_dict()
        assert found == json.loads(json.dumps(expected)) | {"csv": None, "plot": None}
        assert found["held_out_by"] == "labels"
        assert found["scored_rows"] == found["held_out_rows"]

    def test_settings_are_passed_on(self, data: Path) -> None:
        options = "--sizes", "20,200", "--ranks", "3,7", "--held-out", 0.4, "--seed", 5
        found = succeeds("curve", "a.npy", "b.npy", *options, "--normalize", cwd=data)
        expected = cg.learning_curve(
            data / "a.npy",
            data / "b.npy",
            sizes=[20, 200],
            ranks=[3, 7],
            held_out=0.4,
            seed=5,
            normalize=True,
        )
        assert found["points"] == json.loads(json.dumps(expected.to_dict()["points"]))
        assert [point["rank"] for point in found["ranks"]] == [7, 3]
        assert found["held_out_by"] == "rows"
        only = succeeds("curve", "a.npy", "b.npy", "--normalize-only", "target", cwd=data)
        assert [only[end]["normalized"] for end in ("source", "target")] == [False, True]

    def test_text_has_a_table_of_sizes_of_recognition_and_of_ranks(self, data: Path) -> None:
        done = crossgram("curve", "a.zarr", "b.zarr", "--sizes", "10,300", cwd=data)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        curve = cg.learning_curve(data / "a.zarr", data / "b.zarr", sizes=[10, 300])
        sizes, recognition, ranks, facts = done.stdout.split("\n\n")
        for k, line in enumerate(sizes.splitlines()[1:]):
            plain, ridge, rotation = curve.points[3 * k : 3 * k + 3]
            assert line.split() == [
                str(plain.rows),
                *(f"{point.r2:.4f}" for point in (plain, ridge, rotation)),
                f"{ridge.ridge:.3g}",
            ]
        last = curve.points[3:]
        assert recognition.splitlines()[-1].split() == [
            "300",
            *(f"{point.auc:.4f}" for point in last),
            *(f"{point.tar:.4f}" for point in last),
        ]
        for line, point in zip(ranks.splitlines()[1:], curve.ranks, strict=True):
            assert line.split() == [
                str(point.rank),
                *(f"{value:.4f}" for value in (point.r2, point.auc, point.tar)),
            ]
        assert f"{curve.held_out_rows} held out by labels" in facts
        assert f"b itself: AUC {curve.native_auc:.4f}" in facts
        assert "enough       300 pairs: R2" in facts
        assert "the most that were tried" in facts
        assert "at 10 pairs, no more than the 13 coefficients per output" in facts
        tables = f"{sizes}\n{recognition}\n{ranks}"
        assert max(map(len, tables.splitlines())) <= 100

    def test_text_without_labels_has_no_recognition(self, data: Path) -> None:
        done = crossgram("curve", "a.npy", "b.npy", cwd=data)
        assert len(done.stdout.split("\n\n")) == 3
        assert "AUC" not in done.stdout
        assert "recognition was left out: there are no labels" in done.stdout
        assert "within 0.01 of the best" in done.stdout

    def test_csv_has_a_row_for_each_map(self, data: Path, tmp_path: Path) -> None:
        found = succeeds("curve", "a.zarr", "b.zarr", "--csv", tmp_path / "c.csv", cwd=data)
        with (tmp_path / "c.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        points = [*found["points"], *found["ranks"]]
        assert len(rows) == len(points) == 3 * 12 + 2
        for row, point in zip(rows, points, strict=True):
            assert row == {k: "" if v is None else str(v) for k, v in point.items()}

    def test_plot_draws_the_curves(self, data: Path, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        found = succeeds("curve", "a.zarr", "b.zarr", "--plot", tmp_path / "c.svg", cwd=data)
        assert found["plot"] == str(tmp_path / "c.svg")
        assert ">rotation</text>" in (tmp_path / "c.svg").read_text()


class TestRefused:
    @pytest.mark.parametrize("option", ["--sizes", "--ranks"])
    @pytest.mark.parametrize("value", ["many", "10,", "1e3"])
    def test_numbers_that_are_none(
        self, data: Path, option: str, value: str, refused_here: Callable[..., str]
    ) -> None:
        message = refused_here("curve", "a.zarr", "b.zarr", option, value, cwd=data)
        assert f"{value!r}: write it like 100,1000,10000" in message

    def test_sizes_larger_than_the_rows_left(self, data: Path) -> None:
        message = refused("curve", "a.npy", "b.npy", "--sizes", "600", cwd=data)
        assert "sizes: 600 pairs asked for, but of 600 rows" in message

    def test_a_rank_larger_than_the_spaces(self, data: Path) -> None:
        message = refused("curve", "a.npy", "b.npy", "--ranks", "11", cwd=data)
        assert "rank: 11 given, expected a whole number from 1 to 10" in message

    @pytest.mark.parametrize("share", ["0", "1", "1.5", "-0.1", "nan"])
    def test_a_share_out_of_range(
        self, data: Path, share: str, refused_here: Callable[..., str]
    ) -> None:
        message = refused_here("curve", "a.npy", "b.npy", "--held-out", share, cwd=data)
        assert "expected a share between 0 and 1" in message

    def test_too_few_rows(self, data: Path, tmp_path: Path) -> None:
        np.save(tmp_path / "few.npy", np.ones((3, 2)))
        message = refused("curve", tmp_path / "few.npy", tmp_path / "few.npy", cwd=data)
        assert "of 3 rows are held out" in message
        assert "expected at least 2 of both" in message

    @pytest.mark.parametrize("option", ["--csv", "--plot"])
    def test_an_output_that_exists_before_anything_is_read(
        self, data: Path, tmp_path: Path, option: str
    ) -> None:
        if option == "--plot":
            pytest.importorskip("matplotlib")
        (tmp_path / "out.svg").write_text("precious")
        message = refused("curve", "nowhere", "nowhere", option, tmp_path / "out.svg", cwd=data)
        assert "out.svg: already exists" in message
        assert (tmp_path / "out.svg").read_text() == "precious"

    def test_an_output_that_would_replace_an_input(self, data: Path) -> None:
        message = refused("curve", "a.npy", "b.npy", "--csv", "a.npy", "--overwrite", cwd=data)
        assert "would be replaced" in message
