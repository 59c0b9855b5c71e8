"""Classifier heads, and the map that follows from two of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import crossgram, refused, succeeds
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from safetensors.torch import save_file as save_layer

import crossgram as cg
from crossgram.heads import ClassifierHead, head_map, top_k_accuracy

CLASSES = 10


def random_head(dim: int, seed: int) -> ClassifierHead:
    rng = np.random.default_rng(seed)
    return ClassifierHead(rng.normal(size=(CLASSES, dim)), rng.normal(size=CLASSES))


def random_rows(dim: int) -> np.ndarray:
    return np.random.default_rng(9).normal(size=(300, dim))


class TestHeadMap:
    @pytest.mark.parametrize(("source_dim", "target_dim"), [(64, 96), (96, 64), (5, 10), (32, 10)])
    def test_a_wide_enough_target_head_gives_the_source_logits(
        self, source_dim: int, target_dim: int
    ) -> None:
        source, target = random_head(source_dim, 0), random_head(target_dim, 1)
        x = random_rows(source_dim)
        mapped = head_map(source, target).apply(x)
        own, through = source.logits(x), target.logits(mapped)
        # 300 x 10 logits below 1e2, a head of condition below 1e3
        np.testing.assert_allclose(through, own, rtol=0, atol=1e-10)
        np.testing.assert_array_equal(through.argmax(axis=1), own.argmax(axis=1))

    def test_a_narrow_target_head_gets_the_nearest_logits(self) -> None:
        source, target = random_head(16, 0), random_head(4, 1)
        x = random_rows(16)
        through = target.logits(head_map(source, target).apply(x)) - target.bias
        wanted = source.logits(x) - target.bias
        nearest = target.weight @ np.linalg.lstsq(target.weight, wanted.T, rcond=None)[0]
        np.testing.assert_allclose(through, nearest.T, rtol=0, atol=1e-10)
        assert np.abs(through - wanted).max() > 0.1

    def test_is_the_formula_with_pseudo_inverses(self) -> None:
        source, target = random_head(7, 0), random_head(12, 1)
        c_a, c_b = source.weight.T, target.weight.T
        found = head_map(source, target)
        np.testing.assert_allclose(found.weight.T, c_a @ np.linalg.pinv(c_b), rtol=0, atol=1e-12)
        np.testing.assert_allclose(
            found.bias, (source.bias - target.bias) @ np.linalg.pinv(c_b), rtol=0, atol=1e-12
        )

    def test_the_map_names_its_spaces(self) -> None:
        found = head_map(random_head(3, 0), random_head(20, 1), names=("a", "b"))
        assert (found.source, found.target) == (cg.Space("a", 3), cg.Space("b", 20))

    def test_other_classes_are_refused(self) -> None:
        with pytest.raises(cg.WidthMismatchError, match="10 and 2 classes"):
            head_map(random_head(3, 0), ClassifierHead(np.ones((2, 3)), np.zeros(2)))


class TestTopK:
    @given(
        st.integers(1, 4).flatmap(
            lambda count: st.tuples(
                st.lists(
                    st.lists(st.integers(0, 2), min_size=count, max_size=count),
                    min_size=1,
                    max_size=8,
                ),
                st.integers(0, count - 1),
                st.integers(1, count),
            )
        )
    )
    def test_equal_logits_rank_by_class_number(self, case: tuple) -> None:
        logits, true, k = np.array(case[0], float), case[1], case[2]
        hits = [
            true in sorted(range(len(row)), key=lambda c, row=row: (-row[c], c))[:k]
            for row in logits
        ]
        assert top_k_accuracy(logits, np.full(len(logits), true), k) == np.mean(hits)

    def test_top_1_is_argmax(self) -> None:
        logits = np.random.default_rng(0).integers(0, 3, size=(500, CLASSES)).astype(float)
        true = np.random.default_rng(1).integers(0, CLASSES, 500)
        assert top_k_accuracy(logits, true) == np.mean(logits.argmax(axis=1) == true)

    @pytest.mark.parametrize(
        ("logits", "classes", "k"),
        [
            (np.zeros((2, 3)), [0, 3], 1),
            (np.zeros((2, 3)), [0, -1], 1),
            (np.zeros((2, 3)), [0.0, 1.0], 1),
            (np.zeros((2, 3)), [0], 1),
            (np.zeros((2, 3)), [0, 1], 4),
            (np.zeros((2, 3)), [0, 1], 0),
            (np.full((2, 3), np.nan), [0, 1], 1),
        ],
    )
    def test_what_has_no_answer_is_refused(self, logits: np.ndarray, classes: list, k: int) -> None:
        with pytest.raises(cg.InputError, match="top_k_accuracy"):
            top_k_accuracy(logits, np.array(classes), k)


class TestFile:
    def test_a_saved_head_comes_back_bit_for_bit(self, tmp_path: Path) -> None:
        head = random_head(7, 0)
        head.save(tmp_path / "head.safetensors")
        loaded = ClassifierHead.load(tmp_path / "head.safetensors")
        np.testing.assert_array_equal(loaded.weight, head.weight)
        np.testing.assert_array_equal(loaded.bias, head.bias)

    def test_the_keys_are_those_of_a_torch_layer(self, tmp_path: Path) -> None:
        random_head(7, 0).save(tmp_path / "head.safetensors")
        tensors = load_file(tmp_path / "head.safetensors")
        assert {name: t.shape for name, t in tensors.items()} == {"weight": (10, 7), "bias": (10,)}

    def test_nothing_is_overwritten_unasked(self, tmp_path: Path) -> None:
        random_head(7, 0).save(tmp_path / "head.safetensors")
        with pytest.raises(cg.OutputExistsError):
            random_head(7, 1).save(tmp_path / "head.safetensors")
        random_head(7, 1).save(tmp_path / "head.safetensors", overwrite=True)

    def test_a_map_is_no_head(self, tmp_path: Path) -> None:
        head_map(random_head(3, 0), random_head(20, 1)).save(tmp_path / "map.safetensors")
        with pytest.raises(cg.InputError, match="holds map, expected classifier head"):
            ClassifierHead.load(tmp_path / "map.safetensors")


class TestLayerOfAnotherProgram:
    """The state of a torch.nn.Linear, as safetensors saves it, is a head."""

    @pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
    def test_is_read_bit_for_bit(self, tmp_path: Path, dtype: str) -> None:
        layer = torch.nn.Linear(7, CLASSES).to(getattr(torch, dtype))
        save_layer(layer.state_dict(), tmp_path / "layer.safetensors")
        loaded = ClassifierHead.load(tmp_path / "layer.safetensors")
        np.testing.assert_array_equal(loaded.weight, layer.weight.detach().double().numpy())
        np.testing.assert_array_equal(loaded.bias, layer.bias.detach().double().numpy())

    def test_may_have_no_bias(self, tmp_path: Path) -> None:
        layer = torch.nn.Linear(7, CLASSES, bias=False)
        save_layer(layer.state_dict(), tmp_path / "layer.safetensors")
        np.testing.assert_array_equal(
            ClassifierHead.load(tmp_path / "layer.safetensors").bias, np.zeros(CLASSES)
        )

    @pytest.mark.parametrize(
        ("tensors", "message"),
        [
            ({"fc.weight": torch.ones(3, 2)}, "holds the tensors fc.weight; expected `weight`"),
            ({"bias": torch.ones(3)}, "holds the tensors bias; expected `weight`"),
            (
                {f"{k}.weight": torch.ones(1) for k in range(9)},
                r"0.weight, 1.weight, 2.weight, 3.weight, ...; expected",
            ),
            ({"weight": torch.ones(3, 2, dtype=torch.int64)}, "weight is of dtype I64, expected"),
            ({"weight": torch.ones(3)}, r"contradict each other .*a weight of shape \(3,\)"),
            ({"weight": torch.ones(3, 2), "bias": torch.ones(2)}, r"a bias of shape \(2,\)"),
            ({"weight": torch.full((3, 2), torch.nan)}, "NaN or infinity"),
        ],
    )
    def test_is_refused_where_it_is_none(self, tmp_path: Path, tensors: dict, message: str) -> None:
        save_layer(tensors, tmp_path / "layer.safetensors")
        with pytest.raises(cg.InputError, match=message):
            ClassifierHead.load(tmp_path / "layer.safetensors")

    @pytest.mark.parametrize("kept", [4, 60, -4])
    def test_is_refused_where_it_was_cut(self, tmp_path: Path, kept: int) -> None:
        save_layer(torch.nn.Linear(7, CLASSES).state_dict(), tmp_path / "layer.safetensors")
        whole = (tmp_path / "layer.safetensors").read_bytes()
        (tmp_path / "cut.safetensors").write_bytes(whole[:kept])
        with pytest.raises(cg.CorruptDataError, match="cut.safetensors"):
            ClassifierHead.load(tmp_path / "cut.safetensors")

    def test_is_never_unpickled(self, tmp_path: Path) -> None:
        torch.save(torch.nn.Linear(7, CLASSES).state_dict(), tmp_path / "layer.pt")
        with pytest.raises(cg.CorruptDataError, match="not a safetensors file"):
            ClassifierHead.load(tmp_path / "layer.pt")


class TestCommand:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for name, dim, seed in (("a", 16, 0), ("wide", 12, 1), ("narrow", 4, 2)):
            random_head(dim, seed).save(tmp_path / f"{name}.safetensors")
        return tmp_path

    def test_writes_the_map_that_two_heads_imply(self, folder: Path) -> None:
        names = "a.safetensors", "wide.safetensors"
        result = succeeds("heads", *names, "-o", "m", cwd=folder)
        loaded = cg.LinearMap.load(folder / "m")
        source, target = (ClassifierHead.load(folder / name) for name in names)
        np.testing.assert_array_equal(loaded.weight, head_map(source, target).weight)
        assert (loaded.source, loaded.target) == (cg.Space("a", 16), cg.Space("wide", 12))
        assert loaded.certificate is None
        assert result == {
            "map": "m",
            "source": "a",
            "target": "wide",
            "source_dim": 16,
            "target_dim": 12,
            "classes": CLASSES,
            "target_rank": CLASSES,
            "exact": True,
        }

    @pytest.mark.parametrize(
        ("target", "rank", "how"),
        [("wide", 10, "exactly"), ("narrow", 4, "only in least squares")],
    )
    def test_says_whether_logits_are_reproduced(
        self, folder: Path, target: str, rank: int, how: str
    ) -> None:
        files = "a.safetensors", f"{target}.safetensors"
        done = crossgram("heads", *files, "-o", "m", cwd=folder)
        assert f"head rank  {rank} of 10 for {target}\n" in done.stdout
        assert f"a's are reproduced {how}\n" in done.stdout

    def test_a_wide_head_of_deficient_rank_is_not_exact(self, folder: Path) -> None:
        head = random_head(12, 3)
        ClassifierHead(np.vstack([head.weight[:-1], head.weight[:1]]), head.bias).save(
            folder / "deficient.safetensors"
        )
        files = "a.safetensors", "deficient.safetensors"
        result = succeeds("heads", *files, "-o", "m", cwd=folder)
        assert (result["target_rank"], result["exact"]) == (CLASSES - 1, False)

    def test_two_heads_of_the_same_name_are_told_apart(self, folder: Path) -> None:
        result = succeeds("heads", "a.safetensors", "a.safetensors", "-o", "m", cwd=folder)
        assert (result["source"], result["target"]) == ("a", "a-2")

    def test_refuses_what_it_cannot_use(self, folder: Path) -> None:
        ClassifierHead(np.ones((2, 3)), np.zeros(2)).save(folder / "two.safetensors")
        files = "a.safetensors", "wide.safetensors"
        for arguments, message in (
            (("a.safetensors", "two.safetensors", "-o", "m"), "heads of 10 and 2 classes given"),
            (("a.safetensors", "nothing", "-o", "m"), "nothing: no such file"),
            ((*files, "-o", "a.safetensors", "--overwrite"), "choose another output"),
        ):
            assert message in refused("heads", *arguments, cwd=folder)
            assert not (folder / "m").exists()
        succeeds("heads", *files, "-o", "m", cwd=folder)
        assert "exists" in refused("heads", *files, "-o", "m", cwd=folder)
        succeeds("heads", *files, "-o", "m", "--overwrite", cwd=folder)


class TestHead:
    @pytest.mark.parametrize(
        ("weight", "bias"),
        [
            (np.zeros(3), np.zeros(3)),
            (np.zeros((3, 2)), np.zeros(2)),
            (np.full((3, 2), np.inf), np.zeros(3)),
        ],
    )
    def test_parts_that_contradict_each_other_are_refused(
        self, weight: np.ndarray, bias: np.ndarray
    ) -> None:
        with pytest.raises(cg.InputError, match="head"):
            ClassifierHead(weight, bias)

    def test_rows_of_another_width_are_refused(self) -> None:
        with pytest.raises(cg.WidthMismatchError, match="takes rows of 7"):
            random_head(7, 0).logits(np.zeros((2, 8)))
