"""Classification by the target's head: against counting, and what the mathematics promises."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import crossgram, refused, succeeds

import crossgram as cg
from crossgram.evaluation import classifying
from crossgram.spaces import Space

CLASSES, ROWS = 7, 200
RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(ROWS, 9)), RNG.normal(size=(ROWS, 8))
HEADS = {
    "a": cg.ClassifierHead(RNG.normal(size=(CLASSES, 9)), RNG.normal(size=CLASSES)),
    "b": cg.ClassifierHead(RNG.normal(size=(CLASSES, 8)), RNG.normal(size=CLASSES)),
}
TRUE = np.argmax(HEADS["b"].logits(B) + 2 * RNG.normal(size=(ROWS, CLASSES)), axis=1)
NAMES = [f"class {'gfedcba'[k]}" for k in range(CLASSES)]


def store(path: Path, rows: np.ndarray, labels: Any = TRUE, **more: Any) -> Path:
    with cg.EmbeddingStore.create(path, dim=rows.shape[1], dtype="float64") as writer:
        writer.append(rows, ids=[f"i{k}" for k in range(len(rows))], labels=labels, **more)
    return path


def a_map(matrix: np.ndarray) -> cg.LinearMap:
    spaces = [Space(name, dim) for name, dim in zip("ab", matrix.shape, strict=True)]
    return cg.LinearMap(matrix.T, np.zeros(matrix.shape[1]), *spaces)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return store(tmp_path / "a.zarr", A), store(tmp_path / "b.zarr", B)


def top(logits: np.ndarray, k: int) -> float:
    """The share of rows whose class is among the first k, equal logits by number of class."""
    order = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return float(np.mean([TRUE[row] in order[row] for row in range(ROWS)]))


@pytest.mark.parametrize("block_bytes", [8 * 9 * 13, 32 << 20])
def test_figures_are_those_of_every_image(
    pair: tuple[Path, Path], block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifying, "_BLOCK_BYTES", block_bytes)
    matrix = RNG.normal(size=(9, 8))
    report = cg.classify(
        *pair, HEADS["b"], linear_map=a_map(matrix), source_head=HEADS["a"], names=["a", "b"]
    )
    native = HEADS["b"].logits(B)
    expected = {
        "b by b": native,
        "a to b by b": HEADS["b"].logits(A @ matrix),
        "a by a": HEADS["a"].logits(A),
        "a unmapped by b": HEADS["b"].logits(A[:, :8]),
    }
    found = {own.embeddings: own for own in report.classifications}
    assert list(found) == list(expected)
    for name, logits in expected.items():
        own = found[name]
        assert own.top == {k: top(logits, k) for k in (1, 5)}
        assert own.agreement == np.mean(logits.argmax(1) == native.argmax(1))
        for k in (1, 5):
            assert own.loss[k] == pytest.approx(100 * (top(native, k) - own.top[k]), abs=1e-12)
    assert (report.images, report.left_out, report.classes) == (ROWS, 0, CLASSES)


def test_the_map_of_two_heads_has_the_sources_own_accuracy(pair: tuple[Path, Path]) -> None:
    """A fact of the closed form, where the target's weight has as many rows as rank."""
    mapping = cg.head_map(HEADS["a"], HEADS["b"])
    report = cg.classify(*pair, HEADS["b"], linear_map=mapping, source_head=HEADS["a"])
    _, mapped, own, _ = report.classifications
    assert mapped.top == own.top


def test_labels_are_classes_by_number_by_order_or_by_name(tmp_path: Path) -> None:
    a, b = store(tmp_path / "a", A), store(tmp_path / "b", B)
    named = [NAMES[k] for k in TRUE]
    c, d = store(tmp_path / "c", A, named), store(tmp_path / "d", B, named)
    numbered = cg.classify(a, b, HEADS["b"], names=["a", "b"])
    by_name = cg.classify(c, d, HEADS["b"], names=["a", "b"], classes=NAMES)
    assert by_name == numbered
    by_order = cg.classify(c, d, HEADS["b"], names=["a", "b"])
    assert by_order == cg.classify(c, d, HEADS["b"], names=["a", "b"], classes=sorted(NAMES))
    assert by_order != numbered


def test_masked_rows_are_left_out(tmp_path: Path) -> None:
    masked = np.arange(ROWS) % 10 == 0
    rows = B.copy()
    rows[masked] = np.nan
    whole = cg.classify(
        store(tmp_path / "a", A), store(tmp_path / "b", rows, masked=masked), HEADS["b"]
    )
    kept = HEADS["b"].logits(B).argmax(1)[~masked] == TRUE[~masked]
    assert whole.classifications[0].top[1] == kept.mean()
    assert (whole.images, whole.left_out) == (180, 20)


