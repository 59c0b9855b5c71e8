"""Networks named by a spec: their weights, their layers, and callables that make them."""

from __future__ import annotations

import copy
import itertools
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from eager import eager, eager_layer, embed, load, pixels_for, relative_error
from photographs import DIM, RECIPE, network
from safetensors.torch import save_file

import crossgram as cg
from crossgram.networks.spec import NetworkSpec, check_names
from crossgram.networks.weights import module_digest

PIXELS = pixels_for(RECIPE)

_numbers = itertools.count()


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Write Python modules into the folder that the program is started in; return their names."""
    monkeypatch.chdir(tmp_path)

    def write(source: str) -> str:
        name = f"nets_{next(_numbers)}"
        header = "import torch\nfrom torch import nn\nfrom photographs import RECIPE, network\n"
        Path(f"{name}.py").write_text(header + source)
        return name

    return write


class TestSpec:
    @pytest.mark.parametrize(
        ("text", "name", "kind", "what"),
        [
            ("torchvision:resnet18", "resnet18", "torchvision", "resnet18"),
            ("old=torchvision:resnet18", "old", "torchvision", "resnet18"),
            ("timm:vit_tiny.augreg_in1k", "vit_tiny.augreg_in1k", "timm", "vit_tiny.augreg_in1k"),
            ("timm:a/b c", "a-b-c", "timm", "a/b c"),
            ("onnx:nets/b.onnx", "b", "onnx", "nets/b.onnx"),
            ("onnx:nets/a=b:c.onnx", "a-b-c", "onnx", "nets/a=b:c.onnx"),
            ("1.0-x=export:c.pt2", "1.0-x", "export", "c.pt2"),
            ("torchscript:d.ts", "d", "torchscript", "d.ts"),
            ("my.nets:make", "make", "python", "my.nets:make"),
            ("new=my.nets:make", "new", "python", "my.nets:make"),
        ],
    )
    def test_is_read_from_its_text_and_written_back(
        self, text: str, name: str, kind: str, what: str
    ) -> None:
        spec = NetworkSpec.parse(text)
        assert spec == NetworkSpec(name, kind, what)
        assert text in (spec.text, f"{name}={spec.text}")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "expected torchvision:NAME"),
            ("resnet18", "expected torchvision:NAME"),
            ("torchvision:", "expected torchvision:NAME"),
            (":resnet18", "expected torchvision:NAME"),
            ("=torchvision:resnet18", "expected torchvision:NAME"),
            ("my net=torchvision:resnet18", "expected torchvision:NAME"),
            ("a=b=torchvision:resnet18", "expected torchvision:NAME"),
            ("caffe:nets/a.caffemodel", "'caffe' is no kind of network that is known"),
        ],
    )
    def test_anything_else_is_refused(self, text: str, message: str) -> None:
        with pytest.raises(cg.InputError, match=message):
            NetworkSpec.parse(text)

    def test_files_that_are_not_there_are_refused(self, tmp_path: Path) -> None:
        missing = str(tmp_path / "b")
        for spec in (
            NetworkSpec("a", "onnx", missing),
            NetworkSpec("a", "torchvision", "resnet18", weights=missing),
            NetworkSpec("a", "python", "my:make", weights=str(tmp_path)),
        ):
            with pytest.raises(cg.InputError, match=rf"a: {tmp_path}\S* is no file"):
                spec.check_files()

    def test_weights_are_given_where_the_network_has_none_and_nowhere_else(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "b").touch()
        file = str(tmp_path / "b")
        for kind in ("torchvision", "timm"):
            with pytest.raises(cg.InputError, match=f"no weights given for {kind}:resnet18"):
                NetworkSpec("a", kind, "resnet18").check_files()
            NetworkSpec("a", kind, "resnet18", weights=file).check_files()
        for kind in ("onnx", "torchscript", "export"):
            with pytest.raises(cg.InputError, match="which has its own; leave them out"):
                NetworkSpec("a", kind, file, weights=file).check_files()
            NetworkSpec("a", kind, file).check_files()
        NetworkSpec("a", "python", "my:make").check_files()
        NetworkSpec("a", "python", "my:make", weights=file).check_files()

    def test_made_absolute_it_is_the_same_in_another_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for name in ("w.pt", "b.onnx"):
            Path(name).touch()
        specs = [
            NetworkSpec("a", "onnx", "b.onnx"),
            NetworkSpec("a", "timm", "resnet18", weights="w.pt"),
        ]
        moved = [spec.absolute() for spec in specs]
        (tmp_path / "other").mkdir()
        monkeypatch.chdir("other")
        for spec, absolute in zip(specs, moved, strict=True):
            absolute.check_files()
            with pytest.raises(cg.InputError, match="is no file"):
                spec.check_files()
        assert (moved[0].name, moved[1].what) == ("a", "resnet18")

    def test_two_of_one_name_are_refused(self) -> None:
        check_names(["a", "b"])
        with pytest.raises(cg.InputError, match="2 networks are called 'a'"):
            check_names(["a", "b", "a"])


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return network(seed=1).state_dict()


class RunsCode:
    """Pickled, a thing that makes a file when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


