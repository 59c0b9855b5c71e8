"""From images to stores, row by row, whatever happens on the way."""

from __future__ import annotations

import csv
import errno
import json
import multiprocessing
import os
import shutil
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given
from hypothesis import strategies as st
from photographs import DIM, IDS, RECIPE, network, one_at_a_time, write_images
from PIL import Image
from strategies import rows_of

import crossgram as cg
from crossgram.extraction import extract, extract_with_report
from crossgram.extraction.batches import BatchRanges
from crossgram.extraction.tasks import run_tasks
from crossgram.images import PRESETS
from crossgram.networks.loading import GivenNetwork, load_network


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", IDS)


def masked(store: cg.EmbeddingStore) -> np.ndarray:
    assert store.masked is not None
    return store.masked.read(0, store.rows)


def two_networks() -> list[GivenNetwork]:
    grey = cg.Recipe((4, 4), 1, (0.5,), (0.25,))
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3, bias=False))
    with torch.no_grad():
        flat[1].weight.normal_(generator=torch.Generator().manual_seed(1))
    return [GivenNetwork("wide", network(), RECIPE), GivenNetwork("grey", flat, grey)]


class TestRows:
    @pytest.mark.parametrize("batch_size", [1, 4, 7, 21, 100, None])
    def test_equal_a_loop_over_single_images(
        self, images: Path, tmp_path: Path, batch_size: int | None
    ) -> None:
        store = extract(images, network(), tmp_path / "a", recipe=RECIPE, batch_size=batch_size)
        assert store.rows == len(IDS)
        # float32 sums of 96 products of order 1
        expected = one_at_a_time(images, network(), IDS)
        np.testing.assert_allclose(rows_of(store), expected, atol=1e-5)

    def test_are_in_the_order_of_the_ids_and_labelled_by_folder(
        self, images: Path, tmp_path: Path
    ) -> None:
        store = extract(images, network(), tmp_path / "a", recipe=RECIPE, batch_size=4)
        assert store.ids is not None
        assert store.labels is not None
        assert list(store.ids.read(0, store.rows)) == IDS
        assert list(store.labels.read(0, store.rows)) == [name.split("/")[0] for name in IDS]
        assert store.masked is None

    @pytest.mark.parametrize("decoders", [1, 3])
    def test_decoding_processes_change_nothing(
        self, images: Path, tmp_path: Path, decoders: int
    ) -> None:
        alone = extract(images, network(), tmp_path / "a", recipe=RECIPE, batch_size=4, decoders=0)
        helped = extract(
            images, network(), tmp_path / "b", recipe=RECIPE, batch_size=4, decoders=decoders
        )
        np.testing.assert_array_equal(rows_of(alone), rows_of(helped))

    @pytest.mark.parametrize(
        "layout", [{"chunk_rows": 1}, {"chunk_rows": 5}, {"chunk_rows": 2, "shard_rows": 6}]
    )
    def test_the_layout_of_the_store_changes_nothing(
        self, images: Path, tmp_path: Path, layout: dict[str, int]
    ) -> None:
        options: dict[str, Any] = {"recipe": RECIPE, "batch_size": 4, "decoders": 0}
        plain = extract(images, network(), tmp_path / "a", **options)
        laid_out = extract(images, network(), tmp_path / "b", **options, **layout)
        np.testing.assert_allclose(rows_of(plain), rows_of(laid_out), atol=1e-5)
        assert laid_out.chunk_rows == layout.get("shard_rows", layout["chunk_rows"])
        laid_out.validate()

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
        assert seen[-1].bytes == 21 * DIM * 4

    def test_progress_is_told_outside_of_the_modes_of_torch(
        self, images: Path, tmp_path: Path
    ) -> None:
        def watch(_: cg.Progress) -> None:
            assert not torch.is_inference_mode_enabled()
            assert torch.ones(1, requires_grad=True).requires_grad

        extract(images, network(), tmp_path / "a", recipe=RECIPE, batch_size=8, progress=watch)

    def test_half_precision_is_stored_where_asked_for(self, images: Path, tmp_path: Path) -> None:
        options: dict[str, Any] = {"recipe": RECIPE, "batch_size": 8}
        store = extract(images, network(), tmp_path / "a", dtype="float16", **options)
        wide = rows_of(extract(images, network(), tmp_path / "b", **options))
        np.testing.assert_array_equal(rows_of(store), wide.astype(np.float16))

    def test_a_small_set_is_cut_into_chunks_that_can_be_shared(self, tmp_path: Path) -> None:
        names = [f"{number:03}.png" for number in range(130)]
        folder = write_images(tmp_path / "many", names)
        store = extract(folder, network(), tmp_path / "a", recipe=RECIPE, batch_size=32)
        assert store.chunk_rows == 64
        np.testing.assert_allclose(
            rows_of(store), one_at_a_time(folder, network(), names), atol=1e-5
        )


