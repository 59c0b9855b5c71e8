"""Atlases: every map as if fitted and tried alone, on images that are apart; files of strangers."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from people import DIMS, write_people

import crossgram as cg
from crossgram.atlases.words import basis, headline, kept_by_pair, map_notes, split_in_words
from crossgram.errors import (
    CorruptDataError,
    InputError,
    NonFiniteError,
    OutputExistsError,
    PairingError,
    WidthMismatchError,
)
from crossgram.hashing import text_hashes
from crossgram.heads import ClassifierHead
from crossgram.sampling import hold_out
from crossgram.source import open_source

pytestmark = pytest.mark.usefixtures("one_blas_thread")

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_people(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def made(stores: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[cg.Atlas, Path]:
    out = tmp_path_factory.mktemp("atlas") / "atlas"
    return cg.atlas(stores, out, resamples=20, held_out=0.25), out


def rows_of(path: Path) -> tuple[np.ndarray, np.ndarray]:
    store = cg.EmbeddingStore.open(path)
    rows = np.empty((store.rows, store.dim), np.float32)
    store.read(0, rows)
    assert store.labels is not None
    return rows.astype(float), store.labels.read(0, store.rows)


def spoiled(
    path: Path,
    to: Path,
    values: dict[int, float],
    *,
    rows: int | None = None,
    masked: bool = False,
    labels: dict[int, Any] | None = None,
) -> Path:
    """Copy a store, or its first rows, with some rows of one value, or some labels, instead."""
    store = cg.EmbeddingStore.open(path)
    count = rows or store.rows
    embeddings = rows_of(path)[0].astype(np.float32)[:count]
    for row, value in values.items():
        embeddings[row] = value
    assert store.ids is not None
    own = rows_of(path)[1][:count].astype(object)
    for row, label in (labels or {}).items():
        own[row] = label
    with cg.EmbeddingStore.create(to, dim=store.dim) as writer:
        writer.append(
            embeddings,
            ids=store.ids.read(0, count),
            labels=own.tolist(),
            masked=np.isnan(embeddings).any(axis=1) if masked else None,
        )
    return to


def divided(stores: list[Path], out: Path) -> tuple[np.ndarray, np.ndarray]:
    """Tell which images the moments of an atlas are of, and which they are not."""
    apart = hold_out([open_source(path) for path in stores], 0.25, 0)
    held_out = apart.assigner([apart.training_rows])(0, 200) == 1
    rows, labels = rows_of(stores[0])
    assert not set(labels[held_out]) & set(labels[~held_out])
    moments = cg.load_moments(out / "moments.safetensors")
    np.testing.assert_allclose(moments.means[0], rows[~held_out].mean(axis=0), atol=1e-12)
    return ~held_out, held_out


class TestHeldOut:
    def test_every_map_is_that_of_the_images_not_held_out(
        self, stores: list[Path], made: tuple[cg.Atlas, Path]
    ) -> None:
        atlas, out = made
        training, held_out = divided(stores, out)
        assert (atlas.split.fitted_rows, atlas.split.held_out_rows) == (150, 50)
        assert (training.sum(), held_out.sum()) == (150, 50)
        rows = {name: rows_of(path)[0] for name, path in zip(NAMES, stores, strict=True)}
        assert [(one.source, one.target) for one in atlas.maps] == list(permutations(NAMES, 2))
        for one in atlas.maps:
            x, y = rows[one.source], rows[one.target]
            fitted = cg.LinearMap.load(out / one.file)
            with_bias = np.column_stack([x, np.ones(len(x))])
            expected = np.linalg.lstsq(with_bias[training], y[training], rcond=None)[0]
            np.testing.assert_allclose(fitted.weight, expected[:-1].T, atol=1e-9)
            errors = (y - with_bias @ expected)[held_out]
            totals = (y - y[training].mean(axis=0))[held_out]
            assert one.held_out_r2 == pytest.approx(1 - (errors**2).sum() / (totals**2).sum())
            per_output = 1 - (errors**2).sum(axis=0) / (totals**2).sum(axis=0)
            np.testing.assert_allclose(
                one.held_out_r2_per_output, np.sort(per_output)[::-1], rtol=1e-5
            )
            np.testing.assert_allclose(
                one.singular_values, np.linalg.svd(expected[:-1])[1], rtol=1e-5
            )

    def test_a_point_of_a_ridge_curve_is_a_map_with_that_ridge(
        self, stores: list[Path], made: tuple[cg.Atlas, Path]
    ) -> None:
        atlas, out = made
        training, held_out = divided(stores, out)
        x, y = (rows_of(path)[0] for path in stores[:2])
        for point in atlas.maps[0].ridge_curve[:: len(atlas.maps[0].ridge_curve) // 4]:
            fitted = cg.fit(x[training], y[training], ridge=point.strength)
            errors = (y[held_out] - fitted.apply(x[held_out])) ** 2
            totals = (y[held_out] - y[training].mean(axis=0)) ** 2
            assert point.r2 == pytest.approx(1 - errors.sum() / totals.sum(), rel=1e-4, abs=1e-6)

    def test_recognition_is_that_of_the_images_held_out(
        self, stores: list[Path], made: tuple[cg.Atlas, Path], tmp_path: Path
    ) -> None:
        atlas, out = made
        _, held_out = divided(stores, out)
        parts = []
        for name, path in zip(NAMES, stores, strict=True):
            rows, labels = rows_of(path)
            with cg.EmbeddingStore.create(tmp_path / f"{name}.zarr", dim=DIMS[name]) as writer:
                writer.append(rows[held_out].astype("f4"), labels=labels[held_out])
            parts.append(tmp_path / f"{name}.zarr")
        alone = cg.verify(
            parts[0],
            parts[2],
            linear_map=out / "maps/a-to-c.safetensors",
            back=out / "maps/c-to-a.safetensors",
            resamples=20,
        )
        assert atlas.verification is not None
        own = {one.comparison: one for one in atlas.verification.comparisons}
        for one in alone.comparisons:
            assert own[one.comparison] == one
        assert len(own) == 3 + 2 * 6 + 6

    def test_everybody_is_enrolled_once_and_searched_for_by_the_other_images(
        self, made: tuple[cg.Atlas, Path]
    ) -> None:
        atlas, _ = made
        assert [(p.source, p.target) for p in atlas.identification] == list(permutations(NAMES, 2))
        for pair in atlas.identification:
            assert (pair.report.gallery, pair.report.probes, pair.report.mated) == (10, 40, 40)
            kinds = [(one.kind, one.source, one.target) for one in pair.report.searches]
            a, b = pair.source, pair.target
            assert kinds == [
                ("native", b, b),
                ("mapped", a, b),
                ("native", a, a),
                ("unmapped", a, b),
            ]

    def test_other_seeds_hold_out_other_people(self, stores: list[Path], tmp_path: Path) -> None:
        found = [
            cg.atlas(stores[:2], tmp_path / str(seed), resamples=0, seed=seed).maps[0].r2
            for seed in (1, 2)
        ]
        assert found[0] != found[1]

    def test_images_without_labels_have_maps_and_no_recognition(self, tmp_path: Path) -> None:
        atlas = cg.atlas(write_people(tmp_path, labels=False), tmp_path / "out")
        assert atlas.split.by == "ids"
        assert atlas.verification is None
        assert atlas.identification == ()
        assert "no labels" in atlas.notes[0]
        assert headline(atlas)[0].startswith("The maps explain ")
        assert cg.load_atlas(tmp_path / "out") == atlas

    def test_maps_remember_what_they_were_fitted_on(
        self, stores: list[Path], made: tuple[cg.Atlas, Path], tmp_path: Path
    ) -> None:
        atlas, out = made
        training, held_out = divided(stores, out)
        fitted_on = cg.LinearMap.load(out / atlas.maps[0].file).fitted_on
        ids = cg.EmbeddingStore.open(stores[0]).ids
        assert ids is not None
        hashes = text_hashes(ids.read(0, 200))
        assert fitted_on.ids is not None
        assert fitted_on.ids.shared(hashes[training]).found == 150
        assert fitted_on.ids.shared(hashes[held_out]).found == 0
        assert atlas.verification is not None
        assert "the 6 maps" in atlas.verification.notes[-1]
        cg.atlas(stores[:2], tmp_path / "out", resamples=0, remember=False)
        forgetful = cg.LinearMap.load(tmp_path / "out" / "maps" / "a-to-b.safetensors")
        assert not forgetful.fitted_on.is_known

    def test_labels_of_one_store_are_those_of_all(self, tmp_path: Path) -> None:
        stores = write_people(tmp_path)[:2]
        expected = cg.atlas(stores, tmp_path / "out", resamples=0)
        bare = cg.EmbeddingStore.open(stores[1])
        rows = np.empty((bare.rows, bare.dim), np.float32)
        bare.read(0, rows)
        (tmp_path / "bare").mkdir()
        with cg.EmbeddingStore.create(tmp_path / "bare" / "b.zarr", dim=bare.dim) as writer:
            assert bare.ids is not None
            writer.append(rows, ids=bare.ids.read(0, bare.rows))
        found = cg.atlas([stores[0], tmp_path / "bare" / "b.zarr"], tmp_path / "again", resamples=0)
        assert found.verification == expected.verification
        assert found.identification == expected.identification

    def test_a_space_that_is_all_the_same_is_named(self, tmp_path: Path) -> None:
        stores = write_people(tmp_path)[:1]
        np.save(tmp_path / "still.npy", np.full((200, 3), 1.5, "f4"))
        with pytest.raises(InputError, match="rows of still are all the same"):
            cg.atlas([*stores, tmp_path / "still.npy"], tmp_path / "out", resamples=0)
        assert not (tmp_path / "out").exists()


class TestOtherStores:
    def test_maps_are_of_all_rows_and_tried_on_the_others(self, tmp_path: Path) -> None:
        fitted = write_people(tmp_path, part="fit-")
        others = write_people(tmp_path, part="new-", seed=1, people=12)
        atlas = cg.atlas(
            fitted, tmp_path / "out", names=NAMES, try_on=others, resamples=0, ridge=3.0
        )
        alone = cg.fit(fitted[0], fitted[1], ridge=3.0)
        own = cg.LinearMap.load(tmp_path / "out" / atlas.maps[0].file)
        np.testing.assert_allclose(own.weight, alone.weight, atol=1e-12)
        assert (atlas.split.fitted_rows, atlas.split.held_out_rows) == (200, 60)
        assert (atlas.split.shared_images, atlas.split.shared_people) == (0, 0)
        assert atlas.verification is not None
        assert atlas.verification.images == 60
        assert "No image and no person is on both sides" in split_in_words(atlas)

    def test_images_that_were_fitted_on_are_refused_unless_allowed(
        self, stores: list[Path], tmp_path: Path
    ) -> None:
        with pytest.raises(InputError, match="200 of its images, and 40 of its people"):
            cg.atlas(stores, tmp_path / "out", try_on=stores)
        assert not (tmp_path / "out").exists()
        atlas = cg.atlas(stores, tmp_path / "out", try_on=stores, allow_overlap=True, resamples=0)
        assert "200 images and 40 people are on both sides, which flatters" in split_in_words(atlas)

    def test_rows_that_are_not_finite_are_left_out_or_named(self, tmp_path: Path) -> None:
        fitted = write_people(tmp_path)[:2]
        others = write_people(tmp_path, part="new-", seed=1, people=12)[:2]
        spoilt = spoiled(others[0], tmp_path / "spoilt.zarr", {3: np.nan, 7: 0.0})
        options: dict[str, Any] = {"names": NAMES[:2], "try_on": [spoilt, others[1]]}
        with pytest.raises(NonFiniteError, match=r"spoilt\.zarr: row 3 .*--on-nonfinite skip"):
            cg.atlas(fitted, tmp_path / "out", resamples=0, **options)
        atlas = cg.atlas(fitted, tmp_path / "out", on_nonfinite="skip", resamples=0, **options)
        # all zeros is a row of the moments, and has no cosine
        assert (atlas.split.held_out_rows, atlas.split.recognised_rows) == (59, 58)
        assert atlas.verification is not None
        assert (atlas.verification.images, atlas.verification.left_out) == (58, 2)
        assert {one.report.probes for one in atlas.identification} == {46}
        assert "0 of the images to fit to and 1 of those to try the maps on" in atlas.notes[0]
        assert "2 of the images to try recognition on" in atlas.notes[1]

    def test_rows_held_out_that_are_not_finite_are_counted(self, tmp_path: Path) -> None:
        stores = write_people(tmp_path)[:2]
        spoilt = spoiled(stores[0], tmp_path / "spoilt.zarr", dict.fromkeys(range(0, 200, 5), 0.0))
        atlas = cg.atlas([spoilt, stores[1]], tmp_path / "out", resamples=0)
        assert atlas.split.recognised_rows == 32
        assert "8 of the images to try recognition on" in atlas.notes[0]

    def test_images_of_another_count_are_named(self, tmp_path: Path) -> None:
        fitted = write_people(tmp_path)[:2]
        a, b = write_people(tmp_path, part="new-", seed=1, people=12)[:2]
        short = spoiled(a, tmp_path / "short.zarr", {3: np.nan}, rows=50, masked=True)
        whole = spoiled(b, tmp_path / "whole.zarr", {3: np.nan}, masked=True)
        with pytest.raises(PairingError, match="short.zarr has 50 rows, .*whole.zarr has 60"):
            cg.atlas(fitted, tmp_path / "out", names=NAMES[:2], try_on=[short, whole])

    def test_classifiers_read_mapped_embeddings(self, tmp_path: Path) -> None:
        fitted = write_people(tmp_path, part="")
        others = (
            write_people(tmp_path / "new", seed=1) if (tmp_path / "new").mkdir() is None else []
        )
        classes = sorted({f"p{k:03}" for k in range(40)})
        heads = []
        for path in fitted[:2]:
            rows, labels = rows_of(path)
            means = np.array([rows[labels == who].mean(axis=0) for who in classes])
            heads.append(ClassifierHead(means, -(means**2).sum(axis=1) / 2))
        # other images of other people under the same names, as classes are: only ids must differ
        with pytest.raises(InputError, match="200 of its images"):
            cg.atlas(fitted[:2], tmp_path / "out", try_on=others[:2], heads=heads)
        atlas = cg.atlas(
            fitted[:2], tmp_path / "out", try_on=fitted[:2], heads=heads, allow_overlap=True
        )
        assert atlas.verification is None
        (first, second) = atlas.classification
        alone = cg.classify(
            fitted[0],
            fitted[1],
            heads[1],
            linear_map=tmp_path / "out" / atlas.maps[0].file,
            source_head=heads[0],
            names=["a", "b"],
            allow_overlap=True,
        )
        assert first.report.classifications == alone.classifications
        assert (second.source, second.target) == ("b", "a")
        kept = kept_by_pair(atlas)
        by_kind = {one.kind: one.top[1] for one in alone.classifications if one.target == "b"}
        assert kept[0].share == by_kind["mapped"] / by_kind["native"]


class TestLabels:
    """Stores that are paired say the same of whom a row shows, where they say it."""

    def test_that_disagree_are_refused(self, stores: list[Path], tmp_path: Path) -> None:
        other = spoiled(stores[1], tmp_path / "other.zarr", {}, labels={7: "p999"})
        message = (
            r"row 7 \(p001/7\) is labelled 'p001' in .*a\.zarr and 'p999' in .*other\.zarr; rows"
        )
        with pytest.raises(PairingError, match=message):
            cg.atlas([stores[0], other], tmp_path / "out")
        with pytest.raises(PairingError, match=message):
            cg.verify(stores[0], other)
        with pytest.raises(PairingError, match=message):
            cg.learning_curve(stores[0], other)
        with pytest.raises(PairingError, match=message):
            cg.identify(stores[0], stores[1], native=other, reembedded=stores[0])
        with pytest.raises(PairingError, match=message):
            cg.atlas(stores[:2], tmp_path / "out", try_on=[stores[0], other])
        head = ClassifierHead(np.eye(DIMS["b"]), np.zeros(DIMS["b"]))
        with pytest.raises(PairingError, match=message):
            cg.classify(stores[0], other, head)
        assert not (tmp_path / "out").exists()

    def test_of_rows_in_another_order_are_told_by_the_ids(
        self, stores: list[Path], tmp_path: Path
    ) -> None:
        turned = tmp_path / "turned.zarr"
        store = cg.EmbeddingStore.open(stores[1])
        rows, labels = rows_of(stores[1])
        assert store.ids is not None
        with cg.EmbeddingStore.create(turned, dim=store.dim) as writer:
            ids = store.ids.read(0, 200)[::-1]
            writer.append(rows[::-1].astype("f4"), ids=ids, labels=labels[::-1])
        with pytest.raises(PairingError, match="200 ids are in both. To pair the rows by id"):
            cg.atlas([stores[0], turned], tmp_path / "out")

    def test_that_are_numbers_are_those_of_the_same_text(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        numbers = np.repeat(np.arange(8), 5)
        for name, labels in (("a", numbers), ("b", numbers.astype(str))):
            with cg.EmbeddingStore.create(tmp_path / f"{name}.zarr", dim=4) as writer:
                writer.append(rng.normal(size=(40, 4)).astype("f4"), labels=labels)
        report = cg.verify(tmp_path / "a.zarr", tmp_path / "b.zarr", resamples=0)
        assert report.people == 8

    def test_of_rows_that_are_masked_may_be_anything(
        self, stores: list[Path], tmp_path: Path
    ) -> None:
        other = spoiled(
            stores[1], tmp_path / "other.zarr", {7: np.nan}, labels={7: "?"}, masked=True
        )
        assert cg.verify(stores[0], other, resamples=0).images == 199


class TestFolder:
    def test_comes_back_as_it_was(self, made: tuple[cg.Atlas, Path]) -> None:
        atlas, out = made
        assert cg.load_atlas(out) == atlas
        assert sorted(path.name for path in (out / "maps").iterdir()) == sorted(
            f"{a}-to-{b}.safetensors" for a, b in permutations(NAMES, 2)
        )
        assert cg.load_moments(out / "moments.safetensors").rows == atlas.split.fitted_rows

    def test_the_table_has_every_figure_once(self, made: tuple[cg.Atlas, Path]) -> None:
        atlas, out = made
        with (out / "figures.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        keys = [tuple(row[k] for k in ("task", "source", "target", "kind", "name")) for row in rows]
        assert len(set(keys)) == len(keys)
        found = dict(zip(keys, rows, strict=True))
        assert atlas.verification is not None
        mapped = next(one for one in atlas.verification.comparisons if one.kind == "mapped")
        own = found["verification", mapped.source, mapped.target, "mapped", "area_under_curve"]
        assert float(own["value"]) == mapped.area_under_curve
        interval = mapped.intervals["area_under_curve"]
        assert interval is not None
        assert (float(own["low"]), float(own["high"])) == (interval.low, interval.high)
        assert len([key for key in keys if key[0] == "identification" and key[4] == "rank-1"]) == 15

    def test_the_table_says_what_is_kept_and_lost(self, made: tuple[cg.Atlas, Path]) -> None:
        atlas, out = made
        with (out / "figures.csv").open(newline="", encoding="utf-8") as file:
            rows = {tuple(row.values())[:5]: row for row in csv.DictReader(file)}
        checked = 0
        for one in (one for pair in atlas.identification for one in pair.report.searches):
            if one.kind == "native":
                continue
            for name, share in one.kept.items():
                row = rows["identification", one.source, one.target, one.kind, name]
                assert float(row["kept"]) == pytest.approx(share)
                native = rows["identification", one.target, one.target, "native", name]
                points = 100 * (float(native["value"]) - float(row["value"]))
                assert float(row["lost"]) == pytest.approx(points)
                interval = one.kept_intervals[name]
                ends = ("", "") if interval is None else (str(interval.low), str(interval.high))
                assert (row["kept_low"], row["kept_high"]) == ends
                checked += 1
        assert atlas.verification is not None
        for own in atlas.verification.comparisons:
            for name, points in own.loss.items():
                row = rows["verification", own.source, own.target, own.kind, name]
                assert float(row["lost"]) == pytest.approx(points)
                interval = own.loss_intervals[name]
                ends = ("", "") if interval is None else (str(interval.low), str(interval.high))
                assert (row["lost_low"], row["lost_high"]) == ends
                assert (row["kept"] == "") == (name == "equal_error_rate")
                checked += 1
        assert checked > 50
        for row in rows.values():
            if row["kind"] in ("native", "") or row["task"] == "map":
                assert {v for k, v in row.items() if k.startswith(("kept", "lost"))} == {""}

    def test_only_an_atlas_is_overwritten(self, stores: list[Path], tmp_path: Path) -> None:
        out = tmp_path / "out"
        cg.atlas(stores[:2], out, resamples=0)
        with pytest.raises(OutputExistsError):
            cg.atlas(stores[:2], out, resamples=0)
        cg.atlas(stores[:2], out, resamples=0, overwrite=True)
        (out / "mine.txt").write_text("mine")
        with pytest.raises(InputError, match="holds files that crossgram did not make"):
            cg.atlas(stores[:2], out, resamples=0, overwrite=True)

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda facts: "{", "is no JSON"),
            (lambda facts: "[" * 100_000, "is no JSON"),
            (lambda facts: "[]", "not of the format"),
            (lambda facts: json.dumps(facts | {"format": 2}), "not of the format"),
            (lambda facts: json.dumps(facts | {"notes": 3}), "notes: "),
            (lambda facts: json.dumps(facts | {"spaces": [{"name": 1}]}), "spaces.0"),
            (lambda facts: json.dumps(facts | {"verification": float("nan")}), "holds NaN"),
            (lambda facts: json.dumps({k: v for k, v in facts.items() if k != "maps"}), "maps: "),
        ],
    )
    def test_facts_of_another_kind_are_refused(
        self,
        made: tuple[cg.Atlas, Path],
        tmp_path: Path,
        spoil: Callable[[dict[str, Any]], str],
        message: str,
    ) -> None:
        facts = json.loads((made[1] / "atlas.json").read_text())
        (tmp_path / "atlas.json").write_text(spoil(facts))
        with pytest.raises(CorruptDataError, match=message) as refused:
            cg.load_atlas(tmp_path)
        assert str(tmp_path / "atlas.json") in str(refused.value)

    def test_a_folder_that_is_no_atlas_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="is no atlas"):
            cg.load_atlas(tmp_path)


class TestRefused:
    def refused(self, message: str, *args: Any, **options: Any) -> None:
        with pytest.raises(InputError, match=message):
            cg.atlas(*args, **options)

    def test_before_anything_is_written(self, stores: list[Path], tmp_path: Path) -> None:
        out = tmp_path / "out"
        self.refused("spaces: 1 given", stores[:1], out)
        self.refused("names: '../x'", stores[:2], out, names=["../x", "y"])
        self.refused("try_on: 1 given for 2", stores[:2], out, try_on=stores[:1])
        self.refused("heads: given without", stores[:2], out, heads=stores[:2])
        self.refused("join: given with", stores[:2], out, try_on=stores[:2], join="ids")
        self.refused("rank", stores[:2], out, method="reduced-rank", rank=99)
        self.refused("method", stores[:2], out, method="magic")
        with pytest.raises(WidthMismatchError, match="same networks in the same order"):
            cg.atlas(stores[:2], out, try_on=stores[1::-1])
        assert not list(tmp_path.iterdir())

    def test_a_ridge_by_itself_is_that_of_the_rows_it_is_fitted_to(
        self, stores: list[Path], tmp_path: Path
    ) -> None:
        atlas = cg.atlas(stores[:2], tmp_path / "out", ridge="auto", resamples=0)
        moments = cg.load_moments(tmp_path / "out" / "moments.safetensors")
        assert atlas.maps[0].ridge == cg.ridge_path(moments, "a", "b").chosen


def test_the_headline_says_what_is_kept(made: tuple[cg.Atlas, Path], tmp_path: Path) -> None:
    atlas, _ = made
    kept = sorted(kept_by_pair(atlas), key=lambda one: one.share)
    (sentence,) = headline(atlas)
    middle = 100 * (kept[2].share + kept[3].share) / 2
    assert f"keeps {middle:.1f} % of what the target's own reaches (rank-1)" in sentence
    assert f"from {100 * kept[0].share:.1f} % ({kept[0].source} to {kept[0].target})" in sentence
    assert split_in_words(atlas) == (
        "The maps were fitted on 150 images and tried on 50. Images tried on were held out by "
        "label: no person is on both sides."
    )
    two = cg.atlas(write_people(tmp_path)[:2], tmp_path / "out", resamples=20, held_out=0.25)
    own = kept_by_pair(two)[0]
    assert own.interval is not None
    assert headline(two)[0] == (
        f"Searching b's gallery with a's probes keeps {100 * own.share:.1f} % of b's rank-1 "
        f"({100 * own.interval.low:.1f} % to {100 * own.interval.high:.1f} %)."
    )


def test_of_few_people_no_interval_is_given_and_their_number_is(
    stores: list[Path], made: tuple[cg.Atlas, Path], tmp_path: Path
) -> None:
    assert basis(made[0]) == ["Recognition rests on 40 searches for 10 people."]
    few = cg.atlas(stores[:2], tmp_path / "out", resamples=20, held_out=0.05)
    assert few.split.recognised_people == 2
    (sentence,) = basis(few)
    assert sentence == (
        "Recognition rests on 8 searches for 2 people, too few to tell how it is with others "
        "(at least 10)."
    )
    assert few.verification is not None
    for own in few.verification.comparisons:
        assert set(own.intervals.values()) == {None}
        assert set(own.loss_intervals.values()) <= {None}
    for own in few.identification[0].report.searches:
        assert {*own.intervals.values(), *own.kept_intervals.values()} == {None}
    assert all(line.endswith(" rank-1.") for line in headline(few))
    words = cg.write_report(tmp_path / "out").read_text(encoding="utf-8")
    assert "No 95% intervals: 2 of the people" in words
    assert words.count(sentence) == 2
    assert f'<p class="headline">{sentence}</p>' in words
    # nothing that is lost has a sign
    assert not re.search(r"-0\.0+\b", words[words.index("<main>") : words.index("<svg")])


def test_notes_of_maps_are_said_once_and_of_which_they_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(60, 4))
    stores = {
        "wide": shared @ rng.normal(size=(4, 60)) + 0.1 * rng.normal(size=(60, 60)),
        "flat": np.repeat(shared, 2, axis=1),
        "plain": shared @ rng.normal(size=(4, 3)),
    }
    atlas = cg.atlas(list(stores.values()), tmp_path / "out", names=list(stores), resamples=0)
    notes = map_notes(atlas)
    assert all(len(note) > 20 for note in notes)
    assert any(
        note.startswith("the maps from flat: the rows of flat have rank 4 of 8") for note in notes
    )
    assert any(note.startswith("the maps from wide: ") and "use ridge" in note for note in notes)
    assert not any(note.startswith("the maps from plain") for note in notes)
    words = cg.write_report(tmp_path / "out").read_text(encoding="utf-8")
    head, rest = words.split("<main>")
    assert "<p>Note: The maps from " in head
    assert "The maps from flat: the rows of flat have rank 4 of 8" in rest


def test_a_map_that_is_worse_than_the_mean_on_images_held_out_says_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    spaces = [rng.normal(size=(40, 20)), rng.normal(size=(40, 5))]
    atlas = cg.atlas(spaces, tmp_path / "out", names=["a", "b"], resamples=0)
    first = atlas.maps[0]
    assert first.held_out_r2 < 0
    assert "worse than the mean of the targets" in first.notes[-1]
