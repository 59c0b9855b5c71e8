"""From the files that insightface distributes to figures, by the commands alone."""

from __future__ import annotations

import pickle
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import refused, succeeds
from numpy.typing import NDArray
from PIL import Image
from strategies import rows_of

import crossgram as cg

NETWORKS = """
import torch
from crossgram import Recipe

def _drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))

def _made(seed, dim, crop):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = torch.nn.Linear(3 * 14 * 14, dim, bias=False)
            with torch.no_grad():
                # of the same 24 features of an image, so that a map keeps much
                self.body.weight.copy_(_drawn(seed, dim, 24) @ _drawn(0, 24, 3 * 14 * 14))
        def forward(self, batch):
            return self.body(batch.flatten(1))
    net = Net()
    net.recipe = Recipe((14, 14), 3, (0.5,) * 3, (0.5,) * 3, crop=crop)
    return net

def a(): return _made(1, 24, "whole")
def b(): return _made(2, 20, "whole")
def aligned(): return _made(1, 24, "align")
"""
MODELS = ("--model", "a=nets:a", "--model", "b=nets:b", "--batch-size", 8)
TEMPLATE = (38.3, 51.7, 73.5, 51.5, 56.0, 71.7, 41.5, 92.4, 70.7, 92.2)


def person(number: int) -> NDArray[np.float64]:
    return np.random.default_rng(number).uniform(60, 200, (14, 14, 3))


