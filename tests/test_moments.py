from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from strategies import (
    EPSILON,
    assert_moments_agree,
    assert_same_bits,
    direct_scatter,
    moderate,
    moments_of,
    seeds,
    spaces,
    splits,
)

from crossgram import (
    CorruptDataError,
    FoldedMoments,
    InputError,
    Moments,
    NonFiniteError,
    OutputExistsError,
    WidthMismatchError,
)
from crossgram.spaces import Space


@pytest.mark.parametrize("value", [1e6, 1e12, 1e100])
@pytest.mark.parametrize("rows", [1, 1024, 3000])
def test_rows_of_weight_zero_leave_no_trace(value: float, rows: int) -> None:
    kept = np.random.default_rng(0).standard_normal((5000, 3))
    blocks = [np.vstack([np.full((rows, 3), value), kept])]
    found = moments_of(blocks, np.repeat([0.0, 1.0], [rows, 5000]))
    expected = moments_of([kept])
    np.testing.assert_allclose(found.means[0], expected.means[0], atol=5000 * EPSILON)
    np.testing.assert_allclose(
        found.blocks[0, 0], expected.blocks[0, 0], atol=5000 * 5000 * EPSILON
    )


def test_an_update_that_overflows_leaves_the_moments_as_they_were() -> None:
    moments = moments_of([np.full((3, 2), 1e153)])
    before = moments.copy()
    with pytest.raises(InputError, match="overflow"):
        moments.update(np.full((3, 2), -1e154))
    assert_same_bits(moments, before)


@moderate
@given(spaces(least_rows=2), st.booleans())
def test_update_gives_the_scatter_by_its_definition(blocks: list[Any], weighted: bool) -> None:
    weights = np.linspace(0.5, 2.0, len(blocks[0])) if weighted else None
    found = moments_of(blocks, weights)
    expected = found.copy()
    for i, j in found.pairs:
        expected.blocks[i, j] = direct_scatter(blocks[i], blocks[j], weights)
    for k, block in enumerate(blocks):
        expected.means[k] = np.average(block.astype(np.longdouble), axis=0, weights=weights)
        expected.squares[k] = expected.blocks[k, k].diagonal()
    assert_moments_agree(found, expected, blocks, scale=2.0)


@moderate
@given(spaces(), st.data())
def test_updates_in_any_chunking_equal_one_update(blocks: list[Any], data: st.DataObject) -> None:
    whole = moments_of(blocks)
    chunked = whole.empty_like()
    for rows in data.draw(splits(len(blocks[0]))):
        chunked.update(*(block[rows] for block in blocks))
    assert_moments_agree(chunked, whole, blocks)


@moderate
@given(spaces(least_rows=3), st.data())
def test_merging_is_associative_and_commutative(blocks: list[Any], data: st.DataObject) -> None:
    first, second = sorted(data.draw(st.tuples(*[st.integers(0, len(blocks[0]))] * 2)))
    cuts = (slice(first), slice(first, second), slice(second, None))
    a, b, c = (moments_of([block[rows] for block in blocks]) for rows in cuts)
    assert_moments_agree((a + b) + c, a + (b + c), blocks)
    assert_moments_agree(a + b, b + a, blocks)


@moderate
@given(spaces())
def test_moments_of_no_rows_are_the_identity_of_merging(blocks: list[Any]) -> None:
    moments = moments_of(blocks)
    empty = moments.empty_like()
    assert_same_bits(moments + empty, moments)
    assert_same_bits(empty + moments, moments)


@moderate
@given(spaces(least_rows=2), st.data())
def test_subtracting_undoes_merging(blocks: list[Any], data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(blocks[0]) - 1))
    kept = moments_of([block[:cut] for block in blocks])
    removed = moments_of([block[cut:] for block in blocks])
    # what is left of n rows keeps the error of n: relative to itself it grows by n / cut
    share = len(blocks[0]) / cut
    assert_moments_agree((kept + removed) - removed, kept, blocks, scale=share)


