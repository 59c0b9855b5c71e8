"""Embeddings of JPEG files by a network that costs next to nothing."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from beside import Ceiling, measure
from extraction import BATCH, PHOTOGRAPHS, decoding_seconds, lanes_seconds, photographs
from forms import FORM
from networks import tiny

import crossgram as cg
from crossgram.networks.loading import GivenNetwork

pytestmark = pytest.mark.benchmark(group="extraction")

COUNT = FORM.photographs


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photographs(tmp_path_factory.mktemp("images"), COUNT, PHOTOGRAPHS)


def test_jpeg_files(benchmark: Any, images: Path, tmp_path: Path) -> None:
    """On a CPU, decoding and the network share the cores: one after the other is the ceiling."""
    module = tiny()
    network = GivenNetwork("tiny", module, module.recipe)
    out = tmp_path / "out.zarr"
    run = partial(cg.extract_with_report, images, [network], out, batch_size=BATCH, overwrite=True)

    def apart() -> float:
        return decoding_seconds(images, network) + lanes_seconds(network, COUNT)

    ceiling = Ceiling("decoding, then the network", apart, COUNT)
    measure(benchmark, run, {"images": COUNT}, ceiling)