def photograph(number: int, rng: np.random.Generator, kind: str = "PNG") -> bytes:
    """The file of a picture of a person."""
    pixels = np.clip(person(number) + rng.normal(0, 40, (14, 14, 3)), 0, 255).astype(np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map between two networks, fitted on other people than those that are evaluated."""
    root = tmp_path_factory.mktemp("faces")
    (root / "nets.py").write_text(NETWORKS)
    rng = np.random.default_rng(0)
    for number in range(100, 150):
        (root / "fit" / str(number)).mkdir(parents=True)
        for k in range(4):
            (root / "fit" / str(number) / f"{k}.png").write_bytes(photograph(number, rng))
    succeeds("extract", "fit", "fit-stores", *MODELS, cwd=root)
    stores = ("fit-stores/a.zarr", "fit-stores/b.zarr")
    succeeds("fit", *stores, "--ridge", 1, "-o", "map.safetensors", cwd=root)
    return root


def area(result: dict[str, Any], name: str) -> float:
    return next(
        float(own["area_under_curve"])
        for own in result["comparisons"]
        if own["comparison"] == name and own["probe"] != "right"
    )


class TestBin:
    def test_is_embedded_and_verified(self, folder: Path) -> None:
        rng = np.random.default_rng(1)
        images, same = [], []
        for k in range(60):
            same.append(k % 2 == 0)
            images += [photograph(k % 7, rng), photograph((k if same[-1] else k + 1) % 7, rng)]
        # the Python that wrote lfw.bin, and protocols before 3, have no bytes of their own
        (folder / "lfw.bin").write_bytes(pickle.dumps((images, same), 2))
        succeeds("extract", "lfw.bin", "lfw", *MODELS, cwd=folder)
        store = cg.EmbeddingStore.open(folder / "lfw" / "a.zarr")
        assert store.ids is not None
        assert store.labels is None
        assert store.ids.read(0, 3).tolist() == ["00000", "00001", "00002"]
        for k, image in enumerate(images):
            (folder / "loose" / f"{k:03}.png").parent.mkdir(exist_ok=True)
            (folder / "loose" / f"{k:03}.png").write_bytes(image)
        succeeds("extract", "loose", "loose-stores", *MODELS, cwd=folder)
        loose = cg.EmbeddingStore.open(folder / "loose-stores" / "a.zarr")
        np.testing.assert_array_equal(rows_of(store), rows_of(loose))
        result = succeeds(
            *("evaluate", "verify", "lfw/a.zarr", "lfw/b.zarr", "--pairs", "lfw.bin"),
            *("--map", "map.safetensors"),
            cwd=folder,
        )
        assert (result["genuine_pairs"], result["impostor_pairs"]) == (30, 30)
        assert area(result, "a with a") > 0.9
        assert area(result, "a to b with b") > 0.8
        assert len(result["comparisons"][0]["accuracy"]["thresholds"]) == 10


@pytest.fixture(scope="module")
def ijb(folder: Path) -> Path:
    """A folder as insightface lays IJB-C out: eight people, three templates of each."""
    root = folder / "IJBC"
    for name in ("loose_crop", "meta"):
        (root / name).mkdir(parents=True)
    rng = np.random.default_rng(2)
    members, faces, person_of = [], [], {}
    for template in range(24):
        person_of[template + 1] = template % 8
        for medium in range(1 + template % 3):
            for _ in range(1 + medium):
                name = f"{len(members) + 1}.jpg"
                content = photograph(template % 8, rng, "JPEG")
                (root / "loose_crop" / name).write_bytes(content)
                members.append(f"{name} {template + 1} {100 * template + medium}\n")
                points = " ".join(f"{value / 8 + rng.normal():.3f}" for value in TEMPLATE)
                faces.append(f"{name} {points} {rng.uniform(0.5, 1):.3f}\n")
    pairs = [
        f"{one} {other} {int(person_of[one] == person_of[other])}\n"
        for one in person_of
        for other in person_of
        if one < other
    ]
    for name, lines in (
        ("face_tid_mid", members),
        ("name_5pts_score", faces),
        ("template_pair_label", pairs),
    ):
        (root / "meta" / f"ijbc_{name}.txt").write_text("".join(lines))
    return root


META = "IJBC/meta/ijbc_"
LISTS = ("--templates", f"{META}face_tid_mid.txt", "--pairs", f"{META}template_pair_label.txt")


class TestIjb:
    def test_is_embedded_and_verified(self, folder: Path, ijb: Path) -> None:
        succeeds("extract", f"{META}name_5pts_score.txt", "ijbc", *MODELS, cwd=folder)
        verify = ("evaluate", "verify", "ijbc/a.zarr", "ijbc/b.zarr", *LISTS)
        verify += ("--map", "map.safetensors")
        switches = ("--normalize-images", "--detector-scores", f"{META}name_5pts_score.txt")
        result = succeeds(*verify, *switches, "--fitted-on", "fit-stores/a.zarr", cwd=folder)
        assert result["pooling"] == {
            "templates": 24,
            "media": 48,
            "normalized_images": True,
            "detector_scores": True,
        }
        assert (result["images"], result["people"]) == (80, 8)
        assert (result["genuine_pairs"], result["impostor_pairs"]) == (24, 252)
        assert area(result, "a with a") > 0.95
        assert area(result, "a to b with b") > 0.9
        plain = succeeds(*verify, cwd=folder)
        assert not plain["pooling"]["normalized_images"]
        assert area(plain, "a with a") != area(result, "a with a")

    def test_is_aligned_by_the_landmarks_of_its_list(self, folder: Path, ijb: Path) -> None:
        listed = f"{META}name_5pts_score.txt"
        succeeds("extract", listed, "list.zarr", "--model", "nets:aligned", cwd=folder)
        rows = [line.split() for line in (folder / listed).read_text().splitlines()]
        table = "".join(f"loose_crop/{name},{' '.join(points)}\n" for name, *points, _ in rows)
        (ijb / "faces.csv").write_text(f"path,landmarks\n{table}")
        succeeds("extract", "IJBC/faces.csv", "table.zarr", "--model", "nets:aligned", cwd=folder)
        one, other = (cg.EmbeddingStore.open(folder / f"{n}.zarr") for n in ("list", "table"))
        np.testing.assert_array_equal(rows_of(one), rows_of(other))
        assert one.ids is not None
        assert one.ids.read(0, 2).tolist() == ["1.jpg", "2.jpg"]

    def test_leaves_out_no_image_that_could_not_be_used(self, folder: Path, ijb: Path) -> None:
        image = ijb / "loose_crop" / "7.jpg"
        whole = image.read_bytes()
        image.write_bytes(b"spoilt")
        succeeds("extract", f"{META}name_5pts_score.txt", "spoilt", *MODELS, cwd=folder)
        image.write_bytes(whole)
        said = refused("evaluate", "verify", "spoilt/a.zarr", *LISTS, cwd=folder)
        assert "7.jpg has no embedding in spoilt/a.zarr, its row is masked" in " ".join(
            said.split()
        )
