"""A map is y = x Wᵀ + b, in memory, in its file, and in PyTorch."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import ArrayLike, NDArray
from strategies import moderate, moments_of, seeds

import crossgram as cg

Matrix = NDArray[Any]

WEIGHT = np.array([[1.0, -2.0, 4.0], [3.0, 0.0, -5.0]])
BIAS = np.array([7.0, -1.0])
CERTIFICATE = replace(
    cg.fit(np.eye(5)[:, :3], np.eye(5)[:, :2], folds=2, ridge=0.1, precision="fast").certificate,
    notes=("größer", 'with "quotes"'),
)
TENSORS = {"weight": WEIGHT, "bias": BIAS}
FACTS = {
    "kind": "map",
    "format": 1,
    "source": asdict(cg.Space("a", 3)),
    "target": asdict(cg.Space("b", 2)),
    "certificate": asdict(CERTIFICATE),
}


def linear_map(
    weight: ArrayLike = WEIGHT, bias: ArrayLike = BIAS, *, normalized: bool = False
) -> cg.LinearMap:
    w = np.asarray(weight)
    return cg.LinearMap(
        w, np.asarray(bias), cg.Space("a", w.shape[1], normalized), cg.Space("b", len(w))
    )


def random_problem(seed: int) -> tuple[cg.LinearMap, Matrix]:
    rng = np.random.default_rng(seed)
    rows, p, q = rng.integers(1, 60, size=3)
    weight = rng.standard_normal((q, p)) * 10.0 ** rng.integers(-3, 3, size=p)
    return linear_map(weight, rng.standard_normal(q)), rng.standard_normal((rows, p))


def by_definition(fitted: cg.LinearMap, x: Matrix) -> Matrix:
    """Return x Wᵀ + b in long double."""
    wide = x.astype(np.longdouble)
    return wide @ fitted.weight.T.astype(np.longdouble) + fitted.bias


def rounding(fitted: cg.LinearMap, x: Matrix, dtype: str) -> Matrix:
    """Return how far x Wᵀ + b may be off in a dtype.

    A sum of p products and b has p + 1 roundings on the way to any term, and the weights and b
    one more when they are cast.
    """
    terms = np.abs(x.astype(float)) @ np.abs(fitted.weight).T + np.abs(fitted.bias)
    allowed: Matrix = (fitted.source.dim + 3) * np.finfo(dtype).eps * terms
    return allowed


class TestConstruction:
    @pytest.mark.parametrize(
        ("weight", "bias"),
        [((3, 2), 2), ((2, 3), 3), ((2, 4), 2), ((1, 3), 2), ((2, 3, 1), 2), ((6,), 2)],
        ids=str,
    )
    def test_of_other_shapes_than_the_spaces_say_is_refused(
        self, weight: tuple[int, ...], bias: int
    ) -> None:
        spaces = cg.Space("a", 3), cg.Space("b", 2)
        with pytest.raises(cg.WidthMismatchError, match=r"a to b: .* expected \(2, 3\) and \(2,\)"):
            cg.LinearMap(np.zeros(weight), np.zeros(bias), *spaces)

    def test_of_a_weight_that_is_not_finite_is_refused(self) -> None:
        with pytest.raises(cg.NonFiniteError, match="map a to b: its weight or bias holds NaN"):
            linear_map(np.where(WEIGHT == 0, np.nan, WEIGHT))

    def test_takes_lists_and_other_floats(self, path: Path) -> None:
        made = cg.LinearMap([[1, 2, 3]], np.float32([4]), cg.Space("a", 3), cg.Space("b", 1))
        made.save(path)
        np.testing.assert_array_equal(cg.LinearMap.load(path).weight, [[1.0, 2.0, 3.0]])

    @pytest.mark.parametrize("name", ["weight", "bias", "source", "target", "certificate"])
    def test_is_final(self, name: str) -> None:
        fitted = linear_map()
        with pytest.raises(FrozenInstanceError):
            setattr(fitted, name, getattr(fitted, name))


class TestApply:
    @pytest.mark.parametrize(
        ("dtype", "expected"),
        [("float16", "float32"), ("float32", "float32"), ("float64", "float64")],
    )
    def test_is_the_product_and_the_bias(self, dtype: str, expected: str) -> None:
        x = np.random.default_rng(0).integers(-9, 10, size=(40, 3))
        found = linear_map().apply(x.astype(dtype))
        assert found.dtype == expected
        np.testing.assert_array_equal(found, x @ WEIGHT.T + BIAS)

    @given(seeds, st.sampled_from(["float16", "float32", "float64"]))
    @moderate
    def test_is_exact_but_for_rounding(self, seed: int, dtype: str) -> None:
        fitted, x = random_problem(seed)
        x = x.astype(dtype)
        found = fitted.apply(x)
        error = np.abs(found - by_definition(fitted, x))
        assert (error <= rounding(fitted, x, found.dtype.name)).all()

    def test_takes_arrays_of_any_layout_and_lists(self) -> None:
        x = np.arange(12.0).reshape(4, 3)
        expected = linear_map().apply(x)
        for given_rows in (np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2], x.tolist()):
            np.testing.assert_array_equal(linear_map().apply(given_rows), expected)
        assert linear_map().apply(x[:0]).shape == (0, 2)

    @pytest.mark.parametrize("normalized", [True, False])
    def test_leaves_rows_and_map_as_they_were(self, normalized: bool) -> None:
        x = np.arange(1.0, 13.0).reshape(4, 3)
        fitted = linear_map(WEIGHT.copy(), BIAS.copy(), normalized=normalized)
        fitted.apply(x)
        np.testing.assert_array_equal(x, np.arange(1.0, 13.0).reshape(4, 3))
        np.testing.assert_array_equal(fitted.weight, WEIGHT)
        np.testing.assert_array_equal(fitted.bias, BIAS)

    @pytest.mark.parametrize("shape", [(5, 2), (5, 4), (3,), (), (2, 5, 3)], ids=str)
    def test_refuses_rows_of_another_width(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(cg.WidthMismatchError, match="map a to b: takes rows of 3 columns"):
            linear_map().apply(np.zeros(shape))

    @pytest.mark.parametrize("dtype", ["complex128", "bool", "U1", "object"])
    def test_refuses_what_is_no_number(self, dtype: str) -> None:
        with pytest.raises(cg.InputError, match="expected floats"):
            linear_map().apply(np.zeros((1, 3)).astype(dtype))


def test_rows_of_the_other_byte_order_map_alike() -> None:
    x = np.arange(6, dtype=">f4").reshape(2, 3)
    found = linear_map().apply(x)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, linear_map().apply(x.astype("<f4")))


class TestNormalizedSource:
    """Rows are divided by their lengths, and only their direction counts."""

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_maps_unit_rows(self, dtype: str) -> None:
        x = np.random.default_rng(1).standard_normal((50, 3)).astype(dtype)
        wide = x.astype(np.longdouble)
        unit = wide / np.sqrt((wide**2).sum(axis=1, keepdims=True))
        found = linear_map(normalized=True).apply(x)
        assert found.dtype == ("float64" if dtype == "float64" else "float32")
        # the lengths have p + 3 roundings more
        error = np.abs(found - by_definition(linear_map(), unit))
        assert (error <= 2 * rounding(linear_map(), unit, found.dtype.name)).all()

    @pytest.mark.parametrize("exponent", [-1000, -60, 60, 1000])
    def test_does_not_see_lengths_even_at_the_ends_of_the_range(self, exponent: int) -> None:
        x = np.random.default_rng(2).standard_normal((50, 3))
        fitted = linear_map(normalized=True)
        np.testing.assert_array_equal(fitted.apply(np.ldexp(x, exponent)), fitted.apply(x))

    def test_gives_nan_for_a_row_without_direction_alone(self) -> None:
        found = linear_map(normalized=True).apply([[0, 2.0, 0], [0, 0, 0], [0, 0, 0.5]])
        np.testing.assert_array_equal(found, [[5, -1], [np.nan, np.nan], [11, -6]])


finite = st.floats(allow_nan=False, allow_infinity=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "map.safetensors"


class TestFile:
    @given(arrays(np.float64, (2, 3), elements=finite), arrays(np.float64, 2, elements=finite))
    @moderate
    def test_keeps_every_bit(
        self, tmp_path_factory: pytest.TempPathFactory, weight: Matrix, bias: Matrix
    ) -> None:
        path = tmp_path_factory.mktemp("map") / "map.safetensors"
        linear_map(weight, bias).save(path)
        loaded = cg.LinearMap.load(path)
        assert loaded.weight.tobytes() == weight.tobytes()
        assert loaded.bias.tobytes() == bias.tobytes()

    @pytest.mark.parametrize("certificate", [None, CERTIFICATE], ids=["bare", "certified"])
    def test_keeps_spaces_and_certificate(
        self, path: Path, certificate: cg.Certificate | None
    ) -> None:
        spaces = cg.Space("größe", 3, normalized=True), cg.Space("b/c", 2)
        cg.LinearMap(WEIGHT, BIAS, *spaces, certificate).save(path)
        loaded = cg.LinearMap.load(str(path))
        assert (loaded.source, loaded.target, loaded.certificate) == (*spaces, certificate)

    def test_is_plain_safetensors(self, path: Path) -> None:
        linear_map().save(path)
        tensors = safetensors.numpy.load_file(path)
        assert sorted(tensors) == ["bias", "weight"]
        np.testing.assert_array_equal(tensors["weight"], WEIGHT, strict=True)
        np.testing.assert_array_equal(tensors["bias"], BIAS, strict=True)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_loads_straight_into_a_torch_layer(self, path: Path, dtype: torch.dtype) -> None:
        fitted, _ = random_problem(4)
        fitted.save(path)
        layer = torch.nn.Linear(fitted.source.dim, fitted.target.dim, dtype=dtype)
        layer.load_state_dict(safetensors.torch.load_file(path))
        assert torch.equal(layer.weight, torch.from_numpy(fitted.weight).to(dtype))
        assert torch.equal(layer.bias, torch.from_numpy(fitted.bias).to(dtype))

    def test_is_not_overwritten_unless_asked(self, path: Path) -> None:
        linear_map().save(path)
        with pytest.raises(cg.OutputExistsError, match=r"map\.safetensors: already exists"):
            linear_map(2 * WEIGHT).save(path)
        np.testing.assert_array_equal(cg.LinearMap.load(path).weight, WEIGHT)
        linear_map(2 * WEIGHT).save(path, overwrite=True)
        np.testing.assert_array_equal(cg.LinearMap.load(path).weight, 2 * WEIGHT)
        assert list(path.parent.iterdir()) == [path]


@given(seeds)
@moderate
def test_a_torch_layer_maps_alike_but_for_float32_rounding(seed: int) -> None:
    fitted, x = random_problem(seed)
    x = x.astype(np.float32)
    with torch.no_grad():
        found = fitted.to_torch()(torch.from_numpy(x)).numpy()
    error = np.abs(found - by_definition(fitted, x))
    assert (error <= rounding(fitted, x, "float32")).all()


class TestRefused:
    """What is not a whole map file is refused by name."""

    def test_moments(self, path: Path) -> None:
        moments_of([np.eye(3), np.eye(3)]).save(path)
        with pytest.raises(cg.InputError, match=r"map\.safetensors: holds moments, expected map"):
            cg.LinearMap.load(path)

    @pytest.mark.parametrize("content", [b"", b"a text", bytes(100), b"\xff" * 100])
    def test_what_is_no_safetensors(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        with pytest.raises(cg.CorruptDataError, match=r"map\.safetensors: not a safetensors file"):
            cg.LinearMap.load(path)

    def test_a_file_that_was_cut_anywhere(self, path: Path) -> None:
        replace(linear_map(), certificate=CERTIFICATE).save(path)
        whole = path.read_bytes()
        for size in range(len(whole)):
            path.write_bytes(whole[:size])
            with pytest.raises(cg.CorruptDataError, match=r"map\.safetensors: .*truncated"):
                cg.LinearMap.load(path)

    def test_a_file_with_a_flipped_bit_unless_it_still_is_a_map(self, path: Path) -> None:
        replace(linear_map(), certificate=CERTIFICATE).save(path)
        whole = path.read_bytes()
        messages = []
        for position in range(len(whole)):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << position % 8
            path.write_bytes(damaged)
            try:
                assert cg.LinearMap.load(path).apply(np.zeros((1, 3))).shape == (1, 2)
            except cg.CrossgramError as error:
                messages.append(str(error))
        assert len(messages) > len(whole) / 2
        assert all("map.safetensors" in message for message in messages)

    @pytest.mark.parametrize("document", ["{", "", "3", "null", "[" * 100_000, '{"a":' * 100_000])
    def test_a_description_that_is_none(self, path: Path, document: str) -> None:
        assert_refused(path, TENSORS, document)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *(("kind", kind) for kind in ("moments", None, ["map"])),
            *(("format", number) for number in (2, "1", None)),
            *(("source", space) for space in (None, "a", {}, {"name": "a"}, {"dim": 3})),
            *(("source", {"name": "a", "dim": dim}) for dim in (2, -3, "3", None, float("nan"))),
            ("source", {"name": "a", "dim": 3, "depth": 1}),
            ("source", {"name": 5, "dim": 3, "normalized": False}),
            ("source", {"name": "a", "dim": 3.0, "normalized": False}),
            ("source", {"name": "a", "dim": 3, "normalized": "no"}),
            ("certificate", asdict(CERTIFICATE) | {"condition": float("nan")}),
            ("certificate", asdict(CERTIFICATE) | {"rows": "many"}),
            ("certificate", asdict(CERTIFICATE) | {"r2_per_output": "abc"}),
            ("target", {"name": "b", "dim": 10**30}),
            *(("certificate", wrong) for wrong in (5, "x", {}, {"r2_per_output": [], "notes": []})),
            ("certificate", asdict(CERTIFICATE) | {"notes": None}),
            ("certificate", asdict(CERTIFICATE) | {"r2_per_output": 1.0}),
            ("certificate", asdict(CERTIFICATE) | {"signature": "x"}),
        ],
        ids=lambda part: str(part)[:30],
    )
    def test_facts_that_contradict_the_arrays(self, path: Path, name: str, value: Any) -> None:
        assert_refused(path, TENSORS, json.dumps(FACTS | {name: value}))

    @pytest.mark.parametrize("missing", ["kind", "format", "source", "target", "certificate"])
    def test_facts_of_which_one_is_missing(self, path: Path, missing: str) -> None:
        facts = {name: value for name, value in FACTS.items() if name != missing}
        assert_refused(path, TENSORS, json.dumps(facts))

    @pytest.mark.parametrize("name", ["weight", "bias"])
    @pytest.mark.parametrize(
        "change",
        [
            lambda array: None,
            lambda array: array[..., :1],
            lambda array: array[None],
            lambda array: array.astype("float16"),
            lambda array: array.astype("float32"),
            lambda array: array.astype("int64"),
            lambda array: array.astype("complex64"),
            lambda array: np.where(array < 0, np.nan, array),
            lambda array: np.where(array < 0, np.inf, array),
        ],
        ids=["none", "narrow", "deep", "half", "single", "integer", "complex", "nan", "infinite"],
    )
    def test_arrays_that_are_not_those_of_a_map(self, path: Path, name: str, change: Any) -> None:
        tensors = TENSORS | {name: change(TENSORS[name])}
        kept = {name: array for name, array in tensors.items() if array is not None}
        assert_refused(path, kept, json.dumps(FACTS))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
    def test_arrays_of_a_dtype_that_numpy_has_not(self, path: Path, dtype: torch.dtype) -> None:
        tensors = {name: torch.from_numpy(array).to(dtype) for name, array in TENSORS.items()}
        safetensors.torch.save_file(tensors, path, metadata={"crossgram": json.dumps(FACTS)})
        with pytest.raises(cg.CorruptDataError, match=r"map\.safetensors: its arrays cannot be re"):
            cg.LinearMap.load(path)


def assert_refused(path: Path, tensors: dict[str, Matrix], document: str) -> None:
    contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    safetensors.numpy.save_file(contiguous, path, metadata={"crossgram": document})
    with pytest.raises(cg.InputError, match=r"map\.safetensors: "):
        cg.LinearMap.load(path)


def test_the_description_that_others_are_changes_of_is_that_of_a_map(path: Path) -> None:
    safetensors.numpy.save_file(TENSORS, path, metadata={"crossgram": json.dumps(FACTS)})
    assert cg.LinearMap.load(path).certificate == CERTIFICATE
