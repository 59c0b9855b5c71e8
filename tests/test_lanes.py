"""Batches side by side in one process: only where no batch can see another."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from eager import embed, load, pixels_for
from photographs import DIM, RECIPE, network, one_at_a_time, write_images
from strategies import rows_of

from crossgram.extraction import extract
from crossgram.extraction.lanes import copies, in_lanes, lanes_for
from crossgram.networks.loading import GivenNetwork
from crossgram.networks.spec import NetworkSpec

IDS = [f"{number:03}.png" for number in range(96)]
PAUSE = 0.002


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


class InBuffer(torch.nn.Module):
    """Keeps a batch in a buffer while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network().eval()
        self.register_buffer("held", torch.zeros(4, DIM))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.held[: len(batch)] = self.inner(batch)
        time.sleep(PAUSE)
        return self.held[: len(batch)].clone()


def with_hook_outside() -> torch.nn.Module:
    """Give a module of PyTorch's own parts, with a hook that keeps a batch outside of it."""
    kept: dict[str, torch.Tensor] = {}
    model = torch.nn.Sequential(network().eval(), torch.nn.Identity())

    def keep(_module: Any, _given: Any, output: torch.Tensor) -> None:
        kept["rows"] = output

    def give(_module: Any, _given: Any, _output: torch.Tensor) -> torch.Tensor:
        time.sleep(PAUSE)
        return kept["rows"]

    model[0].register_forward_hook(keep)
    model[1].register_forward_hook(give)
    return model


class WithHookOnItself(torch.nn.Module):
    """Has a hook that keeps a batch in the module that it was made for, of whichever copy."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network().eval()
        self.kept = torch.zeros(0)
        self.inner.register_forward_hook(lambda _m, _i, output: setattr(self, "kept", output))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.inner(batch)
        time.sleep(PAUSE)
        return self.kept


@pytest.mark.parametrize("make", [InBuffer, with_hook_outside, WithHookOnItself, network])
def test_a_batch_never_gets_the_rows_of_another(make: Any, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", IDS)
    store = extract(
        images, make(), tmp_path / "a", recipe=RECIPE, batch_size=4, decoders=0, chunk_rows=16
    )
    # float32 sums of 96 products of order 1
    np.testing.assert_allclose(rows_of(store), one_at_a_time(images, network(), IDS), atol=1e-5)


class TestNumber:
    @pytest.mark.parametrize(
        ("given", "lanes"),
        [
            (NetworkSpec.parse("torchvision:resnet18"), 4),
            (NetworkSpec.parse("timm:resnet18"), 4),
            (NetworkSpec.parse("onnx:a.onnx"), 4),
            (NetworkSpec.parse("export:a.pt2"), 4),
            (NetworkSpec.parse("torchscript:a.pt"), 1),
            (NetworkSpec.parse("nets:a"), 1),
            (GivenNetwork("stock", network(), RECIPE), 4),
            (GivenNetwork("own", InBuffer(), RECIPE), 1),
            (GivenNetwork("hooked", with_hook_outside(), RECIPE), 1),
        ],
    )
    def test_is_that_of_the_threads_for_code_that_is_known(self, given: Any, lanes: int) -> None:
        before = torch.get_num_threads()
        stock = NetworkSpec.parse("torchvision:resnet18")
        with lanes_for([stock, given], "cpu", compiled=False) as found:
            assert found == lanes
            # all the threads are at work either way
            assert torch.get_num_threads() * found == before
        assert torch.get_num_threads() == before

    def test_is_one_for_a_forward_of_the_callers_in_a_module_of_pytorchs(self) -> None:
        model = network()
        model[0].forward = lambda batch: batch  # type: ignore[method-assign]
        with lanes_for([GivenNetwork("a", model, RECIPE)], "cpu", compiled=False) as found:
            assert found == 1

    def test_is_one_for_any_other_code_of_the_callers(self) -> None:
        patched, calling = network(), torch.nn.TransformerEncoderLayer(4, 2, activation=lambda x: x)
        patched[0]._conv_forward = lambda *_: torch.zeros(1)
        for model in (patched, torch.nn.Sequential(calling)):
            with lanes_for([GivenNetwork("a", model, RECIPE)], "cpu", compiled=False) as found:
                assert found == 1
        hook = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
        try:
            with lanes_for([GivenNetwork("a", network(), RECIPE)], "cpu", compiled=False) as found:
                assert found == 1
        finally:
            hook.remove()

    def test_is_one_for_a_compiled_network(self) -> None:
        with lanes_for([GivenNetwork("a", network(), RECIPE)], "cpu", compiled=True) as found:
            assert found == 1


class TestCopies:
    def test_share_parameters_and_nothing_that_is_written_to(self) -> None:
        own = load()
        for (other,) in copies([own], 3)[1:]:
            pairs = zip(own.module.parameters(), other.module.parameters(), strict=True)
            assert all(one is another for one, another in pairs)
            pairs = zip(own.module.buffers(), other.module.buffers(), strict=True)
            assert all(one.data_ptr() != another.data_ptr() for one, another in pairs)

    def test_give_the_same_rows(self) -> None:
        own, pixels = load(), pixels_for(RECIPE)
        for (other,) in copies([own], 3):
            assert torch.equal(embed(other, pixels), embed(own, pixels))


def test_results_are_in_the_order_of_the_items() -> None:
    def work(_lane: int, item: int) -> int:
        time.sleep((item % 3) * PAUSE)
        return item

    assert list(in_lanes(work, range(30), 4)) == list(range(30))
