"""The demonstration: what it claims, and what it leaves behind."""

from __future__ import annotations

import html
import json
import shlex
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import ENTRY, crossgram, interrupted, refused
from PIL import Image
from strategies import rows_of

import crossgram as cg
from crossgram.atlases.words import headline
from crossgram.demonstration import (
    ClosedSet,
    Demonstration,
    NetworkFacts,
    OpenSet,
    Verification,
)
from crossgram.demonstration.digits import RECIPE, load_digits
from crossgram.demonstration.networks import NAMES, build
from crossgram.demonstration.training import one_thread, train
from crossgram.evaluation.scoring import as_wide
from crossgram.heads import ClassifierHead
from crossgram.images import open_collection
from crossgram.verification import OperatingPoint
from crossgram_cli.commands.demo import _text


class TestDigits:
    def test_every_grey_value_survives_the_file(self, tmp_path: Path) -> None:
        digits = load_digits()
        digits.write(tmp_path, {"some": np.arange(0, 1797, 100)})
        entries = list(open_collection(tmp_path / "some").entries())
        assert len(entries) == 18
        for entry in entries:
            file = tmp_path / "some" / entry.id
            number = int(file.stem)
            np.testing.assert_array_equal(np.asarray(Image.open(file)), digits.images[number])
            assert entry.label == str(digits.labels[number])
        assert sorted(np.unique(digits.images)) == [15 * level for level in range(17)]

    def test_a_third_of_every_digit_is_held_out(self) -> None:
        digits = load_digits()
        learnt, held_out = digits.split(seed=3)
        np.testing.assert_array_equal(
            np.sort(np.concatenate([learnt, held_out])), np.arange(len(digits.labels))
        )
        for digit in range(10):
            count = np.sum(digits.labels == digit)
            assert np.sum(digits.labels[held_out] == digit) == round(count / 3)


class TestTraining:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        load_digits().write(tmp_path, {"learnt": np.arange(150)})
        return tmp_path / "learnt"

    @pytest.mark.parametrize("name", NAMES)
    def test_a_seed_gives_the_same_weights_again(self, folder: Path, name: str) -> None:
        def weights(seed: int) -> np.ndarray:
            network = build(name, 10, seed)
            with one_thread():
                train(network, folder, RECIPE, seed=seed, epochs=1)
            return torch.nn.utils.parameters_to_vector(network.parameters()).detach().numpy()

        first = weights(4)
        torch.rand(3)
        np.testing.assert_array_equal(weights(4), first)
        assert not np.array_equal(weights(5), first)

    def test_random_state_and_threads_of_torch_are_left_alone(self, folder: Path) -> None:
        state, threads = torch.get_rng_state(), torch.get_num_threads()
        with one_thread():
            train(build("a", 10, 0), folder, RECIPE, seed=0, epochs=1)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.get_num_threads() == threads


class TestUnmapped:
    def test_is_cut_or_filled_with_zeros(self) -> None:
        rows = np.ones((2, 3), np.float32)
        np.testing.assert_array_equal(as_wide(rows, 2), np.ones((2, 2)))
        np.testing.assert_array_equal(as_wide(rows, 4), [[1, 1, 1, 0]] * 2)