class TestSeveralNetworks:
    def test_give_the_stores_that_each_gives_alone(self, images: Path, tmp_path: Path) -> None:
        together = extract_with_report(images, two_networks(), tmp_path / "both", batch_size=4)
        assert list(together.stores) == ["wide", "grey"]
        for one in two_networks():
            alone = extract_with_report(images, [one], tmp_path / one.name, batch_size=4)
            np.testing.assert_array_equal(
                rows_of(alone.stores[one.name]), rows_of(together.stores[one.name])
            )
        assert together.stores["grey"].path == tmp_path / "both" / "grey.zarr"

    def test_their_rows_are_the_same_images(self, images: Path, tmp_path: Path) -> None:
        stores = extract_with_report(images, two_networks(), tmp_path / "both").stores
        for store in stores.values():
            assert store.ids is not None
            assert list(store.ids.read(0, store.rows)) == IDS
        fitted = cg.fit(*stores.values())
        assert fitted.certificate is not None
        assert fitted.certificate.rows == len(IDS)

    def test_of_one_name_are_refused(self, images: Path, tmp_path: Path) -> None:
        with pytest.raises(cg.InputError, match="2 networks are called 'wide'"):
            extract_with_report(images, two_networks()[:1] * 2, tmp_path / "both")

    def test_a_folder_of_them_can_be_overwritten_unless_something_was_added(
        self, images: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "both"
        extract_with_report(images, two_networks(), out)
        extract_with_report(images, two_networks(), out, overwrite=True)
        (out / "notes.txt").write_text("mine")
        with pytest.raises(cg.InputError, match="holds files that crossgram did not make"):
            extract_with_report(images, two_networks(), out, overwrite=True)
        assert (out / "notes.txt").exists()


class TestProvenance:
    def test_says_what_made_the_rows(self, images: Path, tmp_path: Path) -> None:
        facts = extract(
            images,
            network(),
            tmp_path / "a",
            recipe=RECIPE,
            network="tiny",
            provenance={"checkpoint": "tiny.pt"},
        ).provenance
        assert facts["network"] == "tiny"
        assert facts["images"] == str(images)
        assert facts["checkpoint"] == "tiny.pt"
        assert facts["recipe"] == RECIPE.to_dict()
        assert facts["precision"] == "float32"
        assert len(facts["images_sha256"]) == 64

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

    @pytest.mark.parametrize("lanes", [1, 2])
    def test_modes_of_torch_end_with_a_run_that_fails(
        self, images: Path, tmp_path: Path, lanes: int
    ) -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(lanes)
        try:
            extract(images, StopsAt(8, ValueError), tmp_path / "a", recipe=RECIPE, batch_size=4)
        except cg.InputError:
            assert not torch.is_inference_mode_enabled()
            assert torch.get_num_threads() == lanes
        else:
            pytest.fail("it did not fail")
        finally:
            torch.set_num_threads(before)
        assert not [
            t
            for t in threading.enumerate()
            if t.name.startswith("crossgram-") and t.name != "crossgram-request"
        ]

    def test_nothing_is_left_but_the_store(self, images: Path, tmp_path: Path) -> None:
        extract(images, network(), tmp_path / "a", recipe=RECIPE)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "images"]
        names = {path.name for path in (tmp_path / "a").iterdir()}
        assert names == {"zarr.json", "embeddings", "ids", "labels"}


