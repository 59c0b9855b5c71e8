"""Small image files and a small network, for tests of extraction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from crossgram.images import Recipe

RECIPE = Recipe((8, 6), 3, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
DIM = 5
IDS = sorted(f"{person}/{number}.png" for person in ("ann", "bob", "zoe") for number in range(7))


def network(seed: int = 0, dim: int = DIM) -> torch.nn.Module:
    """A small network whose rows depend on its mode: with batch norm and dropout."""
    generator = torch.Generator().manual_seed(seed)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.5),
        torch.nn.Flatten(),
        torch.nn.Linear(4 * 6 * 4, dim),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    return model


def write_images(folder: Path, ids: list[str], seed: int = 0) -> Path:
    """Write photographs, some of another size than the recipe's, in another order than by id."""
    rng = np.random.default_rng(seed)
    for number, name in enumerate(reversed(ids)):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        height, width = (8, 6) if number % 3 else (11, 17)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(file)
    return folder


def one_at_a_time(images: Path, model: torch.nn.Module, ids: list[str]) -> np.ndarray:
    """The obviously right way: Pillow and the formula of the recipe, image by image."""
    model.eval()
    rows = []
    for name in ids:
        image = Image.open(images / name).convert("RGB")
        image = image.resize((6, 8), Image.Resampling.BILINEAR)
        pixels = (np.asarray(image) / 255 - RECIPE.mean) / RECIPE.scale
        batch = torch.from_numpy(pixels.transpose(2, 0, 1)[None]).float()
        rows.append(model(batch).detach().numpy()[0])
    return np.array(rows)