@moderate
@given(spaces())
def test_subtracting_everything_leaves_the_identity(blocks: list[Any]) -> None:
    moments = moments_of(blocks)
    assert_same_bits(moments - moments, moments.empty_like())


@moderate
@given(spaces(), seeds)
def test_a_weight_is_a_number_of_repetitions(blocks: list[Any], seed: int) -> None:
    weights = np.random.default_rng(seed).integers(0, 3, size=len(blocks[0]))
    repeated = [np.repeat(block, weights, axis=0) for block in blocks]
    weighted, expected = moments_of(blocks, weights), moments_of(repeated)
    assert weighted.rows == np.count_nonzero(weights)
    weighted.rows = expected.rows
    assert_moments_agree(weighted, expected, [np.tile(block, (2, 1)) for block in blocks])


@moderate
@given(spaces(dtypes=["float64"]))
def test_adding_a_constant_to_the_columns_leaves_the_scatter(blocks: list[Any]) -> None:
    shifted = [block + 1e4 for block in blocks]
    expected = moments_of(blocks)
    expected.means = [mean + 1e4 for mean in expected.means]
    assert_moments_agree(moments_of(shifted), expected, shifted, scale=2.0)


@moderate
@given(spaces(), seeds)
def test_columns_in_another_order_give_the_scatter_in_that_order(
    blocks: list[Any], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(block.shape[1]) for block in blocks]
    permuted = [block[:, order] for block, order in zip(blocks, orders, strict=True)]
    expected = moments_of(blocks)
    expected.means = [mean[o] for mean, o in zip(expected.means, orders, strict=True)]
    expected.squares = [squares[o] for squares, o in zip(expected.squares, orders, strict=True)]
    for i, j in expected.pairs:
        expected.blocks[i, j] = expected.blocks[i, j][np.ix_(orders[i], orders[j])]
    assert_moments_agree(moments_of(permuted), expected, permuted)


@moderate
@given(spaces(dtypes=["float16", "float32"]))
def test_narrow_floats_are_used_as_the_float64_numbers_that_they_are(blocks: list[Any]) -> None:
    widened = [block.astype(np.float64) for block in blocks]
    assert_same_bits(moments_of(blocks), moments_of(widened))


def test_rows_are_divided_by_their_lengths_where_the_space_says_so() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(100, 4)), rng.normal(size=(100, 3))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    moments = Moments([Space("a", 4, normalized=True), Space("b", 3)])
    moments.update(1e-200 * x, y)
    expected = moments_of([unit, y])
    expected.spaces = moments.spaces
    assert_moments_agree(moments, expected, [unit, y])


def test_rows_that_were_left_out_are_counted_through_merges() -> None:
    first, second = (Moments({"a": 1}) for _ in range(2))
    for moments, skipped in ((first, 3), (second, 4)):
        moments.update(np.arange(5.0)[:, None])
        moments.skipped = skipped
    second.precision = "fast"
    whole = first + second
    assert whole.skipped == 7
    assert whole.precision == "fast"
    assert (whole - first).skipped == 4


def test_what_is_absorbed_stays_as_it_was() -> None:
    rng = np.random.default_rng(0)
    parts = [Moments({"a": 2}) for _ in range(2)]
    for part in parts:
        part.update(1e8 + rng.normal(size=(7, 2)))
    before = [part.copy() for part in parts]
    whole = Moments({"a": 2})
    for part in parts:
        whole.absorb(part)
    for part, same in zip(parts, before, strict=True):
        for name, tensor in same.to_parts()[0].items():
            np.testing.assert_array_equal(part.to_parts()[0][name], tensor)