def spoil(images: Path) -> dict[int, str]:
    """Spoil some images; return their rows and what is said of them."""
    whole = (images / IDS[3]).read_bytes()
    (images / IDS[3]).write_bytes(whole[: len(whole) // 2])
    (images / IDS[9]).write_bytes(b"")
    (images / IDS[20]).write_text("not an image")
    return {3: "cannot be decoded", 9: "the file is empty", 20: "in no image format"}


class TestBadImages:
    @pytest.mark.parametrize("decoders", [0, 2])
    def test_are_masked_and_the_others_stay_as_they_are(
        self, images: Path, tmp_path: Path, decoders: int
    ) -> None:
        options: dict[str, Any] = {"batch_size": 4, "decoders": decoders}
        whole = extract_with_report(images, two_networks(), tmp_path / "whole", **options)
        bad = spoil(images)
        spoilt = extract_with_report(images, two_networks(), tmp_path / "spoilt", **options)
        good = np.setdiff1d(np.arange(len(IDS)), list(bad))
        for name, store in spoilt.stores.items():
            assert np.flatnonzero(masked(store)).tolist() == list(bad)
            rows = rows_of(store)
            assert np.isnan(rows[list(bad)]).all()
            np.testing.assert_array_equal(rows[good], rows_of(whole.stores[name])[good])
            store.validate()
        assert spoilt.bad_images == 3

    def test_are_listed_with_the_reason(self, images: Path, tmp_path: Path) -> None:
        bad = spoil(images)
        report = extract_with_report(images, two_networks()[:1], tmp_path / "a.zarr")
        assert report.bad_image_table == tmp_path / "a.zarr.bad-images.csv"
        with report.bad_image_table.open() as file:
            listed = list(csv.DictReader(file))
        assert [(row["id"], int(row["row"])) for row in listed] == [(IDS[k], k) for k in bad]
        for row, said in zip(listed, bad.values(), strict=True):
            assert said in row["reason"]

    def test_a_fit_leaves_them_out(self, images: Path, tmp_path: Path) -> None:
        stores = extract_with_report(images, two_networks(), tmp_path / "whole").stores
        x, y = (rows_of(store) for store in stores.values())
        bad = list(spoil(images))
        spoilt = extract_with_report(images, two_networks(), tmp_path / "spoilt").stores
        fitted = cg.fit(*spoilt.values())
        expected = cg.fit(np.delete(x, bad, 0), np.delete(y, bad, 0))
        np.testing.assert_allclose(fitted.weight, expected.weight, rtol=1e-9)
        assert fitted.certificate is not None
        assert (fitted.certificate.rows, fitted.certificate.skipped) == (len(IDS) - 3, 3)

    def test_a_table_of_an_earlier_run_does_not_stay(self, images: Path, tmp_path: Path) -> None:
        spoil(images)
        extract(images, network(), tmp_path / "a.zarr", recipe=RECIPE)
        write_images(images, IDS)
        extract(images, network(), tmp_path / "a.zarr", recipe=RECIPE, overwrite=True)
        assert not (tmp_path / "a.zarr.bad-images.csv").exists()

    @pytest.mark.parametrize("decoders", [0, 1])
    def test_the_first_stops_the_run_if_asked_for(
        self, images: Path, tmp_path: Path, decoders: int
    ) -> None:
        spoil(images)
        with pytest.raises(cg.InputError, match=r"ann/3\.png: cannot be decoded") as caught:
            extract(
                images,
                network(),
                tmp_path / "a",
                recipe=RECIPE,
                batch_size=4,
                decoders=decoders,
                on_bad_image="stop",
            )
        assert "Traceback" not in str(caught.value)
        assert not (tmp_path / "a").exists()

    def test_an_image_that_one_network_cannot_embed_is_masked_for_that_one(
        self, images: Path, tmp_path: Path
    ) -> None:
        Image.new("RGB", (6, 8)).save(images / IDS[5])

        class Dividing(torch.nn.Module):
            def forward(self, batch: torch.Tensor) -> torch.Tensor:
                pixels = batch.flatten(1)
                return pixels / pixels.std(1, keepdim=True)

        grey = cg.Recipe((8, 6), 1, (0.0,), (1.0,))
        networks = [GivenNetwork("whole", network(), RECIPE), GivenNetwork("div", Dividing(), grey)]
        report = extract_with_report(images, networks, tmp_path / "both")
        assert report.stores["whole"].masked is None
        assert np.flatnonzero(masked(report.stores["div"])).tolist() == [5]
        assert report.bad_image_table is not None
        assert "div gives NaN" in report.bad_image_table.read_text()

    def test_values_too_large_for_the_store_are_not_stored_as_infinity(
        self, images: Path, tmp_path: Path
    ) -> None:
        Image.new("RGB", (6, 8), "white").save(images / IDS[5])

        class Growing(torch.nn.Module):
            def forward(self, batch: torch.Tensor) -> torch.Tensor:
                pixels = batch.flatten(1)[:, :3]
                return torch.where(batch.mean((1, 2, 3), keepdim=False)[:, None] > 0.9, 1e9, pixels)

        recipe = cg.Recipe((8, 6), 3, (0.0,) * 3, (1.0,) * 3)
        store = extract(images, Growing(), tmp_path / "a", recipe=recipe, dtype="float16")
        assert np.flatnonzero(masked(store)).tolist() == [5]

    def test_a_network_that_gives_nothing_finite_stops_the_run(
        self, images: Path, tmp_path: Path
    ) -> None:
        broken = network()
        with torch.no_grad():
            broken[5].bias[0] = float("nan")
        names = [f"{number:04}.png" for number in range(600)]
        many = write_images(tmp_path / "many", names)
        seen: list[cg.Progress] = []
        with pytest.raises(cg.NonFiniteError, match=r"png: Sequential gives NaN"):
            extract(
                many,
                broken,
                tmp_path / "a",
                recipe=RECIPE,
                batch_size=8,
                chunk_rows=8,
                progress=seen.append,
            )
        assert seen[-1].rows == 504
        with pytest.raises(cg.InputError, match="none of the 21 images has an embedding"):
            extract(images, broken, tmp_path / "b", recipe=RECIPE, batch_size=8)

    @pytest.mark.parametrize("first", [0, 8])
    def test_a_batch_of_images_that_a_network_cannot_embed_does_not_stop_it(
        self, tmp_path: Path, first: int
    ) -> None:
        class Roots(torch.nn.Module):
            def forward(self, batch: torch.Tensor) -> torch.Tensor:
                return batch.mean((2, 3)).sqrt()

        names = [f"{number:02}.png" for number in range(24)]
        folder = write_images(tmp_path / "some", names)
        for name in names[first : first + 8]:
            Image.new("RGB", (6, 8)).save(folder / name)
        recipe = cg.Recipe((8, 6), 3, (0.1,) * 3, (1.0,) * 3)
        store = extract(folder, Roots(), tmp_path / "a", recipe=recipe, batch_size=8)
        assert np.flatnonzero(masked(store)).tolist() == list(range(first, first + 8))

    @pytest.mark.parametrize("decoders", [0, 1])
    def test_what_is_odd_in_a_file_is_not_worth_a_warning(
        self,
        images: Path,
        tmp_path: Path,
        decoders: int,
        recwarn: pytest.WarningsRecorder,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        odd = Image.new("P", (6, 8))
        odd.putpalette(bytes(range(255)))
        odd.save(images / IDS[4], transparency=bytes([0, 50, 100]))
        large = Image.new("1", (9500, 9500))
        large.save(images / IDS[6])
        store = extract(images, network(), tmp_path / "a", recipe=RECIPE, decoders=decoders)
        assert np.flatnonzero(masked(store)).tolist() == [6]
        assert not recwarn.list
        assert capfd.readouterr().err == ""

    def test_only_bad_images_are_refused(self, images: Path, tmp_path: Path) -> None:
        for name in IDS:
            (images / name).write_bytes(b"")
        with pytest.raises(cg.InputError, match="none of the 21 images has an embedding"):
            extract(images, network(), tmp_path / "a", recipe=RECIPE)


class TestRefusals:
    @pytest.mark.parametrize(
        ("model", "message"),
        [
            (torch.nn.Conv2d(3, 4, 3), r"Conv2d: gave torch.float32 \(2, 4, 6, 4\)"),
            (torch.nn.Flatten(0), r"Flatten: gave torch.float32 \(288,\)"),
            (torch.nn.Conv2d(1, 4, 3), r"Conv2d: cannot take a batch of shape \(2, 3, 8, 6\)"),
        ],
    )
    def test_networks_that_do_not_embed_are_refused_before_anything_is_made(
        self, images: Path, tmp_path: Path, model: torch.nn.Module, message: str
    ) -> None:
        with pytest.raises(cg.InputError, match=message):
            extract(images, model, tmp_path / "a", recipe=RECIPE, batch_size=4)
        assert list(tmp_path.iterdir()) == [images]

    def test_a_width_that_changes_is_refused(self, images: Path, tmp_path: Path) -> None:
        class Widening(torch.nn.Module):
            width = 3

            def forward(self, batch: torch.Tensor) -> torch.Tensor:
                self.width += 1
                return batch.flatten(1)[:, : self.width]

        with pytest.raises(cg.WidthMismatchError, match=r"shape \(4, 5\) for 4 images"):
            extract(images, Widening(), tmp_path / "a", recipe=RECIPE, batch_size=4)
        assert not (tmp_path / "a").exists()

    def test_rows_that_go_missing_are_noticed(self, images: Path, tmp_path: Path) -> None:
        class Losing(torch.nn.Module):
            def forward(self, batch: torch.Tensor) -> torch.Tensor:
                return batch.flatten(1)[1:]

        with pytest.raises(cg.WidthMismatchError, match="for 2 images"):
            extract(images, Losing(), tmp_path / "a", recipe=RECIPE, batch_size=4)

    def test_a_module_needs_a_recipe(self, images: Path, tmp_path: Path) -> None:
        with pytest.raises(cg.InputError, match="recipe: none given"):
            extract(images, network(), tmp_path / "a")

    def test_a_head_that_was_not_cut_off_is_refused(self, images: Path, tmp_path: Path) -> None:
        with pytest.raises(cg.InputError, match="no classifier was cut off Sequential"):
            extract(images, network(), tmp_path / "a", recipe=RECIPE, heads=True)

    @pytest.mark.parametrize("preset", ["arcface", "facenet"])
    def test_a_recipe_needs_what_it_cuts_images_by(
        self, images: Path, tmp_path: Path, preset: str
    ) -> None:
        recipe = replace(PRESETS[preset], size=(8, 6))
        with pytest.raises(cg.InputError, match=r"no image has (boxes|landmarks), by which .* net"):
            extract(images, network(), tmp_path / "a", network="net", recipe=recipe)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]

    def test_facts_of_the_network_are_recorded_as_they_are(
        self, images: Path, tmp_path: Path
    ) -> None:
        for name in ("network", "recipe", "weights_sha256"):
            with pytest.raises(cg.InputError, match=f"provenance: holds '{name}'"):
                extract(
                    images, network(), tmp_path / "a", recipe=RECIPE, provenance={name: "other"}
                )

    @pytest.mark.parametrize("name", ["", "a/b", "..\\a", "/etc"])
    def test_the_name_of_a_network_is_that_of_a_file(
        self, images: Path, tmp_path: Path, name: str
    ) -> None:
        given = [GivenNetwork(name, network(), RECIPE), *two_networks()]
        with pytest.raises(cg.InputError, match="is the name of a network, expected letters"):
            extract_with_report(images, given, tmp_path / "a")

    def test_an_output_has_a_name(self, images: Path) -> None:
        with pytest.raises(cg.InputError, match="has no name of its own"):
            extract(images, network(), ".", recipe=RECIPE)

    def test_an_output_that_came_during_the_run_is_kept(self, images: Path, tmp_path: Path) -> None:
        def put(_: cg.Progress) -> None:
            (tmp_path / "a").mkdir(exist_ok=True)
            (tmp_path / "a" / "thesis.txt").write_text("mine")

        with pytest.raises(cg.OutputExistsError, match="already exists"):
            extract(images, network(), tmp_path / "a", recipe=RECIPE, progress=put)
        assert (tmp_path / "a" / "thesis.txt").read_text() == "mine"
        shutil.rmtree(tmp_path / "a")
        report = extract_with_report(
            images, [GivenNetwork("Sequential", network(), RECIPE)], tmp_path / "a"
        )
        assert report.resumed_rows == 21

    def test_what_is_beside_two_outputs_is_not_the_same(self, images: Path, tmp_path: Path) -> None:
        spoil(images)
        outputs = ("v1.0", "v1.1", "v.zarr", "v.safetensors")
        for out in outputs:
            report = extract_with_report(images, two_networks()[:1], tmp_path / out)
            assert report.bad_image_table == tmp_path / f"{out}.bad-images.csv"
        assert len(list(tmp_path.glob("*.bad-images.csv"))) == len(outputs)

    def test_an_output_that_came_at_the_very_end_is_kept(
        self, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def sync_and_put(folder: Path) -> None:
            if folder.name == "Sequential.zarr":
                (tmp_path / "a").mkdir()
                (tmp_path / "a" / "thesis.txt").write_text("mine")

        monkeypatch.setattr("crossgram.output.sync_tree", sync_and_put)
        with pytest.raises(cg.OutputExistsError, match="already exists"):
            extract(images, network(), tmp_path / "a", recipe=RECIPE)
        assert (tmp_path / "a" / "thesis.txt").read_text() == "mine"

    def test_what_is_beside_a_store_goes_with_it_and_not_before(
        self, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spoil(images)
        extract(images, network(), tmp_path / "a", recipe=RECIPE)
        write_images(images, IDS)

        def full(folder: Path) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr("crossgram.output.sync_tree", full)
            with pytest.raises(cg.RunError, match="disk is full; what is done is kept"):
                extract(images, network(), tmp_path / "a", recipe=RECIPE, overwrite=True)
        assert (tmp_path / "a.bad-images.csv").exists()
        extract(images, network(), tmp_path / "a", recipe=RECIPE, overwrite=True)
        assert not (tmp_path / "a.bad-images.csv").exists()

    def test_a_store_of_another_run_in_the_folder_is_kept(
        self, images: Path, tmp_path: Path
    ) -> None:
        extract_with_report(images, two_networks(), tmp_path / "both")
        extract(images, network(), tmp_path / "both" / "third.zarr", recipe=RECIPE)
        with pytest.raises(cg.InputError, match="holds files that crossgram did not make"):
            extract_with_report(images, two_networks(), tmp_path / "both", overwrite=True)
        assert (tmp_path / "both" / "third.zarr").exists()

    def test_images_that_vanish_stop_the_run_and_are_there_again(
        self, images: Path, tmp_path: Path
    ) -> None:
        away = tmp_path / "away"

        def unmount(_: cg.Progress) -> None:
            if not away.exists():
                images.rename(away)

        options: dict[str, Any] = {**OPTIONS, "network": "net"}
        with pytest.raises(cg.RunError, match="is gone; bring it back and run again"):
            extract(images, network(), tmp_path / "a", progress=unmount, **options)
        away.rename(images)
        store = extract(images, network(), tmp_path / "a", **options)
        assert store.masked is None
        np.testing.assert_allclose(rows_of(store), one_at_a_time(images, network(), IDS), atol=1e-5)

    @pytest.mark.parametrize("decoders", [0, 1])
    def test_what_the_disk_cannot_read_is_not_the_image_s_fault(
        self, images: Path, tmp_path: Path, decoders: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(self: Any, entry: Any) -> bytes:
            raise OSError(errno.EIO, "Input/output error", entry.id)

        monkeypatch.setattr("crossgram.images.folder.ImageFolder.read", broken)
        with pytest.raises(cg.RunError, match=r"ann/0\.png: cannot be read: Input/output error"):
            extract(images, network(), tmp_path / "a", recipe=RECIPE, decoders=decoders)

    def test_a_shard_that_changes_during_the_run_is_refused(
        self, images: Path, tmp_path: Path
    ) -> None:
        with tarfile.open(tmp_path / "s.tar", "w") as shard:
            shard.add(images / "ann", "ann")

        def rewrite(report: cg.Progress) -> None:
            os.utime(tmp_path / "s.tar")

        with pytest.raises(cg.InputError, match=r"s\.tar: changed while its images were embedded"):
            extract(tmp_path / "s.tar", network(), tmp_path / "a", recipe=RECIPE, progress=rewrite)

    def test_an_output_among_shards_is_refused(self, images: Path, tmp_path: Path) -> None:
        (tmp_path / "shards").mkdir()
        with tarfile.open(tmp_path / "shards" / "s.tar", "w") as shard:
            shard.add(images / "ann", "ann")
        with pytest.raises(cg.InputError, match="lies among the files of"):
            extract(tmp_path / "shards", network(), tmp_path / "shards" / "a", recipe=RECIPE)
        assert len(list((tmp_path / "shards").iterdir())) == 1

    def test_decoding_processes_end_with_an_error(self, images: Path, tmp_path: Path) -> None:
        def stop(_: cg.Progress) -> None:
            assert multiprocessing.active_children()
            raise ZeroDivisionError

        options: dict[str, Any] = {"recipe": RECIPE, "batch_size": 1, "decoders": 2}
        with pytest.raises(ZeroDivisionError) as caught:
            extract(images, network(), tmp_path / "a", progress=stop, **options)
        # while it is being handled
        assert caught.value.__traceback__ is not None
        assert not multiprocessing.active_children()

    def test_an_existing_output_is_kept(self, images: Path, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        with pytest.raises(cg.OutputExistsError):
            extract(images, network(), tmp_path / "a", recipe=RECIPE)

    def test_the_images_are_never_overwritten(self, images: Path, tmp_path: Path) -> None:
        for out in (images, tmp_path):
            with pytest.raises(cg.InputError, match="would be replaced"):
                extract(images, network(), out, recipe=RECIPE, overwrite=True)
        assert len(list(images.rglob("*.png"))) == len(IDS)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"batch_size": 0}, "batch_size: 0 given"),
            ({"decoders": -1}, "decoders: -1 given"),
            ({"precision": "half"}, "precision: 'half' given"),
            ({"on_bad_image": "skip"}, "on_bad_image: 'skip' given"),
            ({"dtype": "int8"}, "dtype: int8 given"),
            ({"provenance": {"at": object()}}, "provenance: holds something that is not JSON"),
        ],
    )
    def test_options_that_make_no_sense_are_refused(
        self, images: Path, tmp_path: Path, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(cg.InputError, match=message):
            extract(images, network(), tmp_path / "a", recipe=RECIPE, **options)


@pytest.fixture
def one_lane() -> Iterator[None]:
    """Batches one after the other, in one network: what stops at a batch has done those before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class StopsAt(torch.nn.Module):
    """A network that is interrupted once it has been given so many images."""

    def __init__(self, images: int, error: type[BaseException] = KeyboardInterrupt) -> None:
        super().__init__()
        self.inner, self.left, self.error = network(), images, error

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.left -= len(batch)
        if self.left < 0:
            raise self.error
        rows: torch.Tensor = self.inner(batch)
        return rows


OPTIONS: dict[str, Any] = {"recipe": RECIPE, "chunk_rows": 3, "batch_size": 2, "decoders": 0}


def begin(images: Path, out: Path, given: int = 13, **changes: Any) -> None:
    """Embed some of the images, and be interrupted."""
    with pytest.raises(KeyboardInterrupt):
        extract(images, StopsAt(given), out, **{**OPTIONS, "network": "net", **changes})


def resume(images: Path, out: Path, **changes: Any) -> cg.EmbeddingStore:
    options = {**OPTIONS, "network": "net", **changes}
    return extract(images, StopsAt(10_000), out, **options)


@pytest.mark.usefixtures("one_lane")
class TestResume:
    def test_gives_what_a_run_without_interruption_gives(
        self, images: Path, tmp_path: Path
    ) -> None:
        whole = resume(images, tmp_path / "whole")
        begin(images, tmp_path / "a")
        assert not (tmp_path / "a").exists()
        resumed = resume(images, tmp_path / "a")
        np.testing.assert_array_equal(rows_of(whole), rows_of(resumed))
        assert whole.provenance == resumed.provenance
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "images", "whole"]

    def test_does_not_embed_again_what_is_done(self, images: Path, tmp_path: Path) -> None:
        begin(images, tmp_path / "a", given=14)
        seen: list[cg.Progress] = []
        model = StopsAt(2 + 9)
        report = extract_with_report(
            images,
            [GivenNetwork("net", model, RECIPE)],
            tmp_path / "a",
            chunk_rows=3,
            batch_size=2,
            decoders=0,
            progress=seen.append,
        )
        # two blank images at each start; twelve of 21 were embedded before, in tasks of three
        assert (report.resumed_rows, model.left) == (12, 0)
        assert seen[0].rows == 12

    def test_bad_images_of_both_runs_are_masked(self, images: Path, tmp_path: Path) -> None:
        bad = spoil(images)
        begin(images, tmp_path / "a")
        store = resume(images, tmp_path / "a")
        assert np.flatnonzero(masked(store)).tolist() == list(bad)

    def test_the_same_batch_size_is_found_again(self, images: Path, tmp_path: Path) -> None:
        begin(images, tmp_path / "a")
        record = json.loads((tmp_path / "a.partial" / "run.json").read_text())
        record["batch_size"] = 1
        (tmp_path / "a.partial" / "run.json").write_text(json.dumps(record))
        report = extract_with_report(
            images, [GivenNetwork("net", StopsAt(9_999), RECIPE)], tmp_path / "a", chunk_rows=3
        )
        assert report.batch_size == 1

    def test_after_the_end_of_another_run_nothing_is_mixed(
        self, images: Path, tmp_path: Path
    ) -> None:
        begin(images, tmp_path / "a")
        with pytest.raises(cg.InputError, match=r'a\.partial: was begun with dtype "float32"'):
            resume(images, tmp_path / "a", dtype="float16")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"recipe": cg.Recipe((8, 6), 3, (0.5,) * 3, (0.2,) * 3)}, r"networks\.net\.recipe"),
            ({"precision": "bfloat16"}, r"networks\.net\.precision"),
            ({"chunk_rows": 4}, "layout"),
            ({"on_bad_image": "stop"}, "on_bad_image"),
            ({"network": "other"}, "networks"),
        ],
    )
    def test_something_else_is_refused_and_named(
        self, images: Path, tmp_path: Path, changes: dict[str, Any], message: str
    ) -> None:
        begin(images, tmp_path / "a")
        with pytest.raises(cg.InputError, match=f"was begun with {message}"):
            resume(images, tmp_path / "a", **changes)
        assert rows_of(resume(images, tmp_path / "a")).shape == (21, DIM)

    def test_other_weights_are_refused(self, images: Path, tmp_path: Path) -> None:
        begin(images, tmp_path / "a")
        other = StopsAt(999)
        with torch.no_grad():
            other.inner[5].bias[0] += 1
        with pytest.raises(cg.InputError, match=r"networks\.net\.weights_sha256"):
            extract(images, other, tmp_path / "a", network="net", **OPTIONS)

    @pytest.mark.parametrize("change", ["added", "removed", "renamed"])
    def test_other_images_are_refused(self, images: Path, tmp_path: Path, change: str) -> None:
        begin(images, tmp_path / "a")
        if change == "added":
            Image.new("RGB", (6, 8)).save(images / "zoe" / "new.png")
        elif change == "removed":
            (images / IDS[-1]).unlink()
        else:
            (images / IDS[-1]).rename(images / "zoe" / "other.png")
        with pytest.raises(cg.InputError, match="was begun with other images"):
            resume(images, tmp_path / "a")

    def test_other_images_of_the_same_names_are_refused(self, images: Path, tmp_path: Path) -> None:
        begin(images, tmp_path / "a")
        other = write_images(tmp_path / "other", IDS, seed=1)
        with pytest.raises(cg.InputError, match="was begun with images .*/images"):
            resume(other, tmp_path / "a")

    @pytest.mark.parametrize("kind", ["npy", "zarr"])
    def test_other_pixels_in_one_file_are_refused(self, tmp_path: Path, kind: str) -> None:
        first, second = np.random.default_rng(0).integers(0, 256, (2, 21, 8, 6, 3), np.uint8)
        path = tmp_path / f"pixels.{kind}"

        def put(pixels: np.ndarray) -> None:
            if kind == "npy":
                np.save(path, pixels)
            else:
                zarr.create_array(path, data=pixels, overwrite=True)

        put(first)
        begin(path, tmp_path / "a")
        put(second)
        with pytest.raises(cg.InputError, match=r"was begun before .*pixels.* changed"):
            resume(path, tmp_path / "a")
        assert rows_of(resume(path, tmp_path / "a", restart=True)).shape == (21, DIM)

    @pytest.mark.parametrize("given", [0, 8])
    def test_a_task_of_a_run_that_was_begun_anew_does_no_harm(
        self, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: int
    ) -> None:
        held: list[Any] = []

        def keep(*arguments: Any, refuse_hopeless: bool) -> None:
            assert refuse_hopeless
            held.extend(arguments)
            raise KeyboardInterrupt

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr("crossgram.extraction.running.run_tasks", keep)
            resume(images, tmp_path / "a")
        job, tasks, *_ = held
        assert tasks == list(range(7))

        class BegunAnew(StopsAt):
            def forward(self, batch: torch.Tensor) -> torch.Tensor:
                if self.left == given:
                    begin(images, tmp_path / "a", restart=True)
                self.left -= len(batch)
                return torch.zeros(len(batch), DIM)

        # as on a worker that has not heard of the end of its client
        old = load_network(GivenNetwork("net", BegunAnew(given + 2), RECIPE))
        if not given:
            begin(images, tmp_path / "a", restart=True)
        with pytest.raises(cg.RunError, match=r"partial.*: was removed"):
            run_tasks(job, tasks, [old], 1)
        store = resume(images, tmp_path / "a")
        np.testing.assert_allclose(rows_of(store), one_at_a_time(images, network(), IDS), atol=1e-5)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "images"]

    def test_an_image_that_changed_meanwhile_is_refused(self, images: Path, tmp_path: Path) -> None:
        begin(images, tmp_path / "a")
        (images / IDS[2]).unlink()
        (images / IDS[17]).write_bytes((images / IDS[16]).read_bytes())
        with pytest.raises(cg.InputError, match="was begun with other images"):
            resume(images, tmp_path / "a")
        (images / IDS[2]).write_bytes(b"")
        with pytest.raises(cg.InputError, match=rf"was begun before .*{IDS[2]} changed"):
            resume(images, tmp_path / "a")

    def test_a_network_of_the_same_weights_but_other_parts_is_refused(
        self, images: Path, tmp_path: Path
    ) -> None:
        def made(activation: torch.nn.Module, stop: bool) -> torch.nn.Module:
            inner = network()
            inner[2] = activation
            module = StopsAt(13 if stop else 10_000)
            module.inner = inner
            return module

        with pytest.raises(KeyboardInterrupt):
            extract(images, made(torch.nn.ReLU(), True), tmp_path / "a", network="net", **OPTIONS)
        with pytest.raises(cg.InputError, match=r"networks\.net\.structure_sha256"):
            extract(images, made(torch.nn.GELU(), False), tmp_path / "a", network="net", **OPTIONS)
        again = made(torch.nn.ReLU(), False)
        assert extract(images, again, tmp_path / "a", network="net", **OPTIONS).rows == 21

    def test_images_that_a_network_cannot_embed_do_not_stop_what_began_well(
        self, tmp_path: Path
    ) -> None:
        class Roots(StopsAt):
            def forward(self, batch: torch.Tensor) -> torch.Tensor:
                super().forward(batch)
                return batch.mean((2, 3)).sqrt()

        images = write_images(tmp_path / "many", [f"{k:04}.png" for k in range(560)])
        for path in sorted(images.iterdir())[32:]:
            Image.new("RGB", (6, 8)).save(path)
        recipe = cg.Recipe((8, 6), 3, (0.1,) * 3, (1.0,) * 3)
        options: dict[str, Any] = {**OPTIONS, "recipe": recipe, "network": "net"}
        options |= {"batch_size": 16, "chunk_rows": 16}
        with pytest.raises(KeyboardInterrupt):
            extract(images, Roots(2 + 32), tmp_path / "a", **options)
        store = extract(images, Roots(10_000), tmp_path / "a", **options)
        assert masked(store).sum() == 528

    def test_a_new_run_that_is_refused_leaves_the_earlier_one(
        self, images: Path, tmp_path: Path
    ) -> None:
        begin(images, tmp_path / "a")
        with pytest.raises(cg.InputError, match="heads: asked for"):
            resume(images, tmp_path / "a", restart=True, heads=True)
        recipe = replace(PRESETS["arcface"], size=(8, 6))
        with pytest.raises(cg.InputError, match="no image has landmarks"):
            resume(images, tmp_path / "a", restart=True, recipe=recipe)
        report = extract_with_report(
            images,
            [GivenNetwork("net", StopsAt(10_000), RECIPE)],
            tmp_path / "a",
            chunk_rows=3,
            batch_size=2,
            decoders=0,
        )
        assert report.resumed_rows == 9
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "images"]

    def test_what_a_killed_run_left_half_written_does_not_stay(
        self, images: Path, tmp_path: Path
    ) -> None:
        begin(images, tmp_path / "a")
        (tmp_path / "a.partial" / ".run.json.x1y2").touch()
        resume(images, tmp_path / "a")
        assert not (tmp_path / "a.partial").exists()

    def test_restart_begins_anew(self, images: Path, tmp_path: Path) -> None:
        begin(images, tmp_path / "a")
        (images / IDS[-1]).unlink()
        assert resume(images, tmp_path / "a", restart=True).rows == 20

    def test_a_folder_of_somebody_else_is_never_cleared(self, images: Path, tmp_path: Path) -> None:
        (tmp_path / "a.partial").mkdir()
        (tmp_path / "a.partial" / "thesis.txt").write_text("mine")
        with pytest.raises(cg.InputError, match=r"holds thesis\.txt, which no extraction made"):
            resume(images, tmp_path / "a", restart=True)
        assert (tmp_path / "a.partial" / "thesis.txt").exists()

    @pytest.mark.parametrize("content", ["", "{", "[]", '{"rows": "x"}', '{"rows": 21}'])
    def test_a_damaged_record_is_named(self, images: Path, tmp_path: Path, content: str) -> None:
        begin(images, tmp_path / "a")
        (tmp_path / "a.partial" / "run.json").write_text(content)
        with pytest.raises(cg.CorruptDataError, match=r"run\.json: cannot be read"):
            resume(images, tmp_path / "a")

    def test_two_runs_at_once_are_refused(self, images: Path, tmp_path: Path) -> None:
        class Nested(StopsAt):
            def forward(self, batch: torch.Tensor) -> torch.Tensor:
                if (tmp_path / "a.partial" / "run.json").exists():
                    with pytest.raises(cg.InputError, match="another extraction is at work"):
                        resume(images, tmp_path / "a")
                return super().forward(batch)

        extract(images, Nested(10_000), tmp_path / "a", network="net", **OPTIONS)

    def test_a_run_that_stopped_when_its_store_was_in_place_leaves_nothing_in_the_way(
        self, images: Path, tmp_path: Path
    ) -> None:
        begin(images, tmp_path / "a")
        (store,) = (tmp_path / "a.partial").glob("*/stores/net.zarr")
        shutil.rmtree(store)
        assert rows_of(resume(images, tmp_path / "a")).shape == (21, DIM)
        assert not (tmp_path / "a.partial").exists()

    def test_a_run_that_stopped_before_it_began_leaves_nothing_in_the_way(
        self, images: Path, tmp_path: Path
    ) -> None:
        begin(images, tmp_path / "a")
        (tmp_path / "a.partial" / "run.json").unlink()
        assert resume(images, tmp_path / "a").rows == 21


class TestBatchRanges:
    @given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 15), st.sets(st.integers(0, 39)))
    def test_cover_the_rows_of_the_tasks_and_cross_no_border(
        self, rows: int, task_rows: int, size: int, wanted: set[int]
    ) -> None:
        tasks = [task for task in range(-(-rows // task_rows)) if task in wanted]
        expected = [
            (start, min(start + size, stop))
            for stop, first in ((min((t + 1) * task_rows, rows), t * task_rows) for t in tasks)
            for start in range(first, stop, size)
        ]
        assert list(BatchRanges(tasks, task_rows, rows, size)) == expected
