"""Changing moments at the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import crossgram, refused, succeeds
from strategies import write_store

import crossgram as cg

ROWS, MONDAY = 600, 400
GONE = ("person-3", "person-70")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two days' stores of two networks, with ids and labels, their moments, and lists of rows."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(7)
    x = (rng.normal(size=(ROWS, 5)) + 2).astype(np.float32)
    y = (x[:, :3] + rng.normal(size=(ROWS, 3))).astype(np.float32)
    days = {"monday": range(MONDAY), "tuesday": range(MONDAY, ROWS)}
    for day, run in days.items():
        (folder / day).mkdir()
        for name, rows in (("a", x), ("b", y)):
            write_store(
                folder / day / f"{name}.zarr",
                rows[run],
                ids=[f"person-{row // 5}/{row % 5}.jpg" for row in run],
                labels=[f"person-{row // 5}" for row in run],
            )
        succeeds("accumulate", f"{day}/a.zarr", f"{day}/b.zarr", "-o", f"{day}.st", cwd=folder)
    kept = ~np.isin([f"person-{row // 5}" for row in range(ROWS)], GONE)
    for name, rows in (("x", x), ("y", y)):
        np.save(folder / f"{name}.npy", rows)
        np.save(folder / f"{name}-kept.npy", rows[kept])
    (folder / "people").write_text("\n".join(GONE) + "\n")
    (folder / "images").write_text("person-3/0.jpg\nnobody.jpg\nnothing.jpg\n")
    succeeds("moments", "merge", "monday.st", "tuesday.st", "-o", "both.st", cwd=folder)
    return folder


def assert_near(folder: Path, found: Path, *rows: str) -> None:
    """Hold moments to those of a fresh run over the rows in some .npy files."""
    expected = cg.accumulate([folder / name for name in rows], names=["a", "b"])
    moments = cg.load_moments(found)
    assert moments.rows == expected.rows
    for i, j in expected.pairs:
        lengths = np.sqrt(np.outer(expected.squares[i], expected.squares[j]))
        error = np.abs(moments.blocks[i, j] - expected.blocks[i, j])
        assert (error <= 1e-12 * lengths).all()


class TestResults:
    def test_merged_shards_are_the_whole(self, data: Path) -> None:
        assert_near(data, data / "both.st", "x.npy", "y.npy")

    def test_rows_of_tomorrow_are_added(self, data: Path, tmp_path: Path) -> None:
        stores = data / "tuesday/a.zarr", data / "tuesday/b.zarr"
        result = succeeds(
            "moments", "add", data / "monday.st", *stores, "-o", "both.st", cwd=tmp_path
        )
        assert (result["kind"], result["rows"], result["changed_rows"]) == ("moments", 600, 200)
        assert result["warnings"] == []
        assert [step["operation"] for step in result["history"]] == ["accumulate", "add"]
        assert_near(data, tmp_path / "both.st", "x.npy", "y.npy")

    def test_people_are_removed_from_both_days(self, data: Path, tmp_path: Path) -> None:
        (tmp_path / "first").write_text(GONE[0])
        (tmp_path / "second").write_text("\n".join(f"person-70/{k}.jpg" for k in range(5)))
        stores = data / "monday/a.zarr", data / "monday/b.zarr"
        for step, option in (("first", "--labels"), ("second", "--ids")):
            before = data / "both.st" if step == "first" else "first.st"
            succeeds(
                "moments", "subtract", before, *stores, option, step, "-o", f"{step}.st",
                cwd=tmp_path,
            )  # fmt: skip
        assert_near(data, tmp_path / "second.st", "x-kept.npy", "y-kept.npy")

    def test_a_shard_is_removed_by_its_moments(self, data: Path, tmp_path: Path) -> None:
        before = data / "both.st"
        succeeds(
            "moments", "subtract", before, "--moments", data / "tuesday.st", "-o", "rest.st",
            cwd=tmp_path,
        )  # fmt: skip
        rest, monday = (cg.load_moments(p) for p in (tmp_path / "rest.st", data / "monday.st"))
        assert rest.rows == monday.rows
        np.testing.assert_allclose(
            rest.scatter("a", "b"), monday.scatter("a", "b"), atol=1e-12 * monday.squares[0].max()
        )

    def test_maps_are_solved_from_what_is_left(self, data: Path, tmp_path: Path) -> None:
        stores = data / "monday/a.zarr", data / "monday/b.zarr"
        labels = ("--labels", data / "people")
        succeeds(
            "moments", "subtract", data / "both.st", *stores, *labels, "-o", "rest.st", cwd=tmp_path
        )
        succeeds("solve", "rest.st", "-o", "map", cwd=tmp_path)
        x, y = (np.load(data / f"{name}-kept.npy").astype(float) for name in "xy")
        solution = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), y, rcond=None)[0]
        # condition below 1e2, so that normal equations lose at most 4 of 16 digits
        found = cg.LinearMap.load(tmp_path / "map").weight
        np.testing.assert_allclose(found, solution[:-1].T, atol=1e-11)

    def test_a_fit_that_keeps_its_moments_records_what_it_read(
        self, data: Path, tmp_path: Path
    ) -> None:
        stores = data / "monday/a.zarr", data / "monday/b.zarr"
        succeeds("fit", *stores, "-o", "map", "--moments", "kept.st", cwd=tmp_path)
        result = succeeds(
            "moments", "subtract", "kept.st", *stores, "--labels", data / "people", "-o", "rest.st",
            cwd=tmp_path,
        )  # fmt: skip
        assert (result["rows"], result["warnings"]) == (MONDAY - 10, [])


class TestWhatIsShown:
    def test_inspect_shows_the_history(self, data: Path) -> None:
        result = succeeds("inspect", "both.st", cwd=data)
        assert [step["operation"] for step in result["history"]] == [
            "accumulate",
            "accumulate",
            "merge",
        ]
        assert result["history"][0]["inputs"][1]["path"] == "monday/b.zarr"
        done = crossgram("inspect", "both.st", cwd=data)
        assert "accumulate 400 rows of monday/a.zarr, monday/b.zarr (crossgram 0" in done.stdout
        assert "merge 600 rows of monday.st, tuesday.st" in done.stdout

    def test_a_warning_is_in_text_and_json(self, data: Path, tmp_path: Path) -> None:
        arguments = ("moments", "merge", data / "monday.st", data / "monday.st", "-o")
        done = crossgram(*arguments, "twice.st", cwd=tmp_path)
        assert done.returncode == 0
        assert "warning" in done.stdout
        assert "count more than once" in done.stdout
        (warning,) = succeeds(*arguments, "again.st", cwd=tmp_path)["warnings"]
        assert warning in done.stdout

    def test_digits_that_cancelled_are_warned_of(self, data: Path, tmp_path: Path) -> None:
        stores = data / "monday/a.zarr", data / "monday/b.zarr"
        gone = "\n".join(f"person-{k}" for k in range(79))
        (tmp_path / "most").write_text(gone)
        result = succeeds(
            "moments", "subtract", data / "monday.st", *stores, "--labels", "most", "-o", "m",
            cwd=tmp_path,
        )  # fmt: skip
        assert result["rows"] == 5
        assert result["digits_left"] < 14.6
        assert "digits cancelled" in result["warnings"][0]
        assert "keep the moments of shards" in result["warnings"][0]


class TestRefusals:
    def test_of_rows_that_were_never_added(self, data: Path, tmp_path: Path) -> None:
        stores = data / "tuesday/a.zarr", data / "tuesday/b.zarr"
        arguments = ("moments", "subtract", data / "monday.st", *stores, "-o", "m")
        assert "never added" in refused(*arguments, cwd=tmp_path)
        assert not (tmp_path / "m").exists()
        allowed = succeeds(*arguments, "--allow-unknown", cwd=tmp_path)
        assert "does not name it" in allowed["warnings"][0]

    def test_of_ids_that_are_in_no_row_count_them(self, data: Path, tmp_path: Path) -> None:
        stores = data / "monday/a.zarr", data / "monday/b.zarr"
        message = refused(
            "moments", "subtract", data / "both.st", *stores, "--ids", data / "images", "-o", "m",
            cwd=tmp_path,
        )  # fmt: skip
        assert "ids: 2 of 3 are not in" in message
        assert "first 'nobody.jpg'" in message

    @pytest.mark.parametrize(
        ("content", "message"),
        [(None, "No such file"), (b"", "an empty list"), (b"\xff\xfe", "not UTF-8 text")],
    )
    def test_of_a_list_that_cannot_be_read(
        self,
        data: Path,
        tmp_path: Path,
        content: bytes | None,
        message: str,
        refused_here: Callable[..., str],
    ) -> None:
        if content is not None:
            (tmp_path / "list").write_bytes(content)
        stores = data / "monday/a.zarr", data / "monday/b.zarr"
        arguments = ("moments", "subtract", data / "both.st", *stores, "--ids", "list", "-o", "m")
        assert message in refused_here(*arguments, cwd=tmp_path)

    def test_of_ids_for_stores_without_any(self, data: Path, tmp_path: Path) -> None:
        pair = data / "x.npy", data / "y.npy"
        succeeds("accumulate", *pair, "-o", "m", cwd=tmp_path)
        message = refused(
            "moments", "subtract", "m", *pair, "--ids", data / "images", "-o", "n", cwd=tmp_path
        )
        assert "x.npy nor" in message
        assert "has ids" in message

    def test_of_moments_that_do_not_match_name_the_file(
        self, data: Path, tmp_path: Path, refused_here: Callable[..., str]
    ) -> None:
        pair = data / "monday/a.zarr", data / "monday/b.zarr"
        succeeds("accumulate", pair[0], "-o", "alone", cwd=tmp_path)
        succeeds("accumulate", *pair, "-o", "map", "--map", "a:b", cwd=tmp_path)
        succeeds("accumulate", *pair, "-o", "folds", "--folds", 2, cwd=tmp_path)
        for name, message in (
            ("alone", "alone is of the spaces a (5), "),
            ("map", "keeps the block b x b, map does not"),
            ("folds", "folds is in 2 folds by rows, "),
        ):
            arguments = ("moments", "merge", data / "monday.st", name, "-o", "m")
            assert message in refused_here(*arguments, cwd=tmp_path)

    @pytest.mark.parametrize(
        "arguments",
        [
            ("merge", "monday.st", "tuesday.st"),
            ("add", "monday.st", "tuesday/a.zarr", "tuesday/b.zarr"),
            ("subtract", "both.st", "monday/a.zarr", "monday/b.zarr"),
        ],
        ids=lambda arguments: arguments[0],
    )
    def test_of_an_output_that_is_there_or_read(
        self, data: Path, arguments: tuple[str, ...], refused_here: Callable[..., str]
    ) -> None:
        message = refused_here("moments", *arguments, "-o", "both.st", cwd=data)
        assert "both.st: already exists" in message
        before = (data / arguments[1]).read_bytes()
        for name in arguments[1:]:
            message = refused_here("moments", *arguments, "-o", name, "--overwrite", cwd=data)
            assert "would be replaced" in message or "is a folder" in message
        assert (data / arguments[1]).read_bytes() == before

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((), "give either the STORES"),
            (("monday/a.zarr", "monday/b.zarr", "--moments", "monday.st"), "give either"),
            (("--moments", "monday.st", "--ids", "images"), "give STORES to choose rows"),
            (("--moments", "monday.st", "--join", "ids"), "give STORES to choose rows"),
        ],
    )
    def test_of_options_that_make_no_sense(
        self, data: Path, arguments: tuple[str, ...], message: str, refused_here: Callable[..., str]
    ) -> None:
        assert message in refused_here(
            "moments", "subtract", "both.st", *arguments, "-o", "m", cwd=data
        )

    def test_of_a_list_that_would_be_replaced(self, data: Path) -> None:
        stores = "monday/a.zarr", "monday/b.zarr"
        arguments = ("moments", "subtract", "both.st", *stores, "--labels", "people")
        assert "would be replaced" in refused(*arguments, "-o", "people", "--overwrite", cwd=data)


@pytest.mark.parametrize("name", ["merge", "add", "subtract"])
def test_help_has_an_example(name: str, tmp_path: Path) -> None:
    done = crossgram("moments", name, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert f"crossgram moments {name}" in done.stdout.partition("Example")[2]
