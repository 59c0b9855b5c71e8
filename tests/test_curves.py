"""Learning curves, against fitting anew to exactly the rows of each sample."""

from __future__ import annotations

import threading
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score, roc_auc_score
from strategies import (
    EPSILON,
    Drawn,
    centred,
    drawn,
    mask_of,
    moments_of,
    orthogonal,
    write_store,
)

import crossgram as cg
from crossgram.curves import CurvePoint, learning_curve
from crossgram.resources import PeakMemory
from crossgram.ridge import ridge_path
from crossgram.source import Source

ROWS, P, Q = 900, 20, 12
rng = np.random.default_rng(0)
X = rng.standard_normal((ROWS, P)) * np.linspace(0.5, 1.5, P) @ orthogonal(rng, P) + 2.0
Y = X @ rng.standard_normal((P, Q)) / 4 + rng.standard_normal((ROWS, Q)) - 1.0
DRAWN = drawn(range(ROWS))
TOTAL = len(DRAWN.training)
SIZES = [6, 15, 21, 30, 150, TOTAL]

LABELS = rng.permutation(np.arange(ROWS) // 6)
IDS = np.array([f"image-{row}.jpg" for row in range(ROWS)])
KEYS = [zlib.crc32(str(label).encode()) for label in LABELS]
PEOPLE = drawn(KEYS, 0.3, 7, by_label=True)


def refitted(point: CurvePoint, x: NDArray[Any], y: NDArray[Any]) -> Any:
    """Return what predicts, fitted anew to these rows by other means."""
    mean_x, mean_y, xc, yc = x.mean(axis=0), y.mean(axis=0), centred(x), centred(y)
    if point.method == "ridge":
        return Ridge(point.ridge, solver="svd").fit(x, y).predict
    if point.method == "lstsq":
        coefficients = np.linalg.lstsq(xc, yc, rcond=1e-10)[0]
    elif point.method == "procrustes":
        # of targets filled with zeros to the width of x
        square, _ = orthogonal_procrustes(xc, np.pad(yc, [(0, 0), (0, P - Q)]))
        rotation = square[:, :Q]
        coefficients = rotation * np.sum(xc @ rotation * yc) / np.sum((xc @ rotation) ** 2)
    else:
        below = np.sqrt(point.ridge) * np.eye(P)
        stacked, targets = np.vstack([xc, below]), np.vstack([yc, np.zeros((P, Q))])
        full = np.linalg.lstsq(stacked, targets, rcond=None)[0]
        directions = np.linalg.svd(stacked @ full)[2][: point.rank].T
        coefficients = full @ directions @ directions.T
    return lambda rows: mean_y + (rows - mean_x) @ coefficients


def assert_refits_agree(point: CurvePoint, size: int, chosen: Drawn) -> None:
    """Hold the R² of a point to that of a map fitted anew and applied to the held-out rows.

    The coefficients have an error of ε times the square of the condition number; how far that
    shows depends on how large the residuals are.
    """
    own, held = chosen.training[:size], chosen.held_out
    predict = refitted(point, X[own], Y[own])
    expected = r2_score(Y[held], predict(X[held]), multioutput="variance_weighted")
    values = np.linalg.svd(centred(X[own]) / np.linalg.norm(centred(X[own]), axis=0))[1]
    condition = values[0] / values[min(size - 1, P) - 1]
    allowed = 16 * P * EPSILON * condition**2 * (1 + abs(expected))
    assert allowed < 1e-6
    assert point.r2 == pytest.approx(expected, abs=allowed)


@pytest.fixture(scope="module")
def curve() -> cg.LearningCurve:
    return cg.learning_curve(X, Y, sizes=SIZES, ranks=[1, 3, Q])


@pytest.mark.usefixtures("one_blas_thread_in_class")
class TestHeldOutR2:
    """Moments of buckets and of held-out rows give what rows would."""

    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("method", ["lstsq", "ridge", "procrustes"])
    def test_is_that_of_a_refit_on_exactly_the_rows(
        self, curve: cg.LearningCurve, size: int, method: str
    ) -> None:
        (point,) = (p for p in curve.points if (p.method, p.rows) == (method, size))
        if method == "procrustes" and size <= Q:
            # some directions of so few rows may be turned in any way
            assert f"at {size} pairs, no more than the {Q} directions" in " ".join(curve.notes)
        else:
            assert_refits_agree(point, size, DRAWN)

    def test_of_each_rank_is_that_of_a_refit(self, curve: cg.LearningCurve) -> None:
        assert [point.rank for point in curve.ranks] == [Q, 3, 1]
        for point in curve.ranks:
            assert_refits_agree(point, TOTAL, DRAWN)
        ridge = next(p for p in curve.points if (p.method, p.rows) == ("ridge", TOTAL))
        assert (curve.ranks[0].ridge, curve.ranks[0].r2) == (ridge.ridge, ridge.r2)

    def test_of_each_rank_is_of_all_training_rows_whatever_the_sizes(self) -> None:
        few = cg.learning_curve(X, Y, sizes=[15, 150], ranks=[Q, 2])
        assert [point.rows for point in few.points] == [15] * 3 + [150] * 3
        assert [point.rows for point in few.ranks] == [TOTAL] * 2
        for point in few.ranks:
            assert_refits_agree(point, TOTAL, DRAWN)

    @pytest.mark.parametrize("size", SIZES)
    def test_the_ridge_is_chosen_by_generalised_cross_validation_of_the_sample(
        self, curve: cg.LearningCurve, size: int
    ) -> None:
        own = DRAWN.training[:size]
        path = ridge_path(moments_of([X[own], Y[own]]), "a", "b")
        (point,) = (p for p in curve.points if (p.method, p.rows) == ("ridge", size))
        # the strengths tried follow the smallest eigenvalue, whose digits are those of the rows
        assert point.ridge == pytest.approx(path.chosen, rel=1e-6)
        assert path.chosen_by == "generalised cross-validation"

    def test_is_of_rows_held_out_by_label_where_there_are_labels(self, stores: list[Path]) -> None:
        curve = cg.learning_curve(*stores, held_out=0.3, seed=7, sizes=[150])
        assert (curve.held_out_by, curve.held_out_rows) == ("labels", len(PEOPLE.held_out))
        assert curve.training_rows == ROWS - curve.held_out_rows
        for point in curve.points:
            assert_refits_agree(point, 150, PEOPLE)

    def test_is_weighted_as_the_rows_are(self) -> None:
        weights = rng.integers(0, 3, ROWS).astype(float)
        curve = cg.learning_curve(X, Y, sizes=[300], weights=weights)
        own, held = DRAWN.training[:300], DRAWN.held_out
        ridge = curve.points[1]
        model = Ridge(ridge.ridge, solver="svd").fit(X[own], Y[own], sample_weight=weights[own])
        expected = r2_score(
            Y[held],
            model.predict(X[held]),
            sample_weight=weights[held],
            multioutput="variance_weighted",
        )
        assert ridge.r2 == pytest.approx(expected, abs=1e-10)
        assert ridge.rows == np.count_nonzero(weights[own])
        assert curve.held_out_rows == np.count_nonzero(weights[held])

    def test_of_unit_rows_is_that_of_rows_made_so_before(self) -> None:
        unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (X, Y)]
        found = cg.learning_curve(X, Y, sizes=[50, 400], normalize=True)
        expected = cg.learning_curve(*unit, sizes=[50, 400])
        assert found.source.normalized
        for one, other in zip(found.points, expected.points, strict=True):
            assert one.r2 == pytest.approx(other.r2, rel=1e-9)

    def test_of_constant_targets_is_one_if_they_are_reproduced(self) -> None:
        curve = cg.learning_curve(X, np.full((ROWS, 2), 0.1), sizes=[100])
        assert [point.r2 for point in curve.points] == [1.0, 1.0, 1.0]

    def test_of_a_constant_source_is_that_of_the_mean(self) -> None:
        curve = cg.learning_curve(np.full((ROWS, 3), 0.1), Y, sizes=[400])
        mean = Y[DRAWN.training[:400]].mean(axis=0)
        held = Y[DRAWN.held_out]
        expected = r2_score(held, np.tile(mean, (len(held), 1)), multioutput="variance_weighted")
        assert [point.r2 for point in curve.points] == pytest.approx([expected] * 3, abs=1e-12)
        assert curve.points[1].ridge == 0.0


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("stores")
    return [
        write_store(directory / f"{name}.zarr", rows, ids=IDS, labels=LABELS)
        for name, rows in (("a", X), ("b", Y))
    ]


