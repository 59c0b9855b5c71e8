"""Templates of several images: pooled as IJB-B and IJB-C pool them, after the map."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import crossgram, refused, succeeds
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from strategies import moderate

import crossgram as cg
from crossgram.evaluation import templates
from crossgram.evaluation.templates import Templates, read_template_pairs, read_templates
from crossgram.spaces import Space

Line = tuple[str, int, int]


def write_lines(path: Path, lines: Sequence[Sequence[object]]) -> Path:
    path.write_text("".join(f"{' '.join(map(str, line))}\n" for line in lines))
    return path


def write_scores(path: Path, scores: dict[str, float]) -> Path:
    return write_lines(path, [(name, *range(10), score) for name, score in scores.items()])


def by_hand(
    rows: NDArray[np.float64],
    lines: Sequence[Line],
    ids: Sequence[str],
    *,
    normalize: bool = False,
    scores: dict[str, float] | None = None,
) -> dict[int, NDArray[np.float64]]:
    """Pool in plain Python: of each media the mean, of each template their sum."""
    media: dict[int, dict[int, list[NDArray[np.float64]]]] = defaultdict(lambda: defaultdict(list))
    for name, template, medium in lines:
        row = rows[ids.index(name)]
        if normalize:
            row = row / np.linalg.norm(row)
        if scores is not None:
            row = row * scores[name]
        media[template][medium].append(row)
    return {
        template: sum(sum(own) / len(own) for own in groups.values())  # type: ignore[misc]
        for template, groups in media.items()
    }


IDS = [f"{k}.jpg" for k in range(30)]

drawn_lines = st.lists(
    st.tuples(st.sampled_from(IDS), st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=40
)


def read(
    folder: Path, lines: Sequence[Line], ids: Sequence[str] = IDS, **options: Any
) -> Templates:
    return read_templates(write_lines(folder / "tid_mid.txt", lines), ids, **options)


def rows_of(seed: int = 0, dim: int = 4) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(len(IDS), dim))


class TestPooling:
    @moderate
    @given(
        lines=drawn_lines, normalize=st.booleans(), scored=st.booleans(), block=st.integers(1, 9)
    )
    def test_is_the_sum_over_media_of_their_means(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        lines: list[Line],
        normalize: bool,
        scored: bool,
        block: int,
    ) -> None:
        folder = tmp_path_factory.mktemp("templates")
        rng = np.random.default_rng(len(lines))
        scores = dict(zip(IDS, np.round(rng.uniform(0.1, 1, len(IDS)), 3).tolist(), strict=True))
        path = write_scores(folder / "scores.txt", scores) if scored else None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(templates, "_BLOCK_IMAGES", block)
            pooling = read(folder, lines, normalize_images=normalize, detector_scores=path)
            found = pooling.pool(rows_of(), "a")
        expected = by_hand(
            rows_of(), lines, IDS, normalize=normalize, scores=scores if scored else None
        )
        assert pooling.numbers.tolist() == sorted(expected)
        np.testing.assert_allclose(found, [expected[t] for t in sorted(expected)], atol=1e-14)

    @moderate
    @given(lines=drawn_lines, scored=st.booleans())
    def test_of_mapped_images_is_the_mapped_pooling_of_a_map_without_a_bias(
        self, tmp_path_factory: pytest.TempPathFactory, lines: list[Line], scored: bool
    ) -> None:
        folder = tmp_path_factory.mktemp("templates")
        scores = write_scores(folder / "s.txt", {name: 0.1 + k for k, name in enumerate(IDS)})
        pooling = read(folder, lines, detector_scores=scores if scored else None)
        fitted = a_map(rows_of(1)[:4])
        np.testing.assert_allclose(
            pooling.pool(fitted.apply(rows_of()), "a"),
            fitted.apply(pooling.pool(rows_of(), "a")),
            rtol=1e-12,
            atol=1e-11,
        )

    def test_of_mapped_images_is_not_so_with_a_bias_or_of_normalized_images(
        self, tmp_path: Path
    ) -> None:
        lines = [("0.jpg", 1, 1), ("1.jpg", 1, 2), ("2.jpg", 2, 3)]
        for fitted, normalize in (
            (a_map(rows_of(1)[:4], bias=1), False),
            (a_map(rows_of(1)[:4]), True),
        ):
            pooling = read(tmp_path, lines, normalize_images=normalize)
            difference = pooling.pool(fitted.apply(rows_of()), "a") - fitted.apply(
                pooling.pool(rows_of(), "a")
            )
            assert np.abs(difference[0]).max() > 0.1

    @pytest.mark.parametrize("normalize", [False, True])
    def test_of_one_image_is_that_image(self, tmp_path: Path, normalize: bool) -> None:
        pooling = read(tmp_path, [("7.jpg", 3, 9)], normalize_images=normalize)
        own = rows_of()[7]
        expected = own / np.linalg.norm(own) if normalize else own
        np.testing.assert_allclose(pooling.pool(rows_of(), "a"), [expected], rtol=1e-15)

    def test_counts_a_media_once_however_many_images_it_has(self, tmp_path: Path) -> None:
        rows = rows_of()
        rows[3] = rows[2] = rows[1]
        alone = read(tmp_path, [("0.jpg", 1, 5), ("1.jpg", 1, 6)]).pool(rows, "a")
        again = [("0.jpg", 1, 5), ("1.jpg", 1, 6), ("2.jpg", 1, 6), ("3.jpg", 1, 6)]
        np.testing.assert_allclose(read(tmp_path, again).pool(rows, "a"), alone, rtol=1e-14)
        other = [("0.jpg", 1, 5), ("1.jpg", 1, 6), ("2.jpg", 1, 7)]
        np.testing.assert_allclose(
            read(tmp_path, other).pool(rows, "a"), [rows[0] + 2 * rows[1]], rtol=1e-14
        )

    def test_keeps_media_of_one_number_in_two_templates_apart(self, tmp_path: Path) -> None:
        lines = [("0.jpg", 1, 5), ("1.jpg", 2, 5), ("2.jpg", 2, 5)]
        rows = rows_of()
        np.testing.assert_allclose(
            read(tmp_path, lines).pool(rows, "a"), [rows[0], (rows[1] + rows[2]) / 2], rtol=1e-15
        )

    def test_of_low_precision_is_summed_in_double(self, tmp_path: Path) -> None:
        rows = rows_of().astype("f2")
        pooling = read(tmp_path, [(name, 1, k) for k, name in enumerate(IDS)])
        np.testing.assert_allclose(
            pooling.pool(rows, "a"), rows.astype(float).sum(axis=0)[None], rtol=1e-14
        )

    def test_of_an_image_without_a_direction_is_refused(self, tmp_path: Path) -> None:
        rows = rows_of()
        rows[4] = 0
        lines = [(name, 1, 1) for name in IDS]
        assert np.isfinite(read(tmp_path, lines).pool(rows, "a")).all()
        with pytest.raises(cg.NonFiniteError, match="a: row 4 is zero or holds NaN"):
            read(tmp_path, lines, normalize_images=True).pool(rows, "a")
        rows[4] = np.inf
        with pytest.raises(cg.NonFiniteError, match="a: row 4 is zero or holds NaN"):
            read(tmp_path, lines).pool(rows, "a")


def a_map(matrix: NDArray[np.float64], bias: float = 0.0) -> cg.LinearMap:
    p, q = matrix.shape
    return cg.LinearMap(matrix.T, np.full(q, bias), Space("a", p), Space("b", q))


class TestTemplateLists:
    @pytest.mark.parametrize(
        "content", ["1.jpg 1 5\r\n2.jpg 1 5\r\n", "1.jpg\t1\t5\n\n 2.jpg 1  5"]
    )
    def test_may_differ_in_what_does_not_matter(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "t.txt").write_text(content, newline="")
        found = read_templates(tmp_path / "t.txt", IDS)
        assert found.images.tolist() == [1, 2]
        assert found.weights.tolist() == [0.5, 0.5]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "names no images"),
            (b"\n", "names no images"),
            (b"1.jpg 1 5\n2.jpg 1\n", "after 1 images comes '2.jpg 1.n', expected an image"),
            (b"1.jpg 1 5 6\n", "after 0 images comes"),
            (b"1.jpg a 5\n", "after 0 images comes"),
            (b"1.jpg 1 -5\n", "after 0 images comes"),
            (b"1.jpg 1 1.5\n", "after 0 images comes"),
            (b"1.jpg 1 " + b"9" * 30, "after 0 images comes"),
            (b"\xff.jpg 1 5\n", "cannot be read as text"),
            (
                b"1.jpg 1 5\n77.jpg 1 5\n78.jpg 2 5\n",
                "2 of its 3 images .* the first is 77.jpg; a p",
            ),
        ],
    )
    def test_that_are_none_are_refused(self, tmp_path: Path, content: bytes, message: str) -> None:
        (tmp_path / "t.txt").write_bytes(content)
        with pytest.raises(cg.InputError, match=rf"t\.txt: {message}"):
            read_templates(tmp_path / "t.txt", IDS)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "names no images"),
            ("2.jpg 0 0 0 0 0 0 0 0 0 0 0.9\n", "1 images have no detector's score .* 1.jpg"),
            ("1.jpg 0 0 0 0 0 0 0 0 0 0\n", r"line 1 cannot be read \(10 numbers\)"),
            ("1.jpg 0 0 0 0 0 0 0 0 0 0 x\n", "line 1 cannot be read"),
            ("1.jpg 0 0 0 0 0 0 0 0 0 0 nan\n", "1.jpg has the score nan, expected 0 or more"),
            ("1.jpg 0 0 0 0 0 0 0 0 0 0 -1\n", "1.jpg has the score -1.0"),
            ("1.jpg 0 0 0 0 0 0 0 0 0 0 inf\n", "1.jpg has the score inf"),
        ],
    )
    def test_with_other_scores_are_refused(
        self, tmp_path: Path, content: str, message: str
    ) -> None:
        (tmp_path / "s.txt").write_text(content)
        with pytest.raises(cg.InputError, match=rf"s\.txt: {message}"):
            read(tmp_path, [("1.jpg", 1, 1)], detector_scores=tmp_path / "s.txt")


THREE = [("0.jpg", 5, 1), ("1.jpg", 9, 1), ("2.jpg", 7, 1)]


class TestPairLists:
    def test_are_of_templates_by_their_numbers(self, tmp_path: Path) -> None:
        (tmp_path / "p.txt").write_text("9 5 0\n\n5 7 1\r\n7\t9  0\n")
        pairs = read_template_pairs(tmp_path / "p.txt", read(tmp_path, THREE))
        assert pairs.left.tolist() == [2, 0, 1]
        assert pairs.right.tolist() == [0, 1, 2]
        assert pairs.same.tolist() == [False, True, False]
        assert pairs.fold is None
        # 5 is 7, and 9 somebody else
        assert pairs.subject[0] == pairs.subject[1] != pairs.subject[2]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "has 0 lines of .* expected two templates and 1 or 0"),
            ("5 7\n9 7\n", "begins with '5 7'; expected two templates and 1 or 0"),
            ("5 7 1 0\n", "begins with '5 7 1 0'; expected two templates"),
            ("5 7 1\n5 9\n", "cannot be read .*columns changed"),
            ("5 7 1\n5 x 0\n", "cannot be read .*'x'"),
            ("5 7 1\n5 9 0.5\n", "cannot be read"),
            ("5 7 1\n5 9 99999999999999999999\n", "cannot be read"),
            ("5 7 1\n5 9 0 # same\n", "cannot be read"),
            ("5 7 1\n5 ٩ 0\n", "cannot be read"),
            ("5 7 1\n5 9 2\n", "pair 2 has a label that is neither 1 for one person nor 0"),
            ("5 7 1\n5 9 -1\n", "pair 2 has a label"),
            ("5 7 1\n5 10 0\n", "the template 10 is none of those given"),
            ("5 7 1\n-5 9 0\n", "the template -5 is none of those given"),
            ("5 7 1\n7 9 1\n", "has pairs of one kind only"),
        ],
    )
    def test_that_are_none_are_refused(self, tmp_path: Path, content: str, message: str) -> None:
        (tmp_path / "p.txt").write_text(content, encoding="utf-8")
        with pytest.raises(cg.InputError, match=rf"p\.txt: {message}"):
            read_template_pairs(tmp_path / "p.txt", read(tmp_path, THREE))

    def test_that_are_missing_packed_or_too_long_are_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given = read(tmp_path, THREE)
        for name, message in (("none.txt", "cannot be read"), ("p.txt.gz", "expected a .txt")):
            with pytest.raises(cg.InputError, match=message):
                read_template_pairs(tmp_path / name, given)
        monkeypatch.setattr(templates, "MOST_PAIRS", 3)
        (tmp_path / "p.txt").write_text("5 7 1\n" * 2 + "5 9 0\n" * 2)
        with pytest.raises(cg.InputError, match="has more than 3 pairs"):
            read_template_pairs(tmp_path / "p.txt", given)

    def test_of_half_a_million_are_read_at_once(self, tmp_path: Path) -> None:
        lines = [(IDS[0], number, 1) for number in range(2000)]
        ends = np.random.default_rng(0).integers(2000, size=(500_000, 2))
        same = np.arange(500_000) % 7 == 0
        np.savetxt(tmp_path / "p.txt", np.column_stack([ends, same]), fmt="%d")
        pairs = read_template_pairs(tmp_path / "p.txt", read(tmp_path, lines))
        np.testing.assert_array_equal(np.stack([pairs.left, pairs.right], 1), ends)
        np.testing.assert_array_equal(pairs.same, same)


PEOPLE = 8


@pytest.fixture(scope="module")
def ijb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two networks' embeddings of images of eight people, templates of them, and pairs."""
    root = tmp_path_factory.mktemp("ijb")
    rng = np.random.default_rng(3)
    lines: list[Line] = []
    person_of: dict[int, int] = {}
    people: list[int] = []
    for number in range(24):
        person_of[number + 100] = number % PEOPLE
        for medium in range(rng.integers(1, 4)):
            for _ in range(rng.integers(1, 4)):
                lines.append((f"{len(lines) + 1}.jpg", number + 100, 10 * number + medium))
                people.append(number % PEOPLE)
    names = [line[0] for line in lines]
    centres = rng.normal(size=(PEOPLE, 6))
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    order = rng.permutation(len(names))
    for name, matrix, length in (("a", np.eye(6), 20.0), ("b", turn, 1.0)):
        rows = (centres[people] + 0.9 * rng.normal(size=(len(names), 6))) @ matrix
        rows *= length * rng.uniform(0.5, 2, (len(names), 1))
        with cg.EmbeddingStore.create(root / f"{name}.zarr", dim=6, dtype="float64") as writer:
            writer.append(rows[order], ids=[names[k] for k in order])
    cg.fit(root / "a.zarr", root / "b.zarr", remember=False).save(root / "map.safetensors")
    write_lines(root / "tid_mid.txt", lines)
    write_scores(root / "scores.txt", {name: 0.3 + 0.01 * k for k, name in enumerate(names)})
    numbers = sorted(person_of)
    write_lines(
        root / "pairs.txt",
        [
            (one, other, int(person_of[one] == person_of[other]))
            for one in numbers
            for other in numbers
            if one < other
        ],
    )
    (root / "facts.json").write_text(json.dumps({"lines": lines, "people": person_of}))
    return root


