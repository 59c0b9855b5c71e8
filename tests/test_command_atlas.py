"""crossgram atlas and crossgram report in real processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import crossgram, refused, succeeds
from people import write_people

import crossgram as cg


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("atlas")
    write_people(root)
    write_people(root, part="new-", seed=1, people=12)
    return root


def test_makes_maps_tables_and_a_report_at_once(folder: Path) -> None:
    result = succeeds(
        "atlas", "a.zarr", "b.zarr", "c.zarr", "-o", "all", "--resamples", 5, cwd=folder
    )
    assert result["atlas"] == "all"
    assert sorted(path.name for path in (folder / "all").iterdir()) == [
        "atlas.json",
        "figures.csv",
        "maps",
        "moments.safetensors",
        "report.html",
    ]
    atlas = cg.load_atlas(folder / "all")
    assert json.loads(json.dumps(atlas.to_dict())) == {
        k: v for k, v in result.items() if k != "atlas"
    }
    assert len(result["maps"]) == 6
    mapped = folder / "all" / result["maps"][0]["file"]
    assert succeeds("inspect", str(mapped), cwd=folder)["kind"] == "map"


def test_prints_tables_of_source_and_target(folder: Path) -> None:
    done = crossgram(
        *("atlas", "a.zarr", "b.zarr", "-o", "two", "--name", "old", "--name", "new"),
        *("--resamples", 0, "--no-report"),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Searching new's gallery with old's probes keeps ")
    assert lines[2].startswith("Recognition rests on 32 searches for 8 people, too few ")
    assert lines[4].split() == ["rank-1,", "from", "/", "to", "old", "new"]
    assert lines[5].split()[0] == "old"
    assert "no person is on both sides" in done.stdout
    assert not (folder / "two" / "report.html").exists()
    report = succeeds("report", "two", cwd=folder)
    assert report == {"report": "two/report.html"}
    assert (folder / "two" / "report.html").is_file()


def test_numbers_names_that_are_too_long_for_a_table(folder: Path) -> None:
    done = crossgram(
        *("atlas", "a.zarr", "b.zarr", "-o", "long", "--name", "old", "--name", "n" * 60),
        *("--resamples", 0, "--no-report"),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[4].split() == ["rank-1,", "from", "/", "to", "1", "2"]
    assert lines[6].split()[:2] == ["2", "n" * 60]


def test_prints_the_notes_of_maps(folder: Path) -> None:
    done = crossgram(
        *("atlas", "new-a.zarr", "new-b.zarr", "-o", "few", "--resamples", 0, "--no-report"),
        *("--held-out", 0.8),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    notes = [line for line in done.stdout.splitlines() if line.startswith("note ")]
    assert len(notes) >= 2
    assert "the map new-a to new-b: only 10 rows for 7 coefficients" in notes[0]


def test_other_stores_are_tried_on(folder: Path) -> None:
    result = succeeds(
        *("atlas", "a.zarr", "b.zarr", "-o", "other", "--no-report", "--resamples", 0),
        *("--try-on", "new-a.zarr", "--try-on", "new-b.zarr", "--method", "procrustes"),
        cwd=folder,
    )
    assert result["split"]["by"] == "other stores"
    assert result["split"]["held_out_rows"] == 60
    assert {own["method"] for own in result["maps"]} == {"procrustes"}
    assert result["maps"][0]["ridge_curve"] == []


def test_mistakes_are_named_and_nothing_is_written(folder: Path) -> None:
    overlap = refused(
        *("atlas", "a.zarr", "b.zarr", "-o", "none", "--try-on", "a.zarr", "--try-on", "b.zarr"),
        cwd=folder,
    )
    assert "200 of its images" in overlap
    names = refused("atlas", "a.zarr", "b.zarr", "-o", "none", "--name", "x", cwd=folder)
    assert "names: 1 given for 2 spaces" in names
    assert "at least two" in refused("atlas", "a.zarr", "-o", "none", cwd=folder)
    assert "is no atlas" in refused("report", ".", cwd=folder)
    assert not (folder / "none").exists()
