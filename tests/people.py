"""Made-up embeddings of people by several networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import crossgram as cg

DIMS = {"a": 6, "b": 8, "c": 5}


def write_people(
    folder: Path,
    *,
    people: int = 40,
    images: int = 5,
    part: str = "",
    seed: int = 0,
    labels: bool = True,
) -> list[Path]:
    """Write a store per network of the same images: what is alike in all of them is the person."""
    rng = np.random.default_rng(seed)
    turns = {
        name: np.random.default_rng(k).normal(size=(6, d))
        for k, (name, d) in enumerate(DIMS.items())
    }
    shared = rng.normal(size=(people, 6)).repeat(images, axis=0)
    shared += 0.4 * rng.normal(size=shared.shape)
    names = [f"{part}p{k // images:03}" for k in range(len(shared))]
    paths = []
    for name, turn in turns.items():
        rows = shared @ turn + 0.2 * rng.normal(size=(len(shared), turn.shape[1]))
        path = folder / f"{part}{name}.zarr"
        with cg.EmbeddingStore.create(path, dim=turn.shape[1]) as writer:
            ids = [f"{own}/{k}" for k, own in enumerate(names)]
            writer.append(rows.astype("f4"), ids=ids, labels=names if labels else None)
        paths.append(path)
    return paths
