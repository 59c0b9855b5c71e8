"""What a person at the command line sees."""

from __future__ import annotations

import json
import os
import pty
import re
import resource
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from command_line import ENTRY, crossgram, interrupted, refused, succeeds
from strategies import mask_of, write_store

import crossgram as cg
from crossgram_cli.main import _COMMANDS, cli

ROWS, P, Q = 600, 12, 7


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two paired stores with ids and labels, and the same rows as .npy files."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(5)
    x = (rng.normal(size=(ROWS, P)) + 3).astype(np.float32)
    y = (x @ rng.normal(size=(P, Q)) + rng.normal(size=(ROWS, Q))).astype(np.float32)
    ids = [f"person-{row // 5}/{row % 5}.jpg" for row in range(ROWS)]
    labels = [f"person-{row // 5}" for row in range(ROWS)]
    for name, rows in (("a", x), ("b", y)):
        np.save(folder / f"{name}.npy", rows)
        with cg.EmbeddingStore.create(folder / f"{name}.zarr", rows.shape[1]) as writer:
            writer.append(rows, ids=ids, labels=labels)
    return folder


def reference(data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Least squares by QR in float64."""
    x, y = (np.load(data / f"{name}.npy").astype(np.float64) for name in "ab")
    solution = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), y, rcond=None)[0]
    return solution[:-1].T, solution[-1]


def assert_near(found: np.ndarray, expected: np.ndarray) -> None:
    # condition of these rows is below 1e2, so that normal equations lose at most 4 of 16 digits
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * np.abs(expected).max())


class TestFit:
    def test_writes_the_least_squares_map(self, data: Path, tmp_path: Path) -> None:
        result = succeeds("fit", data / "a.zarr", data / "b.zarr", "-o", "m", cwd=tmp_path)
        fitted = cg.LinearMap.load(tmp_path / result["map"])
        weight, bias = reference(data)
        assert_near(fitted.weight, weight)
        assert_near(fitted.bias, bias)

    def test_json_has_the_facts_that_pipelines_rely_on(self, data: Path, tmp_path: Path) -> None:
        result = succeeds("fit", data / "a.npy", data / "b.npy", "-o", "m", cwd=tmp_path)
        assert result["rows"] == ROWS
        assert (result["source_dim"], result["target_dim"]) == (P, Q)
        assert result["bytes_read"] == ROWS * (P + Q) * 4
        assert result["rank"] == P
        assert result["passes"] == 1
        assert result["backend"] == "numpy"
        assert result["precision"] == "exact"
        assert result["seconds"] * result["rows_per_second"] == pytest.approx(ROWS)
        at_best = result["flops"] / result["ceiling_flops_per_second"]
        assert result["share_of_ceiling"] == pytest.approx(at_best / result["seconds"])
        assert result["peak_memory_bytes"] > 0
        assert result["planned_memory_bytes"] > 0
        assert 0.9 < result["r2"] < 1
        assert result["digits"] > 9
        assert result["condition"] >= 1

    def test_kept_moments_solve_to_the_same_map(self, data: Path, tmp_path: Path) -> None:
        stores = data / "a.zarr", data / "b.zarr"
        succeeds("fit", *stores, "-o", "m", "--moments", "s", "--ridge", 2, cwd=tmp_path)
        succeeds("solve", "s", "-o", "again", "--ridge", 2, cwd=tmp_path)
        fitted, again = (cg.LinearMap.load(tmp_path / name) for name in ("m", "again"))
        np.testing.assert_array_equal(fitted.weight, again.weight)

    def test_folds_by_label_add_a_held_out_r2(self, data: Path, tmp_path: Path) -> None:
        stores = data / "a.zarr", data / "b.zarr"
        result = succeeds(
            "fit", *stores, "-o", "m", "--folds", 4, "--group-by", "labels", cwd=tmp_path
        )
        assert result["folds"] == 4
        assert result["cross_validated_r2"] < result["r2"]

    def test_without_intercept(self, data: Path, tmp_path: Path) -> None:
        succeeds("fit", data / "a.npy", data / "b.npy", "-o", "m", "--no-intercept", cwd=tmp_path)
        fitted = cg.LinearMap.load(tmp_path / "m")
        x, y = (np.load(data / f"{name}.npy").astype(np.float64) for name in "ab")
        assert_near(fitted.weight, np.linalg.lstsq(x, y, rcond=None)[0].T)
        assert not fitted.bias.any()

    def test_weights_of_zero_leave_rows_out(self, data: Path, tmp_path: Path) -> None:
        weights = (np.arange(ROWS) < 400).astype(float)
        np.save(tmp_path / "w.npy", weights)
        for name in "ab":
            np.save(tmp_path / f"{name}.npy", np.load(data / f"{name}.npy")[:400])
        succeeds("fit", "a.npy", "b.npy", "-o", "part", cwd=tmp_path)
        pair = data / "a.npy", data / "b.npy"
        succeeds("fit", *pair, "-o", "weighted", "--weights", "w.npy", cwd=tmp_path)
        part, weighted = (cg.LinearMap.load(tmp_path / name) for name in ("part", "weighted"))
        assert_near(weighted.weight, part.weight)

    def test_text_names_map_and_figures(self, data: Path, tmp_path: Path) -> None:
        done = crossgram("fit", data / "a.npy", data / "b.npy", "-o", "m", cwd=tmp_path)
        assert done.returncode == 0
        assert done.stderr == ""
        assert "a (12) to b (7)" in done.stdout
        assert "rank       12 of 12" in done.stdout


class TestOtherCommands:
    def test_any_map_comes_from_accumulated_moments(self, data: Path, tmp_path: Path) -> None:
        stores = data / "a.zarr", data / "b.zarr", data / "a.npy"
        result = succeeds("accumulate", *stores, "-o", "mo", cwd=tmp_path)
        assert [space["name"] for space in result["spaces"]] == ["a", "b", "a-2"]
        succeeds("solve", "mo", "--source", "a", "--target", "b", "-o", "ab", cwd=tmp_path)
        assert_near(cg.LinearMap.load(tmp_path / "ab").weight, reference(data)[0])
        succeeds("solve", "mo", "--source", "a", "--target", "a-2", "-o", "aa", cwd=tmp_path)
        assert_near(cg.LinearMap.load(tmp_path / "aa").weight, np.eye(P))

    def test_only_the_blocks_of_named_maps_are_kept(self, data: Path, tmp_path: Path) -> None:
        stores = data / "a.zarr", data / "b.zarr"
        result = succeeds("accumulate", *stores, "-o", "mo", "--map", "a:b", cwd=tmp_path)
        assert result["blocks"] == [["a", "a"], ["a", "b"]]
        message = refused("solve", "mo", "--source", "b", "--target", "a", "-o", "m", cwd=tmp_path)
        assert "b x b was not kept" in message

    def test_apply_carries_ids_and_labels_over(self, data: Path, tmp_path: Path) -> None:
        succeeds("fit", data / "a.zarr", data / "b.zarr", "-o", "m", cwd=tmp_path)
        result = succeeds("apply", "m", data / "a.zarr", "out.zarr", cwd=tmp_path)
        assert (result["rows"], result["dim"]) == (ROWS, Q)
        mapped, target = (
            cg.EmbeddingStore.open(p) for p in (tmp_path / "out.zarr", data / "b.zarr")
        )
        for name in ("ids", "labels"):
            found, expected = (getattr(s, name).read(0, ROWS) for s in (mapped, target))
            np.testing.assert_array_equal(found, expected)

    def test_plan_reads_nothing_and_adds_up(self, data: Path, tmp_path: Path) -> None:
        options = "--normalize-only", "source"
        plan = succeeds("plan", data / "a.zarr", data / "b.zarr", *options, cwd=tmp_path)
        assert plan["bytes_to_read"] == ROWS * (P + Q) * 4
        assert sum(plan["memory"].values()) == plan["planned_memory_bytes"]

    @pytest.mark.parametrize("name", ["a.zarr", "a.npy", "a.zarr/embeddings"])
    def test_inspect_tells_what_rows_there_are(self, data: Path, tmp_path: Path, name: str) -> None:
        result = succeeds("inspect", data / name, "--validate", cwd=tmp_path)
        assert result["validated"]
        assert (result["rows"], result["dim"], result["dtype"]) == (ROWS, P, "float32")

    def test_masked_rows_are_told_left_out_and_kept_masked(
        self, data: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(data / "b.zarr", tmp_path / "b.zarr")
        rows, masked = np.load(data / "a.npy"), mask_of(ROWS, 4, 5, 300)
        write_store(tmp_path / "a.zarr", rows, masked=masked)
        shown = succeeds("inspect", "a.zarr", "--validate", cwd=tmp_path)
        assert (shown["masked"], shown["validated"]) == (3, True)
        assert re.search(r"(?m)^masked +3$", crossgram("inspect", "a.zarr", cwd=tmp_path).stdout)
        assert succeeds("inspect", "b.zarr", cwd=tmp_path)["masked"] is None
        assert "masked" not in crossgram("inspect", "b.zarr", cwd=tmp_path).stdout
        fitted = succeeds("fit", "a.zarr", "b.zarr", "-o", "m", cwd=tmp_path)
        assert (fitted["rows"], fitted["skipped"]) == (ROWS - 3, 3)
        succeeds("apply", "m", "a.zarr", "out.zarr", cwd=tmp_path)
        assert succeeds("inspect", "out.zarr", "--validate", cwd=tmp_path)["masked"] == 3
        zarr.open_group(tmp_path / "a.zarr")["embeddings"][5, 0] = 1.0
        message = refused("inspect", "a.zarr", "--validate", cwd=tmp_path)
        assert "a.zarr: row 5 is masked but holds values, expected NaN only" in message

    def test_inspect_shows_a_maps_certificate(self, data: Path, tmp_path: Path) -> None:
        succeeds("fit", data / "a.npy", data / "b.npy", "-o", "m", cwd=tmp_path)
        result = succeeds("inspect", "m", cwd=tmp_path)
        assert result["kind"] == "map"
        assert result["certificate"]["rank"] == P

    @pytest.mark.parametrize("name", _COMMANDS)
    def test_help_has_an_example(self, name: str) -> None:
        shown = CliRunner().invoke(cli, [name, "--help"])
        assert shown.exit_code == 0
        assert f"crossgram {name}" in shown.output.partition("Example")[2]

    def test_completion_script_is_offered(self, tmp_path: Path) -> None:
        script = "import sys; sys.argv = ['crossgram']; from crossgram_cli.main import main; main()"
        environment = {**os.environ, "_CROSSGRAM_COMPLETE": "bash_source"}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True
        )
        assert "complete -o nosort" in done.stdout


class TestRefusals:
    def test_different_row_counts(self, data: Path, tmp_path: Path) -> None:
        np.save(tmp_path / "short.npy", np.load(data / "b.npy")[:-1])
        message = refused("fit", data / "a.npy", "short.npy", "-o", "m", cwd=tmp_path)
        assert "600 rows" in message
        assert "599" in message

    def test_different_ids_name_the_first_row(self, data: Path, tmp_path: Path) -> None:
        with cg.EmbeddingStore.create(tmp_path / "c.zarr", Q) as writer:
            ids = [f"person-{row // 5}/{row % 5}.jpg" for row in range(ROWS)]
            ids[41], ids[42] = ids[42], ids[41]
            writer.append(np.load(data / "b.npy"), ids=ids)
        message = refused("fit", data / "a.zarr", "c.zarr", "-o", "m", cwd=tmp_path)
        assert "row 41 is 'person-8/1.jpg'" in message
        assert "600 ids are in both" in message
        assert "--join ids" in message
        joined = succeeds(
            "fit", data / "a.zarr", "c.zarr", "-o", "m", "--join", "ids", cwd=tmp_path
        )
        assert joined["rows"] == ROWS

    def test_no_such_path(self, data: Path, tmp_path: Path) -> None:
        message = refused("fit", "nowhere.zarr", data / "b.npy", "-o", "m", cwd=tmp_path)
        assert "nowhere.zarr: no such file" in message

    def test_a_folder_that_is_no_store(self, data: Path, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        assert "not a Zarr store" in refused(
            "fit", "empty", data / "b.npy", "-o", "m", cwd=tmp_path
        )

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_nonfinite_values_name_store_and_row(
        self, data: Path, tmp_path: Path, value: float, refused_here: Callable[..., str]
    ) -> None:
        rows = np.load(data / "b.npy")
        rows[[77, 300], 3] = value
        np.save(tmp_path / "bad.npy", rows)
        message = refused_here("fit", data / "a.npy", "bad.npy", "-o", "m", cwd=tmp_path)
        assert f"bad.npy: row 77 holds {value} in column 3" in message
        result = succeeds(
            "fit", data / "a.npy", "bad.npy", "-o", "m", "--on-nonfinite", "skip", cwd=tmp_path
        )
        assert (result["rows"], result["skipped"]) == (ROWS - 2, 2)

    @pytest.mark.parametrize("rows", [np.ones((9, 3), int), np.full((9, 3), "x"), np.ones((0, 3))])
    def test_rows_that_are_not_embeddings(
        self, data: Path, tmp_path: Path, rows: np.ndarray, refused_here: Callable[..., str]
    ) -> None:
        np.save(tmp_path / "odd.npy", rows)
        message = refused_here("fit", "odd.npy", data / "b.npy", "-o", "m", cwd=tmp_path)
        assert message.startswith("Error: odd.npy: has")

    @pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
    def test_a_damaged_chunk_is_named(
        self, data: Path, tmp_path: Path, damage: str, refused_here: Callable[..., str]
    ) -> None:
        with cg.EmbeddingStore.create(tmp_path / "x.zarr", P, chunk_rows=256) as writer:
            writer.append(np.load(data / "a.npy"))
        chunk = tmp_path / "x.zarr" / "embeddings" / "c" / "1" / "0"
        content = bytearray(chunk.read_bytes())
        content[len(content) // 2] ^= 1
        chunk.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
        if damage == "remove":
            chunk.unlink()
        message = refused_here("fit", "x.zarr", data / "b.npy", "-o", "m", cwd=tmp_path)
        assert "x.zarr: chunk c/1/0 (rows 256 to 511)" in message
        assert not (tmp_path / "m").exists()

    def test_an_output_that_exists_is_kept(self, data: Path, tmp_path: Path) -> None:
        (tmp_path / "m").write_text("precious")
        pair = data / "a.npy", data / "b.npy"
        assert "already exists" in refused("fit", *pair, "-o", "m", cwd=tmp_path)
        assert (tmp_path / "m").read_text() == "precious"
        succeeds("fit", *pair, "-o", "m", "--overwrite", cwd=tmp_path)

    def test_an_output_directory_that_is_not_there(self, data: Path, tmp_path: Path) -> None:
        message = refused("fit", data / "a.npy", data / "b.npy", "-o", "no/m", cwd=tmp_path)
        assert "the directory no does not exist" in message

    def test_a_moments_file_that_is_a_map(self, data: Path, tmp_path: Path) -> None:
        succeeds("fit", data / "a.npy", data / "b.npy", "-o", "m", cwd=tmp_path)
        assert "holds map, expected moments" in refused("solve", "m", "-o", "n", cwd=tmp_path)

    def test_memory_that_cannot_suffice(self, data: Path, tmp_path: Path) -> None:
        pair = data / "a.npy", data / "b.npy"
        message = refused("fit", *pair, "-o", "m", "--memory", "1MB", cwd=tmp_path)
        assert "1,000,000 bytes given" in message

    @pytest.mark.parametrize(
        "arguments",
        [
            ("--ridge", "-1"),
            ("--folds", "1"),
            ("--memory", "lots"),
            ("--group-by", "labels", "--folds", "2"),
            ("--weights", "a.npy"),
        ],
    )
    def test_options_that_make_no_sense(
        self,
        data: Path,
        tmp_path: Path,
        arguments: tuple[str, ...],
        refused_here: Callable[..., str],
    ) -> None:
        for name in "ab":
            np.save(tmp_path / f"{name}.npy", np.load(data / f"{name}.npy"))
        refused_here("fit", "a.npy", "b.npy", "-o", "m", *arguments, cwd=tmp_path)
        assert not (tmp_path / "m").exists()

    def test_debug_shows_the_traceback(self, tmp_path: Path) -> None:
        done = crossgram("inspect", "nothing", "--debug", cwd=tmp_path)
        assert done.returncode == 2
        assert "Traceback" in done.stderr


class TestWhatIsReadIsNeverReplaced:
    @pytest.mark.parametrize("command", ["fit", "accumulate"])
    def test_by_weights(self, data: Path, tmp_path: Path, command: str) -> None:
        np.save(tmp_path / "w.npy", np.ones(ROWS))
        stores = data / "a.zarr", data / "b.zarr"
        options = "-o", "w.npy", "--weights", "w.npy", "--overwrite"
        assert "would be replaced" in refused(command, *stores, *options, cwd=tmp_path)

    @pytest.mark.parametrize("inside", ["zarr.json", "embeddings/c/0/0", "new"])
    def test_by_files_inside_a_store(self, data: Path, tmp_path: Path, inside: str) -> None:
        shutil.copytree(data / "a.zarr", tmp_path / "a.zarr")
        options = "-o", f"a.zarr/{inside}", "--overwrite"
        message = refused("fit", "a.zarr", data / "b.zarr", *options, cwd=tmp_path)
        assert "lies inside a.zarr, which is read" in message
        assert succeeds("inspect", "a.zarr", "--validate", cwd=tmp_path)["rows"] == ROWS


class TestHardCases:
    def test_fewer_rows_than_columns_is_solved_and_said(self, data: Path, tmp_path: Path) -> None:
        for name in "ab":
            np.save(tmp_path / f"{name}.npy", np.load(data / f"{name}.npy")[:8])
        result = succeeds("fit", "a.npy", "b.npy", "-o", "m", cwd=tmp_path)
        assert result["method"] == "minimum norm"
        assert result["rank"] == 7
        assert any("8 rows for 13 coefficients" in note for note in result["notes"])

    def test_constant_columns_are_solved(self, data: Path, tmp_path: Path) -> None:
        rows = np.load(data / "a.npy")
        rows[:, 4] = 0.1
        np.save(tmp_path / "a.npy", rows)
        result = succeeds("fit", "a.npy", data / "b.npy", "-o", "m", cwd=tmp_path)
        assert result["rank"] == P - 1
        assert not cg.LinearMap.load(tmp_path / "m").weight[:, 4].any()


class TestOutputs:
    @pytest.mark.parametrize("out", ["x.npy", "y.npy"])
    def test_never_take_the_place_of_inputs(self, tmp_path: Path, out: str) -> None:
        rows = np.random.default_rng(0).standard_normal((20, 3))
        for name in ("x.npy", "y.npy"):
            np.save(tmp_path / name, rows)
        message = refused("fit", "x.npy", "y.npy", "-o", out, "--overwrite", cwd=tmp_path)
        assert "would be replaced" in message
        np.testing.assert_array_equal(np.load(tmp_path / out), rows)


class TestInterruptions:
    def test_a_full_disk_leaves_nothing_and_fails(self, data: Path, tmp_path: Path) -> None:
        succeeds("fit", data / "a.npy", data / "b.npy", "-o", "m", cwd=tmp_path)

        def no_room() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

        for arguments in (
            ("apply", "m", data / "a.npy", "out.zarr"),
            ("fit", data / "a.npy", data / "b.npy", "-o", "other"),
            ("fit", data / "a.npy", data / "b.npy", "-o", "m", "--overwrite"),
        ):
            done = crossgram(*arguments, cwd=tmp_path, before=no_room)
            assert done.returncode == 1, done.stderr
            assert "Traceback" not in done.stderr
            assert "cannot be written" in done.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["m"]
        cg.LinearMap.load(tmp_path / "m")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_stopping_in_the_middle_leaves_nothing_half_written(
        self, tmp_path: Path, number: signal.Signals
    ) -> None:
        rows, dim = 4_000_000, 64
        header = tmp_path / "x.npy"
        np.lib.format.open_memmap(header, "w+", np.float32, (rows, dim)).flush()
        cg.LinearMap(
            np.ones((dim, dim)), np.zeros(dim), cg.Space("x", dim), cg.Space("y", dim)
        ).save(tmp_path / "m")
        before = sorted(tmp_path.iterdir())
        message = interrupted(
            "apply",
            "m",
            "x.npy",
            "out.zarr",
            cwd=tmp_path,
            number=number,
            once=".out.zarr.*/embeddings/c/3",
        )
        assert "Interrupted" in message
        assert "Traceback" not in message
        assert sorted(tmp_path.iterdir()) == before

    def test_progress_is_drawn_on_a_terminal_only(self, data: Path, tmp_path: Path) -> None:
        leader, follower = pty.openpty()
        termios.tcsetwinsize(follower, (24, 100))
        done = subprocess.run(
            [*ENTRY, "fit", str(data / "a.npy"), str(data / "b.npy"), "-o", "m", "--json"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=follower,
            check=True,
        )
        os.close(follower)
        drawn = os.read(leader, 65536).decode()
        assert "accumulate" in drawn
        assert "row/s" in drawn
        assert json.loads(done.stdout)["rows"] == ROWS


class TestStartUp:
    @pytest.mark.parametrize("heavy", ["numpy", "scipy", "zarr", "torch", "dask", "safetensors"])
    def test_importing_the_library_imports_nothing_heavy(self, heavy: str) -> None:
        code = f"import sys, crossgram, crossgram_cli.main; print({heavy!r} in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout == "False\n"

    def test_help_imports_nothing_heavy(self) -> None:
        code = (
            "import sys\nfrom click.testing import CliRunner\nfrom crossgram_cli.main import cli\n"
            "CliRunner().invoke(cli, ['--help'])\nprint('numpy' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout == "False\n"
