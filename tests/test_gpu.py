"""A pass on a GPU gives what one on the processor does; every test runs on both where there are."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_slices import cross_by_slices, gram_by_slices, rows_of_all_sizes, sliced

import crossgram as cg
from crossgram import dense
from crossgram.accumulator import Accumulator, Workspace
from crossgram.devices import check_device
from crossgram.errors import InputError, MemoryLimitError, NonFiniteError
from crossgram.evaluation import binned_scores
from crossgram.kernels import RUN_TILES, backend_of, tile_rows_of
from crossgram.kernels import numpy as numpy_kernels
from crossgram.kernels.slices import SLICES
from crossgram.plan import make_plan
from crossgram.source import Source
from crossgram.spaces import Space, all_pairs

EPSILON = float(np.finfo(np.float64).eps)
P, Q = 96, 33

HAS_GPU = check_device("auto") != "cpu"
GPU = (pytest.mark.gpu, pytest.mark.skipif(not HAS_GPU, reason="needs an NVIDIA GPU and CuPy"))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=GPU)])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda":
        import cupy

        # what is read before it is written must not be a right number by chance
        poison = [cupy.full(1 << k, np.nan) for k in range(10, 25)]
        del poison
        cupy.get_default_memory_pool().free_all_blocks()
    return str(request.param)


def pair(rows: int, dtype: str = "f4", p: int = P, q: int = Q) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng()
    x = rng.normal(size=(rows, p)) + 3
    return x.astype(dtype), (x @ rng.normal(size=(p, q)) + rng.normal(size=(rows, q))).astype(dtype)


def check(moments: cg.Moments, blocks: list[NDArray[Any]], epsilon: float = EPSILON) -> None:
    """Hold moments against sums in long double, which has 11 bits more."""
    rows = len(blocks[0])
    wide = [block.astype(np.longdouble) for block in blocks]
    means = [block.mean(axis=0) for block in wide]
    centred = [block - mean for block, mean in zip(wide, means, strict=True)]
    assert moments.rows == rows
    for k, mean in enumerate(means):
        spread = np.abs(wide[k]).max(axis=0)
        assert (np.abs(moments.means[k] - mean) <= 8 * epsilon * spread).all()
    lengths = [np.sqrt((each * each).sum(axis=0)) for each in centred]
    # products in long double are plain loops, three times as fast over numbers side by side
    columns = [np.ascontiguousarray(each.T) for each in centred]
    for (i, j), found in moments.blocks.items():
        expected = columns[i] @ columns[j].T
        # each sum rounds once per row, and its parts are up to 1 + RUN_TILES times as large
        bound = (rows + 8) * (1 + RUN_TILES) * epsilon * np.outer(lengths[i], lengths[j])
        assert (np.abs(found - expected) <= bound).all(), (i, j)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("rows", [5, 1023, 20_001])
def test_moments(device: str, dtype: str, rows: int) -> None:
    x, y = pair(rows, dtype)
    check(cg.accumulate([x, y], device=device), [x, y])


def test_moments_of_several_runs(device: str) -> None:
    rows = RUN_TILES * tile_rows_of(check_device(device)) * 2 + 77
    x, y = pair(rows, p=24, q=8)
    found = cg.accumulate([x, y], device=device, threads=3)
    check(found, [x, y])
    again = cg.accumulate([x, y], device=device, threads=1)
    assert found.blocks[0, 1].tobytes() == again.blocks[0, 1].tobytes()


def test_moments_of_more_rows_than_a_run_at_once(device: str) -> None:
    x, y = pair(RUN_TILES * tile_rows_of(check_device(device)) + 5, p=24, q=8)
    name = check_device(device)
    spaces = (Space("a", 24), Space("b", 8))
    work = Workspace.allocate(spaces, all_pairs(2), "exact", name)
    accumulator = Accumulator(spaces, all_pairs(2), workspace=work)
    for _ in range(2):  # the second time from sums that were set back
        accumulator.add([x, y])
        check(accumulator.moments(), [x, y])


def test_moments_by_short_tiles(device: str) -> None:
    x, y = pair(3001)
    spaces = (Space("a", P), Space("b", Q))
    work = Workspace.allocate(spaces, all_pairs(2), "exact", check_device(device), tile_rows=77)
    accumulator = Accumulator(spaces, all_pairs(2), workspace=work)
    accumulator.add([x, y])
    check(accumulator.moments(), [x, y])


def test_fast_products(device: str) -> None:
    x, y = pair(20_000)
    found = cg.accumulate([x, y], device=device, precision="fast")
    # float32 within 1,024 rows
    single = float(np.finfo(np.float32).eps)
    exact = cg.accumulate([x, y])
    for pair_of, block in found.blocks.items():
        lengths = [np.sqrt(exact.squares[k]) for k in pair_of]
        bound = 1024 * single * np.outer(*lengths)
        assert (np.abs(block - exact.blocks[pair_of]) <= bound).all()
        assert block.tobytes() != exact.blocks[pair_of].tobytes()


def test_products_by_slices(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if device == "cpu":
        monkeypatch.setattr(numpy_kernels, "add_gram", gram_by_slices)
        monkeypatch.setattr(numpy_kernels, "add_cross", cross_by_slices)
    else:
        monkeypatch.setattr("crossgram.kernels.cupy.slices_are_faster", lambda _: True)
        assert backend_of("cuda:0", "exact") == "cupy, int8 slices"
        assert backend_of("cuda:0", "fast") == "cupy"
    x, y = pair(3001)
    check(cg.accumulate([x, y], device=device), [x, y])


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=GPU)], indirect=True)
def test_slices_are_the_same_there(device: str) -> None:
    import cupy

    from crossgram.kernels.cupy_slices import _sliced

    z = rows_of_all_sizes(1003, 30)
    there, here = _sliced(cupy.asarray(z)), sliced(z)
    digits = there.digits.get()
    assert digits.shape == (SLICES, 1004, 32)
    assert (digits[:, :1003, :30] == here.digits).all()
    digits[:, :1003, :30] = 0
    assert not digits.any()
    assert (there.exponents.get() == here.exponents).all()


def test_only_what_a_map_needs(device: str) -> None:
    x, y = pair(5000)
    found = cg.accumulate([x, y], names=["a", "b"], maps=[("a", "b")], device=device)
    assert found.pairs == {(0, 0), (0, 1)}
    check(found, [x, y])
    centred = y - y.astype(np.longdouble).mean(axis=0)
    squares = (centred * centred).sum(axis=0)
    assert (np.abs(found.squares[1] - squares) <= 5008 * 17 * EPSILON * squares).all()


def test_weights(device: str) -> None:
    x, y = pair(3000)
    counts = np.random.default_rng().integers(0, 4, size=3000)
    found = cg.accumulate([x, y], device=device, weights=counts.astype(float))
    repeated = [np.repeat(block, counts, axis=0) for block in (x, y)]
    assert found.weight == counts.sum()
    assert found.rows == np.count_nonzero(counts)
    found.rows = len(repeated[0])
    check(found, repeated)


def test_unit_rows(device: str) -> None:
    x, y = pair(3000)
    found = cg.accumulate([x, y], device=device, normalize=True)
    units = [
        block / np.linalg.norm(block.astype(np.longdouble), axis=1)[:, None] for block in (x, y)
    ]
    # lengths, quotients and squares round a few times more
    check(found, units, epsilon=4 * EPSILON)


def test_folds(device: str) -> None:
    x, y = pair(5000)
    found = cg.accumulate([x, y], device=device, folds=3)
    ends = [0, *np.cumsum([fold.rows for fold in found.folds])]
    for fold, start, stop in zip(found.folds, ends, ends[1:], strict=False):
        check(fold, [x[start:stop], y[start:stop]])


def test_norms(device: str) -> None:
    x, y = pair(3000)
    found = cg.accumulate([x, y], device=device, norms=True).norms
    assert found is not None
    centred = [b - b.astype(np.longdouble).mean(axis=0) for b in (x, y)]
    lengths = np.stack([(z * z).sum(axis=1) for z in centred])
    fourth = lengths @ lengths.T
    bound = 3008 * 17 * EPSILON
    assert (np.abs(found.fourth - fourth) <= bound * fourth).all()
    for own, z in zip(found.third, centred, strict=True):
        assert (np.abs(own - lengths @ z) <= bound * (lengths @ np.abs(z))).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite(device: str, value: float) -> None:
    x, y = pair(40_000)
    x[33_333, 5] = y[7, 1] = value
    with pytest.raises(NonFiniteError, match=r"row 7 holds (nan|inf) in column 1"):
        cg.accumulate([x, y], device=device)
    found = cg.accumulate([x, y], device=device, on_nonfinite="skip")
    assert found.skipped == 2
    check(found, [np.delete(block, [7, 33_333], axis=0) for block in (x, y)])


def test_masked_rows(device: str, tmp_path: Path) -> None:
    x, y = pair(3000)
    masked = np.arange(3000) % 7 == 3
    with cg.EmbeddingStore.create(tmp_path / "x.zarr", P) as writer:
        writer.append(np.where(masked[:, None], np.nan, x).astype("f4"), masked=masked)
    found = cg.accumulate([tmp_path / "x.zarr", y], device=device)
    assert found.skipped == masked.sum()
    check(found, [x[~masked], y[~masked]])


def test_a_fit_and_its_further_passes(device: str) -> None:
    rng = np.random.default_rng()
    turn, _ = np.linalg.qr(rng.normal(size=(P, P)))
    x = rng.normal(size=(30_000, P)) @ (turn * np.geomspace(1, 1 / 3000, P)) @ turn.T + 2
    planted = rng.normal(size=(P, Q))
    y = x @ planted
    once = cg.fit(x, y, device=device)
    assert once.certificate is not None
    assert once.certificate.backend == backend_of(check_device(device), "exact")
    error = np.linalg.norm(once.weight.T - planted) / np.linalg.norm(planted)
    # the Gram matrix's condition number is 9e6; y itself is rounded
    assert error <= 1e-9
    again = cg.fit(x, y, device=device, digits=14)
    assert again.certificate is not None
    assert again.certificate.passes >= 2
    error = np.linalg.norm(again.weight.T - planted) / np.linalg.norm(planted)
    assert error <= 3000 * P * EPSILON


def test_rows_of_the_other_byte_order(device: str) -> None:
    x, y = pair(3000)
    check(cg.accumulate([x.astype(">f4"), y.astype(">f4")], device=device), [x, y])


def test_a_constant_column_hides_no_row_that_is_not_finite(device: str) -> None:
    x, y = pair(3000)
    x[:, 5] = 7.0
    x[11, 5] = np.nan
    report = cg.fit_with_report(x, y, device=device, digits=14, on_nonfinite="skip")
    assert report.map.certificate is not None
    assert report.map.certificate.passes >= 2
    assert (report.map.certificate.rows, report.map.certificate.skipped) == (2999, 1)
    kept = np.delete(np.arange(3000), 11)
    right = cg.fit(x[kept], y[kept], digits=14).weight
    assert np.linalg.norm(report.map.weight - right) <= 1e-12 * np.linalg.norm(right)


def test_further_passes_do_not_depend_on_threads(device: str) -> None:
    x, y = pair(RUN_TILES * tile_rows_of(check_device(device)) * 2 + 77, p=24, q=8)
    found = [
        cg.fit(x, y, device=device, digits=14, threads=threads).weight.tobytes()
        for threads in (1, 3)
    ]
    assert found[0] == found[1]


def test_maps_agree_between_devices(device: str) -> None:
    x, y = pair(20_000)
    here, there = (cg.fit(x, y, device=own).weight for own in ("cpu", device))
    assert np.linalg.norm(here - there) <= 1e-9 * np.linalg.norm(here)


class TestPlan:
    """What a run would hold on a GPU is known where there is none."""

    @staticmethod
    def plan(rows: int = 3_000_000, dim: int = 64, **options: Any) -> Any:
        each = Source("a", rows, dim, np.dtype("f4"), 1, lambda *_: None)
        spaces = (Space("a", dim), Space("b", dim))
        return make_plan([each, each], spaces, all_pairs(2), device="cuda:0", **options)

    def test_has_segments_of_long_tiles(self) -> None:
        tile = tile_rows_of("cuda:0")
        plan = self.plan(threads=4)
        assert plan.block_rows % tile == 0
        assert plan.memory["tiles"] == 0
        # enough for many threads to read, however few rows there are
        assert self.plan(1_000_000).segment_rows == tile
        assert plan.segment_rows == 2 * tile
        assert self.plan(10**8).segment_rows == RUN_TILES * tile
        # the sums of wide spaces are long in coming back
        assert self.plan(1_000_000, 2048).segment_rows == 6 * tile
        assert self.plan(1_000_000, 2048, folds=5).segment_rows == RUN_TILES * tile

    @pytest.mark.parametrize("rows", [20_000, 2_000_000])
    def test_has_the_same_segments_for_any_number_of_threads(self, rows: int) -> None:
        plans = [self.plan(rows, threads=threads) for threads in (1, 3, 16)]
        assert len({plan.segment_rows for plan in plans}) == 1

    def test_takes_fewer_lanes_where_memory_is_short(self) -> None:
        plan = self.plan(threads=4)
        lane = plan.device_memory_bytes // 4
        rows = tile_rows_of("cuda:0") * 128
        # as read in float32, two tiles in float64, three blocks
        assert lane >= rows * 4 + 2 * rows * 8 + 3 * 64 * 64 * 8
        assert self.plan(threads=4, device_memory=2 * lane).threads == 2

    def test_takes_shorter_tiles_where_one_lane_does_not_fit(self) -> None:
        full = self.plan(threads=1)
        least = full.device_memory_bytes
        for tile_rows in (8192, 4096, 2048, 1024):
            plan = self.plan(threads=4, device_memory=least - 1)
            assert (plan.tile_rows, plan.threads) == (tile_rows, 1)
            # the same work is done, in the same parts
            assert plan.segment_rows == full.segment_rows
            assert plan.block_rows % tile_rows == 0
            assert plan.device_memory_bytes < least
            least = plan.device_memory_bytes
        with pytest.raises(MemoryLimitError, match=r"device: cuda:0 has .* MB free"):
            self.plan(device_memory=least - 1)


@pytest.mark.skipif(HAS_GPU, reason="there is one")
def test_without_a_gpu_it_is_said_what_is_missing() -> None:
    x, y = pair(10)
    with pytest.raises(InputError, match=r"device: cuda given, (CuPy is missing \(pip|CUDA)"):
        cg.fit(x, y, device="cuda")
    with pytest.raises(InputError, match="expected auto, cpu, cuda"):
        cg.fit(x, y, device="gpu")
    assert cg.plan_fit(x, y, device="auto").device == "cpu"


def check_mapped(found: NDArray[Any], x: NDArray[Any], by: cg.LinearMap) -> None:
    """Hold mapped rows against products in long double."""
    sizes = np.abs(x) @ np.abs(by.weight.T) + np.abs(by.bias)
    # rows, weights, products and sums round once each
    bound = (P + 8) * float(np.finfo(found.dtype).eps) * sizes
    assert (np.abs(found - (x @ by.weight.T + by.bias)) <= bound).all()


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("normalized", [False, True])
def test_rows_are_mapped(device: str, dtype: str, normalized: bool) -> None:
    x, _ = pair(777, dtype)
    rng = np.random.default_rng()
    source, target = Space("a", P, normalized), Space("b", Q)
    own = cg.LinearMap(rng.normal(size=(Q, P)), rng.normal(size=Q), source, target)
    found = own.on_device(device)(x)
    assert found.dtype == np.dtype("f8" if dtype == "f8" else "f4")
    wide = x.astype(np.longdouble)
    if normalized:
        wide /= np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    check_mapped(found, wide, own)


def test_a_store_is_mapped(device: str, tmp_path: Path) -> None:
    x, y = pair(5000)
    np.save(tmp_path / "x.npy", x)
    fitted = cg.fit(x, y)
    made = cg.apply(fitted, tmp_path / "x.npy", tmp_path / "out.zarr", device=device)
    rows = np.empty((5000, Q), made.dtype)
    made.read(0, rows)
    check_mapped(rows, x.astype(np.longdouble), fitted)


class TestDense:
    """Decompositions, held against what defines them, in long double."""

    SIZE = 70

    @pytest.fixture(autouse=True)
    def _there(self, device: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setattr(dense, "_WIDE", 1)
        with dense.decomposed_on(device):
            yield

    def matrix(self, rows: int = SIZE, columns: int = SIZE) -> NDArray[np.float64]:
        return np.random.default_rng().standard_normal((rows, columns))

    def symmetric(self) -> NDArray[np.float64]:
        """Return one whose eigenvalues lie between 1 and about 5."""
        half = self.matrix() / np.sqrt(self.SIZE)
        return np.asarray(half @ half.T + np.eye(self.SIZE))

    def equal(self, found: NDArray[Any], expected: NDArray[Any], size: float = 8.0) -> None:
        """Tell matrices apart that differ by more than backward stable algorithms do."""
        assert type(found) is np.ndarray
        assert np.linalg.norm((found - expected).astype(float)) <= 8 * self.SIZE * EPSILON * size

    def times(self, *matrices: NDArray[Any]) -> NDArray[Any]:
        product = matrices[0].astype(np.longdouble)
        for matrix in matrices[1:]:
            product = product @ matrix.astype(np.longdouble)
        return product

    def test_product(self) -> None:
        left, right = self.matrix(31), self.matrix(self.SIZE, 12)
        size = float(np.linalg.norm(left) * np.linalg.norm(right))
        self.equal(dense.product(left, right), self.times(left, right), size)
        self.equal(dense.product(right.T, left.T), self.times(right.T, left.T), size)

    def test_cholesky(self) -> None:
        matrix = self.symmetric()
        lower = dense.cholesky(matrix)
        assert (np.triu(lower, 1) == 0).all()
        self.equal(self.times(lower, lower.T), matrix)
        right = self.matrix(columns=9)
        found = dense.solve_cholesky(lower, right)
        self.equal(self.times(matrix, found), right, 8 * float(np.linalg.norm(right)))
        half = dense.inverse_half(lower)
        assert (np.triu(half, 1) == 0).all()
        whole = np.tril(half) + np.tril(half, -1).T
        self.equal(self.times(matrix, whole), np.eye(self.SIZE), 64)

    def test_no_cholesky_of_what_is_not_positive_definite(self) -> None:
        matrix = self.symmetric() - 2 * np.eye(self.SIZE)
        with pytest.raises(np.linalg.LinAlgError):
            dense.cholesky(matrix)

    @pytest.mark.parametrize("lower", [False, True])
    @pytest.mark.parametrize("transposed", [False, True])
    def test_triangle(self, lower: bool, transposed: bool) -> None:
        triangle = np.linalg.cholesky(self.symmetric())
        triangle = triangle if lower else triangle.T
        other = np.triu(self.matrix(), 1)  # must not be read
        right = self.matrix(columns=9)
        found = dense.solve_triangle(
            triangle + (other if lower else other.T), right, lower=lower, transposed=transposed
        )
        used = triangle.T if transposed else triangle
        self.equal(self.times(used, found), right, 8 * float(np.linalg.norm(right)))

    def test_eigenvectors(self) -> None:
        matrix = self.symmetric()
        values, vectors = dense.eigenvectors(matrix)
        assert (np.diff(values) >= 0).all()
        self.equal(self.times(vectors.T, vectors), np.eye(self.SIZE))
        self.equal(self.times(vectors * values, vectors.T), matrix)
        self.equal(dense.eigenvalues(matrix), values)

    @pytest.mark.parametrize("shape", [(SIZE, SIZE), (SIZE, 20), (20, SIZE)])
    def test_singular_vectors(self, shape: tuple[int, int]) -> None:
        matrix = self.matrix(*shape)
        left, values, right = dense.singular_vectors(matrix)
        size = float(np.linalg.norm(matrix))
        assert (np.diff(values) <= 0).all()
        self.equal(self.times(left.T, left), np.eye(min(shape)))
        self.equal(self.times(right, right.T), np.eye(min(shape)))
        self.equal(self.times(left * values, right), matrix, size)
        self.equal(dense.singular_values(matrix), values, size)

    def test_orthonormal(self) -> None:
        matrix = self.matrix(columns=20)
        basis, triangle = dense.orthonormal(matrix.copy())
        assert (np.tril(triangle, -1) == 0).all()
        self.equal(self.times(basis.T, basis), np.eye(20))
        self.equal(self.times(basis, triangle), matrix, float(np.linalg.norm(matrix)))

    @pytest.mark.parametrize(
        "options",
        [{}, {"ridge": "auto"}, {"method": "procrustes"}, {"method": "reduced-rank", "rank": 9}],
    )
    def test_maps(self, device: str, options: dict[str, Any]) -> None:
        """All of a solution by it, certificate and standard errors too."""
        x, y = pair(4000)
        moments = cg.accumulate([x, y], names=["a", "b"])
        found = cg.solve(moments, "a", "b", device=device, **options)
        expected = cg.solve(moments, "a", "b", **options)
        certificates = found.certificate, expected.certificate
        assert certificates[0] is not None
        assert certificates[1] is not None
        error = np.linalg.norm(found.weight - expected.weight)
        assert error <= 10 ** -(certificates[1].digits - 1) * np.linalg.norm(expected.weight)
        assert certificates[0].rank == certificates[1].rank
        assert certificates[0].condition == pytest.approx(certificates[1].condition, rel=1e-3)
        assert certificates[0].digits == pytest.approx(certificates[1].digits, abs=0.1)
        assert certificates[0].r2 == pytest.approx(certificates[1].r2, abs=1e-9)


@pytest.mark.parametrize("ordered", [False, True])
def test_all_pairs_are_scored(device: str, ordered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # few bits in each number, so that products and sums are exact in any order
    rng = np.random.default_rng()
    rows, other = ((rng.integers(-4, 5, (900, 6)) / 16).astype(np.float32) for _ in range(2))
    person = rng.integers(0, 40, 900)
    references = other if ordered else rows
    run = partial(
        binned_scores.score_all_pairs, rows, references, person, (0.1, 0.01), ordered=ordered
    )
    expected = run(threads=1)
    monkeypatch.setattr(binned_scores, "_GPU_BLOCK", 170)
    found = run(threads=2, device=device)
    assert (found.genuine == expected.genuine).all()
    assert (found.impostor == expected.impostor).all()
    for own, right in (
        (found.genuine_in, expected.genuine_in),
        (found.impostor_in, expected.impostor_in),
    ):
        assert own.keys() == right.keys()
        for k, tally in own.items():
            assert (tally.scores == right[k].scores).all()
            assert (tally.counts == right[k].counts).all()