class TestWeights:
    def test_are_the_same_from_either_kind_of_file(
        self, tmp_path: Path, state: dict[str, torch.Tensor]
    ) -> None:
        torch.save(state, tmp_path / "a.pt")
        save_file(state, tmp_path / "a.safetensors")
        pickled, safe = (load(weights=str(tmp_path / f"a.{k}")) for k in ("pt", "safetensors"))
        assert pickled.facts["weights_sha256"] == safe.facts["weights_sha256"]
        assert torch.equal(embed(pickled, PIXELS), embed(safe, PIXELS))
        assert relative_error(embed(safe, PIXELS), eager(network(1), PIXELS, RECIPE)) < 1e-5
        assert load().facts["weights_sha256"] != safe.facts["weights_sha256"]

    @pytest.mark.parametrize("wrapping", ["", "state_dict", "model_state_dict", "model", "ema"])
    @pytest.mark.parametrize(
        "prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
    )
    def test_are_found_as_training_programs_wrap_them(
        self, tmp_path: Path, state: dict[str, torch.Tensor], wrapping: str, prefix: str
    ) -> None:
        named = {prefix + name: tensor for name, tensor in state.items()}
        torch.save({wrapping: named, "epoch": 3} if wrapping else named, tmp_path / "a.pt")
        found = load(weights=str(tmp_path / "a.pt"))
        assert found.facts["weights_sha256"] == module_digest(network(1))

    def test_keep_a_prefix_that_is_the_network_s_own(
        self, tmp_path: Path, written: Callable[[str], str]
    ) -> None:
        made = written("def make(): return nn.DataParallel(network())")
        own = torch.nn.DataParallel(network(1)).state_dict()
        assert all(name.startswith("module.") for name in own)
        torch.save(own, tmp_path / "a.pt")
        found = load(what=f"{made}:make", weights="a.pt")
        assert relative_error(embed(found, PIXELS), eager(network(1), PIXELS, RECIPE)) < 1e-5

    def test_may_lack_the_counters_that_older_pytorch_did_not_write(
        self, tmp_path: Path, state: dict[str, torch.Tensor]
    ) -> None:
        del state["1.num_batches_tracked"]
        save_file(state, tmp_path / "a.safetensors")
        found = load(weights=str(tmp_path / "a.safetensors"))
        assert found.facts["weights_sha256"] == module_digest(network(1))

    def test_that_are_missing_or_unknown_or_of_other_shapes_are_named(
        self, tmp_path: Path, state: dict[str, torch.Tensor]
    ) -> None:
        del state["0.weight"], state["1.running_mean"]
        state |= {f"extra{k}.bias": torch.zeros(1) for k in range(4)}
        state["5.weight"] = torch.zeros(DIM, 7)
        save_file(state, tmp_path / "a.safetensors")
        with pytest.raises(cg.InputError) as refusal:
            load(weights=str(tmp_path / "a.safetensors"))
        assert (
            "not the weights of small: 2 missing (0.weight, 1.running_mean); "
            "4 unknown (extra0.bias, extra1.bias, extra2.bias, ...); "
            f"1 of other shapes (5.weight of shape ({DIM}, 7) instead of ({DIM}, 96));"
        ) in str(refusal.value)

    def test_that_run_code_are_refused_and_run_none(self, tmp_path: Path) -> None:
        mark = tmp_path / "mark"
        torch.save({"0.weight": RunsCode(mark)}, tmp_path / "a.pt")
        with pytest.raises(cg.CorruptDataError, match="a file that needs code to be run is not"):
            load(weights=str(tmp_path / "a.pt"))
        assert not mark.exists()
        torch.load(tmp_path / "a.pt", weights_only=False)
        assert mark.exists()

    def test_in_a_pickled_module_are_refused_with_advice(self, tmp_path: Path) -> None:
        torch.save(network(), tmp_path / "a.pt")
        with pytest.raises(cg.CorruptDataError, match="save the state dict alone"):
            load(weights=str(tmp_path / "a.pt"))

    @pytest.mark.parametrize("suffix", ["pt", "safetensors"])
    @pytest.mark.parametrize("kept", [0, 7, 0.5, -1])
    def test_in_a_file_that_was_cut_are_refused(
        self, tmp_path: Path, state: dict[str, torch.Tensor], suffix: str, kept: float
    ) -> None:
        torch.save(state, tmp_path / "whole.pt")
        save_file(state, tmp_path / "whole.safetensors")
        whole = (tmp_path / f"whole.{suffix}").read_bytes()
        stop = int(kept) if kept != 0.5 else len(whole) // 2
        (tmp_path / f"cut.{suffix}").write_bytes(whole[:stop])
        with pytest.raises(cg.CorruptDataError, match=f"cut.{suffix}: cannot be read as weights"):
            load(weights=str(tmp_path / f"cut.{suffix}"))

    @pytest.mark.parametrize("content", [[torch.zeros(1)], {"lr": 0.1}, {1: torch.zeros(1)}])
    def test_are_tensors_by_name(self, tmp_path: Path, content: Any) -> None:
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(cg.InputError, match="holds no state dict, expected tensors by name"):
            load(weights=str(tmp_path / "a.pt"))

    def test_have_one_digest_however_they_lie_in_memory(self) -> None:
        moved = network()
        weight = moved.get_parameter("0.weight")
        weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        assert weight.stride() != network().get_parameter("0.weight").stride()
        assert module_digest(moved) == module_digest(network())

    def test_have_another_digest_with_one_other_value(self) -> None:
        found = {module_digest(network())}
        for name in ("5.bias", "1.running_mean", "1.num_batches_tracked"):
            changed = network().state_dict()
            changed[name].view(-1)[0] += 1
            model = network()
            model.load_state_dict(changed)
            found.add(module_digest(model))
        assert len(found) == 4


