"""What made a space is checked where embeddings of one space meet."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import crossgram, succeeds
from safetensors import safe_open
from safetensors.numpy import save_file

import crossgram as cg
from crossgram.spaces import Space

RECIPE = {"size": [112, 96], "channels": 3, "mean": [0.5] * 3, "scale": [0.5] * 3}
MADE = {"network": "net", "weights_sha256": "1a2b" * 16, "layer": "output", "recipe": RECIPE}
OTHER_RECIPE = MADE | {"recipe": RECIPE | {"size": [112, 112]}}
OTHER_WEIGHTS = MADE | {"weights_sha256": "3c4d" * 16}
OTHERS = [
    (OTHER_RECIPE, r"recipe\.size \[112, 112\].* with \[112, 96\]"),
    (OTHER_WEIGHTS, 'weights_sha256 "3c4d.* with "1a2b'),
    (MADE | {"layer": "penultimate"}, 'layer "penultimate".* with "output"'),
]


def write(path: Path, provenance: dict[str, Any] | None, seed: int = 0, dim: int = 3) -> Path:
    rows = np.random.default_rng(seed).normal(size=(40, dim))
    with cg.EmbeddingStore.create(
        path, dim, dtype="float64", provenance=provenance, overwrite=True
    ) as writer:
        writer.append(rows, ids=[f"{path.stem}/{seed}/{k}" for k in range(40)])
    return path


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two stores of the same images, of which one tells what made it."""
    x = write(tmp_path / "x.zarr", MADE)
    y = tmp_path / "y.zarr"
    with cg.EmbeddingStore.create(y, 3, dtype="float64") as writer:
        store = cg.EmbeddingStore.open(x)
        rows = np.empty((40, 3))
        store.read(0, rows)
        writer.append(rows @ np.diag([1.0, 2.0, 3.0]), ids=store.ids.read(0, 40))
    return x, y


class TestApply:
    @pytest.mark.parametrize(("other", "said"), OTHERS)
    def test_refuses_rows_of_another_network_or_recipe(
        self, pair: tuple[Path, Path], tmp_path: Path, other: dict[str, Any], said: str
    ) -> None:
        cg.fit(*pair).save(tmp_path / "map.safetensors")
        new = write(tmp_path / "new.zarr", other)
        with pytest.raises(cg.InputError, match=rf"new\.zarr: was made with {said}"):
            cg.apply(tmp_path / "map.safetensors", new, tmp_path / "out.zarr")
        assert not (tmp_path / "out.zarr").exists()

    @pytest.mark.parametrize("provenance", [MADE, MADE | {"images": "elsewhere"}, {}, None])
    def test_takes_rows_of_the_same_and_of_unknown_making(
        self, pair: tuple[Path, Path], tmp_path: Path, provenance: dict[str, Any] | None
    ) -> None:
        new = write(tmp_path / "new.zarr", provenance)
        assert cg.apply(cg.fit(*pair), new, tmp_path / "out.zarr").rows == 40

    def test_what_it_writes_is_not_taken_for_the_network_s_own(
        self, pair: tuple[Path, Path], tmp_path: Path
    ) -> None:
        cg.apply(cg.fit(*pair), pair[0], tmp_path / "out.zarr")
        assert cg.EmbeddingStore.open(tmp_path / "out.zarr").signature is None

    @pytest.mark.parametrize("odd", [{"recipe": "arcface"}, {"weights_sha256": None}])
    def test_what_is_no_signature_is_none_and_does_not_spoil_files(
        self, pair: tuple[Path, Path], tmp_path: Path, odd: dict[str, Any]
    ) -> None:
        write(pair[0], MADE | odd)
        cg.fit(pair[0], np.ones((40, 2))).save(tmp_path / "map.safetensors")
        assert cg.LinearMap.load(tmp_path / "map.safetensors").source.signature is None

    def test_arrays_have_no_signature(self, pair: tuple[Path, Path]) -> None:
        rows = np.eye(3)
        assert cg.fit(np.vstack([rows, -rows, 2 * rows]), np.ones((9, 2))).source.signature is None
        assert cg.fit(*pair).target.signature is None

    def test_components_are_of_the_space_and_no_network_s_own(
        self, pair: tuple[Path, Path]
    ) -> None:
        components = cg.principal_components(cg.accumulate(pair[:1])).projection(2)
        assert components.source.signature == cg.EmbeddingStore.open(pair[0]).signature
        assert components.target.signature is None


