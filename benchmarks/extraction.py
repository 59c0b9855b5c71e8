"""How near extraction comes to the rate of the network, or of decoding, whichever is lower."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from statistics import median

import click
import numpy as np
import torch
from data import FOLDER
from machine import timed
from PIL import Image, ImageFilter
from results import table, write

from crossgram.extraction import extract_with_report
from crossgram.extraction.batches import decoded_batches, geometry
from crossgram.extraction.lanes import copies, in_lanes, lanes_for
from crossgram.images import ImageList, open_collection
from crossgram.networks.loading import GivenNetwork, load_network
from crossgram.networks.network import Network, normalized
from crossgram.networks.spec import NetworkSpec

__all__ = ["BATCH", "PHOTOGRAPHS", "decoding_seconds", "lanes_seconds", "photographs"]

PHOTOGRAPHS, _FACES = (500, 375), (112, 112)
"""Pixels: the most usual size in ImageNet, and that of aligned faces."""

BATCH = 32
_CASES = (
    ("resnet18", PHOTOGRAPHS, 640),
    ("resnet18_faces", _FACES, 2560),
    ("tiny", PHOTOGRAPHS, 6400),
)
_DECODERS = (None, 0, 2)
_MEMORY_IMAGES = (500, 4000)


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True)
@click.option("--repeats", default=5, show_default=True)
@click.option("--peak-of", type=int, hidden=True)
def main(folder: Path, repeats: int, peak_of: int | None) -> None:
    """Measure and write to RESULTS.md."""
    sys.path.insert(0, str(Path(__file__).parent))
    if peak_of is not None:
        _print_peak(photographs(folder, peak_of, PHOTOGRAPHS))
        return
    lines = []
    for name, size, count in _CASES:
        images, own = photographs(folder, count, size), NetworkSpec.parse(f"networks:{name}")
        exported = _exported(own, folder)
        network_rates = {
            "known": count / median(lanes_seconds(exported, count) for _ in range(repeats)),
            "user's": count / median(_divided_seconds(own, count) for _ in range(repeats)),
        }
        decoding_rate = count / median(decoding_seconds(images, own) for _ in range(repeats))
        for model, decoders in product((exported, own), _DECODERS):
            code = "known" if model is exported else "user's"
            network_rate = network_rates[code]
            shared = 1 / (1 / network_rate + 1 / decoding_rate)
            rate = median(_extraction_rate(images, model, decoders) for _ in range(repeats))
            lines.append(
                [
                    f"{name} on {size[0]} x {size[1]}",
                    code,
                    f"{network_rate:,.0f}",
                    f"{decoding_rate:,.0f}",
                    f"{shared:,.0f}",
                    "found" if decoders is None else str(decoders),
                    f"{rate:,.0f}",
                    f"{rate / min(network_rate, decoding_rate):.0%}",
                    f"{rate / shared:.0%}",
                ]
            )
    few, many = (_peak(folder, count) for count in _MEMORY_IMAGES)
    write(
        "extraction",
        "## Extraction from JPEG files on the CPU, images a second\n\n"
        f"Medians of {repeats}, batches of {BATCH}. A network of known code, here an exported "
        "one, takes batches side by side, one on each core; one of the user's code takes one after "
        "the other, which PyTorch divides among the cores. The network's own rate is that on "
        "batches that lie in memory, the decoding rate that of all cores with nothing else to do; "
        "extraction from the first batch that is done to the last, without loading and listing. "
        "On a CPU the two "
        "share the cores, so that both together can do no more than 1 / (1 / network + 1 / "
        "decoding), in the column shared.\n\n"
        + table(
            [
                "network",
                "code",
                "network alone",
                "decoding alone",
                "shared",
                "decoders",
                "extraction",
                "of the lower",
                "of shared",
            ],
            lines,
        )
        + f"\n\nPeak memory of the process above PyTorch and the network: {few / 1e6:.0f} MB for "
        f"{_MEMORY_IMAGES[0]:,} images, {many / 1e6:.0f} MB for {_MEMORY_IMAGES[1]:,}.",
    )


def photographs(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """Return a folder of JPEG files with about the detail of photographs."""
    out = folder / f"photographs-{size[0]}-{size[1]}-{count}"
    if out.exists():
        return out
    rng = np.random.default_rng(0)
    temporary = Path(tempfile.mkdtemp(dir=folder))
    for number in range(count):
        noise = rng.integers(0, 256, (size[1] // 4, size[0] // 4, 3), np.uint8)
        smooth = Image.fromarray(noise).resize(size).filter(ImageFilter.GaussianBlur(2))
        smooth.save(temporary / f"{number:05}.jpg", quality=90)
    temporary.rename(out)
    return out


def _exported(spec: NetworkSpec, folder: Path) -> NetworkSpec:
    """Return the same network as a program of torch.export."""
    network, path = load_network(spec), folder / f"{spec.name}.pt2"
    batch = normalized(_pixels(network), network.recipe)
    free = ({0: torch.export.Dim("images")},)
    program = torch.export.export(network.module.eval(), (batch,), dynamic_shapes=free)
    torch.export.save(program, path)
    return NetworkSpec(spec.name, "export", str(path), recipe=network.recipe)


def _divided_seconds(model: NetworkSpec, count: int) -> float:
    """One batch at a time, which PyTorch divides among its threads."""
    network = load_network(model)
    batch = _pixels(network)

    def run() -> None:
        for _ in range(count // BATCH):
            network.embed(batch)

    with network.running():
        network.embed(batch)
        return timed(run) * count / (count // BATCH * BATCH)


def lanes_seconds(model: NetworkSpec | GivenNetwork, count: int) -> float:
    """Batches side by side, one on each core."""
    with lanes_for([model], "cpu", compiled=False) as lanes:
        network = load_network(model)
        batch = _pixels(network)
        owned = [own for (own,) in copies([network], lanes)]

        def embed(lane: int, _: int) -> None:
            with owned[lane].running():
                owned[lane].embed(batch)

        def run() -> None:
            for _ in in_lanes(embed, range(count // BATCH), lanes):
                pass

        for lane in range(lanes):
            embed(lane, 0)
        return timed(run) * count / (count // BATCH * BATCH)


def _pixels(network: Network) -> torch.Tensor:
    recipe = network.recipe
    return torch.randint(0, 256, (BATCH, *recipe.size, recipe.channels), dtype=torch.uint8)


def decoding_seconds(images: Path, model: NetworkSpec | GivenNetwork) -> float:
    recipe = geometry(load_network(model).recipe)
    collection = open_collection(images)
    with tempfile.TemporaryDirectory() as folder:
        listed = ImageList.write(collection, Path(folder) / "list")
        ranges = [
            (start, min(start + BATCH, listed.rows)) for start in range(0, listed.rows, BATCH)
        ]

        def run() -> None:
            workers = len(os.sched_getaffinity(0))
            for batch in decoded_batches(collection, listed, [recipe], ranges, decoders=workers):
                batch()

        return timed(run)


def _extraction_rate(images: Path, model: NetworkSpec, decoders: int | None) -> float:
    """Return images a second from the first batch that is done to the last."""
    seen: list[tuple[float, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        extract_with_report(
            images,
            [model],
            Path(folder) / "out.zarr",
            batch_size=BATCH,
            decoders=decoders,
            progress=lambda report: seen.append((time.perf_counter(), report.rows)),
        )
    (started, before), (ended, rows) = seen[0], seen[-1]
    return (rows - before) / (ended - started)


def _peak(folder: Path, count: int) -> int:
    """Return the peak memory of a process of its own."""
    photographs(folder, count, PHOTOGRAPHS)
    done = subprocess.run(
        [sys.executable, __file__, "--folder", folder, "--peak-of", str(count)],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def _print_peak(images: Path) -> None:
    from crossgram.resources import PeakMemory

    tiny = NetworkSpec.parse("networks:tiny")
    load_network(tiny)
    peak = PeakMemory()
    _extraction_rate(images, tiny, 2)
    print(peak.bytes())


if __name__ == "__main__":
    main()