def verified(mapped: NDArray[Any], targets: NDArray[Any], labels: NDArray[Any]) -> Any:
    """Return AUC and TAR of every pair of different rows, from the definition."""
    rows = [r / np.linalg.norm(r, axis=1, keepdims=True) for r in (mapped, targets)]
    pairs = ~np.eye(len(labels), dtype=bool)
    scores = (rows[0] @ rows[1].T)[pairs]
    same = (labels[:, None] == labels)[pairs]
    impostor = np.sort(scores[~same])[::-1]
    threshold = impostor[len(impostor) // 100]
    return roc_auc_score(same, scores), np.mean(scores[same] > threshold)


class TestRecognition:
    @pytest.mark.parametrize("normalize", [False, True])
    def test_is_that_of_refitted_maps_on_the_rows_scored(
        self, stores: list[Path], normalize: bool
    ) -> None:
        x, y = X, Y
        if normalize:
            x, y = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (X, Y))
        curve = cg.learning_curve(
            *stores, held_out=0.3, seed=7, sizes=[15, 300], ranks=[Q, 3], normalize=normalize
        )
        scored = PEOPLE.scored
        assert curve.scored_rows == len(scored) == len(PEOPLE.held_out)
        for point in (*curve.points, *curve.ranks):
            own = PEOPLE.training[: point.rows]
            mapped = refitted(point, x[own], y[own])(x[scored])
            expected = verified(mapped, y[scored], LABELS[scored])
            # a pair whose score is another's but for rounding may change its place
            assert (point.auc, point.tar) == pytest.approx(expected, abs=1e-3)
        native = verified(y[scored], y[scored], LABELS[scored])
        assert (curve.native_auc, curve.native_tar) == pytest.approx(native, abs=1e-3)

    def test_leaves_out_rows_without_a_direction(self, tmp_path: Path) -> None:
        y = Y.copy()
        y[PEOPLE.scored[:3]] = 0
        b = write_store(tmp_path / "b.zarr", y, labels=LABELS)
        curve = cg.learning_curve(X, b, held_out=0.3, seed=7, sizes=[300])
        assert curve.scored_rows == len(PEOPLE.scored) - 3
        assert curve.held_out_rows == len(PEOPLE.held_out)

    @pytest.mark.parametrize(
        ("labels", "why"),
        [
            (None, "there are no labels"),
            (np.arange(ROWS), "no two of the same label"),
        ],
    )
    def test_without_pairs_is_left_out(
        self, tmp_path: Path, labels: NDArray[Any] | None, why: str
    ) -> None:
        b = write_store(tmp_path / "b.zarr", Y, labels=labels)
        curve = cg.learning_curve(X, b, sizes=[300])
        assert curve.scored_rows == 0
        assert {(point.auc, point.tar) for point in (*curve.points, *curve.ranks)} == {(None, None)}
        assert any(why in note for note in curve.notes)

    def test_of_too_few_impostors_for_the_rate_is_the_area_alone(self, tmp_path: Path) -> None:
        b = write_store(tmp_path / "b.zarr", Y[:24], labels=np.arange(24) // 2)
        curve = cg.learning_curve(X[:24], b, sizes=[10], held_out=0.1)
        assert 4 <= curve.scored_rows <= 10
        assert all(point.auc is not None for point in curve.points)
        assert {point.tar for point in curve.points} == {None}


class TestSizes:
    def test_rise_evenly_on_a_logarithmic_scale_to_all_rows(self) -> None:
        curve = cg.learning_curve(X, Y)
        sizes = [point.rows for point in curve.points if point.method == "lstsq"]
        assert (sizes[0], sizes[-1], len(sizes)) == (16, TOTAL, 12)
        ratios = np.array(sizes[1:]) / sizes[:-1]
        # each is rounded to a whole number
        assert np.abs(ratios - (TOTAL / 16) ** (1 / 11)).max() < 2 / 16

    def test_start_at_an_eighth_of_many_columns(self) -> None:
        wide = np.random.default_rng(0).standard_normal((1500, 200))
        curve = cg.learning_curve(wide, wide[:, :2])
        assert curve.points[0].rows == 25

    def test_of_few_rows_are_fewer(self) -> None:
        curve = cg.learning_curve(X[:30], Y[:30])
        sizes = [point.rows for point in curve.points if point.method == "lstsq"]
        assert sizes[0] < 5
        assert sizes == sorted(set(sizes))
        assert sizes[-1] == curve.training_rows

    def test_may_be_given_in_any_order(self) -> None:
        curve = cg.learning_curve(X, Y, sizes=[300, 20, 300])
        assert [point.rows for point in curve.points] == [20] * 3 + [300] * 3

    def test_near_the_number_of_columns_are_warned_of_by_name(self) -> None:
        notes = cg.learning_curve(X, Y, sizes=[6, P + 1, P + 2, 2 * P + 1, 2 * P + 2]).notes
        assert any(
            note.startswith("at 6, 21 pairs, no more than the 21 coefficients per output")
            and "interpolates" in note
            for note in notes
        )
        assert any(note.startswith("at 22, 41 pairs") and "overfits" in note for note in notes)
        assert not any("42" in note for note in notes)

    def test_the_least_that_is_enough_comes_within_a_hundredth_of_the_best(self) -> None:
        curve = cg.learning_curve(X, Y)
        best = max(point.r2 for point in curve.points)
        enough = curve.enough
        assert enough.r2 >= best - 0.01
        assert enough.rows < TOTAL
        assert all(p.r2 < best - 0.01 for p in curve.points if p.rows < enough.rows)
        assert enough.r2 == max(p.r2 for p in curve.points if p.rows == enough.rows)
        assert curve.to_dict()["enough"] == asdict(enough)


@pytest.mark.usefixtures("one_blas_thread_in_class")
class TestRanks:
    @pytest.mark.parametrize(
        ("dim", "expected"),
        [(5, [5]), (12, [12, 8]), (70, [70, 64, 32, 16, 8]), (600, [512, 256, 128, 64, 32, 16, 8])],
    )
    def test_halve_from_those_of_the_narrower_space(self, dim: int, expected: list[int]) -> None:
        wide = np.random.default_rng(0).standard_normal((400, dim))
        curve = cg.learning_curve(wide, wide, sizes=[30])
        assert [point.rank for point in curve.ranks] == expected


class TestThePass:
    def test_reads_every_row_once_and_the_scored_rows_again(self) -> None:
        counts = np.zeros(ROWS, int)
        lock = threading.Lock()

        def read(start: int, out: NDArray[Any]) -> None:
            with lock:
                counts[start : start + len(out)] += 1
            out[:] = X[start : start + len(out)]

        counted = Source("x", ROWS, P, X.dtype, 1, read)
        cg.learning_curve(counted, Y)
        assert (counts == 1).all()

    def test_gives_the_same_bits_with_any_number_of_threads(self) -> None:
        x = np.random.default_rng(1).standard_normal((40_000, 4), np.float32)
        y = x[:, :2] ** 2 + x[:, 2:]
        one, three = (cg.learning_curve(x, y, threads=threads) for threads in (1, 3))
        assert one == three

    def test_joins_rows_by_id(self, stores: list[Path], tmp_path: Path) -> None:
        order = np.random.default_rng(2).permutation(ROWS)
        shuffled = write_store(tmp_path / "b.zarr", Y[order], ids=IDS[order], labels=LABELS[order])
        found = cg.learning_curve(stores[0], shuffled, sizes=[60, 500], join="ids")
        expected = cg.learning_curve(*stores, sizes=[60, 500])
        assert found == expected

    def test_leaves_out_rows_that_are_not_finite_and_counts_them(self) -> None:
        x = X.copy()
        x[[DRAWN.training[0], DRAWN.training[200], DRAWN.held_out[0]], 3] = np.nan
        with pytest.raises(cg.NonFiniteError, match="row"):
            cg.learning_curve(x, Y)
        curve = cg.learning_curve(x, Y, sizes=[100, TOTAL], on_nonfinite="skip")
        assert [point.rows for point in curve.points] == [99] * 3 + [TOTAL - 2] * 3
        assert (curve.skipped, curve.held_out_rows) == (3, len(DRAWN.held_out) - 1)

    @pytest.mark.parametrize("labels", [None, LABELS], ids=["by rows", "by labels"])
    def test_is_of_samples_of_the_rows_that_are_not_masked(
        self, tmp_path: Path, labels: NDArray[Any] | None
    ) -> None:
        keys = range(ROWS) if labels is None else KEYS
        # a third of what would be scored, and of one of the two spaces each
        masks = mask_of(ROWS, *range(0, ROWS, 7)), mask_of(ROWS, *range(0, ROWS, 4))
        masked = np.flatnonzero(masks[0] | masks[1]).tolist()
        chosen = drawn(keys, 0.3, 7, by_label=labels is not None, masked=masked)
        pair = [
            write_store(tmp_path / f"{name}.zarr", rows, labels=labels, masked=mask)
            for name, rows, mask in zip("ab", (X, Y), masks, strict=True)
        ]
        sizes = [150, len(chosen.training)]
        curve = cg.learning_curve(*pair, held_out=0.3, seed=7, sizes=sizes)
        assert [point.rows for point in curve.points] == [150] * 3 + [sizes[1]] * 3
        assert (curve.held_out_rows, curve.training_rows) == (len(chosen.held_out), sizes[1])
        assert curve.skipped == len(masked)
        for point in curve.points:
            assert_refits_agree(point, point.rows, chosen)
        assert curve.scored_rows == (0 if labels is None else len(chosen.scored))
        if labels is not None:
            point, own = curve.points[-2], chosen.training
            mapped = refitted(point, X[own], Y[own])(X[chosen.scored])
            expected = verified(mapped, Y[chosen.scored], labels[chosen.scored])
            # a pair whose score is another's but for rounding may change its place
            assert (point.auc, point.tar) == pytest.approx(expected, abs=1e-3)
        with pytest.raises(cg.InputError, match=f"sizes: {sizes[1] + 1} pairs .* are left"):
            cg.learning_curve(*pair, held_out=0.3, seed=7, sizes=[sizes[1] + 1])

    def test_a_size_of_which_no_row_counts_is_left_out_and_named(self) -> None:
        x = X.copy()
        x[DRAWN.training[:4], 0] = np.inf
        curve = cg.learning_curve(x, Y, sizes=[5, 400], on_nonfinite="skip")
        assert [point.rows for point in curve.points] == [396] * 3
        assert any(note.startswith("5 pairs were left out: fewer than 2") for note in curve.notes)
        with pytest.raises(cg.InputError, match="sizes: fewer than 2 of 5 rows count"):
            cg.learning_curve(x, Y, sizes=[5], on_nonfinite="skip")

    def test_reports_progress_of_reading_and_of_solving(self) -> None:
        seen: list[cg.Progress] = []
        cg.learning_curve(X, Y, sizes=[20, 100], progress=seen.append)
        assert [(p.stage, p.rows, p.total_rows) for p in seen][-4:] == [
            ("accumulate", ROWS, ROWS),
            ("solve", 20, TOTAL),
            ("solve", 100, TOTAL),
            ("solve", TOTAL, TOTAL),
        ]

    def test_holds_no_more_than_the_memory_it_is_given(self, tmp_path: Path) -> None:
        x = np.random.default_rng(3).standard_normal((12_000, 200), np.float32)
        stores = [
            write_store(tmp_path / f"{name}.zarr", rows, labels=np.arange(12_000) // 5)
            for name, rows in (("a", x), ("b", x[:, :100] + x[:, 100:]))
        ]
        sizes = [50, 500, 5000]
        with pytest.raises(cg.MemoryLimitError, match="scoring 106 MB.* 4 sizes counts as a fold"):
            cg.learning_curve(*stores, sizes=sizes, memory=100_000_000)
        limit = 175_000_000
        memory = PeakMemory()
        curve = cg.learning_curve(*stores, sizes=sizes, memory=limit)
        assert curve.scored_rows == 2000
        assert 0 < memory.bytes() <= limit


class TestRefused:
    @pytest.mark.parametrize(
        ("sizes", "message"),
        [
            ([10, TOTAL + 1], f"sizes: {TOTAL + 1} pairs .* {TOTAL} are left"),
            ([1], "sizes: 1 given, expected whole numbers of at least 2 pairs"),
            ([10.5], "sizes: 10.5 given"),
            (["many"], "sizes: 'many' given"),
            ([], "sizes: none given"),
        ],
    )
    def test_sizes_that_make_no_sense(self, sizes: list[Any], message: str) -> None:
        with pytest.raises(cg.InputError, match=message):
            cg.learning_curve(X, Y, sizes=sizes)

    @pytest.mark.parametrize("ranks", [[0], [Q + 1], [2.5], []])
    def test_ranks_that_no_map_has(self, ranks: list[Any]) -> None:
        with pytest.raises(cg.InputError, match="rank"):
            cg.learning_curve(X, Y, ranks=ranks)

    @pytest.mark.parametrize("option", ["folds", "group_by"])
    def test_folds_of_the_caller(self, option: str) -> None:
        with pytest.raises(cg.InputError, match=f"{option}: given, but a learning curve divides"):
            cg.learning_curve(X, Y, **{option: 3})

    def test_held_out_rows_of_which_none_counts(self) -> None:
        weights = np.ones(ROWS)
        weights[DRAWN.held_out[1:]] = 0
        with pytest.raises(cg.InputError, match="held-out: 1 of the rows held out count"):
            cg.learning_curve(X, Y, weights=weights)

    def test_a_share_out_of_range_before_anything_is_read(self) -> None:
        def read(start: int, out: NDArray[Any]) -> None:
            raise AssertionError("read")

        unread = Source("x", ROWS, P, X.dtype, 1, read)
        with pytest.raises(cg.InputError, match=r"held-out: 1\.2 given"):
            learning_curve(unread, Y, held_out=1.2)
