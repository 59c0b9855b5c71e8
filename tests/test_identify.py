"""Identification in a gallery: against sorting every score, and NIST's definitions by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import crossgram as cg
from crossgram.evaluation import searching
from crossgram.evaluation.searching import Probes, search
from crossgram.source import open_source
from crossgram.spaces import Space

TURN = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]


def store(
    path: Path, rows: Any, labels: list[str], ids: list[str] | None = None, **more: Any
) -> Path:
    values = np.asarray(rows, float)
    ids = [f"{path.name} {k}" for k in range(len(values))] if ids is None else ids
    with cg.EmbeddingStore.create(path, dim=values.shape[1], dtype="float64") as writer:
        writer.append(values, ids=ids, labels=labels, **more)
    return path


def a_map(matrix: np.ndarray) -> cg.LinearMap:
    spaces = [Space(name, dim) for name, dim in zip("ab", matrix.shape, strict=True)]
    return cg.LinearMap(matrix.T, np.zeros(matrix.shape[1]), *spaces)


@st.composite
def searches(draw: st.DrawFn) -> tuple[np.ndarray, ...]:
    """Draw probes and entries of few directions, so that many scores are equal."""
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    probes, entries = draw(st.integers(1, 12)), draw(st.integers(1, 40))
    directions = np.eye(3)
    return (
        directions[rng.integers(0, 3, probes)],
        rng.integers(0, 4, probes),
        rng.integers(-1, entries, probes),
        directions[rng.integers(0, 3, entries)],
        rng.integers(-1, 4, entries),
        rng.random(entries) > 0.2,
    )


@pytest.mark.parametrize("block_bytes", [24, 24 * 7, 8 << 20])
@given(drawn=searches())
def test_a_search_finds_what_sorting_finds(block_bytes: int, drawn: tuple[np.ndarray, ...]) -> None:
    rows, person, itself, entries, people, usable = drawn
    before = searching._GALLERY_BYTES
    searching._GALLERY_BYTES = block_bytes
    try:
        found = search(Probes(rows, person, itself), open_source(entries), people, usable, 3)
    finally:
        searching._GALLERY_BYTES = before
    for k in range(len(rows)):
        scores = {
            j: float(rows[k] @ entries[j])
            for j in range(len(entries))
            if usable[j] and j != itself[k]
        }
        mates = [score for j, score in scores.items() if people[j] == person[k]]
        others = [score for j, score in scores.items() if people[j] != person[k]]
        assert found.mate[k] == max(mates, default=-np.inf)
        assert found.other[k] == max(others, default=-np.inf)
        expected = 1 + sum(score >= max(mates) for score in others) if mates else 0
        assert found.rank[k] == expected
        nearest = sorted(scores, key=lambda j: (-scores[j], j))[:3]
        assert found.nearest[k].tolist() == nearest + [-1] * (3 - len(nearest))


@pytest.mark.parametrize("dim", [64, 127, 512])
@pytest.mark.parametrize("block", [13, 101])
def test_the_same_embedding_ties_wherever_it_stands(
    dim: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "_GALLERY_BYTES", 8 * dim * block)
    rng = np.random.default_rng(dim)
    rows = rng.normal(size=(102, dim))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    # one embedding for everybody, whose products are summed up in other orders at other places
    entries, people = np.tile(rows[:1], (101, 1)), np.arange(101)
    probes = Probes(rows[1:], people, np.full(101, -1))
    found = search(probes, open_source(entries), people, np.ones(101, bool), 1)
    assert found.rank.tolist() == [101] * 101


def angle(degrees: float) -> list[float]:
    return [np.cos(np.radians(degrees)), np.sin(np.radians(degrees))]


def test_figures_are_nists_on_an_example_by_hand(tmp_path: Path) -> None:
    gallery = store(tmp_path / "g", [angle(0), angle(40), angle(90)], ["ann", "bob", "cy"])
    probes = store(
        tmp_path / "p",
        # ann first; bob behind ann; strangers at 5 degrees from ann and 20 from cy
        [angle(10), angle(15), angle(5), angle(110)],
        ["ann", "bob", "dan", "eve"],
    )
    report = cg.identify(probes, gallery, ranks=[1, 2], fpirs=[0.5], resamples=0)
    (own,) = report.searches
    assert own.ranks == {1: 0.5, 2: 1.0}
    # half of two strangers may pass: the threshold is the lower of the two scores
    (point,) = own.open_set
    assert point.threshold == pytest.approx(np.cos(np.radians(20)), abs=1e-15)
    assert (point.true_positive_rate, point.achieved_fpir) == (0.5, 0.5)
    assert (report.non_mated, report.non_mated_searches, report.mated) == ("strangers", 2, 2)
    assert "2 non-mated searches" not in " ".join(report.notes)


def test_a_mate_that_comes_first_below_the_threshold_is_no_success(tmp_path: Path) -> None:
    gallery = store(tmp_path / "g", [angle(0), angle(90)], ["ann", "bob"])
    probes = store(
        tmp_path / "p", [angle(30), angle(80), angle(10), angle(12)], ["ann", "bob", "dan", "eve"]
    )
    report = cg.identify(probes, gallery, ranks=[1], fpirs=[0.5], resamples=0)
    (own,) = report.searches
    assert own.ranks == {1: 1.0}
    assert own.open_set[0].threshold == pytest.approx(np.cos(np.radians(12)), abs=1e-15)
    # cos 10 of bob is above cos 12, cos 30 of ann is not
    assert own.open_set[0].true_positive_rate == 0.5


@pytest.fixture
def database(tmp_path: Path) -> dict[str, Path]:
    """Thirty people, three entries each, by networks a and b; two probes each."""
    rng = np.random.default_rng(0)
    people = rng.normal(size=(30, 6))
    stores = {}
    for part, images in (("gallery", 3), ("probes", 2)):
        labels = [f"p{k:02}" for k in range(30) for _ in range(images)]
        rows = people.repeat(images, axis=0) + 0.4 * rng.normal(size=(30 * images, 6))
        for name, matrix in (("a", np.eye(6)), ("b", TURN)):
            ids = [f"{part}/{k}" for k in range(len(rows))]
            stores[f"{part} {name}"] = store(
                tmp_path / f"{part}-{name}", rows @ matrix, labels, ids
            )
    return stores


def migration(database: dict[str, Path], **options: Any) -> cg.IdentificationReport:
    return cg.identify(
        database["probes a"],
        database["gallery b"],
        linear_map=a_map(TURN),
        native=database["probes b"],
        reembedded=database["gallery a"],
        names=["a", "b"],
        **options,
    )


class TestMigration:
    def test_an_exact_map_keeps_all(self, database: dict[str, Path]) -> None:
        report = migration(database)
        native, mapped, reembedded, unmapped = report.searches
        assert [own.search for own in report.searches] == [
            "b in b",
            "a to b in b",
            "a in a",
            "a unmapped in b",
        ]
        assert report.native == "b in b"
        for own in (mapped, reembedded):
            assert own.figures() == native.figures()
            assert set(own.kept.values()) == {1.0}
            for interval in own.kept_intervals.values():
                assert interval is None or (interval.low, interval.high) == (1.0, 1.0)
        assert (mapped.recall, mapped.changed_lists) == (1.0, 0.0)
        assert unmapped.kept["rank-1"] < 0.5
        assert unmapped.changed_lists == 1.0
        assert report.non_mated == "mates left out"
        assert "everybody is enrolled" in " ".join(report.notes)

    def test_intervals_are_over_people(self, database: dict[str, Path]) -> None:
        own = migration(database, fpirs=[0.1]).searches[0]
        interval = own.intervals["rank-1"]
        assert interval is not None
        assert interval.low <= own.ranks[1] <= interval.high
        again = migration(database, fpirs=[0.1]).searches[0]
        assert again.intervals == own.intervals
        assert migration(database, resamples=0).searches[0].intervals == {}

    def test_rates_that_searches_cannot_tell_are_left_out(self, database: dict[str, Path]) -> None:
        report = migration(database, resamples=0)
        assert [point.fpir for point in report.searches[0].open_set] == [0.1]
        assert report.untold_fpirs == (0.01, 0.001)
        assert "60 non-mated searches tell" in report.notes[0]

    def test_the_probe_itself_is_not_found(self, database: dict[str, Path]) -> None:
        whole = cg.identify(database["gallery a"], database["gallery a"], resamples=0)
        # one entry of three fewer to be found: the best of the others is not the image itself
        (own,) = whole.searches
        assert own.open_set[0].threshold < 1
        assert 0.5 < own.ranks[1] < 1
        assert (whole.mated, whole.nearest) == (90, 10)

    def test_masked_images_are_left_out_and_counted(
        self, database: dict[str, Path], tmp_path: Path
    ) -> None:
        probes = cg.EmbeddingStore.open(database["probes a"])
        rows = probes.embeddings[:]
        masked = np.arange(60) == 7
        rows[masked] = np.nan
        labels, ids = (
            column.read(0, 60).tolist()
            for column in (probes.labels, probes.ids)
            if column is not None
        )
        path = store(tmp_path / "masked", rows, labels, ids, masked=masked)
        report = cg.identify(path, database["gallery a"], resamples=0)
        assert (report.probes, report.left_out) == (59, 1)

    def test_the_report_is_json(self, database: dict[str, Path]) -> None:
        facts = json.loads(json.dumps(migration(database).to_dict(), allow_nan=False))
        assert facts["searches"][0]["ranks"]["1"] == migration(database).searches[0].ranks[1]

    def test_what_was_fitted_on_is_not_searched_for(self, database: dict[str, Path]) -> None:
        with pytest.raises(cg.InputError, match="60 of its images, and 30 of its people"):
            migration(database, fitted_on=[database["probes b"]])
        report = migration(
            database, fitted_on=[database["gallery b"]], allow_overlap=True, resamples=0
        )
        assert report.overlaps
        assert (report.overlaps[0].images, report.overlaps[0].people) == (0, 30)

    def test_progress_ends_with_every_entry(self, database: dict[str, Path]) -> None:
        seen: list[cg.Progress] = []
        migration(database, resamples=0, progress=seen.append)
        assert seen[-1].rows == seen[-1].total_rows == 2 * 4 * 90


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"ranks": [0]}, "ranks: 0 given"),
            ({"fpirs": [1.0]}, "far: 1.0 given"),
            ({"nearest": 0}, "nearest: 0 given"),
            ({"resamples": -1}, "resamples: -1 given"),
            ({"confidence": 0.0}, "confidence: 0.0 given"),
        ],
    )
    def test_numbers_that_make_no_sense(
        self, database: dict[str, Path], options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(cg.InputError, match=message):
            migration(database, **options)

    def test_nobody_enrolled(self, database: dict[str, Path], tmp_path: Path) -> None:
        others = store(tmp_path / "o", np.eye(6), list("abcdef"))
        with pytest.raises(cg.InputError, match="nobody of .* is enrolled there"):
            cg.identify(database["probes a"], others)

    def test_spaces_of_other_widths(self, database: dict[str, Path], tmp_path: Path) -> None:
        narrow = store(tmp_path / "o", np.eye(3), list("abc"))
        with pytest.raises(cg.WidthMismatchError, match="give a map from the first"):
            cg.identify(database["probes a"], narrow)
        with pytest.raises(cg.WidthMismatchError, match="has 3 columns, the other store"):
            cg.identify(database["probes a"], database["gallery b"], native=narrow)
        with pytest.raises(cg.WidthMismatchError, match="the one given is from 3 to 6"):
            cg.identify(
                database["probes a"], database["gallery b"], linear_map=a_map(np.ones((3, 6)))
            )

    def test_native_probes_of_other_images(self, database: dict[str, Path]) -> None:
        with pytest.raises(cg.PairingError):
            cg.identify(database["probes a"], database["gallery b"], native=database["gallery b"])

    def test_rows_that_nobody_is_known_of(self, database: dict[str, Path]) -> None:
        with pytest.raises(cg.InputError, match="has no labels"):
            cg.identify(np.eye(6), database["gallery b"])


class TestImages:
    def entries(self, tmp_path: Path, name: str, ids: list[str]) -> Path:
        labels = ["ann", "bob", "ann", "bob"]
        rows = np.array([angle(0), angle(90), angle(10), angle(70)])
        return store(tmp_path / name, rows, labels, ids)

    def test_an_image_that_is_searched_twice_never_finds_itself(self, tmp_path: Path) -> None:
        gallery = self.entries(tmp_path, "g.zarr", ["w", "x", "y", "z"])
        probes = self.entries(tmp_path, "p.zarr", ["w", "x", "w", "x"])
        rank = cg.identify(probes, gallery, ranks=[1, 2], resamples=0).searches[0].ranks
        # ann at 10 and bob at 70 are then left with the other entry
        assert rank == {1: 1.0, 2: 1.0}
        assert cg.identify(probes, gallery, resamples=0).gallery == 4

    def test_an_image_that_is_enrolled_twice_is_refused(self, tmp_path: Path) -> None:
        gallery = self.entries(tmp_path, "g.zarr", ["w", "x", "y", "w"])
        probes = self.entries(tmp_path, "p.zarr", ["w", "x", "u", "v"])
        with pytest.raises(cg.InputError, match="rows 0 and 3 both have the id 'w' of a probe's"):
            cg.identify(probes, gallery, resamples=0)

    def test_says_what_chance_gives_in_small_galleries(self, tmp_path: Path) -> None:
        gallery = self.entries(tmp_path, "g.zarr", ["w", "x", "y", "z"])
        notes = cg.identify(gallery, gallery, ranks=[1, 5], resamples=0).notes
        assert "of 4 entries, chance gives 25 % rank-1" in notes
        assert "of 4 entries, chance gives 100 % rank-5" in notes
        assert not any("nearest" in note for note in notes)

    def test_says_that_the_gallery_was_fitted_on(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        rows = rng.normal(size=(20, 3))
        # no labels, so that the map knows no people
        labels, ids = [f"p{k}" for k in range(20)], [f"i{k}" for k in range(20)]
        for name in ("a.zarr", "b.zarr"):
            with cg.EmbeddingStore.create(tmp_path / name, dim=3, dtype="float64") as writer:
                writer.append(rows, ids=ids)
        fitted = cg.fit(tmp_path / "a.zarr", tmp_path / "b.zarr")
        gallery = store(tmp_path / "g.zarr", rows, labels, ids)
        probes = store(tmp_path / "p.zarr", rows + 0.1, labels)
        report = cg.identify(probes, gallery, linear_map=fitted, resamples=0)
        assert report.gallery_overlaps[0].images == 20
        assert any("20 of the gallery's images are among those" in own for own in report.notes)

    def test_where_all_probes_are_masked_there_is_nothing_to_search(self, tmp_path: Path) -> None:
        gallery = self.entries(tmp_path, "g.zarr", ["w", "x", "y", "z"])
        nothing = np.full((2, 2), np.nan)
        masked = store(tmp_path / "p", nothing, ["ann", "bob"], masked=np.ones(2, bool))
        for probes, enrolled in ((masked, gallery), (gallery, masked)):
            with pytest.raises(cg.InputError, match="p: none of its rows has an embedding"):
                cg.identify(probes, enrolled, resamples=0)

    def test_rows_that_cannot_be_compared_are_named_by_store_and_number(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(searching, "_GALLERY_BYTES", 8 * 2 * 3)
        good = [angle(own) for own in range(0, 80, 10)]
        labels = ["ann", "bob"] * 4
        masked = np.arange(8) == 2
        rows = np.array(good)
        rows[2], rows[6] = np.nan, 0
        bad = store(tmp_path / "bad", rows, labels, masked=masked)
        whole = store(tmp_path / "good", good, labels)
        for probes, gallery in ((bad, whole), (whole, bad)):
            with pytest.raises(cg.NonFiniteError, match="bad: row 6 is zero"):
                cg.identify(probes, gallery, resamples=0)
        with pytest.raises(cg.NonFiniteError, match="bad: row 6 is zero"):
            cg.verify(bad, resamples=0)