class TestRefusals:
    def test_a_directory_that_no_demo_made_is_kept(self, tmp_path: Path) -> None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").write_text("years of work")
        message = refused("demo", "--out", "mine", cwd=tmp_path)
        assert "mine: already exists and holds files that no demo made" in message
        assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"

    def test_a_missing_package_is_named(self, tmp_path: Path) -> None:
        code = "import sys; sys.modules['sklearn'] = None\n" + ENTRY[2]
        done = subprocess.run(
            [ENTRY[0], "-c", code, "demo"], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 2
        assert "pip install 'crossgram[extract,sklearn,report]'" in done.stderr
        assert "Traceback" not in done.stderr
        assert not list(tmp_path.iterdir())

    def test_stopping_in_the_middle_leaves_nothing(self, tmp_path: Path) -> None:
        once = ".crossgram-demo.*/closed-set/images/held-out/9/*.png"
        message = interrupted("demo", cwd=tmp_path, number=signal.SIGINT, once=once)
        assert "Traceback" not in message
        assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """One run of the real command, in place of what an earlier one left, and its figures."""
    folder = tmp_path_factory.mktemp("demo")
    earlier = folder / "crossgram-demo"
    (earlier / "closed-set" / "images" / "of-old").mkdir(parents=True)
    contents = ["closed-set", "closed-set/images", "closed-set/images/of-old"]
    (earlier / "demo.json").write_text(json.dumps({"contents": contents}))
    done = crossgram("demo", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return folder, json.loads(done.stdout)


def restored(result: dict[str, Any]) -> Demonstration:
    """What the library returned, from its JSON."""

    def verification(values: dict[str, Any]) -> Verification:
        point = OperatingPoint(**values["operating_point"])
        return Verification(**{**values, "operating_point": point})

    found = result["open_set"]
    verified = {name: verification(found[name]) for name in ("mapped", "unmapped")}
    own = {name: verification(values) for name, values in found["own"].items()}
    return Demonstration(
        directory=Path(result["directory"]),
        seed=result["seed"],
        seconds=result["seconds"],
        networks={name: NetworkFacts(**facts) for name, facts in result["networks"].items()},
        closed_set=ClosedSet(**result["closed_set"]),
        open_set=OpenSet(**{**found, **verified, "own": own}),
    )


@pytest.mark.acceptance
class TestStory:
    """Bounds leave room for other seeds and processors."""

    def test_a_map_keeps_nearly_all_of_the_accuracy(self, made: tuple) -> None:
        closed = made[1]["closed_set"]
        assert closed["learnt_images"] + closed["held_out_images"] == 1797
        for source, target in (NAMES, NAMES[::-1]):
            assert closed["own"][source] > 0.95
            assert closed["mapped"][source] > min(closed["own"].values()) - 0.03
            assert closed["unmapped"][source] < 0.4
            assert closed["head_mapped"][source] == closed["own"][source]
            assert 0.7 < closed["r2"][source] < 1, target

    def test_a_map_carries_over_to_classes_it_never_saw(self, made: tuple) -> None:
        found = made[1]["open_set"]
        area = {name: found[name]["area_under_curve"] for name in ("mapped", "unmapped")}
        own = [found["own"][name]["area_under_curve"] for name in NAMES]
        assert area["mapped"] > area["unmapped"] + 0.05
        assert area["mapped"] > min(own) - 0.1
        assert abs(area["unmapped"] - 0.5) < 0.15
        for verification in (*found["own"].values(), found["mapped"], found["unmapped"]):
            assert verification["operating_point"]["achieved_far"] <= 0.01

    def test_no_image_was_both_learnt_and_held_out(self, made: tuple) -> None:
        for half in ("closed-set", "open-set"):
            learnt, held_out = (
                {file.name for file in (made[0] / "crossgram-demo" / half / part).rglob("*.png")}
                for part in ("images/learnt", "images/held-out")
            )
            assert not learnt & held_out
            assert len(learnt | held_out) == 1797
        folder = made[0] / "crossgram-demo" / "open-set" / "images"
        assert {path.name for path in (folder / "learnt").iterdir()} == set("0123456")
        assert {path.name for path in (folder / "held-out").iterdir()} == set("789")

    def test_the_files_are_what_the_figures_say(self, made: tuple) -> None:
        folder = made[0] / "crossgram-demo" / "closed-set"
        store = cg.EmbeddingStore.open(folder / "held-out" / "a.zarr")
        rows = np.empty((store.rows, store.dim), np.float32)
        store.read(0, rows)
        assert store.labels is not None
        labels = store.labels.read(0, store.rows).astype(int)
        fitted = folder / "atlas" / "maps" / "a-to-b.safetensors"
        mapped = cg.LinearMap.load(fitted).apply(rows)
        logits = ClassifierHead.load(folder / "held-out" / "b.head.safetensors").logits(mapped)
        accuracy = np.mean(logits.argmax(axis=1) == labels)
        assert accuracy == made[1]["closed_set"]["mapped"]["a"]

    def test_it_ends_with_reports_of_the_same_figures(self, made: tuple) -> None:
        folder = made[0] / "crossgram-demo"
        closed, new = (
            cg.load_atlas(folder / part / "atlas") for part in ("closed-set", "open-set")
        )
        found = {
            (own.kind, own.source): own.top[1]
            for pair in closed.classification
            for own in pair.report.classifications
        }
        for kind, name in (("native", "own"), ("mapped", "mapped"), ("unmapped", "unmapped")):
            for network in NAMES:
                assert found[kind, network] == made[1]["closed_set"][name][network]
        assert new.verification is not None
        across = {own.comparison: own for own in new.verification.comparisons}["a to b with b"]
        expected = made[1]["open_set"]["mapped"]
        assert across.area_under_curve == pytest.approx(expected["area_under_curve"], abs=1e-6)
        assert new.split.fitted_on == tuple(
            f"crossgram-demo/open-set/learnt/{n}.zarr" for n in NAMES
        )
        assert (new.split.shared_images, new.split.shared_people) == (0, 0)
        text = _text(restored(made[1]), "crossgram")
        for part, atlas in (("closed-set", closed), ("open-set", new)):
            report = folder / part / "atlas" / "report.html"
            page = html.unescape(report.read_text())
            assert all(line in page for line in headline(atlas))
            assert f"  crossgram-demo/{part}/atlas/report.html" in text.splitlines()

    def test_the_stores_name_images_that_are_there(self, made: tuple) -> None:
        store = cg.EmbeddingStore.open(
            made[0] / "crossgram-demo" / "open-set" / "learnt" / "b.zarr"
        )
        assert store.ids is not None
        images = open_collection(made[0] / store.provenance["images"])
        assert [entry.id for entry in images.entries()] == list(store.ids.read(0, store.rows))

    def test_a_demo_with_something_of_the_user_in_it_is_kept(
        self, made: tuple, tmp_path: Path
    ) -> None:
        shutil.copytree(made[0] / "crossgram-demo", tmp_path / "crossgram-demo")
        maps = tmp_path / "crossgram-demo" / "closed-set" / "atlas" / "maps"
        for mine in (maps.parent.parent / "my-map.safetensors", maps / "my-map.safetensors"):
            mine.write_text("mine")
            assert "no demo made" in refused("demo", cwd=tmp_path)
            mine.unlink()

    def test_an_earlier_demo_is_replaced(self, made: tuple) -> None:
        assert not (made[0] / "crossgram-demo" / "closed-set" / "images" / "of-old").exists()
        assert [path.name for path in made[0].iterdir()] == ["crossgram-demo"]

    def test_the_text_has_the_figures_and_commands_that_work(
        self, made: tuple, tmp_path: Path
    ) -> None:
        shutil.copytree(made[0] / "crossgram-demo", tmp_path / "crossgram-demo")
        text = _text(restored(made[1]), "crossgram")
        lines = text.splitlines()
        assert max(map(len, lines)) < 120
        fitted = next(line for line in lines if "through the fitted map" in line)
        for name in NAMES:
            assert f"{100 * made[1]['closed_set']['mapped'][name]:.1f} %" in fitted
        across = next(line for line in lines if line.startswith("   A through the map"))
        assert f"{made[1]['open_set']['mapped']['area_under_curve']:.3f}" in across
        commands = text.replace("\\\n", "").splitlines()
        suggested = [shlex.split(line)[1:] for line in commands if line.startswith("  crossgram ")]
        assert [arguments[0] for arguments in suggested] == ["inspect", "apply", "extract"]
        for arguments in suggested:
            assert crossgram(*arguments, cwd=tmp_path).returncode == 0
        again, first = (
            cg.EmbeddingStore.open(tmp_path / path)
            for path in ("a-again.zarr", "crossgram-demo/closed-set/held-out/a.zarr")
        )
        # float32 sums, in batches of another size
        np.testing.assert_allclose(rows_of(again), rows_of(first), rtol=1e-4, atol=1e-5)
