"""Running a network: on which device, how precisely, and what it leaves as it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from eager import SMALL, batch_of, eager, embed, load, pixels_for, relative_error
from photographs import DIM, RECIPE, network

import crossgram as cg
from crossgram.networks.loading import GivenNetwork, load_network
from crossgram.networks.network import Network, choose_device
from crossgram.networks.weights import module_digest

PIXELS = pixels_for(RECIPE)


def given(module: torch.nn.Module, precision: str = "float32", **changes: Any) -> Network:
    """Load a module that the caller made, with changes to its recipe."""
    recipe = replace(RECIPE, **changes)
    return load_network(GivenNetwork("own", module, recipe), precision=precision)


class TestDevice:
    def test_is_named_as_pytorch_names_it(self) -> None:
        assert choose_device("cpu") == torch.device("cpu")
        best = "cuda" if torch.cuda.is_available() else "cpu"
        assert choose_device("auto") == torch.device(best)

    def test_that_is_not_there_is_refused(self) -> None:
        count = torch.cuda.device_count()
        with pytest.raises(cg.InputError, match=f"cuda:{count + 9} given, .* finds {count} GPUs"):
            choose_device(f"cuda:{count + 9}")

    @pytest.mark.parametrize("asked", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:999", "meta"])
    def test_that_is_none_is_refused(self, asked: str) -> None:
        with pytest.raises(cg.InputError, match=f"device: '{asked}' given, expected auto, cpu"):
            load_network(SMALL, device=asked)


class TestEmbeddings:
    def test_are_those_of_plain_pytorch(self) -> None:
        expected = eager(network(), PIXELS, RECIPE)
        for found in (load(), given(network())):
            assert relative_error(embed(found, PIXELS), expected) < 1e-5
            assert found.dim == DIM

    def test_do_not_depend_on_the_batch_size(self) -> None:
        pixels = pixels_for(RECIPE, 40)
        whole = embed(load(), pixels)
        for size in (1, 3, 39):
            parts = torch.cat([embed(load(), part) for part in pixels.split(size)])
            assert relative_error(parts, whole) < 1e-5

    def test_of_flipped_images_are_added_or_put_beside(self) -> None:
        mirrored = PIXELS.flip(2)
        one, other = (eager(network(), images, RECIPE) for images in (PIXELS, mirrored))
        assert relative_error(one, other) > 0.01
        both = torch.cat([one, other], dim=1)
        for network_ in (load(flip="sum"), given(network(), flip="sum")):
            assert relative_error(embed(network_, PIXELS), one + other) < 1e-5
        for network_ in (load(flip="concatenate"), given(network(), flip="concatenate")):
            assert relative_error(embed(network_, PIXELS), both) < 1e-5
            assert network_.dim == 2 * DIM
        assert load(flip="concatenate").facts["recipe"]["flip"] == "concatenate"

    def test_of_flipped_images_do_not_mind_a_module_that_writes_into_what_it_is_given(
        self,
    ) -> None:
        class InPlace(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = network()
                self.given = torch.zeros(5, DIM)

            def forward(self, batch: torch.Tensor) -> torch.Tensor:
                rows = self.given[: len(batch)]
                rows[:] = self.inner(batch.mul_(2))
                return rows

        class Doubling(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = network()

            def forward(self, batch: torch.Tensor) -> torch.Tensor:
                rows: torch.Tensor = self.inner(2 * batch)
                return rows

        for flip in ("sum", "concatenate"):
            found, expected = (
                embed(given(kind(), flip=flip), PIXELS) for kind in (InPlace, Doubling)
            )
            assert torch.equal(found, expected)

    @pytest.mark.parametrize(("precision", "error"), [("bfloat16", 2e-2), ("float16", 2e-3)])
    def test_in_half_precision_are_off_by_a_few_roundings(
        self, precision: str, error: float
    ) -> None:
        found = load(precision=precision)
        rows = embed(found, PIXELS)
        assert rows.dtype == torch.float32
        assert error / 100 < relative_error(rows, eager(network(), PIXELS, RECIPE)) < error
        assert found.facts["precision"] == precision

    @pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
    @pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")
    def test_of_a_compiled_network_are_the_same(self) -> None:
        for one in (SMALL, GivenNetwork("own", network(), RECIPE)):
            found = load_network(one, device="cpu", compiled=True)
            assert isinstance(found.module, torch._dynamo.OptimizedModule)
            assert relative_error(embed(found, PIXELS), eager(network(), PIXELS, RECIPE)) < 1e-5

    def test_in_an_unknown_precision_are_refused(self) -> None:
        with pytest.raises(cg.InputError, match="precision: 'int8' given, expected one of"):
            load(precision="int8")

    @pytest.mark.parametrize("caller", ["high", "medium"])
    def test_in_float32_are_so_whatever_precision_the_caller_allows(self, caller: str) -> None:
        found = given(network())
        torch.set_float32_matmul_precision(caller)
        try:
            with found.running():
                assert torch.get_float32_matmul_precision() == "highest"
                rows = found.embed(PIXELS)
            assert torch.get_float32_matmul_precision() == caller
        finally:
            torch.set_float32_matmul_precision("highest")
        assert torch.equal(rows, embed(found, PIXELS))

    def test_of_doubles_stay_doubles(self) -> None:
        class Doubles(torch.nn.Module):
            def forward(self, batch: torch.Tensor) -> torch.Tensor:
                return batch.double().mean((2, 3))

        assert embed(given(Doubles()), PIXELS).dtype == torch.float64

    def test_that_are_nan_are_left_to_who_writes_them(self) -> None:
        class Roots(torch.nn.Module):
            def forward(self, batch: torch.Tensor) -> torch.Tensor:
                return batch.mean((2, 3)).sqrt()

        pixels = torch.full((2, *RECIPE.size, 3), 255, dtype=torch.uint8)
        pixels[1] = 0
        assert embed(given(Roots()), pixels).isnan().all(dim=1).tolist() == [False, True]


def settings() -> dict[str, Any]:
    """Return what PyTorch keeps for the whole process."""
    cudnn = torch.backends.cudnn
    return {
        "inference": torch.is_inference_mode_enabled(),
        "gradients": torch.is_grad_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "products": torch.get_float32_matmul_precision(),
        "cudnn": (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32),
        "random": torch.get_rng_state().tolist(),
    }


class TestNothingElseChanges:
    def test_each_module_keeps_its_mode_and_pytorch_its_settings(self) -> None:
        model = network()
        model.get_submodule("1").eval()
        before = settings()
        found = given(model, precision="bfloat16")
        with pytest.raises(KeyboardInterrupt), found.running():
            assert not any(module.training for module in model.modules())
            assert settings() != before
            found.embed(PIXELS)
            raise KeyboardInterrupt
        modes = [module.training for module in model.modules()]
        assert modes == [True, True, False, True, True, True, True]
        assert settings() == before

    @pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
    def test_a_caller_s_module_stays_as_it_was(self, order: torch.memory_format) -> None:
        model = network()
        weight = model.get_parameter("0.weight")
        weight.data = weight.data.contiguous(memory_format=order)
        weight.grad = torch.ones_like(weight)
        modules = list(model.modules())
        digest, strides = module_digest(model), [p.stride() for p in model.parameters()]
        found = given(model)
        rows = embed(found, PIXELS)
        assert relative_error(rows, eager(network(), PIXELS, RECIPE)) < 1e-5
        assert found.module is model
        assert list(model.modules()) == modules
        assert module_digest(model) == digest == found.facts["weights_sha256"]
        assert [p.stride() for p in model.parameters()] == strides
        assert all(p.requires_grad for p in model.parameters())
        assert weight.grad.eq(1).all()
        model(batch_of(PIXELS, RECIPE)).sum().backward()


class TestRefusal:
    @pytest.mark.parametrize(
        ("gives", "found"),
        [
            (lambda batch: batch[:, :, :2, :2], r"torch.float32 \(2, 3, 2, 2\)"),
            (lambda batch: batch.flatten(), r"torch.float32 \(288,\)"),
            (lambda batch: batch.flatten(1).long(), r"torch.int64 \(2, 144\)"),
            (lambda batch: batch.flatten(1)[:, :0], r"torch.float32 \(2, 0\)"),
            (lambda batch: (batch.flatten(1),), "tuple"),
        ],
    )
    def test_of_what_is_no_row_of_floats_for_each_image(
        self, gives: Callable[[torch.Tensor], Any], found: str
    ) -> None:
        class Wrong(torch.nn.Module):
            def forward(self, batch: torch.Tensor) -> Any:
                return gives(batch)

        with pytest.raises(cg.InputError, match=f"own: gave {found}, expected a tensor of floats"):
            given(Wrong())

    @pytest.mark.parametrize(
        "gives",
        [
            lambda batch: batch.flatten(1)[:1],
            lambda batch: batch.flatten(1).repeat(2, 1),
            lambda batch: batch.flatten(1).T,
        ],
    )
    def test_of_another_number_of_rows(self, gives: Callable[[torch.Tensor], Any]) -> None:
        class Wrong(torch.nn.Module):
            def forward(self, batch: torch.Tensor) -> Any:
                return gives(batch)

        with pytest.raises(cg.WidthMismatchError, match="for 2 images, expected"):
            given(Wrong())

    def test_of_a_width_that_differs_from_batch_to_batch(self) -> None:
        class Batches(torch.nn.Module):
            def forward(self, batch: torch.Tensor) -> torch.Tensor:
                return batch.flatten(1)[:, : len(batch)]

        found = given(Batches())
        assert found.dim == 2
        with pytest.raises(
            cg.WidthMismatchError, match=r"\(5, 5\) for 5 images, expected \(5, 2\)"
        ):
            embed(found, PIXELS)

    def test_of_images_that_the_network_does_not_take(self) -> None:
        class Particular(torch.nn.Module):
            def forward(self, batch: torch.Tensor) -> torch.Tensor:
                assert batch.shape[2] == 9, "expected a height of 9"
                return batch.flatten(1)

        advice = r"shape \(2, 3, 8, 6\) \(expected a height of 9\); change the recipe"
        with pytest.raises(cg.InputError, match=advice):
            given(Particular())
        with pytest.raises(cg.InputError, match=r"shape \(2, 3, 9, 6\) .*; change the recipe"):
            given(network(), size=(9, 6))
        for layer in ("penultimate", "4"):
            with pytest.raises(
                cg.InputError, match=r"cannot take a batch of shape \(\d, 1, 8, 6\)"
            ):
                load(layer=layer, recipe=cg.Recipe((8, 6), 1, (0.0,), (1.0,)))
