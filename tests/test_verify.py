"""Verification within and across spaces: against counting, and what must hold of any map."""

from __future__ import annotations

import csv
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import crossgram as cg
from crossgram.evaluation import Verification
from crossgram.evaluation.verifying import verify_spaces
from crossgram.hashing import text_hashes
from crossgram.seen import Seen
from crossgram.sketch import Sketch
from crossgram.spaces import Space

PEOPLE, IMAGES = 12, 5
LABELS = [f"p{person:02}" for person in range(PEOPLE) for _ in range(IMAGES)]
IDS = [f"{label}/{k}" for k, label in enumerate(LABELS)]
ROTATION = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]


def embeddings(seed: int = 0, noise: float = 0.5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    people = rng.normal(size=(PEOPLE, 6)).repeat(IMAGES, axis=0)
    return people + noise * rng.normal(size=(len(LABELS), 6))


def store(path: Path, rows: np.ndarray, ids: list[str] = IDS, **columns: Any) -> cg.EmbeddingStore:
    labels = columns.pop("labels", LABELS)
    with cg.EmbeddingStore.create(path, dim=rows.shape[1], dtype="float64") as writer:
        writer.append(rows, ids=ids, labels=labels, **columns)
    return cg.EmbeddingStore.open(path)


def a_map(matrix: np.ndarray, names: tuple[str, str] = ("a", "b")) -> cg.LinearMap:
    spaces = [Space(name, dim) for name, dim in zip(names, matrix.shape, strict=True)]
    return cg.LinearMap(matrix.T, np.zeros(matrix.shape[1]), *spaces)


def by_name(report: cg.VerificationReport) -> dict[str, Verification]:
    return {own.comparison: own for own in report.comparisons if own.probe != "right"}


def same_figures(one: Verification, other: Verification, tolerance: float = 1e-12) -> None:
    assert one.figures().keys() == other.figures().keys()
    for name, value in one.figures().items():
        assert value == pytest.approx(other.figures()[name], abs=tolerance), name


@pytest.fixture
def pair(tmp_path: Path) -> tuple[cg.EmbeddingStore, cg.EmbeddingStore]:
    rows = embeddings()
    return store(tmp_path / "a.zarr", rows), store(tmp_path / "b.zarr", rows @ ROTATION)


class TestNative:
    @pytest.mark.parametrize("metric", ["cosine", "euclidean"])
    def test_figures_are_those_of_every_pair(self, tmp_path: Path, metric: str) -> None:
        rows = embeddings()
        report = cg.verify(store(tmp_path / "a.zarr", rows), metric=metric, resamples=0)
        scores, same = [], []
        for i in range(len(rows)):
            for j in range(i):
                if metric == "cosine":
                    lengths = np.linalg.norm(rows[i]) * np.linalg.norm(rows[j])
                    scores.append(rows[i] @ rows[j] / lengths)
                else:
                    scores.append(-np.linalg.norm(rows[i] - rows[j]))
                same.append(LABELS[i] == LABELS[j])
        (own,) = report.comparisons
        assert own.area_under_curve == pytest.approx(roc_auc_score(same, scores), abs=1e-12)
        impostor = sorted((s for s, one in zip(scores, same, strict=True) if not one), reverse=True)
        genuine = [s for s, one in zip(scores, same, strict=True) if one]
        for point in own.operating_points:
            allowed = int(point.far * len(impostor))
            passed = sum(score > impostor[allowed] for score in genuine)
            assert point.true_accept_rate == passed / len(genuine)
        assert (report.genuine_pairs, report.impostor_pairs) == (len(genuine), len(impostor))
        assert (report.images, report.people) == (len(rows), PEOPLE)

    def test_rates_that_pairs_cannot_tell_are_left_out_and_named(
        self, pair: tuple[cg.EmbeddingStore, ...]
    ) -> None:
        report = cg.verify(pair[0], resamples=0)
        assert report.impostor_pairs == 1650
        assert [point.far for point in report.comparisons[0].operating_points] == [0.1, 0.01, 0.001]
        assert report.untold_fars == (1e-4, 1e-5, 1e-6)
        assert "1,650 impostor pairs tell false accept rates down to 0.00061" in report.notes[0]
        assert "at 0.001 the true accept rate hangs on fewer than 10" in report.notes[1]

    def test_masked_rows_are_in_no_pair(self, tmp_path: Path) -> None:
        rows = embeddings()
        masked = np.zeros(len(rows), bool)
        masked[[3, 30]] = True
        rows[masked] = np.nan
        whole = store(tmp_path / "a.zarr", rows, masked=masked)
        kept = [k for k in range(len(rows)) if not masked[k]]
        part = store(
            tmp_path / "b.zarr",
            rows[kept],
            ids=[IDS[k] for k in kept],
            labels=[LABELS[k] for k in kept],
        )
        report = cg.verify(whole, resamples=0)
        assert (report.left_out, report.images) == (2, 58)
        same_figures(report.comparisons[0], cg.verify(part, resamples=0).comparisons[0])


class TestAcross:
    def test_an_exact_map_keeps_everything(self, pair: tuple[cg.EmbeddingStore, ...]) -> None:
        report = cg.verify(*pair, linear_map=a_map(ROTATION), back=a_map(ROTATION.T, ("b", "a")))
        found = by_name(report)
        for name in ("b with b", "a to b with b", "a to b with itself", "b to a with a"):
            same_figures(found[name], found["a with a"])
        for own in list(found.values())[2:6]:
            assert all(abs(lost) < 1e-9 for lost in own.loss.values())
            for interval in own.loss_intervals.values():
                assert interval is None or abs(interval.low) + abs(interval.high) < 1e-9
        floor = found["a unmapped with b"]
        assert floor.area_under_curve < 0.7
        assert floor.loss["area_under_curve"] == pytest.approx(
            100 * (found["b with b"].area_under_curve - floor.area_under_curve), abs=1e-12
        )

    def test_a_network_to_itself_has_its_own_figures(
        self, pair: tuple[cg.EmbeddingStore, ...]
    ) -> None:
        fitted = cg.fit(pair[0], pair[0])
        found = by_name(
            cg.verify(
                pair[0],
                pair[0],
                linear_map=fitted,
                names=["a", "same"],
                resamples=0,
                allow_overlap=True,
            )
        )
        same_figures(found["a to same with same"], found["a with a"])

    def test_every_pair_meets_both_ways(self, tmp_path: Path) -> None:
        a, b = embeddings(0), embeddings(0, noise=0.9) @ ROTATION
        stores = store(tmp_path / "a.zarr", a), store(tmp_path / "b.zarr", b)
        report = cg.verify(*stores, linear_map=a_map(ROTATION), resamples=0)
        mapped = a @ ROTATION
        expected = cg.pair_scores(LABELS, mapped, b)
        assert by_name(report)["a to b with b"].area_under_curve == pytest.approx(
            cg.area_under_curve(expected), abs=1e-12
        )

    def test_narrower_rows_are_filled_up_and_wider_ones_cut(self, tmp_path: Path) -> None:
        rows = embeddings()
        stores = store(tmp_path / "a.zarr", rows[:, :4]), store(tmp_path / "b.zarr", rows)
        found = by_name(cg.verify(*stores, resamples=0))
        filled = cg.pair_scores(LABELS, np.pad(rows[:, :4], ((0, 0), (0, 2))), rows)
        cut = cg.pair_scores(LABELS, rows[:, :4], rows[:, :4])
        assert found["a unmapped with b"].area_under_curve == pytest.approx(
            cg.area_under_curve(filled), abs=1e-12
        )
        assert found["b unmapped with a"].area_under_curve == pytest.approx(
            cg.area_under_curve(cut), abs=1e-12
        )

    def test_of_listed_pairs_either_image_is_the_probe(self, tmp_path: Path) -> None:
        a, b = embeddings(0), embeddings(0, noise=0.9)
        stores = store(tmp_path / "a.zarr", a), store(tmp_path / "b.zarr", b)
        rng = np.random.default_rng(0)
        chosen = rng.integers(0, len(IDS), (400, 2))
        chosen = chosen[chosen[:, 0] != chosen[:, 1]]
        same = [LABELS[i] == LABELS[j] for i, j in chosen]
        with (tmp_path / "p.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["left", "right", "same"])
            writer.writerows(
                [IDS[i], IDS[j], int(one)] for (i, j), one in zip(chosen, same, strict=True)
            )
        report = cg.verify(
            *stores, linear_map=a_map(np.eye(6)), pairs=tmp_path / "p.csv", resamples=0
        )
        unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (a, b)]
        for probe, (i, j) in (("left", chosen.T), ("right", chosen.T[::-1])):
            (own,) = (
                one
                for one in report.comparisons
                if (one.comparison, one.probe) == ("a to b with b", probe)
            )
            scores = (unit[0][i] * unit[1][j]).sum(axis=1)
            assert own.area_under_curve == pytest.approx(roc_auc_score(same, scores), abs=1e-12)
            assert own.accuracy is not None
            assert own.loss["accuracy"] == pytest.approx(
                100 * (by_name(report)["b with b"].accuracy.mean - own.accuracy.mean), abs=1e-12
            )


class TestVeryManyPairs:
    """They are counted in bins, in float32."""

    def test_give_the_figures_of_sorted_ones(
        self, pair: tuple[cg.EmbeddingStore, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options: dict[str, Any] = {"linear_map": a_map(ROTATION), "fars": [0.1, 0.01]}
        expected = cg.verify(*pair, resamples=0, **options)
        monkeypatch.setattr("crossgram.evaluation.verifying.MOST_PAIRS", 100)
        report = cg.verify(*pair, **options)
        for own, other in zip(report.comparisons, expected.comparisons, strict=True):
            assert own.comparison == other.comparison
            assert own.area_error < 1e-3
            # two scores that round to one in float32 change places with one of 120 genuine pairs
            difference = abs(own.area_under_curve - other.area_under_curve)
            assert difference < own.area_error + 1e-4
            assert own.equal_error_rate == pytest.approx(other.equal_error_rate, abs=0.01)
            for one, another in zip(own.operating_points, other.operating_points, strict=True):
                assert one.true_accept_rate == pytest.approx(another.true_accept_rate, abs=0.01)
                # two roundings of float32
                assert one.threshold == pytest.approx(another.threshold, abs=2e-7)
            assert own.loss.keys() == other.loss.keys()
        assert report.comparisons[0].intervals == {}
        assert (report.genuine_pairs, report.impostor_pairs) == (120, 1650)
        assert (report.people, report.images) == (PEOPLE, len(LABELS))
        assert report.notes[0].startswith("too many pairs to be drawn anew")

    def test_are_not_scored_otherwise(
        self, pair: tuple[cg.EmbeddingStore, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("crossgram.evaluation.verifying.MOST_PAIRS", 100)
        for option in ({"metric": "euclidean"}, {"tar": "nearest"}):
            with pytest.raises(cg.InputError, match="1,770 pairs, which are counted in bins"):
                cg.verify(pair[0], **option)


class TestRefusals:
    def test_pairs_of_masked_images(self, tmp_path: Path) -> None:
        rows = embeddings()
        masked = np.arange(len(rows)) == 3
        rows[masked] = np.nan
        (tmp_path / "p.csv").write_text(
            f"left,right,same\n{IDS[0]},{IDS[3]},1\n{IDS[0]},{IDS[9]},0"
        )
        with pytest.raises(cg.InputError, match=f"{IDS[3]} has no embedding.* leaves out no pair"):
            cg.verify(store(tmp_path / "a.zarr", rows, masked=masked), pairs=tmp_path / "p.csv")

    def test_stores_of_other_images(self, tmp_path: Path) -> None:
        stores = (
            store(tmp_path / "a.zarr", embeddings()),
            store(tmp_path / "b.zarr", embeddings(), ids=IDS[::-1]),
        )
        with pytest.raises(cg.PairingError):
            cg.verify(*stores, resamples=0)

    def test_a_map_of_other_widths(self, pair: tuple[cg.EmbeddingStore, ...]) -> None:
        with pytest.raises(cg.WidthMismatchError, match="map a to b: the one given is from 4 to 6"):
            cg.verify(*pair, linear_map=a_map(np.ones((4, 6))))

    def test_a_row_without_direction(self, tmp_path: Path) -> None:
        rows = embeddings()
        rows[7] = 0
        with pytest.raises(cg.NonFiniteError, match="a.zarr: row 7 is zero"):
            cg.verify(store(tmp_path / "a.zarr", rows), resamples=0)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"metric": "l1"}, "metric: 'l1' given"),
            ({"tar": "best"}, "tar: 'best' given"),
            ({"fars": [0.0]}, "far: 0.0 given"),
            ({"resamples": -1}, "resamples: -1 given"),
            ({"confidence": 1.0}, "confidence: 1.0 given"),
            ({"linear_map": a_map(np.eye(6))}, "target: none given, but a map to it"),
            ({"pairs": "p.dat"}, "not a list of pairs"),
        ],
    )
    def test_arguments_that_make_no_sense(
        self, pair: tuple[cg.EmbeddingStore, ...], options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(cg.InputError, match=message):
            cg.verify(pair[0], **options)

    def test_rows_that_nobody_is_known_of(self) -> None:
        with pytest.raises(cg.InputError, match="has no labels, so that nobody knows who is who"):
            cg.verify(embeddings())
        with pytest.raises(cg.InputError, match="has no ids, which the images of p.csv"):
            cg.verify(embeddings(), pairs="p.csv")


class TestSplits:
    def others(self, path: Path, same_people: bool) -> cg.EmbeddingStore:
        ids = [f"{one}-again" for one in IDS]
        labels = LABELS if same_people else [f"other {label}" for label in LABELS]
        return store(path, embeddings(1), ids=ids, labels=labels)

    @pytest.mark.parametrize("same_people", [True, False])
    def test_what_was_fitted_on_is_not_evaluated(
        self, tmp_path: Path, pair: tuple[cg.EmbeddingStore, ...], same_people: bool
    ) -> None:
        others = self.others(tmp_path / "o.zarr", same_people)
        options: dict[str, Any] = {"linear_map": a_map(ROTATION), "resamples": 0}
        if not same_people:
            report = cg.verify(*pair, fitted_on=[others], **options)
            assert report.notes[-1].startswith("no image and no person is among those of")
        else:
            with pytest.raises(cg.InputError, match="0 of its images, and 12 of its people"):
                cg.verify(*pair, fitted_on=[others], **options)
        with pytest.raises(cg.InputError, match="60 of its images, and 12 of its people"):
            cg.verify(*pair, fitted_on=[others, pair[0]], **options)
        report = cg.verify(*pair, fitted_on=[pair[0]], allow_overlap=True, **options)
        assert report.overlaps
        assert (report.overlaps[0].images, report.overlaps[0].people) == (60, 12)
        assert "60 of the images and 12 of the people" in report.notes[-1]

    def test_other_images_of_the_same_people_are_found_by_name(
        self, tmp_path: Path, pair: tuple[cg.EmbeddingStore, ...]
    ) -> None:
        others = self.others(tmp_path / "o.zarr", same_people=True)
        with pytest.raises(cg.InputError, match="0 of its images, and 12 of its people, are"):
            cg.verify(*pair, linear_map=cg.fit(others, others), resamples=0)

    def test_other_people_are_evaluated(
        self, tmp_path: Path, pair: tuple[cg.EmbeddingStore, ...]
    ) -> None:
        others = self.others(tmp_path / "o.zarr", same_people=False)
        report = cg.verify(*pair, linear_map=cg.fit(others, others), resamples=0)
        assert report.notes[-1] == (
            "no image and no person is among those that the map o to o-2 remembers"
        )

    def test_numbers_that_are_shared_are_noted(self, tmp_path: Path) -> None:
        labels = [str(k // 5) for k in range(60)]
        ids = [f"{one}-again" for one in IDS]
        others = store(tmp_path / "o.zarr", embeddings(1), ids=ids, labels=labels)
        pair = [store(tmp_path / f"{name}.zarr", embeddings(), labels=labels) for name in "ab"]
        fitted = cg.fit(others, others)
        report = cg.verify(*pair, linear_map=fitted, resamples=0)
        (shared,) = report.overlaps
        assert (shared.images, shared.people, shared.named) == (0, 12, 0)
        assert "but 12 labels are, which are numbers: if they are the same" in report.notes[-1]
        with pytest.raises(cg.InputError, match="0 of its images, and 12 of its people"):
            cg.verify(*pair, linear_map=fitted, fitted_on=[others], resamples=0)

    def test_a_sample_finds_what_it_can_tell(self, pair: tuple[cg.EmbeddingStore, ...]) -> None:
        """Of many images, some are remembered: one of them is proof, and none says of how many."""
        own, other = (text_hashes(np.array(ids)) for ids in (IDS, [f"{one}-again" for one in IDS]))
        bound = int(np.sort(own)[30])

        def remembering(hashes: np.ndarray) -> cg.LinearMap:
            kept = np.sort(hashes[hashes < np.uint64(bound)])
            sketch = Sketch(kept, np.ones(len(kept), np.int64), bound)
            return replace(a_map(ROTATION), fitted_on=Seen(ids=sketch))

        with pytest.raises(cg.InputError, match="about 60 of its images, and 0 of its people, are"):
            cg.verify(*pair, linear_map=remembering(own), resamples=0)
        report = cg.verify(*pair, linear_map=remembering(other), resamples=0)
        assert (report.overlaps[0].told, report.overlaps[0].images) == (30, 0)
        assert "none of the 30 images that can be told by a sample is among" in report.notes[-1]
        assert report.notes[-1].endswith("of people, that cannot be told")

    def test_what_is_not_said_is_noted(self, pair: tuple[cg.EmbeddingStore, ...]) -> None:
        report = cg.verify(*pair, linear_map=a_map(ROTATION), resamples=0)
        assert "is not known; say what it was fitted on" in report.notes[-1]


def test_the_report_is_json(pair: tuple[cg.EmbeddingStore, ...]) -> None:
    import json

    report = cg.verify(*pair, linear_map=a_map(ROTATION), resamples=5)
    facts = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert facts["comparisons"][0]["area_under_curve"] == report.comparisons[0].area_under_curve
    assert facts["comparisons"][2]["loss"] == asdict(report)["comparisons"][2]["loss"]


def test_progress_counts_comparisons(pair: tuple[cg.EmbeddingStore, ...]) -> None:
    seen: list[cg.Progress] = []
    cg.verify(*pair, resamples=0, progress=seen.append)
    assert [(one.rows, one.total_rows) for one in seen] == [(k, 4) for k in range(1, 5)]


class TestSpaces:
    def test_every_pair_of_spaces_is_as_if_alone(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(5)
        names = ["a", "b", "c"]
        rows = [embeddings(0, noise) @ rng.normal(size=(6, 6)) for noise in (0.3, 0.5, 0.9)]
        stores = [store(tmp_path / f"{n}.zarr", own) for n, own in zip(names, rows, strict=True)]
        maps = {(i, j): cg.fit(stores[i], stores[j]) for i, j in ((0, 1), (1, 0), (2, 0), (1, 2))}
        together = verify_spaces(stores, maps, resamples=5, allow_overlap=True)
        for i, j in ((0, 1), (0, 2), (1, 2)):
            apart = cg.verify(
                stores[i],
                stores[j],
                linear_map=maps.get((i, j)),
                back=maps.get((j, i)),
                resamples=5,
                allow_overlap=True,
            )
            ends = {names[i], names[j]}
            own = [one for one in together.comparisons if {one.source, one.target} <= ends]
            assert own == list(apart.comparisons)
        assert [one.kind for one in together.comparisons[:3]] == ["native"] * 3
        # 3 native; 4 maps against the target's own and themselves; 6 without a map
        assert len(together.comparisons) == 3 + 2 * 4 + 6


def test_the_points_of_a_report_are_on_the_roc_curve(tmp_path: Path) -> None:
    rows = embeddings()
    (own,) = cg.verify(store(tmp_path / "a.zarr", rows), resamples=0).comparisons
    roc = cg.roc_curve(cg.pair_scores(LABELS, rows))
    on_curve = set(zip(roc.false_accept.tolist(), roc.true_accept.tolist(), strict=True))
    assert {(point.false_accept, point.true_accept) for point in own.roc} <= on_curve
    assert own.roc[-1].false_accept == own.roc[-1].true_accept == 1.0
    for point in own.operating_points:
        best = max(p.true_accept for p in own.roc if p.false_accept <= point.far)
        assert best == point.true_accept_rate


def test_folds_of_one_kind_are_said(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 3))
    ids = [f"i{k}" for k in range(40)]
    with cg.EmbeddingStore.create(tmp_path / "a.zarr", dim=3, dtype="float64") as writer:
        writer.append(rows, ids=ids)
    genuine = [f"i{k},i{k + 1},1" for k in range(0, 40, 2)]
    impostor = [f"i{k},i{(k + 2) % 40},0" for k in range(0, 40, 2)]
    mixed = [line for both in zip(genuine, impostor, strict=True) for line in both]
    for name, lines, count in (("one", genuine + impostor, 10), ("mixed", mixed, 0)):
        (tmp_path / f"{name}.csv").write_text("\n".join(["left,right,same", *lines]))
        report = cg.verify(tmp_path / "a.zarr", pairs=tmp_path / f"{name}.csv", resamples=0)
        said = [note for note in report.notes if "pairs of one kind only" in note]
        assert [f"one kind only: {count};" in note for note in said] == [True] * bool(count)