class TestLayer:
    @pytest.mark.parametrize("layer", [None, "output"])
    def test_is_the_output_by_default(self, layer: str | None) -> None:
        found = load(layer=layer)
        assert relative_error(embed(found, PIXELS), eager(network(), PIXELS, RECIPE)) < 1e-5
        assert (found.dim, found.head, found.facts["layer"]) == (DIM, None, "output")

    def test_penultimate_is_what_the_classifier_takes(self) -> None:
        found = load(layer="penultimate")
        taken, _ = eager_layer(network(), "5", PIXELS, RECIPE)
        assert relative_error(embed(found, PIXELS), taken) < 1e-5
        assert (found.dim, found.facts["layer"]) == (96, "penultimate")

    def test_the_head_that_was_cut_off_gives_the_network_s_logits(self) -> None:
        found = load(layer="penultimate")
        assert found.head is not None
        logits = torch.from_numpy(found.head.logits(embed(found, PIXELS)))
        assert relative_error(logits, eager(network(), PIXELS, RECIPE)) < 1e-5

    def test_a_module_of_that_name_gives_the_embedding(self) -> None:
        _, given = eager_layer(network(), "4", PIXELS, RECIPE)
        found = load(layer="4")
        assert relative_error(embed(found, PIXELS), given) < 1e-5
        assert found.facts["layer"] == "4"

    def test_is_taken_in_a_copy_as_in_the_network_itself(self) -> None:
        found = load(layer="4")
        copied = replace(found, module=copy.deepcopy(found.module))
        expected = embed(load(layer="4"), PIXELS)
        for one in (copied, found, copied):
            assert torch.equal(embed(one, PIXELS), expected)

    def test_unknown_names_the_outermost_ones(self, written: Callable[[str], str]) -> None:
        made = written(
            "from collections import OrderedDict\n"
            "def make(): return nn.Sequential(OrderedDict(body=network(), last=nn.Linear(5, 2)))"
        )
        with pytest.raises(cg.InputError, match="no layer 'fc'; its outermost ones are body, last"):
            load(what=f"{made}:make", layer="fc")
        assert load(what=f"{made}:make", layer="body.4").dim == 96

    @pytest.mark.parametrize(("layer", "times"), [("shared", 2), ("unused", 0)])
    def test_that_does_not_run_once_is_refused(
        self, written: Callable[[str], str], layer: str, times: int
    ) -> None:
        made = written(
            "class Make(nn.Module):\n"
            "    def __init__(self):\n"
            "        super().__init__()\n"
            "        self.body = network()\n"
            "        self.shared, self.unused = nn.Linear(5, 5), nn.Linear(5, 5)\n"
            "    def forward(self, images):\n"
            "        return self.shared(self.shared(self.body(images)))\n"
        )
        with pytest.raises(cg.InputError, match=f"^small: runs its layer '{layer}' {times} times"):
            load(what=f"{made}:Make", layer=layer)
        with pytest.raises(cg.InputError, match=r"no penultimate layer that can be found"):
            load(what=f"{made}:Make", layer="penultimate")

    def test_penultimate_without_a_linear_layer_at_the_end_is_refused(
        self, written: Callable[[str], str]
    ) -> None:
        made = written("def make(): return nn.Sequential(network(), nn.ReLU())")
        with pytest.raises(cg.InputError, match=r"name the layer \(--layer\)"):
            load(what=f"{made}:make", layer="penultimate")
        assert load(what=f"{made}:make", layer="0").dim == DIM