class TestMoments:
    @pytest.mark.parametrize(("other", "said"), OTHERS)
    def test_of_another_making_are_neither_merged_nor_subtracted(
        self, tmp_path: Path, other: dict[str, Any], said: str
    ) -> None:
        first = cg.accumulate([write(tmp_path / "x.zarr", MADE)])
        second = cg.accumulate([write(tmp_path / "new.zarr", other)], names=["x"])
        for combine in (first.merge, first.subtract):
            with pytest.raises(cg.InputError, match=f"x: was made with {said}"):
                combine(second)

    def test_merged_with_ones_of_unknown_making_keep_what_is_known(self, tmp_path: Path) -> None:
        known = cg.accumulate([write(tmp_path / "x.zarr", MADE)])
        unknown = cg.accumulate([write(tmp_path / "y.zarr", None, seed=1)], names=["x"])
        signatures = [(a + b).spaces[0].signature for a, b in ((known, unknown), (unknown, known))]
        assert [json.loads(text) for text in signatures] == [
            {name: MADE[name] for name in ("weights_sha256", "layer", "recipe")}
        ] * 2

    @pytest.mark.parametrize("folds", [0, 2])
    def test_of_unknown_making_keep_what_rows_added_or_subtracted_tell(
        self, tmp_path: Path, folds: int
    ) -> None:
        known = write(tmp_path / "x.zarr", MADE)
        part = cg.accumulate([known], folds=folds)
        part.save(tmp_path / "m.safetensors")
        without_signatures(tmp_path / "m.safetensors")
        unknown = cg.load_moments(tmp_path / "m.safetensors")
        twice = cg.merge_moments([unknown, unknown]).moments
        other = write(tmp_path / "other.zarr", OTHER_WEIGHTS, seed=1)
        for result in (
            cg.add_rows(unknown, [known]),
            cg.subtract_rows(unknown, [known]),
            cg.subtract_rows(twice, [known]),
            cg.subtract_moments(twice, part),
        ):
            with pytest.raises(cg.InputError, match=r"other\.zarr: was made with weights_sha256"):
                cg.add_rows(result.moments, [other])

    def test_that_differ_are_named_also_behind_ones_of_unknown_making(self, tmp_path: Path) -> None:
        made = [None, MADE, OTHER_RECIPE]
        shards = [
            cg.accumulate([write(tmp_path / f"{k}.zarr", each, seed=k)], names=["x"])
            for k, each in enumerate(made)
        ]
        with pytest.raises(cg.InputError, match=r"x of c\.st: was made .*, x of b\.st with"):
            cg.merge_moments(shards, ["a.st", "b.st", "c.st"])
        with pytest.raises(cg.InputError, match=r"x of c\.st: was made .*, x of the moments with"):
            cg.subtract_moments(shards[1], shards[2], label="c.st")

    def test_are_the_same_however_a_recipe_s_numbers_are_written(self, tmp_path: Path) -> None:
        ones, floats = (
            cg.accumulate(
                [write(tmp_path / "x.zarr", MADE | {"recipe": RECIPE | {"scale": [one] * 3}})]
            )
            for one in (1, 1.0)
        )
        assert (ones + floats).rows == 80

    @pytest.mark.parametrize(("other", "said"), OTHERS)
    def test_do_not_take_rows_of_another_making(
        self, tmp_path: Path, other: dict[str, Any], said: str
    ) -> None:
        moments = cg.accumulate([write(tmp_path / "x.zarr", MADE)])
        new = write(tmp_path / "new.zarr", other, seed=1)
        with pytest.raises(cg.InputError, match=rf"new\.zarr: was made with {said}"):
            cg.add_rows(moments, [new])

    def test_take_rows_of_the_same_making(self, tmp_path: Path) -> None:
        moments = cg.accumulate([write(tmp_path / "x.zarr", MADE)])
        more = cg.add_rows(moments, [write(tmp_path / "new.zarr", MADE, seed=1)])
        assert more.moments.rows == 80


