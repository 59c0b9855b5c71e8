"""What would flatter an evaluation, or stop it for nothing, or cost the user's files."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import refused
from people import write_people

import crossgram as cg
from crossgram.errors import InputError
from crossgram.images.plain_pickle import plain_pickle


def write(path: Path, rows: np.ndarray, labels: list[str], ids: list[object] | None) -> Path:
    with cg.EmbeddingStore.create(path, dim=rows.shape[1]) as writer:
        writer.append(rows.astype("f4"), labels=labels, ids=ids)
    return path


def people(images: int = 4, count: int = 10) -> tuple[np.ndarray, list[str]]:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(count, 6)).repeat(images, axis=0)
    rows += 2 * rng.normal(size=rows.shape)
    return rows, [f"p{k // images}" for k in range(len(rows))]


class TestAtlas:
    def test_what_is_read_is_never_replaced(self, tmp_path: Path) -> None:
        a, b, _ = write_people(tmp_path)
        for out in (a, tmp_path, a / "atlas"):
            with pytest.raises(InputError):
                cg.atlas([a, b], out, overwrite=True, resamples=0)
        assert cg.EmbeddingStore.open(a).rows == cg.EmbeddingStore.open(b).rows == 200

    def test_a_name_alone_makes_no_folder_ours(self, tmp_path: Path) -> None:
        a, b, _ = write_people(tmp_path)
        mine = tmp_path / "mine"
        mine.mkdir()
        (mine / "demo.json").write_text("{}")
        (mine / "thesis.txt").write_text("years of work")
        with pytest.raises(InputError, match="did not make"):
            cg.atlas([a, b], mine, overwrite=True, resamples=0)
        assert (mine / "thesis.txt").read_text() == "years of work"

    def test_people_on_both_sides_are_found_without_ids(self, tmp_path: Path) -> None:
        rows, labels = people()
        stores = [write(tmp_path / f"{n}.zarr", rows + k, labels, None) for k, n in enumerate("ab")]
        with pytest.raises(InputError, match="10 of its people, are among those"):
            cg.atlas(stores, tmp_path / "out", try_on=stores, resamples=0)
        atlas = cg.atlas(stores, tmp_path / "out", try_on=stores, resamples=0, allow_overlap=True)
        assert (atlas.split.shared_images, atlas.split.shared_people) == (None, 10)

    def test_two_maps_of_one_file_name_are_refused_before_the_pass(self, tmp_path: Path) -> None:
        stores = write_people(tmp_path)
        names = ["a", "b-to-c", "a-to-b", "c"]
        with pytest.raises(InputError, match="two pairs make one file's name"):
            cg.atlas([*stores, stores[0]], tmp_path / "out", names=names)


class TestIdentify:
    def test_own_images_are_told_by_ids_whatever_their_type(self, tmp_path: Path) -> None:
        rows, labels = people()
        numbers: list[object] = list(range(len(rows)))
        as_text: list[object] = [str(k) for k in numbers]
        probes = write(tmp_path / "p.zarr", rows, labels, numbers)
        same = write(tmp_path / "g.zarr", rows, labels, numbers)
        other = write(tmp_path / "t.zarr", rows, labels, as_text)
        found = [cg.identify(probes, own, resamples=0).searches[0].ranks for own in (same, other)]
        assert found[0] == found[1]
        assert found[0][1] < 1

    def test_says_where_own_images_cannot_be_told(self, tmp_path: Path) -> None:
        rows, labels = people()
        store = write(tmp_path / "p.zarr", rows, labels, None)
        report = cg.identify(store, store, resamples=0)
        assert "a probe's own image, the probe finds it" in report.notes[0]


class TestVerify:
    def test_labels_say_who_is_drawn(self, tmp_path: Path) -> None:
        rows, labels = people()
        ids: list[object] = [f"i{k}" for k in range(len(rows))]
        store = write(tmp_path / "a.zarr", rows, labels, ids)
        # two images of p0 that no chain of pairs joins
        lines = ["left,right,same", "i0,i1,1", "i2,i3,1", "i0,i4,0", "i2,i8,0"]
        (tmp_path / "pairs.csv").write_text("\n".join(lines))
        assert cg.verify(store, pairs=tmp_path / "pairs.csv", resamples=0).people == 3

    def test_pairs_without_sets_have_no_folds(self, tmp_path: Path) -> None:
        rows, labels = people()
        ids: list[object] = [f"{who}/{who}_{k % 4 + 1:04d}.jpg" for k, who in enumerate(labels)]
        store = write(tmp_path / "a.zarr", rows, labels, ids)
        genuine = [f"p{k}\t1\t2" for k in range(10)]
        impostor = [f"p{k}\t1\tp{(k + 1) % 10}\t2" for k in range(10)]
        (tmp_path / "pairs.txt").write_text("\n".join(["10", *genuine, *impostor]))
        (own,) = cg.verify(store, pairs=tmp_path / "pairs.txt", resamples=0).comparisons
        assert own.accuracy is None

    def test_a_floor_with_nothing_in_it_is_left_out(self, tmp_path: Path) -> None:
        rows, labels = people()
        wide = np.concatenate([np.maximum(rows, 0), np.abs(rows)], axis=1)
        wide[5, :6] = 0
        ids: list[object] = [f"i{k}" for k in range(len(rows))]
        stores = [
            write(tmp_path / "wide.zarr", wide, labels, ids),
            write(tmp_path / "narrow.zarr", np.abs(rows), labels, ids),
        ]
        fitted = cg.fit(*stores, remember=False)
        kinds = [own.kind for own in cg.verify(*stores, linear_map=fitted, resamples=0).comparisons]
        assert kinds == ["native", "native", "mapped", "mapped, with itself", "unmapped"]

    def test_rates_that_are_nearly_alike_are_told_apart(self, tmp_path: Path) -> None:
        rows, labels = people()
        fars = (0.12345678, 0.12345679)
        (own,) = cg.verify(
            write(tmp_path / "a.zarr", rows, labels, None), fars=fars, resamples=5
        ).comparisons
        assert {f"tar@{far}" for far in fars} <= own.figures().keys()

    def test_a_seed_below_zero_is_named(self, tmp_path: Path) -> None:
        assert "--seed" in refused("evaluate", "verify", "a.zarr", "--seed", -1, cwd=tmp_path)


def test_an_array_of_very_many_sides_is_refused_at_once(tmp_path: Path) -> None:
    array = np.frombuffer(b"x" * 8, np.uint8)
    content = pickle.dumps([array], protocol=2)
    # the shape (8,) as 3,000 numbers of 255 bytes each
    sides = b"(" + (b"\x8a\xff" + b"\x7f" * 255) * 3000 + b"t"
    at = content.index(b"K\x08\x85")
    (tmp_path / "x.bin").write_bytes(content[:at] + sides + content[at + 3 :])
    began = time.process_time()
    with pytest.raises(InputError, match="without a shape"):
        plain_pickle(tmp_path / "x.bin")
    # a product of them takes minutes
    assert time.process_time() - began < 10
