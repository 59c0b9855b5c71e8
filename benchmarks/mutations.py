"""Faults put into sums, solution and checkpoints by hand, one at a time, and who notices them.

Each mutation replaces one piece of text in a copy of the tree; the tests of that module then run
until the first failure. What no test notices survives, and is a test that is missing, or a change
that changes nothing: docs/guarantees.md tells which.
"""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from results import table, write

ROOT = Path(__file__).parents[1]
TESTS = {
    "merge_tree": ["test_checkpoint.py::TestTree", "test_accumulation.py::TestMergeTree"],
    "checkpoint": ["test_checkpoint.py", "-k", "not killed and not cluster and not worker"],
    "segment_sums": ["test_accumulation.py", "test_checkpoint.py::TestDamage"],
    "moments": ["test_moments.py", "test_numerical_faults.py"],
    "accumulator": ["test_numerical_faults.py", "test_moments.py", "test_accumulation.py"],
    "normal_equations": ["test_numerical_faults.py", "test_least_squares.py"],
    "least_squares": [
        "test_numerical_faults.py",
        "test_least_squares.py",
        "test_ridge.py::TestAbsurdStrengths",
    ],
}


@dataclass(frozen=True)
class Mutation:
    """A piece of text of a module, and what takes its place."""

    module: str
    old: str
    new: str