class TestKeptBlocks:
    """Only the blocks that the maps need are kept, and the diagonal always."""

    rows = tuple(np.random.default_rng(1).normal(size=(50, dim)) for dim in (3, 2, 4))

    @pytest.mark.parametrize(
        ("maps", "kept"),
        [
            ([("a", "b")], {(0, 0), (0, 1)}),
            ([("b", "a")], {(1, 1), (0, 1)}),
            ([("a", "b"), ("c", "a")], {(0, 0), (0, 1), (2, 2), (0, 2)}),
            (None, {(i, j) for i in range(3) for j in range(i, 3)}),
        ],
    )
    def test_are_those_of_the_full_moments(
        self, maps: list[tuple[str, str]] | None, kept: set[tuple[int, int]]
    ) -> None:
        some, every = moments_of(self.rows, maps=maps), moments_of(self.rows)
        assert some.pairs == kept
        for pair in kept:
            np.testing.assert_array_equal(some.blocks[pair], every.blocks[pair])
        for found, expected in zip(some.squares, every.squares, strict=True):
            np.testing.assert_allclose(found, expected, rtol=len(self.rows[0]) * EPSILON)

    def test_have_the_squares_of_a_target_whose_mean_drifts(self) -> None:
        """Of more rows than the tile whose mean they are about, and without its own block."""
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(5000, 3)), np.linspace(0, 9, 5000)[:, None] + rng.normal(size=2)
        kept = Moments({"a": 3, "b": 2}, maps=[("a", "b")])
        kept.update(x, y)
        expected = ((y - y.mean(axis=0)) ** 2).sum(axis=0)
        # about the first tile's mean, 4 from their own, 5000 products are summed
        np.testing.assert_allclose(kept.squares[1], expected, rtol=5000 * EPSILON)

    def test_that_are_absent_are_named_with_what_to_do(self) -> None:
        moments = moments_of(self.rows, maps=[("a", "b")])
        with pytest.raises(InputError, match=r"b x c was not kept.*without --map"):
            moments.scatter("b", "c")

    def test_of_a_map_between_unknown_spaces_are_refused(self) -> None:
        with pytest.raises(InputError, match=r"no space 'd'; there are \['a', 'b', 'c'\]"):
            moments_of(self.rows, maps=[("a", "d")])

    def test_are_the_transpose_the_other_way_round(self) -> None:
        moments = moments_of(self.rows)
        np.testing.assert_array_equal(moments.scatter("c", "a"), moments.scatter("a", "c").T)


class TestRefusedUpdate:
    """An update that cannot be used names what is wrong and changes nothing."""

    good = (np.ones((3, 2)), np.ones((3, 1)))

    @pytest.mark.parametrize(
        ("rows", "weights", "error", "message"),
        [
            ((np.ones((3, 2)),), None, InputError, "1 blocks .* 2 spaces"),
            ((np.ones((3, 3)), np.ones((3, 1))), None, WidthMismatchError, "a: .*expected 2"),
            ((np.ones(3), np.ones((3, 1))), None, WidthMismatchError, "a: .*expected 2"),
            ((np.float64(1), np.ones((3, 1))), None, WidthMismatchError, "a: .*expected 2"),
            ((np.ones((3, 2)), np.ones((4, 1))), None, InputError, "b: 4 rows given, a has 3"),
            ((np.ones((3, 2), int), np.ones((3, 1))), None, InputError, "a: dtype int64"),
            ((np.ones((3, 2)), np.full((3, 1), np.nan)), None, NonFiniteError, "b: row 0 .*nan"),
            ((np.diag([1, np.inf, 1])[:, :2], np.ones((3, 1))), None, NonFiniteError, "a: row 1"),
            ((np.diag([1e200] * 3)[:, :2], np.ones((3, 1))), None, InputError, "a overflow"),
            ((np.full((3, 2), 1.7e308), np.ones((3, 1))), None, InputError, "a.*too large"),
            (good, [1, 1], InputError, r"weights: shape \(2,\)"),
            (good, [1, -1, 1], InputError, "weights: .*not negative"),
            (good, [1, np.nan, 1], InputError, "weights: .*finite"),
        ],
    )
    def test(self, rows: Any, weights: Any, error: type[InputError], message: str) -> None:
        moments = moments_of([np.arange(6.0).reshape(3, 2), np.arange(3.0).reshape(3, 1)])
        before = moments.copy()
        with pytest.raises(error, match=message):
            moments.update(*rows, weights=weights)
        assert_same_bits(moments, before)


