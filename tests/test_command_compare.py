"""crossgram compare, as a person at the command line sees it."""

from __future__ import annotations

import csv
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from command_line import crossgram, refused, succeeds
from strategies import write_store

import crossgram as cg
from crossgram.comparison import MEASURES

STORES = ("a.zarr", "b.zarr", "c.zarr")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three stores of 500 rows, and their moments with norms and without."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    common = rng.normal(size=(500, 4))
    for name, dim in zip(STORES, (6, 4, 5), strict=True):
        rows = common @ rng.normal(size=(4, dim)) + rng.normal(size=(500, dim))
        write_store(folder / name, rows.astype(np.float32))
    succeeds("accumulate", *STORES, "--norms", "-o", "norms", cwd=folder)
    succeeds("accumulate", *STORES, "-o", "plain", cwd=folder)
    succeeds("accumulate", *STORES, "--map", "a:b", "-o", "part", cwd=folder)
    return folder


class TestCompare:
    def test_stores_and_their_moments_give_what_the_library_gives(self, data: Path) -> None:
        expected = cg.compare([data / name for name in STORES]).to_dict()
        expected["spaces"], expected["pairs"] = map(list, (expected["spaces"], expected["pairs"]))
        for given in (STORES, ["norms"]):
            found = succeeds("compare", *given, cwd=data)
            assert found == {**expected, "notes": [], "csv": None, "plot": None}

    def test_settings_and_names_are_passed_on(self, data: Path) -> None:
        options = "--variance", 0.8, "--regularization", 0.1, "--name", "x", "--name", "y"
        found = succeeds("compare", *STORES[:2], *options, "--normalize", cwd=data)
        expected = cg.compare(
            [data / name for name in STORES[:2]],
            variance=0.8,
            regularization=0.1,
            names=["x", "y"],
            normalize=True,
        )
        assert [pair["source"] for pair in found["pairs"]] == ["x", "y"]
        assert [pair["svcca"] for pair in found["pairs"]] == [p.svcca for p in expected.pairs]
        assert [pair["pwcca"] for pair in found["pairs"]] == [p.pwcca for p in expected.pairs]

    def test_text_fits_in_a_hundred_columns(self, data: Path) -> None:
        names = ["a-network-13c", "b-network-13c", "c-network-13c"]
        options = [part for name in names for part in ("--name", name)]
        done = crossgram("compare", *STORES, *options, cwd=data)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        lines = done.stdout.splitlines()
        assert max(map(len, lines)) <= 100
        compared = cg.compare([data / name for name in STORES])
        (row,) = (line for line in lines if line.split()[:2] == [names[0], names[2]])
        values = [getattr(compared.pairs[1], measure) for measure in MEASURES]
        assert row.split()[2:] == [f"{value:.4f}" for value in values]

    def test_long_names_are_numbered(self, data: Path) -> None:
        names = ["a network of a very long name indeed", "another", "third"]
        options = [part for name in names for part in ("--name", name)]
        lines = crossgram("compare", *STORES, *options, cwd=data).stdout.splitlines()
        assert any(line.split("  ")[:2] == ["1", names[0]] for line in lines)
        assert any(line.split()[:2] == ["1", "2"] for line in lines)
        assert max(map(len, lines)) <= 100

    def test_without_norms_a_dash_and_a_note_stand_for_unbiased_cka(self, data: Path) -> None:
        done = crossgram("compare", "plain", cwd=data)
        assert " - " in done.stdout
        assert "unbiased CKA was left out, for want of norms" in done.stdout

    def test_csv_has_a_row_for_each_ordered_pair(self, data: Path, tmp_path: Path) -> None:
        found = succeeds("compare", "norms", "--csv", tmp_path / "t.csv", cwd=data)
        with (tmp_path / "t.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [(row["source"], row["target"]) for row in rows] == list(permutations("abc", 2))
        for row, pair in zip(rows, found["pairs"], strict=True):
            assert {name: float(row[name]) for name in MEASURES} == {
                name: pair[name] for name in MEASURES
            }

    def test_plot_writes_heat_maps(self, data: Path, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        found = succeeds("compare", "norms", "--plot", tmp_path / "m.svg", cwd=data)
        assert found["plot"] == str(tmp_path / "m.svg")
        assert ">PWCCA</text>" in (tmp_path / "m.svg").read_text()

    def test_inspect_tells_that_norms_were_kept(self, data: Path) -> None:
        assert succeeds("inspect", "norms", cwd=data)["norms"] is True
        assert succeeds("inspect", "plain", cwd=data)["norms"] is False


class TestRefused:
    def test_one_store(self, data: Path) -> None:
        message = refused("compare", "a.zarr", cwd=data)
        assert "one space given, a.zarr; give a list of two or more, or moments" in message

    def test_a_missing_block_names_the_option_that_keeps_it(self, data: Path) -> None:
        message = refused("compare", "part", cwd=data)
        assert "b x b was not kept" in message
        assert "without --map" in message

    @pytest.mark.parametrize("option", [["--normalize"], ["--name", "x"], ["--threads", "1"]])
    def test_options_for_rows_with_moments(
        self, data: Path, option: list[str], refused_here: Callable[..., str]
    ) -> None:
        message = refused_here("compare", "norms", *option, cwd=data)
        assert f"{option[0][2:]}" in message
        assert "given with moments" in message

    @pytest.mark.parametrize("option", ["--csv", "--plot"])
    def test_an_output_that_exists_before_anything_is_read(
        self, data: Path, tmp_path: Path, option: str
    ) -> None:
        if option == "--plot":
            pytest.importorskip("matplotlib")
        (tmp_path / "out.svg").write_text("precious")
        message = refused("compare", "nowhere", option, tmp_path / "out.svg", cwd=data)
        assert "out.svg: already exists" in message
        assert (tmp_path / "out.svg").read_text() == "precious"

    def test_an_output_that_would_replace_an_input(self, data: Path) -> None:
        message = refused("compare", "norms", "--csv", "norms", "--overwrite", cwd=data)
        assert "would be replaced" in message

    def test_norms_of_named_maps_only(self, data: Path, tmp_path: Path) -> None:
        options = "--norms", "--map", "a:b", "-o", tmp_path / "m"
        assert "norms: given with maps" in refused("accumulate", *STORES, *options, cwd=data)