MUTATIONS = [
    Mutation(*parts)
    for parts in [
        ("moments", "weight = self.weight + other.weight", "weight = self.weight"),
        ("moments", "factor = self.weight * (other.weight / weight)", "factor = other.weight"),
        ("moments", "- other.means[k]) + (self", "- other.means[k]) - (self"),
        (
            "moments",
            " + (self.mean_tails[k] - other.mean_tails[k])\n",
            "\n",
        ),
        ("moments", "tail = self.mean_tails[k] + delta * share", "tail = delta * share"),
        ("moments", "mine + (sign * theirs + factor", "mine + (theirs + factor"),
        ("moments", "+ factor * delta * delta)", "+ factor * delta)"),
        ("moments", "strip -= others[rows]", "strip += others[rows]"),
        (
            "moments",
            "outer(factor * deltas[i][rows], deltas[j])",
            "outer(deltas[i][rows], deltas[j])",
        ),
        ("moments", "self.rows += sign * other.rows", "self.rows += other.rows"),
        ("moments", "self.skipped += sign * other.skipped", "self.skipped += 0"),
        ("moments", 'if other.rows and other.precision == "fast":', "if False:"),
        ("moments", "return block if i <= j else block.T", "return block"),
        (
            "moments",
            "self._move_means(deltas, other.weight / weight)\n        self._count(other, 1)",
            "pass\n        self._count(other, 1)",
        ),
        ("moments", "[tail.copy() for tail in other.mean_tails]", "other.mean_tails"),
        ("moments", "if self.weight == 0:  # a", "if False:  # a"),
        ("moments", '_check_finite("merge", self.spaces, squares)', "pass"),
        ("moments", "np.maximum(squares, 0.0, out=squares)", "pass"),
        ("moments", "(squares < 0).any()", "(squares < -1).any()"),
        ("normal_equations", "1.0 / np.sqrt(np.where", "1.0 / (np.where"),
        ("normal_equations", "scale[:, None] * matrix * scale", "scale[:, None] * matrix"),
        ("normal_equations", "values > max(rounding * values[-1], noise)", "values > 0"),
        ("normal_equations", "values > max(rounding", "values > max(1e6 * rounding"),
        ("normal_equations", "if smallest <= max(rounding * largest, noise):", "if smallest <= 0:"),
        ("normal_equations", "solution[scale == 0] = 0.0", "pass"),
        (
            "normal_equations",
            "np.linalg.norm(1 / values)) * skew(scale, vectors)",
            "np.linalg.norm(1 / values))",
        ),
        ("normal_equations", "np.sqrt(values[-1] / values[0])", "(values[-1] / values[0])"),
        ("normal_equations", "condition = float(np.sqrt(largest", "condition = float((largest"),
        ("normal_equations", "return max(size, 64) * epsilon", "return epsilon"),
        ("normal_equations", 'known, trans="T")', "known)"),
        ("normal_equations", "self.scale**2 * inverse", "self.scale * inverse"),
        ("least_squares", "mean_y - mean_x @ coefficients", "mean_y + mean_x @ coefficients"),
        (
            "least_squares",
            "np.maximum(normal.diagonal(), 0.0) + ridge",
            "normal.diagonal() - ridge",
        ),
        (
            "least_squares",
            "coefficients[:, is_rounding(moments.squares[j], moments, target)] = 0.0",
            "pass",
        ),
        ("least_squares", "moments.rows - intercept)", "moments.rows)"),
        ("least_squares", "return 0.0  # what", "pass  # what"),
        ("least_squares", "if moments.rows <= unknowns:", "if moments.rows < unknowns:"),
        ("least_squares", "0 <= float(ridge) < math.inf", "0 <= float(ridge)"),
        ("least_squares", "ridge < epsilon * least or epsilon * ridge > whole", "False"),
        ("least_squares", "error = SUM_ROUNDING * EPSILON", "error = 1e-3 * EPSILON"),
        ("accumulator", "raw_squares[k] - sums * (sums / weight)", "raw_squares[k]"),
        (
            "accumulator",
            "np.subtract(gram[rows], out[rows], out=out[rows])",
            "out[rows] = gram[rows]",
        ),
        (
            "accumulator",
            "two_sum(self._shifts[k], sums / weight)",
            "two_sum(self._shifts[k], sums)",
        ),
        ("accumulator", "self._rows >= self._run_rows or 0 <", "0 <"),
        ("accumulator", "_OUTWEIGHS * self._weight < weight", "False"),
        ("accumulator", "kernels.scale_rows(tile, roots)", "kernels.scale_rows(tile, weights)"),
        ("accumulator", "self._skipped += int(rows - keep.sum())", "pass"),
        ("accumulator", "self._refuse_underflow(", "list("),
        ("accumulator", 'result.check_finite("accumulate")', "pass"),
        (
            "accumulator",
            "astype(self._dtype)\n            tile",
            "astype(self._dtype) * 0\n            tile",
        ),
        ("accumulator", "_mirror(blocks[i, j])", "pass"),
        (
            "accumulator",
            "self._rows += rows if weights is None else int(np.count_nonzero(weights))",
            "self._rows += rows",
        ),
        ("segment_sums", "weights=None if own is None else own[rows]", "weights=None"),
        (
            "segment_sums",
            "masked=None if block.masked is None else block.masked[rows]",
            "masked=None",
        ),
        ("segment_sums", "[each[rows] for each in numbers]", "numbers"),
        (
            "segment_sums",
            "return (*self.preconditioner.centres, self.preconditioner.triangle)",
            "return ()",
        ),
        ("segment_sums", "return self.coefficients, self.bias", "return (self.coefficients,)"),
        ("segment_sums", "int(rows[-1]) + 1)", "int(rows[-1]))"),
        ("merge_tree", "left = neighbour[1] < index", "left = True"),
        ("merge_tree", "absorbed.append(neighbour)", "pass"),
        ("merge_tree", "index ^ 1", "index + 1"),
        ("merge_tree", "is_kept, absorbed = True, []", "is_kept = True"),
        ("checkpoint", 'facts["run"] != self._run', "False"),
        ("checkpoint", 'facts["checksum"] != _checksum(tensors, described)', "False"),
        ("checkpoint", "self._spent[:] = absorbed", "self._spent += absorbed"),
        ("checkpoint", "for place in self._spent:", "for place in absorbed:"),
        ("checkpoint", "self._spent.append((level, index))", "self._path(level, index).unlink()"),
        (
            "checkpoint",
            "_check_same(folder, parsed(document))\n            else",
            "pass\n            else",
        ),
        ("checkpoint", "fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB"),
        ("checkpoint", "            path.unlink()\n", "            pass\n"),
        ("checkpoint", "    if strange:\n", "    if False:\n"),
        ("checkpoint", "reverse=True", "reverse=False"),
        ("checkpoint", "if not _strangers(folder):", "if True:"),
    ]
]


