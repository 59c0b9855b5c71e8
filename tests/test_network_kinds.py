"""Networks of torchvision, timm, TorchScript, torch.export and ONNX."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision_stub
from eager import batch_of, eager, eager_layer, embed, load, pixels_for, relative_error
from onnx_file import write_onnx
from photographs import DIM, RECIPE, network
from safetensors.torch import save_file

import crossgram as cg
from crossgram.images.recipe import PRESETS
from crossgram.networks.spec import NetworkSpec
from crossgram.networks.weights import module_digest

FACES = Path(
    os.environ.get("CROSSGRAM_FACES", Path(__file__).parents[2] / "shared" / "faces")
).resolve()
SMALL = cg.Recipe((64, 64), 3, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
PIXELS = pixels_for(RECIPE)


@pytest.fixture(scope="module")
def models() -> Any:
    """Return `torchvision.models`."""
    torchvision_stub.transforms()
    return pytest.importorskip("torchvision.models")


@pytest.fixture(scope="module")
def timm(models: Any) -> Any:
    return pytest.importorskip("timm")


def saved(
    module: torch.nn.Module, folder: Path, name: str = "weights.pt"
) -> tuple[torch.nn.Module, str]:
    """Return a module in evaluation mode, and the file of its weights."""
    torch.save(module.state_dict(), folder / name)
    return module.eval(), str(folder / name)


class TestPenultimate:
    """The embedding is what the classifier takes, of whatever architecture."""

    @pytest.mark.parametrize(
        ("what", "classifier", "width"),
        [
            ("resnet18", "fc", 512),
            ("mobilenet_v3_small", "classifier.3", 1024),
            ("shufflenet_v2_x0_5", "fc", 1024),
            ("mnasnet0_5", "classifier.1", 1280),
        ],
    )
    def test_of_torchvision(
        self, models: Any, tmp_path: Path, what: str, classifier: str, width: int
    ) -> None:
        module, weights = saved(models.get_model(what), tmp_path)
        self.check(NetworkSpec("a", "torchvision", what, weights), module, classifier, width)

    @pytest.mark.parametrize(
        ("what", "classifier", "width"),
        [("test_resnet", "fc", 96), ("test_vit", "head", 64), ("test_convnext", "head.fc", 64)],
    )
    def test_of_timm(
        self, timm: Any, tmp_path: Path, what: str, classifier: str, width: int
    ) -> None:
        module, weights = saved(timm.create_model(what), tmp_path)
        self.check(NetworkSpec("a", "timm", what, weights), module, classifier, width)

    def check(
        self, spec: NetworkSpec, module: torch.nn.Module, classifier: str, width: int
    ) -> None:
        pixels = pixels_for(SMALL)
        taken, given = eager_layer(module, classifier, pixels, SMALL)
        found = load(spec, recipe=SMALL)
        rows = embed(found, pixels)
        assert relative_error(rows, taken) < 1e-5
        assert found.head is not None
        assert relative_error(torch.from_numpy(found.head.logits(rows)), given) < 1e-5
        assert found.facts["weights_sha256"] == module_digest(module)
        assert (found.dim, found.head.dim, found.facts["layer"]) == (width, width, "penultimate")

    def test_of_a_convolution_as_classifier_is_named_by_the_caller(
        self, models: Any, tmp_path: Path
    ) -> None:
        module, weights = saved(models.squeezenet1_0(), tmp_path)
        spec = NetworkSpec("squeeze", "torchvision", "squeezenet1_0", weights)
        with pytest.raises(cg.InputError, match=r"squeeze: .*; name the layer \(--layer\)"):
            load(spec, recipe=SMALL)
        pixels = pixels_for(SMALL)
        _, given = eager_layer(module, "classifier.3", pixels, SMALL)
        found = load(spec, recipe=SMALL, layer="classifier.3")
        assert given.shape == (len(pixels), 1000, 1, 1)
        assert relative_error(embed(found, pixels), given.flatten(1)) < 1e-5
        assert found.head is None

    def test_or_the_output_where_that_is_asked_for(self, models: Any, tmp_path: Path) -> None:
        module, weights = saved(models.shufflenet_v2_x0_5(), tmp_path)
        spec = NetworkSpec("a", "torchvision", "shufflenet_v2_x0_5", weights, layer="output")
        found = load(spec, recipe=SMALL)
        pixels = pixels_for(SMALL)
        assert relative_error(embed(found, pixels), eager(module, pixels, SMALL)) < 1e-5


class TestTorchvision:
    @pytest.mark.parametrize(
        ("file", "resize"), [("mobilenet_v2-b0353104.pth", 256), ("mobilenet_v2-7ebf99e0.pth", 232)]
    )
    def test_prepares_images_as_the_published_weights_of_that_file_want(
        self, models: Any, tmp_path: Path, file: str, resize: int
    ) -> None:
        _, weights = saved(models.mobilenet_v2(), tmp_path, file)
        found = load(NetworkSpec("a", "torchvision", "mobilenet_v2", weights))
        assert found.recipe == replace(PRESETS["imagenet"], resize=resize)
        own = load(NetworkSpec("a", "torchvision", "mobilenet_v2", weights), recipe=SMALL)
        assert own.recipe == SMALL

    @pytest.mark.parametrize("file", ["mine.pth", "resnet18-f37072fd.pth", "b0353104.pth"])
    def test_needs_a_recipe_for_any_other_file(
        self, models: Any, tmp_path: Path, file: str
    ) -> None:
        _, weights = saved(models.mobilenet_v2(), tmp_path, file)
        with pytest.raises(cg.InputError, match=r"give a recipe \(--recipe\)"):
            load(NetworkSpec("a", "torchvision", "mobilenet_v2", weights))

    @pytest.mark.filterwarnings("ignore:The default weight initialization:FutureWarning")
    def test_scales_pixels_as_the_published_googlenet_wants(
        self, models: Any, tmp_path: Path
    ) -> None:
        made = models.googlenet(transform_input=True, init_weights=False)
        module, weights = saved(made, tmp_path, "googlenet-1378be20.pth")
        spec = NetworkSpec("a", "torchvision", "googlenet", weights, layer="output")
        pixels = pixels_for(SMALL, 2)
        found = load(spec, recipe=SMALL)
        assert relative_error(embed(found, pixels), eager(module, pixels, SMALL)) < 1e-5

    def test_takes_the_names_that_older_versions_gave_weights(
        self, models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        made = "models.VisionTransformer(64, 32, 1, 1, hidden_dim=8, mlp_dim=16)"
        Path("small_vit.py").write_text(
            f"from torchvision import models\ndef make(): return {made}\n"
        )
        module = models.VisionTransformer(64, 32, 1, 1, hidden_dim=8, mlp_dim=16)
        old = {
            name.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): tensor
            for name, tensor in module.state_dict().items()
        }
        assert len(old.keys() - module.state_dict().keys()) == 4
        torch.save(old, "old.pt")
        found = load(NetworkSpec("a", "python", "small_vit:make", "old.pt"), recipe=SMALL)
        assert found.facts["weights_sha256"] == module_digest(module)

    def test_says_where_a_network_needs_more_than_the_bare_weights(
        self, models: Any, tmp_path: Path
    ) -> None:
        save_file(models.mnasnet0_5().state_dict(), tmp_path / "a.safetensors")
        spec = NetworkSpec("a", "torchvision", "mnasnet0_5", str(tmp_path / "a.safetensors"))
        with pytest.raises(cg.InputError, match=r"cannot be put into a \(ValueError: version"):
            load(spec, recipe=SMALL)

    @pytest.mark.parametrize("what", ["resnet19", "fasterrcnn_mobilenet_v3_large_fpn", "r3d_18"])
    def test_refuses_what_is_no_classifier_of_it(
        self, models: Any, tmp_path: Path, what: str
    ) -> None:
        (tmp_path / "w.pt").touch()
        with pytest.raises(cg.InputError, match=f"torchvision has no classifier '{what}'"):
            load(NetworkSpec("a", "torchvision", what, str(tmp_path / "w.pt")), recipe=SMALL)


class TestTimm:
    def test_prepares_images_as_timm_does(self, timm: Any, tmp_path: Path) -> None:
        module, weights = saved(timm.create_model("test_vit"), tmp_path)
        wanted = timm.data.resolve_data_config(model=module)
        found = load(NetworkSpec("a", "timm", "test_vit", weights)).recipe
        assert (found.channels, *found.size) == wanted["input_size"]
        assert (found.mean, found.scale) == (wanted["mean"], wanted["std"])
        assert found.interpolation == wanted["interpolation"]
        assert (found.crop, wanted["crop_mode"]) == ("centre", "center")
        assert found.resize is not None
        assert 0 <= found.size[0] / wanted["crop_pct"] - found.resize < 1

    @pytest.mark.parametrize(
        "what",
        ["resnet19", "test_vit.no_such_tag", "hf-hub:timm/test_vit.r160_in1k", "local-dir:."],
    )
    def test_refuses_what_it_does_not_have_and_looks_nowhere_else(
        self, timm: Any, tmp_path: Path, what: str
    ) -> None:
        (tmp_path / "w.pt").touch()
        with pytest.raises(cg.InputError, match=f"timm has no model '{what}'"):
            load(NetworkSpec("a", "timm", what, str(tmp_path / "w.pt")), recipe=SMALL)


@pytest.mark.parametrize("kind", ["torchvision", "timm"])
def test_a_package_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setitem(sys.modules, kind, None)
    (tmp_path / "w.pt").touch()
    with pytest.raises(cg.InputError, match=f"a: needs {kind}; pip install {kind}"):
        load(NetworkSpec("a", kind, "resnet18", str(tmp_path / "w.pt")), recipe=SMALL)


def scripted(module: torch.nn.Module, path: Path) -> None:
    torch.jit.script(module).save(path)


def frozen(module: torch.nn.Module, path: Path) -> None:
    torch.jit.freeze(torch.jit.script(module)).save(path)


def traced(module: torch.nn.Module, path: Path) -> None:
    torch.jit.trace(module, batch_of(PIXELS, RECIPE)).save(path)


def exported(module: torch.nn.Module, path: Path) -> None:
    free = ({0: torch.export.Dim("n")},)
    batch = batch_of(PIXELS, RECIPE)
    torch.export.save(torch.export.export(module, (batch,), dynamic_shapes=free), path)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
class TestProgram:
    """TorchScript and torch.export, which carry code and weights in one file."""

    @pytest.mark.parametrize(
        ("kind", "save"),
        [
            ("torchscript", scripted),
            ("torchscript", frozen),
            ("torchscript", traced),
            ("export", exported),
        ],
    )
    def test_gives_what_the_module_gave(
        self, tmp_path: Path, kind: str, save: Callable[[torch.nn.Module, Path], None]
    ) -> None:
        path = tmp_path / "program.bin"
        save(network().eval(), path)
        found = load(NetworkSpec("a", kind, str(path), recipe=RECIPE))
        for count in (1, 2, 7):
            pixels = pixels_for(RECIPE, count)
            expected = eager(network(), pixels, RECIPE)
            assert relative_error(embed(found, pixels), expected) < 1e-5
        assert (found.dim, found.facts["layer"]) == (DIM, "output")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert found.facts["weights_sha256"] == digest

    def test_saved_in_training_mode_is_evaluated(self, tmp_path: Path) -> None:
        scripted(network().train(), tmp_path / "a.ts")
        found = load(NetworkSpec("a", "torchscript", str(tmp_path / "a.ts"), recipe=RECIPE))
        expected = eager(network(), PIXELS, RECIPE)
        assert relative_error(embed(found, PIXELS), expected) < 1e-5

    def test_exported_in_training_mode_is_refused(self, tmp_path: Path) -> None:
        exported(network().train(), tmp_path / "a.pt2")
        with pytest.raises(cg.InputError, match=r"a\.pt2: changes .*running_mean.* while it runs"):
            load(NetworkSpec("a", "export", str(tmp_path / "a.pt2"), recipe=RECIPE))

    def test_for_a_fixed_number_of_images_is_refused(self, tmp_path: Path) -> None:
        program = torch.export.export(network().eval(), (batch_of(PIXELS[:1], RECIPE),))
        torch.export.save(program, tmp_path / "a.pt2")
        with pytest.raises(cg.InputError, match=r"a: cannot take a batch of shape \(2, 3, 8, 6\)"):
            load(NetworkSpec("a", "export", str(tmp_path / "a.pt2"), recipe=RECIPE))

    @pytest.mark.parametrize(("kind", "save"), [("torchscript", scripted), ("export", exported)])
    def test_that_was_cut_is_refused(
        self, tmp_path: Path, kind: str, save: Callable[[torch.nn.Module, Path], None]
    ) -> None:
        save(network().eval(), tmp_path / "whole")
        whole = (tmp_path / "whole").read_bytes()
        for kept in (0, 10, len(whole) // 2):
            (tmp_path / "cut").write_bytes(whole[:kept])
            with pytest.raises(cg.InputError, match=f"cut: cannot be loaded as {kind}"):
                load(NetworkSpec("a", kind, str(tmp_path / "cut"), recipe=RECIPE))

    @pytest.mark.parametrize("kind", ["torchscript", "export"])
    def test_has_no_other_layer_than_its_output(self, tmp_path: Path, kind: str) -> None:
        (tmp_path / "a").touch()
        with pytest.raises(cg.InputError, match=f"a {kind} file gives its output only"):
            load(NetworkSpec("a", kind, str(tmp_path / "a"), layer="penultimate", recipe=RECIPE))

    def test_needs_a_recipe(self, tmp_path: Path) -> None:
        scripted(network().eval(), tmp_path / "a.ts")
        with pytest.raises(cg.InputError, match=r"give a recipe \(--recipe\)"):
            load(NetworkSpec("a", "torchscript", str(tmp_path / "a.ts")))


class TestOnnx:
    """Files whose outputs are the pixels that they were given, flattened, and their negatives."""

    @pytest.fixture(autouse=True)
    def _runtime(self) -> None:
        pytest.importorskip("onnxruntime")

    def load(self, path: Path, precision: str = "float32", **changes: Any) -> Any:
        return load(NetworkSpec("a", "onnx", str(path), recipe=RECIPE), precision, **changes)

    @pytest.mark.parametrize("batch", ["n", 1, 4])
    @pytest.mark.parametrize("sides", [(8, 6), ("height", "width")])
    def test_gives_one_row_per_image_whatever_batch_it_was_made_for(
        self, tmp_path: Path, batch: int | str, sides: tuple[int | str, int | str]
    ) -> None:
        found = self.load(write_onnx(tmp_path / "a.onnx", (batch, 3, *sides)))
        for count in (1, 4, 5):
            pixels = pixels_for(RECIPE, count)
            expected = batch_of(pixels, RECIPE).flatten(1)
            assert relative_error(embed(found, pixels), expected) < 1e-6

    def test_that_takes_channels_last_gets_them_so(self, tmp_path: Path) -> None:
        found = self.load(write_onnx(tmp_path / "a.onnx", ("n", 8, 6, 3)))
        expected = batch_of(PIXELS, RECIPE).movedim(1, 3).flatten(1)
        assert relative_error(embed(found, PIXELS), expected) < 1e-6

    def test_of_halves_gives_floats(self, tmp_path: Path) -> None:
        found = self.load(write_onnx(tmp_path / "a.onnx", ("n", 3, 8, 6), kind="float16"))
        rows = embed(found, PIXELS)
        assert rows.dtype == torch.float32
        assert torch.equal(rows, batch_of(PIXELS, RECIPE).half().float().flatten(1))

    def test_gives_the_output_of_that_name(self, tmp_path: Path) -> None:
        path = write_onnx(tmp_path / "a.onnx", ("n", 3, 8, 6))
        first, named, other = (
            embed(self.load(path, layer=layer), PIXELS) for layer in (None, "flat", "negative")
        )
        assert torch.equal(first, named)
        assert torch.equal(other, -first)
        with pytest.raises(cg.InputError, match="no output 'fc1'; it has flat, negative"):
            self.load(path, layer="fc1")

    def test_is_named_by_the_digest_of_its_file(self, tmp_path: Path) -> None:
        path = write_onnx(tmp_path / "a.onnx", ("n", 3, 8, 6))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert self.load(path).facts["weights_sha256"] == digest

    @pytest.mark.parametrize("file", ["a.onnx.data", "w" * 200])
    def test_is_named_by_the_weights_that_are_kept_in_another_file_too(
        self, tmp_path: Path, file: str
    ) -> None:
        digests = set()
        for scale in (2, 3, 2):
            weights = (file, np.full(144, scale, np.float32))
            path = write_onnx(tmp_path / "a.onnx", ("n", 3, 8, 6), weights=weights)
            found = self.load(path, layer="negative")
            expected = -scale * batch_of(PIXELS, RECIPE).flatten(1)
            assert relative_error(embed(found, PIXELS), expected) < 1e-6
            digests.add(found.facts["weights_sha256"])
        assert len(digests) == 2

    @pytest.mark.parametrize("shape", [("n", 144), ("n", 3, 8, 6, 1)])
    def test_that_takes_no_images_is_refused(self, tmp_path: Path, shape: tuple[Any, ...]) -> None:
        path = write_onnx(tmp_path / "a.onnx", shape)
        with pytest.raises(cg.InputError, match="a.onnx: takes .* expected one batch of images"):
            self.load(path)

    def test_for_images_of_another_size_is_refused(self, tmp_path: Path) -> None:
        path = write_onnx(tmp_path / "a.onnx", ("n", 3, 9, 9))
        with pytest.raises(cg.InputError, match=r"shape \(2, 3, 8, 6\) .*; change the recipe"):
            self.load(path)

    def test_has_a_precision_of_its_own(self, tmp_path: Path) -> None:
        path = write_onnx(tmp_path / "a.onnx", ("n", 3, 8, 6))
        with pytest.raises(cg.InputError, match="an ONNX file has a precision of its own"):
            self.load(path, "bfloat16")

    @pytest.mark.parametrize("kept", [0, 10, -10])
    def test_that_was_cut_is_refused(self, tmp_path: Path, kept: int) -> None:
        whole = write_onnx(tmp_path / "a.onnx", ("n", 3, 8, 6)).read_bytes()
        (tmp_path / "cut.onnx").write_bytes(whole[:kept])
        with pytest.raises(cg.CorruptDataError, match="cut.onnx: cannot be read as ONNX"):
            self.load(tmp_path / "cut.onnx")

    @pytest.mark.acceptance
    @pytest.mark.parametrize(
        ("name", "sides"), [("network_a.onnx", (112, 96)), ("network_b.onnx", (112, 112))]
    )
    def test_of_faces_gives_what_onnxruntime_gives_one_by_one(
        self, name: str, sides: tuple[int, int]
    ) -> None:
        onnxruntime = pytest.importorskip("onnxruntime")
        path, recipe = FACES / name, cg.Recipe(sides, 3, (0.5,) * 3, (128 / 255,) * 3)
        if not path.exists():
            pytest.skip(f"{path} is not there; CROSSGRAM_FACES names another folder")
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        pixels = pixels_for(recipe, 3)
        rows = [
            session.run(None, {session.get_inputs()[0].name: image[None].numpy()})[0]
            for image in batch_of(pixels, recipe)
        ]
        expected = torch.from_numpy(np.concatenate(rows))
        found = self.load(path, recipe=recipe)
        assert found.dim == 128
        assert relative_error(embed(found, pixels), expected) < 1e-5