def test_labels_that_are_numbers_as_text_are_the_classes(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    head = cg.ClassifierHead(rng.normal(size=(12, 8)), np.zeros(12))
    true = head.logits(B).argmax(axis=1)
    # all twelve are there, and by their names "10" would come before "2"
    assert len(set(true.tolist())) == 12
    text = store(tmp_path / "t", B, [str(own) for own in true])
    assert cg.classify(text, text, head).classifications[0].top[1] == 1


def test_labels_of_which_it_is_not_known_which_class_each_is(tmp_path: Path) -> None:
    for text in ("{}.0", " {}", "+{}"):
        labelled = store(tmp_path / text, B, [text.format(own) for own in TRUE])
        with pytest.raises(cg.InputError, match=r"not known which class each is; name .*--classes"):
            cg.classify(labelled, labelled, HEADS["b"])
        names = [text.format(k) for k in range(CLASSES)]
        assert cg.classify(labelled, labelled, HEADS["b"], classes=names).images == ROWS


def test_blocks_are_small_where_classes_are_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifying, "_BLOCK_BYTES", 8 * 1000 * 20)
    head = cg.ClassifierHead(RNG.normal(size=(1000, 8)), np.zeros(1000))
    path = store(tmp_path / "a", B)
    seen: list[int] = []
    cg.classify(path, path, head, progress=lambda own: seen.append(own.rows))
    assert seen == list(range(20, ROWS + 1, 20))


def test_labels_of_masked_rows_are_no_classes(tmp_path: Path) -> None:
    rows, labels = B.copy(), [NAMES[own] for own in TRUE]
    masked = np.arange(ROWS) == 3
    rows[masked] = np.nan
    whole = cg.classify(*[store(tmp_path / "w", B, labels)] * 2, HEADS["b"])
    labels[3] = "nobody knows"
    found = cg.classify(*[store(tmp_path / "m", rows, labels, masked=masked)] * 2, HEADS["b"])
    assert (found.images, found.classes) == (ROWS - 1, whole.classes)


class TestRefusals:
    def test_heads_and_maps_of_other_widths(self, pair: tuple[Path, Path]) -> None:
        with pytest.raises(cg.WidthMismatchError, match="head: takes 9 columns"):
            cg.classify(*pair, HEADS["a"])
        with pytest.raises(cg.WidthMismatchError, match="the one given is from 3 to 8"):
            cg.classify(*pair, HEADS["b"], linear_map=a_map(np.ones((3, 8))))
        other = cg.ClassifierHead(np.ones((3, 9)), np.zeros(3))
        with pytest.raises(cg.WidthMismatchError, match="source head: has 3 classes"):
            cg.classify(*pair, HEADS["b"], source_head=other)

    def test_labels_that_are_no_classes(self, tmp_path: Path) -> None:
        a = store(tmp_path / "a", A, TRUE + 1)
        b = store(tmp_path / "b", B, TRUE + 1)
        with pytest.raises(cg.InputError, match="holds 7, expected classes from 0 to 6"):
            cg.classify(a, b, HEADS["b"])
        with pytest.raises(cg.InputError, match="8 different labels for 7 classes"):
            cg.classify(a, b, HEADS["b"], classes=range(8))
        with pytest.raises(cg.InputError, match="holds 7, which is no class"):
            cg.classify(a, b, HEADS["b"], classes=range(7))

    def test_rows_that_are_not_finite(self, tmp_path: Path) -> None:
        rows = A.copy()
        rows[150, 3] = np.inf
        with pytest.raises(cg.NonFiniteError, match="row 150 holds NaN or infinity"):
            cg.classify(store(tmp_path / "a", rows), store(tmp_path / "b", B), HEADS["b"])

    def test_images_that_were_fitted_on_but_not_their_classes(
        self, pair: tuple[Path, Path], tmp_path: Path
    ) -> None:
        with pytest.raises(cg.InputError, match="200 of its images"):
            cg.classify(*pair, HEADS["b"], fitted_on=[pair[0]])
        with cg.EmbeddingStore.create(tmp_path / "o.zarr", dim=2) as writer:
            writer.append(np.eye(2, dtype="f4"), ids=["x", "y"], labels=[0, 1])
        report = cg.classify(*pair, HEADS["b"], fitted_on=[tmp_path / "o.zarr"])
        assert report.overlaps
        assert (report.overlaps[0].images, report.overlaps[0].people) == (0, None)

    def test_images_that_the_map_remembers(self, pair: tuple[Path, Path]) -> None:
        fitted = cg.fit(*pair)
        with pytest.raises(cg.InputError, match="200 of its images, .* the map a to b was fitted"):
            cg.classify(*pair, HEADS["b"], linear_map=fitted)
        report = cg.classify(*pair, HEADS["b"], linear_map=fitted, allow_overlap=True)
        assert (report.overlaps[0].images, report.overlaps[0].people) == (200, None)


def test_the_command_gives_the_report(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    for name, head in HEADS.items():
        head.save(tmp_path / f"{name}.head.safetensors")
    a_map(np.eye(9)[:, :8]).save(tmp_path / "map.safetensors")
    command = ("evaluate", "classify", "a.zarr", "b.zarr", "--head", "b.head.safetensors")
    command += ("--map", "map.safetensors", "--source-head", "a.head.safetensors")
    result = succeeds(*command, cwd=tmp_path)
    expected = cg.classify(
        *pair, HEADS["b"], linear_map=tmp_path / "map.safetensors", source_head=HEADS["a"]
    )
    assert result == json.loads(json.dumps(expected.to_dict()))
    done = crossgram(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("a to b by b"))
    assert f"{100 * expected.classifications[1].top[1]:.2f}" in row
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    said = refused(*command, "--classes", "names.txt", cwd=tmp_path)
    assert "which is no class of the head" in said
    assert "none.txt: cannot be read" in refused(*command, "--classes", "none.txt", cwd=tmp_path)
