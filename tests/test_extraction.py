"""From a folder of image files to a store, row by row."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from strategies import rows_of

import crossgram as cg
from crossgram.extraction import Recipe, extract, find_images, load_image

RECIPE = Recipe((8, 6), 3, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
DIM = 5
IDS = sorted([f"{person}/{number}.png" for person in ("ann", "bob", "zoe") for number in range(7)])


def network() -> torch.nn.Module:
    """A small network whose rows depend on its mode: with batch norm and dropout."""
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.5),
        torch.nn.Flatten(),
        torch.nn.Linear(4 * 6 * 4, DIM),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    return model


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three people's images, some of another size than the recipe's, written in another order."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(reversed(IDS)):
        file = tmp_path / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        height, width = (8, 6) if number % 3 else (11, 17)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(file)
    return tmp_path / "images"


def one_at_a_time(images: Path, model: torch.nn.Module) -> np.ndarray:
    """The obviously right way: Pillow and the formula of the recipe, image by image."""
    model.eval()
    rows = []
    for name in IDS:
        image = Image.open(images / name).resize((6, 8), Image.Resampling.BILINEAR)
        pixels = (np.asarray(image) / 255 - RECIPE.mean) / RECIPE.scale
        batch = torch.from_numpy(pixels.transpose(2, 0, 1)[None]).float()
        rows.append(model(batch).detach().numpy()[0])
    return np.array(rows)


class TestRows:
    @pytest.mark.parametrize("batch_size", [1, 4, 7, 21, 100])
    def test_equal_a_loop_over_single_images(
        self, images: Path, tmp_path: Path, batch_size: int
    ) -> None:
        store = extract(images, network(), tmp_path / "a", recipe=RECIPE, batch_size=batch_size)
        assert store.rows == len(IDS)
        # float32 sums of 96 products of order 1
        np.testing.assert_allclose(rows_of(store), one_at_a_time(images, network()), atol=1e-5)

    def test_are_in_the_order_of_the_ids_and_labelled_by_folder(
        self, images: Path, tmp_path: Path
    ) -> None:
        store = extract(images, network(), tmp_path / "a", recipe=RECIPE, batch_size=4)
        assert store.ids is not None
        assert store.labels is not None
        assert list(store.ids.read(0, store.rows)) == IDS
        assert list(store.labels.read(0, store.rows)) == [name.split("/")[0] for name in IDS]

    def test_worker_processes_change_nothing(self, images: Path, tmp_path: Path) -> None:
        alone = extract(images, network(), tmp_path / "a", recipe=RECIPE, batch_size=4)
        helped = extract(images, network(), tmp_path / "b", recipe=RECIPE, batch_size=4, workers=2)
        np.testing.assert_array_equal(rows_of(alone), rows_of(helped))

    def test_progress_ends_with_every_image(self, images: Path, tmp_path: Path) -> None:
        seen: list[cg.Progress] = []
        extract(
            images,
            network(),
            tmp_path / "a",
            recipe=RECIPE,
            batch_size=8,
            progress=seen.append,
        )
        assert [report.rows for report in seen] == [8, 16, 21]
        assert {report.total_rows for report in seen} == {21}

    def test_half_precision_is_stored_where_asked_for(self, images: Path, tmp_path: Path) -> None:
        store = extract(images, network(), tmp_path / "a", recipe=RECIPE, dtype="float16")
        wide = rows_of(extract(images, network(), tmp_path / "b", recipe=RECIPE))
        np.testing.assert_array_equal(rows_of(store), wide.astype(np.float16))


class TestProvenance:
    def test_says_what_made_the_rows(self, images: Path, tmp_path: Path) -> None:
        model = network()
        facts = extract(
            images,
            model,
            tmp_path / "a",
            recipe=RECIPE,
            network="tiny",
            provenance={"checkpoint": "tiny.pt"},
        ).provenance
        assert facts["network"] == "tiny"
        assert facts["images"] == str(images)
        assert facts["checkpoint"] == "tiny.pt"
        assert facts["recipe"] == {
            "size": [8, 6],
            "channels": 3,
            "mean": [0.5, 0.4, 0.3],
            "scale": [0.2, 0.25, 0.3],
        }

    def test_the_digest_changes_with_one_weight_or_statistic(
        self, images: Path, tmp_path: Path
    ) -> None:
        def digest(model: torch.nn.Module) -> str:
            store = extract(images, model, tmp_path / "a", recipe=RECIPE, overwrite=True)
            return str(store.provenance["weights_sha256"])

        other_weight, other_statistic = network(), network()
        with torch.no_grad():
            other_weight[5].bias[2] += 1e-3
            other_statistic[1].running_mean[0] += 1e-3
        digests = [digest(model) for model in (network(), other_weight, other_statistic)]
        assert len(set(digests)) == 3
        assert digest(network()) == digests[0]


class TestNothingElseChanges:
    def test_the_model_keeps_its_mode_module_by_module(self, images: Path, tmp_path: Path) -> None:
        model = network()
        model[1].eval()
        extract(images, model, tmp_path / "a", recipe=RECIPE)
        assert [module.training for module in model] == [True, False, True, True, True, True]

    def test_the_random_state_of_torch_is_left_alone(self, images: Path, tmp_path: Path) -> None:
        model = network()
        before = torch.get_rng_state()
        extract(images, model, tmp_path / "a", recipe=RECIPE)
        assert torch.equal(torch.get_rng_state(), before)


class TestRefusals:
    @pytest.mark.parametrize("workers", [0, 1])
    def test_a_broken_image_is_named_and_no_store_is_left(
        self, images: Path, tmp_path: Path, workers: int
    ) -> None:
        whole = (images / "bob/3.png").read_bytes()
        (images / "bob/3.png").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(cg.InputError, match=r"bob/3\.png: cannot be decoded") as caught:
            extract(
                images,
                network(),
                tmp_path / "a",
                recipe=RECIPE,
                batch_size=4,
                workers=workers,
            )
        assert "Traceback" not in str(caught.value)
        assert list(tmp_path.iterdir()) == [images]

    def test_text_named_as_an_image_is_named(self, images: Path, tmp_path: Path) -> None:
        (images / "bob/note.jpg").write_text("no image")
        with pytest.raises(cg.InputError, match=r"bob/note\.jpg: cannot be decoded"):
            extract(images, network(), tmp_path / "a", recipe=RECIPE)

    def test_16_bit_images_are_refused_rather_than_clipped(self, tmp_path: Path) -> None:
        Image.fromarray(np.full((8, 6), 40_000, np.uint16)).save(tmp_path / "deep.png")
        with pytest.raises(cg.InputError, match=r"deep\.png: has values of more than 8 bits"):
            load_image(tmp_path / "deep.png", RECIPE)

    def test_a_folder_without_images_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "empty" / "notes.txt").write_text("nothing here")
        with pytest.raises(cg.InputError, match=r"empty: no images"):
            extract(tmp_path / "empty", network(), tmp_path / "a", recipe=RECIPE)

    def test_a_missing_folder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(cg.InputError, match="no such folder"):
            extract(tmp_path / "none", network(), tmp_path / "a", recipe=RECIPE)

    @pytest.mark.parametrize(
        ("model", "message"),
        [
            (torch.nn.Conv2d(3, 4, 3), r"Conv2d: gave torch.float32 \(4, 4, 6, 4\)"),
            (torch.nn.Flatten(0), r"Flatten: gave torch.float32 \(576,\)"),
            (torch.nn.Conv2d(1, 4, 3), r"Conv2d: cannot take a batch of shape \(4, 3, 8, 6\)"),
        ],
    )
    def test_networks_that_do_not_embed_are_refused(
        self, images: Path, tmp_path: Path, model: torch.nn.Module, message: str
    ) -> None:
        with pytest.raises(cg.InputError, match=message):
            extract(images, model, tmp_path / "a", recipe=RECIPE, batch_size=4)

    def test_a_width_that_changes_is_refused(self, images: Path, tmp_path: Path) -> None:
        class Widening(torch.nn.Module):
            width = 3

            def forward(self, batch: torch.Tensor) -> torch.Tensor:
                self.width += 1
                return batch.flatten(1)[:, : self.width]

        with pytest.raises(cg.WidthMismatchError, match=r"shape \(4, 5\) for 4 images"):
            extract(images, Widening(), tmp_path / "a", recipe=RECIPE, batch_size=4)
        assert list(tmp_path.iterdir()) == [images]

    def test_rows_that_go_missing_are_noticed(self, images: Path, tmp_path: Path) -> None:
        class Losing(torch.nn.Module):
            def forward(self, batch: torch.Tensor) -> torch.Tensor:
                return batch.flatten(1)[1:]

        with pytest.raises(cg.WidthMismatchError, match="for 4 images"):
            extract(images, Losing(), tmp_path / "a", recipe=RECIPE, batch_size=4)

    def test_an_image_without_a_finite_embedding_is_named(
        self, images: Path, tmp_path: Path
    ) -> None:
        Image.new("RGB", (6, 8)).save(images / "bob" / "black.png")

        class Dividing(torch.nn.Module):
            def forward(self, batch: torch.Tensor) -> torch.Tensor:
                pixels = batch.flatten(1)
                return pixels / pixels.std(1, keepdim=True)

        grey = Recipe((8, 6), 1, (0.0,), (1.0,))
        with pytest.raises(cg.NonFiniteError, match=r"bob/black\.png: Dividing gives NaN"):
            extract(images, Dividing(), tmp_path / "a", recipe=grey)

    def test_an_existing_output_is_kept(self, images: Path, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        with pytest.raises(cg.OutputExistsError):
            extract(images, network(), tmp_path / "a", recipe=RECIPE)

    def test_the_images_are_never_overwritten(self, images: Path, tmp_path: Path) -> None:
        for out in (images, tmp_path):
            with pytest.raises(cg.InputError, match="would be replaced"):
                extract(images, network(), out, recipe=RECIPE, overwrite=True)
        assert len(find_images(images)) == len(IDS)

    @pytest.mark.parametrize(
        "parts",
        [
            ((8, 8), 2, (0.0, 0.0), (1.0, 1.0)),
            ((0, 8), 1, (0.0,), (1.0,)),
            ((8, 8), 3, (0.0,), (1.0,)),
            ((8, 8), 1, (0.0,), (0.0,)),
            ((8, 8), 1, (float("nan"),), (1.0,)),
        ],
    )
    def test_recipes_that_make_no_sense_are_refused(self, parts: tuple) -> None:
        with pytest.raises(cg.InputError, match="recipe"):
            Recipe(*parts)


class TestFindImages:
    def test_hidden_and_other_files_are_no_images(self, images: Path) -> None:
        (images / "bob" / "notes.txt").write_text("text")
        (images / "bob" / "._1.png").write_bytes(b"what a Mac leaves")
        (images / ".cache").mkdir()
        (images / ".cache" / "1.png").write_bytes(b"")
        assert [file.id for file in find_images(images)] == IDS

    def test_linked_folders_count(self, images: Path, tmp_path: Path) -> None:
        (images / "zoe").rename(tmp_path / "elsewhere")
        (images / "zoe").symlink_to(tmp_path / "elsewhere")
        assert [file.id for file in find_images(images)] == IDS

    def test_the_first_folder_is_the_label(self, tmp_path: Path) -> None:
        for name in ("bob/2019/1.PNG", "ann/1.jpeg"):
            (tmp_path / name).parent.mkdir(parents=True)
            Image.new("L", (4, 4)).save(tmp_path / name)
        assert [(file.id, file.label) for file in find_images(tmp_path)] == [
            ("ann/1.jpeg", "ann"),
            ("bob/2019/1.PNG", "bob"),
        ]

    def test_images_in_no_folder_have_no_labels(self, images: Path, tmp_path: Path) -> None:
        store = extract(images / "bob", network(), tmp_path / "a", recipe=RECIPE)
        assert store.labels is None
        assert store.ids is not None
        assert store.ids.read(0, 1)[0] == "0.png"

    def test_labels_for_some_images_only_are_refused(self, images: Path) -> None:
        Image.new("L", (4, 4)).save(images / "stray.png")
        with pytest.raises(cg.InputError, match=r"stray\.png: lies in no folder"):
            find_images(images)

    def test_names_that_are_not_text_are_refused(self, images: Path) -> None:
        Image.new("L", (4, 4)).save(images / "bob" / "new.png")
        (images / "bob" / "new.png").rename(images / "bob" / os.fsdecode(b"\xff.png"))
        with pytest.raises(cg.InputError, match="is not UTF-8"):
            find_images(images)


class TestLoadImage:
    def test_a_camera_held_on_its_side_is_turned_upright(self, tmp_path: Path) -> None:
        pixels = np.arange(48, dtype=np.uint8).reshape(6, 8)
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
        loaded = load_image(tmp_path / "turned.png", Recipe((8, 6), 1, (0.0,), (1.0,)))
        np.testing.assert_allclose(loaded[0] * 255, np.rot90(pixels, -1), atol=1e-5)