def expected_area(root: Path, fitted: cg.LinearMap, **options: Any) -> float:
    """The area under the curve of the first template, mapped, with the second, by hand."""
    facts = json.loads((root / "facts.json").read_text())
    pooled = []
    for name in "ab":
        store = cg.EmbeddingStore.open(root / f"{name}.zarr")
        assert store.ids is not None
        rows = store.embeddings[:]
        rows = fitted.apply(rows) if name == "a" else rows
        ids = store.ids.read(0, store.rows).tolist()
        pooled.append(by_hand(rows, facts["lines"], ids, **options))
    scores, same = [], []
    for line in (root / "pairs.txt").read_text().splitlines():
        one, other, label = map(int, line.split())
        left, right = pooled[0][one], pooled[1][other]
        scores.append(left @ right / np.linalg.norm(left) / np.linalg.norm(right))
        same.append(label)
    return float(roc_auc_score(same, scores))


LISTS = ("--templates", "tid_mid.txt", "--pairs", "pairs.txt")
VERIFY = ("evaluate", "verify", "a.zarr", "b.zarr", "--map", "map.safetensors", *LISTS)


class TestVerify:
    @pytest.mark.parametrize("normalize", [False, True])
    @pytest.mark.parametrize("scored", [False, True])
    def test_compares_templates_of_mapped_images(
        self, ijb: Path, normalize: bool, scored: bool
    ) -> None:
        fitted = cg.LinearMap.load(ijb / "map.safetensors")
        report = cg.verify(
            ijb / "a.zarr",
            ijb / "b.zarr",
            linear_map=fitted,
            pairs=ijb / "pairs.txt",
            templates=ijb / "tid_mid.txt",
            normalize_images=normalize,
            detector_scores=ijb / "scores.txt" if scored else None,
            resamples=10,
            confidence=0.5,
        )
        own = next(
            one for one in report.comparisons if (one.native, one.probe) == ("b with b", "left")
        )
        assert own.comparison == "a to b with b"
        scores = {f"{k + 1}.jpg": 0.3 + 0.01 * k for k in range(report.images)} if scored else None
        expected = expected_area(ijb, fitted, normalize=normalize, scores=scores)
        assert own.area_under_curve == pytest.approx(expected, abs=1e-12)
        assert own.intervals["area_under_curve"] is not None
        assert report.pooling is not None
        assert report.pooling.normalized_images == normalize
        assert report.pooling.detector_scores == scored
        assert report.pooling.templates == 24
        facts = json.loads((ijb / "facts.json").read_text())
        assert report.pooling.media == len({(line[1], line[2]) for line in facts["lines"]})
        assert report.images == len(facts["lines"])
        assert (report.people, report.genuine_pairs, report.impostor_pairs) == (PEOPLE, 24, 252)

    def test_of_one_image_each_is_verification_of_images(self, ijb: Path, tmp_path: Path) -> None:
        store = cg.EmbeddingStore.open(ijb / "a.zarr")
        assert store.ids is not None
        names = store.ids.read(0, store.rows).tolist()
        write_lines(tmp_path / "t.txt", [(name, k, k) for k, name in enumerate(names)])
        chosen = np.random.default_rng(0).integers(len(names), size=(9, 2)).tolist()
        labels = [1, 0] * 4 + [0]
        write_lines(
            tmp_path / "p.txt", [(*ends, one) for ends, one in zip(chosen, labels, strict=True)]
        )
        (tmp_path / "p.csv").write_text(
            "left,right,same\n"
            + "".join(
                f"{names[i]},{names[j]},{one}\n" for (i, j), one in zip(chosen, labels, strict=True)
            )
        )
        options: dict[str, Any] = {"linear_map": ijb / "map.safetensors", "resamples": 20}
        stores = ijb / "a.zarr", ijb / "b.zarr"
        pooled = cg.verify(
            *stores, templates=tmp_path / "t.txt", pairs=tmp_path / "p.txt", **options
        )
        assert (
            pooled.comparisons
            == cg.verify(*stores, pairs=tmp_path / "p.csv", **options).comparisons
        )

    def test_says_on_the_command_line_how_images_were_pooled(self, ijb: Path) -> None:
        options = ("--normalize-images", "--detector-scores", "scores.txt", "--resamples", 0)
        result = succeeds(*VERIFY, *options, cwd=ijb)
        assert result["pooling"]["normalized_images"]
        assert result["pooling"]["detector_scores"]
        assert result["pooling"]["templates"] == 24
        done = crossgram(*VERIFY, *options, cwd=ijb)
        assert done.returncode == 0, done.stderr
        assert f"templates  24 of {result['pooling']['media']} media\n" in done.stdout
        assert (
            "after the map, each image's embedding divided by its length, times the detector's "
            "score" in done.stdout
        )
        assert succeeds(*VERIFY[:4], *LISTS, cwd=ijb)["pooling"]["normalized_images"] is False

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("a.zarr", "--templates", "tid_mid.txt"), "pairs: none given for the templates of"),
            (("a.zarr", "--normalize-images"), "templates: none given, but how images are pooled"),
            (("a.zarr", "--detector-scores", "scores.txt"), "templates: none given, but how"),
            (("a.zarr", *LISTS[:3], "scores.txt"), "scores.txt: begins with '1.jpg 0 1"),
            (("a.zarr", *LISTS, "--detector-scores", "pairs.txt"), "pairs.txt: line 1 cannot"),
        ],
    )
    def test_a_mistake_is_named(
        self, ijb: Path, arguments: tuple[object, ...], message: str
    ) -> None:
        said = refused("evaluate", "verify", *arguments, cwd=ijb)
        assert message in " ".join(said.split())

    def test_images_without_an_embedding_are_refused(self, ijb: Path, tmp_path: Path) -> None:
        store = cg.EmbeddingStore.open(ijb / "a.zarr")
        assert store.ids is not None
        rows, names = store.embeddings[:], store.ids.read(0, store.rows)
        gone = np.flatnonzero(names == "5.jpg")[0]
        lists: dict[str, Any] = {"templates": ijb / "tid_mid.txt", "pairs": ijb / "pairs.txt"}
        kept = names != "5.jpg"
        with cg.EmbeddingStore.create(tmp_path / "fewer.zarr", dim=6) as writer:
            writer.append(rows[kept].astype("f4"), ids=names[kept])
        with pytest.raises(cg.InputError, match=r"tid_mid\.txt: 1 of its .* images .* is 5\.jpg"):
            cg.verify(tmp_path / "fewer.zarr", **lists)
        rows[gone] = np.nan
        with cg.EmbeddingStore.create(tmp_path / "masked.zarr", dim=6) as writer:
            writer.append(rows.astype("f4"), ids=names, masked=~kept)
        with pytest.raises(cg.InputError, match=r"tid_mid\.txt: 5\.jpg has no embedding in"):
            cg.verify(tmp_path / "masked.zarr", **lists)
        with pytest.raises(cg.InputError, match="has no ids, which the images of"):
            cg.verify(rows, **lists)

    def test_images_that_the_map_was_fitted_on_are_refused(self, ijb: Path) -> None:
        said = refused(*VERIFY, "--fitted-on", "a.zarr", cwd=ijb)
        facts = json.loads((ijb / "facts.json").read_text())
        assert f"{len(facts['lines'])} of its images" in said
