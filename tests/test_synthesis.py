"""Synthetic pairs are what was asked for: the map, the spectrum, the noise, the people."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from strategies import rows_of, values_of

import crossgram as cg
from crossgram.errors import InputError, OutputExistsError
from crossgram.progress import Progress
from crossgram.resources import PeakMemory
from crossgram.synthesis import synth

BLOCK = 4096
"""Rows that are made at once; what is tested crosses from one block to the next."""

DEVIATIONS = 5
"""Standard deviations that a figure of random rows may be off; 1 in 1.7 million is by chance."""


def make(folder: Path, rows: int = 300, **options: Any) -> Path:
    small: dict[str, Any] = {"source_dim": 6, "target_dim": 4}
    synth(folder, rows=rows, **{**small, **options})
    return folder


def store(folder: Path, name: str) -> cg.EmbeddingStore:
    return cg.EmbeddingStore.open(folder / f"{name}.zarr")


def written(folder: Path, name: str) -> NDArray[Any]:
    return rows_of(store(folder, name))


def truth_of(folder: Path) -> cg.LinearMap:
    return cg.LinearMap.load(folder / "truth.safetensors")


def mapped(folder: Path) -> NDArray[np.float64]:
    """Return x Wᵀ + b in float64, of the rows and the map that were written."""
    truth = truth_of(folder)
    return written(folder, "a").astype(np.float64) @ truth.weight.T + truth.bias


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


class TestFiles:
    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_are_two_stores_and_the_map_between_them(self, tmp_path: Path, dtype: str) -> None:
        folder = make(tmp_path / "pair", rows=BLOCK + 7, dtype=dtype)
        assert sorted(path.name for path in folder.iterdir()) == [
            "a.zarr",
            "b.zarr",
            "truth.safetensors",
        ]
        assert written(folder, "a").shape == (BLOCK + 7, 6)
        assert written(folder, "b").shape == (BLOCK + 7, 4)
        assert {store(folder, name).dtype for name in "ab"} == {np.dtype(dtype)}
        truth = truth_of(folder)
        assert (truth.source, truth.target) == (cg.Space("a", 6), cg.Space("b", 4))

    def test_have_the_same_ids_each_of_them_once(self, tmp_path: Path) -> None:
        folder = make(tmp_path / "pair", rows=BLOCK + 7)
        ids = values_of(store(folder, "a").ids)
        assert ids == [f"img-{row:09d}" for row in range(BLOCK + 7)]
        assert values_of(store(folder, "b").ids) == ids
        for name in "ab":
            store(folder, name).validate()
            assert store(folder, name).labels is None

    def test_are_laid_out_as_asked_and_say_how_they_were_made(self, tmp_path: Path) -> None:
        folder = make(
            tmp_path / "pair", chunk_rows=16, shard_rows=32, codec="zstd", seed=3, people=9, noise=2
        )
        for name in "ab":
            made = store(folder, name)
            assert made.chunk_rows == 32
            assert made.embeddings.chunks[0] == 16
            assert "Zstd" in str(made.embeddings.compressors)
            recipe = {"condition": 1000.0, "noise": 2, "mean": 0.0, "people": 9, "seed": 3}
            assert {key: made.provenance[key] for key in recipe} == recipe
            assert made.provenance["made_by"] == f"crossgram {cg.__version__} synth"

    def test_return_the_map_that_they_hold(self, tmp_path: Path) -> None:
        returned = synth(tmp_path / "pair", rows=10, source_dim=6, target_dim=4)
        held = truth_of(tmp_path / "pair")
        np.testing.assert_array_equal(returned.weight, held.weight)
        np.testing.assert_array_equal(returned.bias, held.bias)


class TestSeed:
    def test_decides_every_byte(self, tmp_path: Path) -> None:
        options: dict[str, Any] = {"rows": BLOCK + 7, "people": 5, "seed": 8}
        first, again = (make(tmp_path / name, **options) for name in ("first", "again"))
        assert contents(first) == contents(again)

    def test_decides_rows_noise_and_map(self, tmp_path: Path) -> None:
        first, other = (make(tmp_path / str(seed), seed=seed) for seed in (1, 2))
        noise = [written(folder, "b") - mapped(folder) for folder in (first, other)]
        for one, two in (
            (written(first, "a"), written(other, "a")),
            (truth_of(first).weight, truth_of(other).weight),
            (truth_of(first).bias, truth_of(other).bias),
            noise,
        ):
            assert not np.isclose(one, two, rtol=1e-3).all(axis=-1).any()

    @pytest.mark.parametrize("people", [0, BLOCK + 100])
    def test_makes_a_larger_set_begin_with_the_rows_of_a_smaller(
        self, tmp_path: Path, people: int
    ) -> None:
        small = make(tmp_path / "small", rows=BLOCK + 50, people=people)
        large = make(tmp_path / "large", rows=2 * BLOCK + 50, people=people)
        for name in "ab":
            rows = written(small, name)
            np.testing.assert_array_equal(written(large, name)[: len(rows)], rows)

    @pytest.mark.parametrize(
        "layout",
        [
            {"chunk_rows": 100},
            {"chunk_rows": 100, "shard_rows": 700},
            {"chunk_rows": 100_000},
            {"codec": "none"},
        ],
    )
    def test_makes_the_same_rows_in_any_layout(
        self, tmp_path: Path, layout: dict[str, Any]
    ) -> None:
        plain = make(tmp_path / "plain", rows=BLOCK + 50, people=3)
        other = make(tmp_path / "other", rows=BLOCK + 50, people=3, **layout)
        for name in "ab":
            np.testing.assert_array_equal(written(other, name), written(plain, name))
            assert values_of(store(other, name).ids) == values_of(store(plain, name).ids)
            assert values_of(store(other, name).labels) == values_of(store(plain, name).labels)


class TestRows:
    @pytest.mark.parametrize("condition", [1.0, 30.0, 1e6])
    def test_have_the_spectrum_that_was_asked_for(self, tmp_path: Path, condition: float) -> None:
        rows, p = 4 * BLOCK, 16
        folder = make(
            tmp_path / "pair", rows, source_dim=p, condition=condition, mean=3, dtype="float64"
        )
        x = written(folder, "a")
        found = np.linalg.svd(x - x.mean(axis=0), compute_uv=False) / np.sqrt(rows - 1)
        expected = condition ** -np.linspace(0, 1, p)
        expected /= np.sqrt(np.mean(expected**2))
        # X = Z F: each singular value is that of F times one between the least and the greatest
        # of Z, which are sqrt(n - 1) ± (sqrt(p) + t) but for a probability of exp(-t²/2)
        margin = (np.sqrt(p) + DEVIATIONS) / np.sqrt(rows - 1)
        np.testing.assert_allclose(found / expected, 1, rtol=0, atol=margin)

    def test_are_shifted_by_the_mean_and_nothing_else(self, tmp_path: Path) -> None:
        plain, shifted = (
            written(make(tmp_path / str(mean), BLOCK + 50, mean=mean, dtype="float64"), "a")
            for mean in (0.0, 100.0)
        )
        # one rounding, of values below 2^7
        np.testing.assert_allclose(shifted - plain, 100, rtol=0, atol=2.0**-46)
        deviation = plain.std(axis=0) / np.sqrt(len(plain))
        assert (np.abs(plain.mean(axis=0)) < DEVIATIONS * deviation).all()

    def test_vary_in_directions_that_lie_along_no_column(self, tmp_path: Path) -> None:
        p, seeds = 4, 40
        squares = np.empty((seeds, p))
        for seed in range(seeds):
            folder = make(tmp_path / str(seed), 20, source_dim=p, condition=1e6, seed=seed)
            squares[seed] = np.linalg.svd(written(folder, "a"))[2][0] ** 2
        # squared coordinates of a direction uniform on the sphere are Beta(1/2, (p - 1) / 2)
        deviation = np.sqrt(2 * (p - 1) / (p**2 * (p + 2)) / seeds)
        np.testing.assert_allclose(squares.mean(axis=0), 1 / p, rtol=0, atol=DEVIATIONS * deviation)

    @pytest.mark.parametrize("people", [0, 2 * BLOCK])
    def test_repeat_nothing_from_block_to_block(self, tmp_path: Path, people: int) -> None:
        folder = make(tmp_path / "pair", 2 * BLOCK, condition=1, people=people, dtype="float64")
        for values in (written(folder, "a"), (written(folder, "b") - mapped(folder)) / 0.1):
            first, second = np.split(values, 2)
            assert abs((first * second).mean()) < DEVIATIONS / np.sqrt(first.size)

    def test_of_a_well_conditioned_set_have_a_target_of_unit_variance(self, tmp_path: Path) -> None:
        p, q = 400, 300
        folder = make(
            tmp_path / "pair", 200, source_dim=p, target_dim=q, condition=1, dtype="float64"
        )
        # the variance of column j is |w_j|², of p squares with mean 1 / p and variance 2 / p²
        variance = (truth_of(folder).weight ** 2).sum(axis=1)
        assert abs(variance.mean() - 1) < DEVIATIONS * np.sqrt(2 / (p * q))


class TestNoise:
    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_of_zero_leaves_only_the_rounding_of_y(self, tmp_path: Path, dtype: str) -> None:
        folder = make(tmp_path / "pair", rows=BLOCK + 50, noise=0, mean=5, dtype=dtype)
        truth = truth_of(folder)
        x, y = (written(folder, name) for name in "ab")
        sizes = np.abs(x.astype(np.float64)) @ np.abs(truth.weight.T) + np.abs(truth.bias)
        # half a unit of y, and what two float64 sums of p + 1 products can differ by
        bound = np.spacing(np.abs(y)) / 2 + 2 * 7 * np.finfo(np.float64).eps * sizes
        assert (np.abs(y - mapped(folder)) <= bound).all()

    @pytest.mark.parametrize("noise", [0.1, 3.0])
    def test_has_the_standard_deviation_that_was_asked_for(
        self, tmp_path: Path, noise: float
    ) -> None:
        folder = make(tmp_path / "pair", rows=4 * BLOCK, noise=noise, dtype="float64")
        left = (written(folder, "b") - mapped(folder)) / noise
        assert (np.abs(left.mean(axis=0)) < DEVIATIONS / np.sqrt(len(left))).all()
        assert (np.abs(left.std(axis=0) - 1) < DEVIATIONS / np.sqrt(2 * len(left))).all()

    def test_of_a_column_is_correlated_with_no_other_column(self, tmp_path: Path) -> None:
        folder = make(tmp_path / "pair", rows=4 * BLOCK, dtype="float64")
        noise = written(folder, "b") - mapped(folder)
        correlation = np.corrcoef(noise, written(folder, "a"), rowvar=False)
        others = correlation[:4] - np.eye(4, 4 + 6)
        assert np.abs(others).max() < DEVIATIONS / np.sqrt(len(noise))


class TestPeople:
    def test_come_in_turns_and_are_the_labels_of_both_stores(self, tmp_path: Path) -> None:
        folder = make(tmp_path / "pair", rows=BLOCK + 50, people=60)
        labels = [f"person-{row % 60:05d}" for row in range(BLOCK + 50)]
        for name in "ab":
            assert values_of(store(folder, name).labels) == labels

    @pytest.mark.parametrize("people", [BLOCK // 2, BLOCK + 100])
    def test_have_half_of_the_variance_in_common(self, tmp_path: Path, people: int) -> None:
        p = 4
        folder = make(
            tmp_path / "pair", 2 * people, source_dim=p, people=people, condition=1, dtype="float64"
        )
        first, second = np.split(written(folder, "a"), 2)
        count = people * p
        # products of standard normal values with correlation r have mean r and variance 1 + r²
        same = (first * second).mean()
        assert abs(same - 0.5) < DEVIATIONS * np.sqrt(1.25 / count)
        different = (first * np.roll(second, 1, axis=0)).mean()
        assert abs(different) < DEVIATIONS * np.sqrt(1 / count)
        # half the sum of two squares has variance 1 + r²
        variance = (first**2 + second**2).mean() / 2
        assert abs(variance - 1) < DEVIATIONS * np.sqrt(1.25 / count)


class TestFitting:
    def test_recovers_the_map_from_rows_without_noise(self, tmp_path: Path) -> None:
        rows, condition = 2000, 10.0
        folder = make(
            tmp_path / "pair", rows, noise=0, condition=condition, mean=1, dtype="float64"
        )
        fitted = cg.fit(folder / "a.zarr", folder / "b.zarr")
        truth = truth_of(folder)
        # sums of n products lose n units in the last place, normal equations the condition twice
        tolerance = rows * condition**2 * np.finfo(np.float64).eps * np.abs(truth.weight).max()
        np.testing.assert_allclose(fitted.weight, truth.weight, rtol=0, atol=tolerance)
        np.testing.assert_allclose(fitted.bias, truth.bias, rtol=0, atol=10 * tolerance)

    def test_is_off_by_as_much_as_the_noise_says(self, tmp_path: Path) -> None:
        p, q, noise = 40, 30, 0.5
        folder = make(
            tmp_path / "pair", BLOCK + 50, source_dim=p, target_dim=q, noise=noise, mean=2
        )
        fitted = cg.fit(folder / "a.zarr", folder / "b.zarr")
        x = written(folder, "a").astype(np.float64)
        off = (x - x.mean(axis=0)) @ (fitted.weight - truth_of(folder).weight).T
        # the projection of the noise on p dimensions, for q columns: a chi-squared of p q
        squares = (off**2).sum() / noise**2
        assert abs(squares - p * q) < DEVIATIONS * np.sqrt(2 * p * q)


class TestRefusals:
    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("rows", 0),
            ("source_dim", 0),
            ("target_dim", -1),
            ("condition", 0.99),
            ("condition", np.inf),
            ("condition", np.nan),
            ("noise", -0.1),
            ("noise", np.inf),
            ("mean", np.nan),
            ("mean", -np.inf),
            ("people", -1),
            ("seed", -1),
            ("dtype", "int32"),
            ("codec", "gzip"),
            ("chunk_rows", 0),
            ("shard_rows", 7),
        ],
    )
    def test_name_the_option_and_leave_nothing(
        self, tmp_path: Path, option: str, value: Any
    ) -> None:
        with pytest.raises(InputError, match=rf"^{option}: {value}|^{option}: '{value}'"):
            make(tmp_path / "pair", **{option: value})
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("option", ["mean", "noise"])
    def test_include_values_that_the_dtype_cannot_hold(self, tmp_path: Path, option: str) -> None:
        with pytest.raises(InputError, match=r"^dtype: float16 cannot hold [1-9.]+e\+0[5-7]"):
            make(tmp_path / "pair", dtype="float16", **{option: 1e5})
        assert not list(tmp_path.iterdir())

    def test_keep_what_is_there_unless_it_is_to_be_overwritten(self, tmp_path: Path) -> None:
        first = contents(make(tmp_path / "pair", seed=1))
        with pytest.raises(OutputExistsError, match="pair: already exists"):
            make(tmp_path / "pair", seed=2)
        assert contents(tmp_path / "pair") == first
        with pytest.raises(InputError, match="dtype: float16"):
            make(tmp_path / "pair", dtype="float16", mean=1e5, overwrite=True)
        assert contents(tmp_path / "pair") == first
        make(tmp_path / "pair", seed=2, overwrite=True)
        assert contents(tmp_path / "pair") == contents(make(tmp_path / "other", seed=2))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "pair"]


class TestRunning:
    @pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
    @pytest.mark.parametrize("blocks", [1, 3])
    def test_leaves_nothing_when_it_is_stopped(
        self, tmp_path: Path, error: type[BaseException], blocks: int
    ) -> None:
        def stop(progress: Progress) -> None:
            if progress.rows >= min(blocks * BLOCK, progress.total_rows):
                raise error

        with pytest.raises(error):
            make(tmp_path / "pair", rows=2 * BLOCK + 50, chunk_rows=64, progress=stop)
        assert not list(tmp_path.iterdir())

    def test_reports_rows_and_bytes_of_both_stores(self, tmp_path: Path) -> None:
        seen: list[Progress] = []
        make(tmp_path / "pair", rows=2 * BLOCK + 50, dtype="float16", progress=seen.append)
        total = 2 * BLOCK + 50
        assert seen == [
            Progress("synth", rows, total, rows * (6 + 4) * 2) for rows in (BLOCK, 2 * BLOCK, total)
        ]

    def test_takes_memory_that_does_not_grow_with_the_rows(self, tmp_path: Path) -> None:
        rows, dim = 300_000, 128
        make(tmp_path / "warm", rows // 5, source_dim=dim, target_dim=dim)
        memory = PeakMemory()
        make(tmp_path / "pair", rows, source_dim=dim, target_dim=dim)
        # of 307 MB: the writers' buffers and their chunks, 16 each, and a float64 block of each
        assert memory.bytes() < rows * 2 * dim * 4 / 2
        shutil.rmtree(tmp_path / "pair")
