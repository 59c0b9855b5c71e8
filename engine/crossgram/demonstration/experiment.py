"""What both halves of the story do: train two networks, embed, map between them, and report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save_file

from crossgram.atlases import atlas
from crossgram.demonstration.digits import RECIPE, Digits
from crossgram.demonstration.networks import NAMES, build
from crossgram.demonstration.training import train
from crossgram.extraction import extract_with_report
from crossgram.heads import ClassifierHead
from crossgram.linear_map import LinearMap
from crossgram.networks.spec import PENULTIMATE, NetworkSpec
from crossgram.progress import ProgressCallback
from crossgram.reporting import write_report
from crossgram.source import open_source
from crossgram.store import EmbeddingStore

__all__ = ["Experiment", "Network", "run"]


_BATCH = 64
_PARTS = ("learnt", "held-out")


@dataclass(frozen=True)
class Network:
    """A trained network and what it made of the images.

    Attributes
    ----------
    design : str
        What it is, in words.
    parameters : int
        How many numbers were trained.
    head : ClassifierHead
        Its last layer.
    learnt, held_out : EmbeddingStore
        Its embeddings of the images it was trained on, and of the others.
    """

    design: str
    parameters: int
    head: ClassifierHead
    learnt: EmbeddingStore
    held_out: EmbeddingStore


@dataclass(frozen=True)
class Experiment:
    """Two networks, and the two maps fitted on the images that they were trained on.

    Attributes
    ----------
    networks : mapping of str to Network
        By name.
    maps : mapping of (str, str) to LinearMap
        By names of source and target.
    """

    networks: Mapping[str, Network]
    maps: Mapping[tuple[str, str], LinearMap]

    def held_out_rows(self, name: str) -> NDArray[np.float32]:
        """Return a network's embeddings of the held-out images, shape (n, d)."""
        store = self.networks[name].held_out
        rows = np.empty((store.rows, store.dim), np.float32)
        store.read(0, rows)
        return rows

    def held_out_labels(self) -> NDArray[np.int64]:
        """Return which digits the held-out images are, shape (n,)."""
        store = self.networks[NAMES[0]].held_out
        assert store.labels is not None
        return store.labels.read(0, store.rows).astype(np.int64)


def run(
    folder: Path,
    learnt: NDArray[np.int64],
    held_out: NDArray[np.int64],
    *,
    digits: Digits,
    seed: int,
    known_classes: bool,
    shown_as: Path,
    progress: ProgressCallback,
) -> Experiment:
    """Write the images, train both networks on some of them, embed all, map, and report.

    Parameters
    ----------
    folder : path
        Where everything goes; it is made.
    learnt, held_out : ndarray of int
        Numbers of the images to train and fit on, and of those to keep from both.
    digits : Digits
        The images.
    seed : int
        Of weights and order of training.
    known_classes : bool
        Whether the images kept are of the classes that the networks learn.
    shown_as : path
        Where the folder will be when it is complete, for the stores' provenance.
    progress : callable
        Called with a `Progress` now and then.
    """
    images = folder / "images"
    digits.write(images, dict(zip(_PARTS, (learnt, held_out), strict=True)))
    classes = len(np.unique(digits.labels[learnt]))
    classifiers = {}
    for number, name in enumerate(NAMES):
        own_seed = len(NAMES) * seed + number
        classifier = build(name, classes, own_seed)
        shown = _staged(progress, f"{folder.name}: train {name.upper()}")
        train(classifier, images / "learnt", RECIPE, seed=own_seed, progress=shown)
        save_file(classifier.state_dict(), folder / f"{name}.safetensors")
        classifiers[name] = classifier
    specs = [
        NetworkSpec(
            name,
            "python",
            f"crossgram.demonstration.networks:{name}_of_{classes}",
            weights=str(folder / f"{name}.safetensors"),
            layer=PENULTIMATE,
        )
        for name in NAMES
    ]
    reports = [
        extract_with_report(
            images / part,
            specs,
            folder / part,
            batch_size=_BATCH,
            decoders=0,
            heads=True,
            provenance={"images": str(shown_as / "images" / part)},
            progress=_staged(progress, f"{folder.name}: embed {part}"),
        )
        for part in _PARTS
    ]
    networks = {
        name: Network(
            classifier.design,
            sum(tensor.numel() for tensor in classifier.parameters()),
            ClassifierHead.load(reports[0].heads[name]),
            *(report.stores[name] for report in reports),
        )
        for name, classifier in classifiers.items()
    }
    learnt_rows, held_out_rows = (
        [
            replace(open_source(store), label=str(shown_as / part / store.path.name))
            for store in report.stores.values()
        ]
        for part, report in zip(_PARTS, reports, strict=True)
    )
    made = atlas(
        learnt_rows,
        folder / "atlas",
        names=NAMES,
        try_on=held_out_rows,
        heads=[reports[0].heads[name] for name in NAMES] if known_classes else (),
        fars=(1e-1, 1e-2, 1e-3),
        # of three people, none would tell anything
        resamples=0,
        seed=seed,
        progress=_staged(progress, f"{folder.name}: maps"),
    )
    write_report(folder / "atlas")
    maps = {
        (own.source, own.target): LinearMap.load(folder / "atlas" / own.file) for own in made.maps
    }
    return Experiment(networks, maps)


def _staged(progress: ProgressCallback, stage: str) -> ProgressCallback:
    return lambda report: progress(replace(report, stage=stage))
