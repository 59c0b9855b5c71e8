"""Moments and maps remember the images and people that they were made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from command_line import crossgram, succeeds
from strategies import mask_of, write_store

import crossgram as cg
from crossgram.hashing import text_hashes
from crossgram.seen import Seen

ROWS = 120
rng = np.random.default_rng(0)
X = rng.standard_normal((ROWS, 4)).astype(np.float32)
Y = X[:, :3] + rng.standard_normal((ROWS, 3)).astype(np.float32)
IDS = [f"{row:03}.jpg" for row in range(ROWS)]
LABELS = [f"person {row // 4}" for row in range(ROWS)]


def write(folder: Path, rows: Any, **columns: Any) -> list[Path]:
    """Write the stores a and b of some of the rows."""
    folder.mkdir(parents=True)
    own = np.arange(ROWS)[rows]
    named = {"ids": [IDS[row] for row in own], "labels": [LABELS[row] for row in own]}
    named = {name: columns.pop(name, values) for name, values in named.items()}
    given = {name: values for name, values in named.items() if values is not None} | columns
    return [
        write_store(folder / f"{name}.zarr", block[own], **given)
        for name, block in (("a", X), ("b", Y))
    ]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    folder = tmp_path_factory.mktemp("stores")
    runs = {"first": slice(0, 50), "second": slice(50, 100), "all": slice(0, 100)}
    return {name: write(folder / name, rows) for name, rows in runs.items()}


def accumulated(given: list[Path], **options: Any) -> Any:
    return cg.accumulate(given, names=["a", "b"], **options)


def hashes(values: Any) -> list[int]:
    return sorted(text_hashes(np.array([*{*values}])).tolist())


def assert_seen(seen: Seen, rows: Any) -> None:
    """Check that exactly the images and people of some of the rows are remembered."""
    own = np.arange(ROWS)[rows]
    assert seen.ids is not None
    assert seen.labels is not None
    assert seen.ids.hashes.tolist() == hashes(IDS[row] for row in own)
    assert seen.labels.hashes.tolist() == hashes(LABELS[row] for row in own)
    assert seen.labels.is_complete


FOLDS = pytest.mark.parametrize("options", [{}, {"folds": 3, "group_by": "ids"}], ids=["", "folds"])


class TestMoments:
    @FOLDS
    def test_remember_their_rows(self, stores: Any, options: dict[str, Any]) -> None:
        seen = accumulated(stores["all"], **options).seen
        assert_seen(seen, slice(0, 100))
        assert seen.labels.counts.tolist() == [4] * 25

    @FOLDS
    def test_keep_it_in_their_file(
        self, stores: Any, tmp_path: Path, options: dict[str, Any]
    ) -> None:
        accumulated(stores["all"], **options).save(tmp_path / "m")
        loaded: Any = cg.load_moments(tmp_path / "m")
        assert_seen(loaded.seen, slice(0, 100))
        assert loaded.seen.labels.counts.tolist() == [4] * 25

    @FOLDS
    def test_that_were_merged_remember_both(self, stores: Any, options: dict[str, Any]) -> None:
        parts = [accumulated(stores[name], **options) for name in ("first", "second")]
        merged: Any = cg.merge_moments(parts).moments
        assert_seen(merged.seen, slice(0, 100))
        added: Any = cg.add_rows(parts[0], stores["second"]).moments
        assert_seen(added.seen, slice(0, 100))

    @FOLDS
    def test_forget_what_was_subtracted(self, stores: Any, options: dict[str, Any]) -> None:
        whole = accumulated(stores["all"], **options)
        ids = [*IDS[:4], *IDS[12:14]]  # all of person 0, half of person 3
        fewer: Any = cg.subtract_rows(whole, stores["all"], ids=ids).moments
        assert_seen(fewer.seen, [*range(4, 12), *range(14, 100)])
        none_left: Any = cg.subtract_rows(
            fewer, stores["all"], ids=IDS[14:16], allow_unknown=True
        ).moments
        assert_seen(none_left.seen, [*range(4, 12), *range(16, 100)])

    def test_forget_what_other_moments_are_of(self, stores: Any) -> None:
        first, second = (accumulated(stores[name]) for name in ("first", "second"))
        assert_seen(((first + second) - first).seen, slice(50, 100))

    def test_that_have_rows_twice_remember_them_after_removing_them_once(self, stores: Any) -> None:
        first = accumulated(stores["first"])
        assert_seen(((first + first) - first).seen, slice(0, 50))

    def test_leave_out_rows_that_were_masked_or_weigh_nothing(self, tmp_path: Path) -> None:
        masked = mask_of(100, *range(8))
        given = write(tmp_path / "s", slice(0, 100), masked=masked)
        assert_seen(accumulated(given).seen, slice(8, 100))
        weights = np.ones(100)
        weights[90:] = 0
        assert_seen(accumulated(given, weights=weights).seen, slice(8, 90))

    def test_joined_by_id_remember_what_all_have(self, tmp_path: Path) -> None:
        a, _ = write(tmp_path / "one", slice(0, 60))
        _, b = write(tmp_path / "other", slice(40, 100))
        assert_seen(accumulated([a, b], join="ids").seen, slice(40, 60))

    def test_of_arrays_or_told_to_forget_remember_nothing(self, stores: Any) -> None:
        for moments in (accumulated([X, Y]), accumulated(stores["all"], remember=False)):
            assert moments.seen == Seen()
            added: Any = cg.add_rows(moments, stores["all"])
            assert added.moments.seen == Seen()
        looped = cg.Moments({"a": 4, "b": 3})
        looped.update(X, Y)
        assert looped.seen == Seen()

    def test_remember_only_what_they_know_of_all_rows(self, stores: Any, tmp_path: Path) -> None:
        first = accumulated(stores["first"])
        unlabelled = accumulated(write(tmp_path / "s", slice(50, 100), labels=None))
        both = (first + unlabelled).seen
        assert both.ids is not None
        assert both.ids.hashes.tolist() == hashes(IDS[:100])
        assert both.labels is None
        assert (first + accumulated([X, Y])).seen == Seen()
        empty = cg.Moments({"a": 4, "b": 3})
        assert_seen((empty + first).seen, slice(0, 50))

    def test_of_labels_alone_remember_people(self, tmp_path: Path) -> None:
        seen = accumulated(write(tmp_path / "s", slice(0, 100), ids=None)).seen
        assert seen.ids is None
        assert seen.labels.hashes.tolist() == hashes(LABELS[:100])

    def test_of_earlier_files_know_nothing(self, stores: Any, tmp_path: Path) -> None:
        tensors, facts = accumulated(stores["first"]).to_parts()
        del facts["seen"]
        loaded = cg.Moments.from_parts(tensors, facts, "old")
        assert loaded.seen == Seen()
        with pytest.raises(cg.CorruptDataError, match="old: the parts of these moments contradict"):
            cg.Moments.from_parts(tensors, facts | {"seen": {"ids": {"hashes": "x"}}}, "old")

    @pytest.mark.parametrize("wrong", [3, "x", {"faces": {}}, {"ids": None}])
    def test_are_refused_with_a_memory_that_is_none(self, stores: Any, wrong: Any) -> None:
        tensors, facts = accumulated(stores["first"]).to_parts()
        with pytest.raises(cg.CorruptDataError, match="contradict each other"):
            cg.Moments.from_parts(tensors, facts | {"seen": wrong}, "moments")


METHODS = [{}, {"method": "procrustes"}, {"method": "reduced-rank", "rank": 2}, {"ridge": "auto"}]


class TestMaps:
    @pytest.mark.parametrize("options", [*METHODS, {"digits": 14}], ids=str)
    def test_remember_what_they_were_fitted_on(self, stores: Any, options: dict[str, Any]) -> None:
        assert_seen(cg.fit(*stores["all"], **options).fitted_on, slice(0, 100))

    @pytest.mark.parametrize("options", METHODS, ids=str)
    def test_have_it_of_moments_but_not_how_many_images_of_whom(
        self, stores: Any, tmp_path: Path, options: dict[str, Any]
    ) -> None:
        moments = accumulated(stores["first"]) + accumulated(stores["second"])
        fitted = cg.solve(moments, "a", "b", **options)
        fitted.save(tmp_path / "map")
        seen = cg.LinearMap.load(tmp_path / "map").fitted_on
        assert_seen(seen, slice(0, 100))
        assert seen.labels is not None
        assert seen.labels.counts.tolist() == [1] * 25
        assert cg.solve(moments, "a", "b", remember=False).fitted_on == Seen()

    def test_of_arrays_or_told_to_forget_remember_nothing(
        self, stores: Any, tmp_path: Path
    ) -> None:
        fitted = cg.fit(*stores["all"], remember=False)
        assert fitted.fitted_on == cg.fit(X, Y).fitted_on == Seen()
        fitted.save(tmp_path / "map")
        assert cg.LinearMap.load(tmp_path / "map").fitted_on == Seen()
        assert b"hashes" not in (tmp_path / "map").read_bytes()

    def test_still_load_straight_into_a_torch_layer(self, stores: Any, tmp_path: Path) -> None:
        cg.fit(*stores["all"]).save(tmp_path / "map")
        layer = torch.nn.Linear(4, 3, dtype=torch.float64)
        layer.load_state_dict(safetensors.torch.load_file(tmp_path / "map"))

    @pytest.mark.parametrize("wrong", [3, "x", {"faces": {}}, {"ids": {"hashes": "x"}}])
    def test_are_refused_with_a_memory_that_is_none(
        self, stores: Any, tmp_path: Path, wrong: Any
    ) -> None:
        path = tmp_path / "map.safetensors"
        cg.fit(*stores["all"]).save(path)
        with safetensors.safe_open(path, framework="numpy") as file:
            facts = json.loads(file.metadata()["crossgram"])
        tensors = safetensors.numpy.load_file(path)
        document = json.dumps(facts | {"fitted_on": wrong})
        safetensors.numpy.save_file(tensors, path, metadata={"crossgram": document})
        with pytest.raises(cg.InputError, match=r"map\.safetensors: the parts of this map"):
            cg.LinearMap.load(path)


class TestCommands:
    def test_inspect_says_how_many(self, stores: Any, tmp_path: Path) -> None:
        succeeds("fit", *stores["all"], "-o", "map", "--moments", "moments", cwd=tmp_path)
        for path in ("map", "moments"):
            shown = crossgram("inspect", path, cwd=tmp_path).stdout
            assert "remembers" in shown
            assert "100 images and 25 people that it was made of" in shown

    @pytest.mark.parametrize("command", ["fit", "accumulate", "solve"])
    def test_forget_if_they_are_told(self, stores: Any, tmp_path: Path, command: str) -> None:
        given = stores["all"]
        if command == "solve":
            succeeds("accumulate", *given, "-o", "moments", cwd=tmp_path)
            given = ["moments"]
        succeeds(command, *given, "-o", "out", "--forget-ids", cwd=tmp_path)
        shown = crossgram("inspect", "out", cwd=tmp_path).stdout
        assert "no images or people that it was made of" in shown