class TestCallable:
    def test_is_found_in_the_folder_of_the_start(self, written: Callable[[str], str]) -> None:
        made = written("def make(): return network(seed=2)")
        before = list(sys.path)
        found = load(what=f"{made}:make")
        assert relative_error(embed(found, PIXELS), eager(network(2), PIXELS, RECIPE)) < 1e-5
        assert sys.path == before

    def test_may_say_itself_how_images_are_prepared(self, written: Callable[[str], str]) -> None:
        made = written("def make():\n    net = network()\n    net.recipe = RECIPE\n    return net")
        assert load(what=f"{made}:make", recipe=None).recipe == RECIPE
        other = cg.Recipe((8, 6), 3, (0.0,) * 3, (1.0,) * 3)
        assert load(what=f"{made}:make", recipe=other).recipe == other

    def test_that_says_nothing_needs_a_recipe(self) -> None:
        with pytest.raises(cg.InputError, match=r"small: .* give a recipe \(--recipe\): imagenet"):
            load(recipe=None)

    @pytest.mark.parametrize(
        ("source", "what", "message"),
        [
            ("def make(): raise KeyError('seed')", "make", r"make\(\) failed with KeyError: 'seed"),
            ("def make(seed): return network(seed)", "make", "failed with TypeError"),
            ("def make(): return network", "make", r"make\(\) gave function, expected a torch.nn"),
            ("make = 3", "make", "has no callable 'make'"),
            ("", "make", "has no callable 'make'"),
            ("1 / 0", "make", r"cannot be imported \(ZeroDivisionError: division by zero"),
            ("def make(:", "make", r"cannot be imported \(SyntaxError"),
        ],
    )
    def test_that_makes_no_network_is_refused(
        self, written: Callable[[str], str], source: str, what: str, message: str
    ) -> None:
        with pytest.raises(cg.InputError, match=message):
            load(what=f"{written(source)}:{what}")

    @pytest.mark.parametrize("module", ["no_such_module", "photographs.no", "..", "."])
    def test_in_a_module_that_is_not_there_is_refused(self, module: str) -> None:
        with pytest.raises(cg.InputError, match="cannot be imported"):
            load(what=f"{module}:make")


VIEWS_ITS_MEMORY = """
class Make(nn.Conv2d):
    def __init__(self): super().__init__(3, 4, 3)
    def forward(self, batch): return super().forward(batch).view(len(batch), -1)
"""
PARAMETER_OF_FIVE_AXES = """
def Make(): return nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 4, 3), nn.Flatten())
"""


class TestMemoryFormat:
    def test_of_a_network_that_crossgram_made_is_the_fast_one(self) -> None:
        found = load()
        assert found.channels_last
        weight = found.module.get_parameter("0.weight")
        assert weight.is_contiguous(memory_format=torch.channels_last)

    @pytest.mark.parametrize("source", [VIEWS_ITS_MEMORY, PARAMETER_OF_FIVE_AXES])
    def test_is_the_usual_one_for_a_network_that_needs_it(
        self, written: Callable[[str], str], source: str
    ) -> None:
        found = load(what=f"{written(source)}:Make")
        assert not found.channels_last
        assert all(parameter.is_contiguous() for parameter in found.module.parameters())
        expected = eager(found.module, PIXELS, RECIPE)
        assert relative_error(embed(found, PIXELS), expected) < 1e-5


class TestPackages:
    @pytest.mark.parametrize("name", ["torchvision", "timm"])
    def test_built_for_another_pytorch_are_named_without_a_traceback(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('operator does not exist')")
        monkeypatch.syspath_prepend(tmp_path)
        for loaded in [key for key in sys.modules if key.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, loaded)
        (tmp_path / "weights.pth").write_bytes(b"")
        spec = NetworkSpec("net", name, "resnet18", weights=str(tmp_path / "weights.pth"))
        with pytest.raises(cg.InputError, match=f"net: {name} cannot be imported beside PyTorch"):
            load(spec)