def survives(mutation: Mutation, copy: Path, limit: float) -> bool:
    """Tell whether the tests of a mutated module pass; the copy is as it was afterwards."""
    module = copy / "engine" / "crossgram" / f"{mutation.module}.py"
    text = module.read_text("utf-8")
    if text.count(mutation.old) != 1:
        raise click.ClickException(f"{mutation}: found {text.count(mutation.old)} times, not once")
    module.write_text(text.replace(mutation.old, mutation.new), "utf-8")
    try:
        return passes(TESTS[mutation.module], copy, limit)
    finally:
        module.write_text(text, "utf-8")


def passes(tests: Sequence[str], copy: Path, limit: float) -> bool:
    """Run some tests until the first failure; one that hangs fails."""
    chosen = [f"tests/{part}" if part.startswith("test_") else part for part in tests]
    command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *chosen]
    sources = os.pathsep.join(str(copy / root) for root in ("engine", "cli"))
    process = subprocess.Popen(
        command,
        cwd=copy,
        env=os.environ | {"PYTHONPATH": sources},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(limit) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        # workers that tests have started, too
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@click.command()
@click.option("--only", multiple=True, type=click.Choice([*TESTS]), help="Instead of all modules.")
@click.option("--limit", default=300.0, show_default=True, help="Seconds of the tests of a module.")
@click.option("--jobs", default=2, show_default=True, help="Copies of the tree, side by side.")
def main(only: tuple[str, ...], limit: float, jobs: int) -> None:
    """Mutate, test, and write to RESULTS.md."""
    # by the time that their tests take
    order = [module for module in TESTS if not only or module in only]
    chosen = sorted(
        (one for one in MUTATIONS if one.module in order), key=lambda one: order.index(one.module)
    )
    began = time.monotonic()
    with TemporaryDirectory() as place, ThreadPoolExecutor(jobs) as pool:
        copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for k in range(jobs):
            ignored = shutil.ignore_patterns(".*", "build", "dist")
            copies.put(Path(shutil.copytree(ROOT, Path(place) / str(k), ignore=ignored)))

        def sound(module: str) -> bool:
            with _taken(copies) as copy:
                return passes(TESTS[module], copy, limit)

        def alive(mutation: Mutation) -> bool:
            with _taken(copies) as copy:
                found = survives(mutation, copy, limit)
            print(f"{'SURVIVES' if found else 'noticed'}: {mutation}", flush=True)
            return found

        for module, is_sound in zip(order, pool.map(sound, order), strict=True):
            if not is_sound:
                raise click.ClickException(f"{module}: its tests fail without a mutation")
        survivors = [
            one for one, is_alive in zip(chosen, pool.map(alive, chosen), strict=True) if is_alive
        ]
    if only:
        return
    rows = [[f"`{one.module}`", _code(one.old), _code(one.new)] for one in survivors]
    write(
        "mutations",
        f"## Mutations\n\n{len(chosen)} faults, {len(chosen) - len(survivors)} noticed by the "
        f"modules' own tests, in {(time.monotonic() - began) / 60:.0f} minutes. These were not:\n\n"
        + table(["module", "of", "became"], rows),
    )


@contextmanager
def _taken(copies: queue.SimpleQueue[Path]) -> Iterator[Path]:
    copy = copies.get()
    try:
        yield copy
    finally:
        copies.put(copy)


def _code(text: str) -> str:
    return f"`{' '.join(text.split())}`".replace("|", "\\|")


if __name__ == "__main__":
    main()
