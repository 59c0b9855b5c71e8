"""Runs that are stopped and go on: the same bits, little done twice, and nothing of other runs."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ten_segments import ROWS, SEGMENT, assert_same_bits, write_stores

import crossgram as cg
from crossgram.checkpoint import clear_checkpoint, opened_checkpoint
from crossgram.cluster import cluster_client
from crossgram.errors import InputError
from crossgram.merge_tree import MergeTree, Place
from crossgram.plan import make_plan
from crossgram.tensor_file import write_tensors


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_stores(tmp_path_factory.mktemp("stores"))


class StoppedError(Exception):
    """Raised in the middle of a run."""


def stop_after(rows: int) -> Any:
    def progress(done: cg.Progress) -> None:
        if done.rows >= rows:
            raise StoppedError

    return progress


def nodes(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "pass-0").glob("*.safetensors"))


class TestTree:
    @given(st.integers(1, 33), st.randoms(use_true_random=False))
    def test_what_is_kept_gives_the_same_whole_wherever_it_is_stopped(
        self, leaves: int, chance: random.Random
    ) -> None:
        files: dict[Place, str] = {}

        def keep(level: int, index: int, node: str, absorbed: Any) -> None:
            files[level, index] = node
            for place in absorbed:
                del files[place]

        def joined(left: str, right: str) -> str:
            return f"({left} {right})"

        whole: MergeTree[str] = MergeTree(leaves, joined)
        for k in range(leaves):
            whole.add(k, str(k))
        order = chance.sample(range(leaves), leaves)
        done = chance.randint(0, leaves)
        first: MergeTree[str] = MergeTree(leaves, joined, keep)
        for k in order[:done]:
            first.add(k, str(k))
        # every leaf that was added is in one file, and in one only
        covered = [int(k) for node in files.values() for k in re.findall(r"\d+", node)]
        assert sorted(covered) == sorted(order[:done])
        second: MergeTree[str] = MergeTree(leaves, joined, keep)
        for (level, index), node in chance.sample(list(files.items()), len(files)):
            second.add(index, node, level, is_kept=True)
        for k in order[done:]:
            second.add(k, str(k))
        assert second.result() == whole.result()
        assert list(files.values()) == [whole.result()]

    def test_a_neighbour_that_comes_while_a_node_is_written_is_merged_once(self) -> None:
        files: dict[Place, str] = {}

        def keep(level: int, index: int, node: str, absorbed: Any) -> None:
            files[level, index] = node
            for place in absorbed:
                del files[place]
            if (level, index) == (1, 0):
                tree.add(2, "2")
                tree.add(3, "3")

        tree: MergeTree[str] = MergeTree(4, lambda left, right: f"({left} {right})", keep)
        tree.add(0, "0")
        tree.add(1, "1")
        assert tree.result() == "((0 1) (2 3))"
        assert files == {(2, 0): "((0 1) (2 3))"}


def readable(folder: Path) -> int:
    """Return how many segments are in files of a checkpoint that are not empty."""
    kept: set[int] = set()
    for name in nodes(folder):
        level, index = map(int, name.removesuffix(".safetensors").split("-"))
        if (folder / "pass-0" / name).stat().st_size:
            kept |= set(range(index << level, min((index + 1) << level, 10)))
    return len(kept)


@pytest.mark.parametrize(
    "options",
    [{}, {"folds": 3, "group_by": "ids"}, {"norms": True}],
    ids=["plain", "folds", "norms"],
)
def test_a_run_that_was_stopped_goes_on(
    stores: list[Path], tmp_path: Path, options: dict[str, Any]
) -> None:
    expected = cg.accumulate(stores, **options)
    folder = tmp_path / "kept"
    with pytest.raises(StoppedError):
        cg.accumulate(stores, checkpoint=folder, progress=stop_after(6 * SEGMENT), **options)
    assert nodes(folder)
    seen: list[int] = []
    found = cg.accumulate(
        stores, checkpoint=folder, progress=lambda done: seen.append(done.rows), **options
    )
    assert seen[0] >= SEGMENT
    assert seen[-1] == ROWS
    assert_same_bits(found, expected)
    assert found.history[0].ids == expected.history[0].ids
    # and a third time there is nothing left to be done
    assert "4-0.safetensors" in nodes(folder)
    again = cg.accumulate(stores, checkpoint=folder, progress=lambda done: None, **options)
    assert_same_bits(again, expected)


def test_further_passes_are_kept_too(tmp_path: Path) -> None:
    pair = tmp_path / "pair" / "a.zarr", tmp_path / "pair" / "b.zarr"
    cg.synth(tmp_path / "pair", rows=60_000, source_dim=24, target_dim=8, condition=1e6, dtype="f8")
    expected = cg.fit(*pair, digits=14)
    assert expected.certificate is not None
    folder = tmp_path / "kept"
    for stage in ("accumulate again", "residuals"):

        def stop(done: cg.Progress, stage: str = stage) -> None:
            if done.stage == stage and done.rows > SEGMENT:
                raise StoppedError

        with pytest.raises(StoppedError):
            cg.fit(*pair, digits=14, checkpoint=folder, progress=stop)
    found = cg.fit(*pair, digits=14, checkpoint=folder)
    np.testing.assert_array_equal(found.weight, expected.weight)
    np.testing.assert_array_equal(found.bias, expected.bias)
    assert found.certificate == expected.certificate


def test_a_cluster_goes_on_with_what_one_machine_began(stores: list[Path], tmp_path: Path) -> None:
    expected = cg.accumulate(stores)
    folder = tmp_path / "kept"
    with cluster_client(2, None) as client:
        with pytest.raises(StoppedError):
            cg.accumulate(stores, checkpoint=folder, progress=stop_after(3 * SEGMENT))
        with pytest.raises(StoppedError):
            cg.accumulate(
                stores, checkpoint=folder, client=client, progress=stop_after(7 * SEGMENT)
            )
        assert_same_bits(cg.accumulate(stores, checkpoint=folder, client=client), expected)


def test_no_worker_begins_a_segment_before_its_last_one_is_on_disk(
    stores: list[Path], tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    folder = tmp_path / "kept"

    def counted(part: Any, job: Any, *arrays: Any) -> Any:
        from crossgram import cluster_sums

        with begun.open("a") as file:
            file.write("x")
        return cluster_sums._segment(part, job, *arrays)

    def stop(done: cg.Progress) -> None:
        if done.rows > 5 * SEGMENT:
            raise StoppedError

    with cluster_client(2, None) as client, pytest.MonkeyPatch.context() as patch:
        patch.setattr("crossgram.cluster_sums._segment", counted)
        with pytest.raises(StoppedError):
            cg.accumulate(stores, checkpoint=folder, client=client, progress=stop)
    found: list[int] = []
    cg.accumulate(stores, checkpoint=folder, progress=lambda done: found.append(done.rows))
    # the first reports are of what was found, segment by segment
    kept = sum(1 for k, rows in enumerate(found) if rows == (k + 1) * SEGMENT)
    assert begun.stat().st_size - kept <= 2


class TestDamage:
    @pytest.fixture
    def stopped(self, stores: list[Path], tmp_path: Path) -> Path:
        with pytest.raises(StoppedError):
            cg.accumulate(
                stores, checkpoint=tmp_path / "kept", threads=1, progress=stop_after(7 * SEGMENT)
            )
        return tmp_path / "kept"

    def test_what_a_kill_left_half_written_is_removed(
        self, stores: list[Path], stopped: Path
    ) -> None:
        left = [stopped / "pass-0" / name for name in (".run.json.x", ".0-1.safetensors.x")]
        for path in left:
            path.write_text("half")
        with opened_checkpoint(stopped):
            assert not any(path.exists() for path in left)
        assert_same_bits(cg.accumulate(stores, checkpoint=stopped), cg.accumulate(stores))

    @pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
    def test_a_file_that_was_cut_is_done_again(
        self, stores: list[Path], stopped: Path, share: float
    ) -> None:
        newest = max((stopped / "pass-0").glob("*.safetensors"), key=lambda p: p.stat().st_mtime_ns)
        os.truncate(newest, int(newest.stat().st_size * share))
        assert_same_bits(cg.accumulate(stores, checkpoint=stopped), cg.accumulate(stores))

    def test_a_flipped_bit_is_found(self, stores: list[Path], stopped: Path) -> None:
        for path in (stopped / "pass-0").glob("*.safetensors"):
            content = bytearray(path.read_bytes())
            content[-9] ^= 1
            path.write_bytes(content)
        assert_same_bits(cg.accumulate(stores, checkpoint=stopped), cg.accumulate(stores))

    def test_whatever_becomes_of_the_newest_file_one_segment_more_is_done_again(
        self, stores: list[Path], tmp_path: Path
    ) -> None:
        """Stopped after each segment in turn, each time with the newest file destroyed."""
        expected, folder = cg.accumulate(stores), tmp_path / "kept"
        written: list[Path] = []

        def note(path: Path, *rest: Any, **options: Any) -> None:
            write_tensors(path, *rest, **options)
            written.append(path)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("crossgram.checkpoint.write_tensors", note)
            for stop in range(1, 10):
                with pytest.raises(StoppedError):
                    cg.accumulate(
                        stores, checkpoint=folder, threads=1, progress=stop_after(stop * SEGMENT)
                    )
                written[-1].write_bytes(b"")
                assert readable(folder) >= stop - 1
                if stop in (4, 8):
                    assert_same_bits(cg.accumulate(stores, checkpoint=folder), expected)
                written.clear()
                shutil.rmtree(folder)

    def test_to_look_at_what_is_there_takes_nothing_away(
        self, stores: list[Path], stopped: Path
    ) -> None:
        """A run may be killed before it writes, and the newest file be lost only then."""
        before = nodes(stopped)
        with pytest.raises(StoppedError):
            cg.accumulate(stores, checkpoint=stopped, progress=stop_after(0))
        assert nodes(stopped) == before

    def test_a_further_pass_after_another_first_one_is_refused(self, tmp_path: Path) -> None:
        """Rows between the ends tell by their ids alone; but what they gave does not agree."""
        rng = np.random.default_rng(0)
        x = rng.normal(size=(3 * SEGMENT, 6)) * np.logspace(0, -5, 6) @ rng.normal(size=(6, 6))
        y = x[:, :2] + 1e-3

        def stop(done: cg.Progress) -> None:
            if done.stage == "accumulate again" and done.rows > SEGMENT:
                raise StoppedError

        folder = tmp_path / "kept"
        with pytest.raises(StoppedError):
            cg.fit(x, y, digits=14, checkpoint=folder, threads=1, progress=stop)
        assert list((folder / "pass-1").glob("*.safetensors"))
        for path in (folder / "pass-0").glob("*.safetensors"):
            path.unlink()
        x[SEGMENT + 5] += 1.0
        with pytest.raises(InputError, match="earlier passes was"):
            cg.fit(x, y, digits=14, checkpoint=folder)

    def test_no_bit_of_a_file_can_be_flipped_unseen(self, tmp_path: Path) -> None:
        """Every byte of a small one, header and numbers."""
        moments = cg.Moments({"a": 2, "b": 1})
        moments.update(np.eye(3)[:, :2], np.ones((3, 1)))
        (tmp_path / "kept").mkdir()
        with opened_checkpoint(tmp_path / "kept") as checkpoint:
            kept = checkpoint.next_pass({}, cg.Moments, 1)
            kept.keep(0, 0, [moments], [])
            path = tmp_path / "kept" / "pass-0" / "0-0.safetensors"
            whole = path.read_bytes()
            (node,) = kept.nodes()
            assert_same_bits(node.sums[0], moments)
            for place in range(len(whole)):
                content = bytearray(whole)
                content[place] ^= 1 << place % 8
                path.write_bytes(content)
                for found in kept.nodes():
                    # blanks that fill up the header may be any blanks
                    assert_same_bits(found.sums[0], moments)
                    assert whole[place : place + 1] == b" "

    def test_a_record_that_was_cut_before_anything_was_kept_is_written_anew(
        self, stores: list[Path], stopped: Path
    ) -> None:
        for path in (stopped / "pass-0").glob("*.safetensors"):
            path.unlink()
        os.truncate(stopped / "pass-0" / "run.json", 10)
        assert_same_bits(cg.accumulate(stores, checkpoint=stopped), cg.accumulate(stores))

    @pytest.mark.parametrize(
        "name", [".0-3.safetensors.x8_k2a", ".run.json.abcdefgh", ".tmpHqwBAG"]
    )
    def test_a_file_that_a_killed_run_had_not_finished_is_removed(
        self, stores: list[Path], stopped: Path, name: str
    ) -> None:
        (stopped / "pass-0" / name).write_bytes(b"half")
        assert_same_bits(cg.accumulate(stores, checkpoint=stopped), cg.accumulate(stores))
        assert not (stopped / "pass-0" / name).exists()

    def test_parts_of_another_run_are_of_no_use(
        self, stores: list[Path], stopped: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(StoppedError):
            cg.accumulate(
                stores[::-1], checkpoint=tmp_path / "other", progress=stop_after(5 * SEGMENT)
            )
        for path in (tmp_path / "other" / "pass-0").glob("*.safetensors"):
            path.replace(stopped / "pass-0" / path.name)
        assert_same_bits(cg.accumulate(stores, checkpoint=stopped), cg.accumulate(stores))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"normalize": True}, r"plan\.spaces|options\.normalize"),
            ({"precision": "fast"}, "precision was 'exact' and is 'fast'"),
            ({"folds": 2}, "folds"),
            ({"weights": np.ones(ROWS)}, "options.weights"),
        ],
    )
    def test_another_run_is_refused(
        self, stores: list[Path], stopped: Path, options: dict[str, Any], message: str
    ) -> None:
        before = nodes(stopped)
        with pytest.raises(InputError, match=message):
            cg.accumulate(stores, checkpoint=stopped, **options)
        assert nodes(stopped) == before

    def test_tiles_of_another_length_are_another_run(
        self, stores: list[Path], stopped: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As a GPU has them that has less memory left than it had."""
        monkeypatch.setattr(
            "crossgram.accumulation.make_plan",
            lambda *given, **options: replace(make_plan(*given, **options), tile_rows=512),
        )
        with pytest.raises(InputError, match="tile_rows was 1024 and is 512"):
            cg.accumulate(stores, checkpoint=stopped)

    def test_changed_rows_are_refused(
        self, stores: list[Path], stopped: Path, tmp_path: Path
    ) -> None:
        with cg.EmbeddingStore.create(tmp_path / "b.zarr", dim=7) as writer:
            writer.append(np.ones((ROWS, 7), "f4"), ids=[f"{k}" for k in range(ROWS)])
        with pytest.raises(InputError, match=r"is of another run, inputs\.1\.digest was"):
            cg.accumulate([stores[0], tmp_path / "b.zarr"], checkpoint=stopped)

    def test_what_came_into_the_folder_meanwhile_is_left_alone(self, stopped: Path) -> None:
        (stopped / "thesis.txt").write_text("years of work")
        clear_checkpoint(stopped)
        assert (stopped / "thesis.txt").read_text() == "years of work"

    def test_a_folder_of_the_user_is_left_alone(self, stores: list[Path], tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("years of work")
        with pytest.raises(InputError, match=r"holds thesis\.txt, which no checkpoint made"):
            cg.accumulate(stores, checkpoint=tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_killed_again_and_again_the_commands_give_the_same_files() -> None:
    """By SIGKILL, at random, with files damaged in between: the short form of the benchmark."""
    program = Path(__file__).parents[1] / "benchmarks" / "kills.py"
    options = ["--kills=12", "--segments=12", "--only=accumulate", "--only=fit, 3 folds"]
    done = subprocess.run(
        [sys.executable, str(program), *options, "--json"],
        stdout=subprocess.PIPE,
        check=False,
        timeout=240,
    )
    tallies = json.loads(done.stdout)
    assert done.returncode == 0, tallies
    for tally in tallies.values():
        assert tally["kills"] == 12
        assert tally["results"] >= 1
        assert tally["mismatches"] == 0
        assert tally["refusals"] == []
        # after each kill: segments begun and not kept, one per thread and one per damaged file
        assert tally["beyond"] == 0
        assert tally["most_redone"] <= 1


def test_two_runs_do_not_share_a_folder(stores: list[Path], tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from crossgram.checkpoint import opened_checkpoint\n"
        "with opened_checkpoint(Path('kept')):\n"
        "    print('there', flush=True)\n"
        "    time.sleep(60)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "there\n"
        with pytest.raises(InputError, match="another run is at work in it"):
            cg.accumulate(stores, checkpoint=tmp_path / "kept")
    finally:
        holder.kill()
        holder.wait()
    assert cg.accumulate(stores, checkpoint=tmp_path / "kept").rows == ROWS