class TestRefusedMerge:
    a = moments_of([np.eye(3), np.eye(3)])

    def test_of_other_spaces(self) -> None:
        with pytest.raises(WidthMismatchError, match=r"merge: .*different spaces"):
            self.a + moments_of([np.eye(3), np.eye(3)[:, :2]])

    def test_of_other_blocks(self) -> None:
        with pytest.raises(InputError, match="merge: different blocks were kept"):
            self.a + moments_of([np.eye(3), np.eye(3)], maps=[("a", "b")])

    def test_whose_sums_overflow(self) -> None:
        far, near = moments_of([np.full((2, 1), 1e200)]), moments_of([np.full((2, 1), -1e200)])
        with pytest.raises(InputError, match="sums of squares of a overflow"):
            far + near


class TestRefusedSubtraction:
    rows = np.random.default_rng(2).normal(size=(5, 2))

    def test_of_more_rows_than_there_are(self) -> None:
        with pytest.raises(InputError, match=r"5 rows .* from moments of 4 rows"):
            moments_of([self.rows[:4]]) - moments_of([self.rows])

    def test_of_more_weight_than_there_is(self) -> None:
        with pytest.raises(InputError, match="weight 15"):
            moments_of([self.rows]) - moments_of([self.rows[:3]], weights=[5, 5, 5])

    def test_of_as_many_rows_of_less_weight(self) -> None:
        with pytest.raises(InputError, match="cannot be among them"):
            moments_of([self.rows]) - moments_of([self.rows], weights=[0.5] * 5)

    def test_of_rows_that_vary_more(self) -> None:
        with pytest.raises(InputError, match="negative variance"):
            moments_of([self.rows]) - moments_of([100 * self.rows[:3]])


def test_subtracting_all_rows_that_have_weight_leaves_none() -> None:
    rows = np.random.default_rng(3).normal(size=(3, 2))
    rest = moments_of([rows], weights=[0.1, 0.2, 0]) - moments_of([rows[:2]], weights=[0.2, 0.1])
    assert (rest.rows, rest.weight) == (0, 0.0)
    assert not rest.scatter("a", "a").any()