def without_signatures(path: Path, change: Any = None, folds: slice = slice(None)) -> None:
    """Rewrite a file as an earlier version wrote it; or with something else in their place."""
    with safe_open(path, "numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    facts = json.loads(metadata["crossgram"])

    def changed(space: dict[str, Any]) -> dict[str, Any]:
        own = {name: value for name, value in space.items() if name != "signature"}
        return own if change is None else own | {"signature": change}

    for name in ("source", "target"):
        if name in facts:
            facts[name] = changed(facts[name])
    for part in facts.get("folds", [facts])[folds]:
        if "spaces" in part:
            part["spaces"] = [changed(space) for space in part["spaces"]]
    save_file(tensors, path, metadata | {"crossgram": json.dumps(facts)})


class TestFiles:
    def test_carry_it(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        cg.fit(*pair).save(tmp_path / "map.safetensors")
        cg.accumulate(pair).save(tmp_path / "m.safetensors")
        known = cg.EmbeddingStore.open(pair[0]).signature
        assert known is not None
        assert cg.LinearMap.load(tmp_path / "map.safetensors").source.signature == known
        assert cg.load_moments(tmp_path / "m.safetensors").spaces[0].signature == known

    def test_of_earlier_versions_load(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        cg.fit(*pair).save(tmp_path / "map.safetensors")
        cg.accumulate(pair).save(tmp_path / "m.safetensors")
        for name in ("map", "m"):
            without_signatures(tmp_path / f"{name}.safetensors")
        assert cg.LinearMap.load(tmp_path / "map.safetensors").source.signature is None
        loaded = cg.load_moments(tmp_path / "m.safetensors")
        assert (loaded + cg.accumulate(pair)).spaces[0].signature is not None

    def test_of_folds_that_differ_are_refused(
        self, pair: tuple[Path, Path], tmp_path: Path
    ) -> None:
        cg.accumulate(pair, folds=2).save(tmp_path / "m.safetensors")
        made = {name: OTHER_WEIGHTS[name] for name in ("weights_sha256", "layer", "recipe")}
        without_signatures(tmp_path / "m.safetensors", json.dumps(made), folds=slice(1, None))
        with pytest.raises(cg.CorruptDataError, match=r"m\.safetensors: .* different spaces"):
            cg.load_moments(tmp_path / "m.safetensors")

    @pytest.mark.parametrize(
        "change", [1, "", "text", "[]", "{}", "[" * 5000, json.dumps(MADE) + " " * 5000, ["x"]]
    )
    def test_with_something_else_in_its_place_are_refused(
        self, pair: tuple[Path, Path], tmp_path: Path, change: Any
    ) -> None:
        cg.fit(*pair).save(tmp_path / "map.safetensors")
        without_signatures(tmp_path / "map.safetensors", change)
        with pytest.raises(cg.InputError, match="contradict each other"):
            cg.LinearMap.load(tmp_path / "map.safetensors")

    def test_are_shown_by_inspect(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        cg.accumulate(pair).save(tmp_path / "m.safetensors")
        spaces = succeeds("inspect", "m.safetensors", cwd=tmp_path)["spaces"]
        assert spaces[0]["signature"]["recipe"] == RECIPE
        assert spaces[1]["signature"] is None
        shown = crossgram("inspect", "m.safetensors", cwd=tmp_path).stdout
        assert "signature weights 1a2b1a2b1a2b, images 112 x 96" in shown
        stores = [succeeds("inspect", path.name, cwd=tmp_path) for path in pair]
        assert stores[0]["signature"] == spaces[0]["signature"]
        assert stores[1]["signature"] is None
        shown = crossgram("inspect", "x.zarr", cwd=tmp_path).stdout
        assert re.search("\nsignature +weights 1a2b1a2b1a2b, images 112 x 96\n", shown)


def test_spaces_that_differ_in_their_signature_alone_are_the_same_space() -> None:
    assert Space("a", 3, signature="{}") == Space("a", 3)
    assert Space("a", 3, signature="{}") != Space("b", 3, signature="{}")