class TestFile:
    def test_keeps_every_bit(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(4)
        moments = moments_of([rng.normal(size=(20, d)) for d in (3, 2)], rng.random(20))
        moments.skipped = 7
        moments.save(tmp_path / "m.safetensors")
        assert_same_bits(Moments.load(tmp_path / "m.safetensors"), moments)

    def test_keeps_every_bit_of_folds(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(5)
        folds = FoldedMoments(
            tuple(moments_of([rng.normal(size=(20, d)) for d in (3, 2)]) for _ in range(3)), "rows"
        )
        folds.save(tmp_path / "m.safetensors")
        loaded = FoldedMoments.load(tmp_path / "m.safetensors")
        assert loaded.by == "rows"
        for found, expected in zip(loaded.folds, folds.folds, strict=True):
            assert_same_bits(found, expected)

    def test_is_not_overwritten_unless_asked(self, tmp_path: Path) -> None:
        path = tmp_path / "m.safetensors"
        first, second = moments_of([np.eye(2)]), moments_of([np.eye(3)])
        first.save(path)
        with pytest.raises(OutputExistsError, match="already exists"):
            second.save(path)
        assert Moments.load(path).rows == 2
        second.save(path, overwrite=True)
        assert Moments.load(path).rows == 3
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize("kind", [Moments, FoldedMoments])
    def test_of_another_kind_is_refused(self, tmp_path: Path, kind: type[Moments]) -> None:
        path = tmp_path / "other.safetensors"
        save_file({"weight": np.eye(2)}, path)
        with pytest.raises(InputError, match=r"holds nothing that .* expected .*moments"):
            kind.load(path)

    def test_that_was_cut_anywhere_never_loads(self, tmp_path: Path) -> None:
        path = tmp_path / "m.safetensors"
        moments_of([np.arange(6.0).reshape(3, 2)]).save(path)
        whole = path.read_bytes()
        for size in range(len(whole)):
            path.write_bytes(whole[:size])
            with pytest.raises(CorruptDataError, match=r"m\.safetensors: .*truncated"):
                Moments.load(path)


def parts() -> tuple[dict[str, Any], dict[str, Any]]:
    moments = moments_of([np.arange(6.0).reshape(3, 2), np.arange(3.0).reshape(3, 1)])
    tensors, facts = moments.to_parts()
    return tensors, {"kind": "moments", "format": 1, **facts}


@pytest.mark.parametrize(
    "change",
    [
        {"rows": -1},
        {"rows": 2.5},
        {"rows": "3"},
        {"rows": 0},
        {"rows": float("inf")},
        {"weight": float("nan")},
        {"weight": -1.0},
        {"weight": None},
        {"skipped": None},
        {"precision": "double"},
        {"spaces": []},
        {"spaces": None},
        {"spaces": [{"name": "a", "dim": 2}]},
        {"spaces": [{"name": "a", "dim": 2}, {"name": "a", "dim": 1}]},
        {"spaces": [{"name": "a", "dim": 3}, {"name": "b", "dim": 1}]},
        {"spaces": [{"name": "a", "dim": 2}, {"name": "b", "dim": 1, "depth": 3}]},
        {"format": 2},
    ],
    ids=str,
)
def test_a_file_whose_facts_contradict_its_arrays_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    tensors, facts = parts()
    assert_refused(tmp_path, tensors, json.dumps(facts | change))


@pytest.mark.parametrize("document", ["{", "[" * 100_000, "3", "{}"])
def test_a_file_without_a_readable_description_is_refused(tmp_path: Path, document: str) -> None:
    assert_refused(tmp_path, parts()[0], document)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("mean.0", None),
        ("mean.0", np.zeros(3)),
        ("mean.0", np.zeros(2, np.float32)),
        ("mean.0", np.array([0.0, np.nan])),
        ("squares.1", -np.ones(1)),
        ("scatter.0.1", np.zeros((1, 2))),
        ("scatter.1.0", np.zeros((1, 2))),
        ("scatter.-1.0", np.zeros((1, 2))),
        ("scatter.0.9", np.zeros((1, 2))),
        ("scatter.0", np.zeros((1, 2))),
    ],
    ids=str,
)
def test_a_file_whose_arrays_contradict_each_other_is_refused(
    tmp_path: Path, name: str, array: Any
) -> None:
    tensors, facts = parts()
    changed = tensors | {name: array} if array is not None else tensors
    if array is None:
        del changed[name]
    assert_refused(tmp_path, changed, json.dumps(facts))


def assert_refused(directory: Path, tensors: dict[str, Any], document: str) -> None:
    path = directory / "hostile.safetensors"
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(contiguous, path, metadata={"crossgram": document})
    with pytest.raises(InputError, match=r"hostile\.safetensors"):
        Moments.load(path)


@pytest.mark.parametrize("facts", [{}, {"folds": 3, "by": "rows"}, {"folds": [], "by": "rows"}])
def test_a_file_of_folds_without_folds_is_refused(tmp_path: Path, facts: dict[str, Any]) -> None:
    path = tmp_path / "hostile.safetensors"
    document = json.dumps({"kind": "folded moments", "format": 1, **facts})
    save_file({}, path, metadata={"crossgram": document})
    with pytest.raises(CorruptDataError, match=r"hostile\.safetensors"):
        FoldedMoments.load(path)


def test_what_is_left_of_constant_columns_has_no_negative_squares() -> None:
    """Rounding leaves squares on either side of 0; they are sums of squares all the same."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        some, rest = rng.normal(size=(40, 8)) + 5, np.tile(rng.normal(size=(1, 8)), (30, 1))
        whole = moments_of([np.vstack([some, rest])])
        left = whole.subtract(moments_of([some]))
        assert (left.squares[0] >= 0).all()
