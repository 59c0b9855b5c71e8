"""Runs with --checkpoint, killed at random moments: the same bits, and how much is done twice.

Every run is the real command in a process group of its own, forked from this one so that it
starts in milliseconds, and ended by SIGKILL. In between, the newest file of what it kept is cut or
gets a bit flipped, as after a power cut, and the number of threads changes.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
from results import table, write

import crossgram as cg
import crossgram.accumulation
import crossgram.checkpoint
import crossgram.cluster_sums
import crossgram.fitting
from crossgram_cli.main import main as command_line

SEGMENT = 16_384
_P, _Q = 96, 16
SEGMENT_BYTES = SEGMENT * (_P + _Q) * 4
Way = tuple[str, int]
"""The option that a run gets, and how many segments it works on at once by that."""

_THREADS = tuple(("--threads", n) for n in (1, 2, 3))
CASES: dict[str, tuple[list[str], tuple[Way, ...]]] = {
    "accumulate": (["accumulate"], _THREADS),
    "fit, 3 folds": (["fit", "--folds", "3"], _THREADS),
    "fit, 3 passes": (["fit", "--digits", "14"], _THREADS),
    "accumulate, 2 workers": (["accumulate"], (("--workers", 2),)),
}


@dataclass
class Tally:
    """What happened in the runs of one command.

    Attributes
    ----------
    runs, kills : int
        Processes that were started, and those of them that were killed while at work.
    results : int
        Runs that came to their end.
    mismatches : int
        Results that were not those of a run that was never stopped, to the last bit.
    refusals : list of str
        What runs said that failed by themselves, and not as they should.
    refused : int
        Runs that stopped as they should at what was wrong with their inputs.
    cut, flipped : int
        Files that were damaged between two runs.
    begun : int
        Segments that were begun.
    redone : int
        Of these, ones that had been begun, or were done, in an earlier run.
    most_redone : int
        By one worker, after one kill: the most of all kills, but for files that were damaged.
    beyond : int
        Kills after which more were done again than one per worker and damaged file.
    """

    runs: int = 0
    kills: int = 0
    results: int = 0
    mismatches: int = 0
    refusals: list[str] = field(default_factory=list)
    refused: int = 0
    cut: int = 0
    flipped: int = 0
    begun: int = 0
    redone: int = 0
    most_redone: float = 0.0
    beyond: int = 0


class Log:
    """What runs say of the segments that they begin and find, in a file that survives them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pass = -1

    def install(self) -> None:
        """Have this process, which becomes a run, and its workers say it."""
        add_block, next_pass = cg.accumulation.add_block, cg.checkpoint.Checkpoint.next_pass
        nodes, path = cg.checkpoint.Kept.nodes, self.path
        write_tensors = cg.checkpoint.write_tensors

        def begin(block: Any, *rest: Any) -> None:
            if block.start == block.segment.start:
                _say(path, f"begun {self._pass} {block.segment.index}")
            add_block(block, *rest)

        def begin_pass(*given: Any) -> Any:
            self._pass += 1
            return next_pass(*given)

        def find(kept: Any) -> Any:
            found = nodes(kept)
            covered = [k for n in found for k in range(n.index << n.level, n.index + 1 << n.level)]
            _say(path, " ".join(["found", str(self._pass), *map(str, covered)]))
            return found

        def keep(file: Path, *rest: Any, **options: Any) -> None:
            write_tensors(file, *rest, **options)
            _say(path, f"kept {self._pass} {file.name.removesuffix('.safetensors')}")

        def on_worker(part: Any, job: Any, *arrays: Any) -> Any:
            import crossgram.cluster_sums  # there, it is the library's own

            _say(path, f"begun 0 {part.segment.index}")
            return crossgram.cluster_sums._segment(part, job, *arrays)

        for module, name, new in (
            (crossgram.accumulation, "add_block", begin),
            (crossgram.cluster_sums, "_segment", on_worker),
            (crossgram.checkpoint.Checkpoint, "next_pass", begin_pass),
            (crossgram.checkpoint.Kept, "nodes", find),
            (crossgram.checkpoint, "write_tensors", keep),
        ):
            setattr(module, name, new)

    def read(self) -> tuple[dict[int, set[int]], dict[int, set[int]], Path | None]:
        """Return the segments of each pass that were found, those begun, and the last file."""
        found: dict[int, set[int]] = {}
        begun: dict[int, set[int]] = {}
        newest = None
        for line in self.path.read_text("ascii").splitlines() if self.path.exists() else ():
            what, number, *segments = line.split()
            if what == "kept":
                newest = Path(f"pass-{number}", f"{segments[0]}.safetensors")
                continue
            own = (found if what == "found" else begun).setdefault(int(number), set())
            own |= {int(segment) for segment in segments}
        return found, begun, newest


def _say(path: Path, line: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{line}\n".encode())
    os.close(file)


def started(arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> int:
    """Start the command in a process of its own, which says in `log` what it does."""
    process = os.fork()
    if process:
        return process
    try:
        os.setsid()
        os.chdir(folder)
        os.environ.update(environment)
        for number, name in ((1, "output"), (2, "errors")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        Log(folder / "log").install()
        command_line(list(arguments))
    except SystemExit as error:
        os._exit(int(error.code or 0))
    finally:
        os._exit(70)
    raise AssertionError


def ended(process: int, kill_after: float | None, folder: Path) -> int:
    """Wait for a run, or kill it some seconds after it is at work; return its exit status."""
    while kill_after is not None and not (folder / "log").exists():
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.0005)
    if kill_after is not None:
        time.sleep(kill_after)
        with suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status)


class Case:
    """One command, run again and again.

    Parameters
    ----------
    command : tuple of (list of str, sequence of Way)
        Its arguments, and the options of which each run gets one.
    stores : sequence of path or URL
        What it reads.
    segments : int
        That the rows make.
    folder : Path
        An empty one.
    chance : Random
        What decides.
    environment : mapping, optional
        What its processes have besides this one's.
    """

    def __init__(
        self,
        command: tuple[Sequence[str], Sequence[Way]],
        stores: Sequence[Path | str],
        segments: int,
        folder: Path,
        chance: random.Random,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        (name, *options), self._ways = command
        self._arguments = [name, *map(str, stores), *options, "-o", "found"]
        self._read = _map_bits if name == "fit" else _moment_bits
        self._segments = segments
        self._folder = folder
        self._chance = chance
        self._environment = environment or {}
        self._newest: Path | None = None
        self._had: dict[int, set[int]] = {}
        self._damages: dict[int, int] = {}
        self._workers: dict[int, int] = {}
        self._seconds = 0.0
        self.tally = Tally()

    def run(self, kills: int, until: float) -> Tally:
        """Kill until there were so many kills, or until a time."""
        self.prepare()
        while self.tally.kills < kills and time.monotonic() < until:
            self.kill_one()
        self.run_one()
        return self.tally

    def prepare(self) -> None:
        """Run once without a checkpoint, for the result that all others must give."""
        began = time.monotonic()
        if self._started_and_ended([*self._arguments, *map(str, self._ways[0])], None):
            raise click.ClickException(self._errors())
        self._seconds = time.monotonic() - began
        self._expected = self._read(self._folder / "found")
        (self._folder / "found").unlink()

    def kill_one(self, refusal: str | None = None) -> bool:
        """Run until it is killed, or ends before; `refusal` as in `run_one`."""
        # early, in the middle, late; sometimes while the end is being written
        share = self._chance.choice([0.1, 0.3, 1.0])
        return self.run_one(self._chance.uniform(0, self._seconds * share), refusal)

    def run_one(self, kill_after: float | None = None, refusal: str | None = None) -> bool:
        """Run, hold the result against the right one, and damage what it kept, now and then.

        Parameters
        ----------
        kill_after : float, optional
            Seconds from when it is at work.
        refusal : str, optional
            A pattern of what it may say if it stops by itself; by default it may not.

        Returns
        -------
        bool
            Whether it stopped by itself, as it may.
        """
        way, lanes = self._chance.choice(self._ways)
        arguments = [*self._arguments, way, str(lanes), "--checkpoint", "kept"]
        self.tally.runs += 1
        status = self._started_and_ended(arguments, kill_after)
        self._count(lanes)
        has_refused = False
        if status == -signal.SIGKILL:
            self.tally.kills += 1
        elif status:
            has_refused = refusal is not None and _is_refusal(self._errors(), refusal)
            if has_refused:
                self.tally.refused += 1
            else:
                self.tally.refusals.append(self._errors())
                shutil.rmtree(self._folder / "kept", ignore_errors=True)
        if (self._folder / "found").exists():
            self.tally.results += 1
            found = self._read(self._folder / "found")
            self.tally.mismatches += found != self._expected
            (self._folder / "found").unlink()
            shutil.rmtree(self._folder / "kept", ignore_errors=True)
        if not (self._folder / "kept").exists():
            self._had, self._damages, self._newest = {}, {}, None
        elif self._chance.random() < 0.4:
            self._damage()
        return has_refused

    def _started_and_ended(self, arguments: Sequence[str], kill_after: float | None) -> int:
        (self._folder / "log").unlink(missing_ok=True)
        process = started(arguments, self._folder, self._environment)
        return ended(process, kill_after, self._folder)

    def _errors(self) -> str:
        return (self._folder / "errors").read_text().strip()

    def _count(self, lanes: int) -> None:
        """Hold what this run found against what was begun and done before it."""
        found, begun, newest = Log(self._folder / "log").read()
        self._newest = newest or self._newest
        for number, segments in found.items():
            lost = len(self._had.get(number, set()) - segments)
            by_kill = max(0, lost - self._damages.pop(number, 0))
            workers = self._workers.get(number, 1)
            self.tally.most_redone = max(self.tally.most_redone, by_kill / workers)
            self.tally.beyond += by_kill > workers
            self.tally.redone += lost
            # at the right edge, a subtree has fewer segments than its level says
            self._had[number] = {k for k in segments if k < self._segments} | begun.get(
                number, set()
            )
            self.tally.begun += len(begun.get(number, ()))
            self._workers[number] = lanes

    def _damage(self) -> None:
        # of one that had been there at the last power cut, the disk has kept everything
        newest, self._newest = self._newest, None
        if newest is None or not (self._folder / "kept" / newest).exists():
            return
        number = int(newest.parent.name.removeprefix("pass-"))
        newest = self._folder / "kept" / newest
        self._damages[number] = self._damages.get(number, 0) + 1
        size = newest.stat().st_size
        if self._chance.random() < 0.5:
            os.truncate(newest, self._chance.randrange(size))
            self.tally.cut += 1
        else:
            content = bytearray(newest.read_bytes())
            content[self._chance.randrange(size)] ^= 1 << self._chance.randrange(8)
            newest.write_bytes(content)
            self.tally.flipped += 1


def _is_refusal(said: str, pattern: str) -> bool:
    return re.search(pattern, said) is not None and "Traceback" not in said


def _moment_bits(path: Path) -> Any:
    kept = cg.load_moments(path)
    parts = [each.to_parts() for each in getattr(kept, "folds", (kept,))]
    return [
        ({name: array.tobytes() for name, array in tensors.items()}, facts["rows"], facts["weight"])
        for tensors, facts in parts
    ]


def _map_bits(path: Path) -> Any:
    fitted = cg.LinearMap.load(path)
    return fitted.weight.tobytes(), fitted.bias.tobytes(), fitted.certificate


def write_stores(folder: Path, segments: int) -> list[Path]:
    """Write two paired stores whose map takes three passes for 14 digits."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(_P, _P)) * np.logspace(0, -4, _P)
    names = [folder / "a.zarr", folder / "b.zarr"]
    with (
        cg.EmbeddingStore.create(names[0], _P) as a,
        cg.EmbeddingStore.create(names[1], _Q) as b,
    ):
        for start in range(0, segments * SEGMENT, SEGMENT):
            x = rng.normal(size=(SEGMENT, _P)) @ mix
            ids = [str(start + k) for k in range(SEGMENT)]
            a.append(x, ids=ids)
            b.append(x[:, :_Q] + 0.1 * rng.normal(size=(SEGMENT, _Q)), ids=ids)
    return names


def lines(tallies: dict[str, Tally]) -> str:
    """Return the tallies as a table."""
    columns: dict[str, Callable[[Tally], Any]] = {
        "kills": lambda tally: tally.kills,
        "files cut": lambda tally: tally.cut,
        "bits flipped": lambda tally: tally.flipped,
        "results": lambda tally: tally.results,
        "mismatches": lambda tally: tally.mismatches,
        "refused": lambda tally: len(tally.refusals),
        "segments begun": lambda tally: tally.begun,
        "of these again": lambda tally: tally.redone,
        "most per worker and kill": lambda tally: f"{tally.most_redone:g}",
    }
    rows = [[name, *(str(of(one)) for of in columns.values())] for name, one in tallies.items()]
    return table(["command", *columns], rows)


@click.command()
@click.option("--kills", default=200, show_default=True, help="Of each command.")
@click.option("--segments", default=40, show_default=True)
@click.option("--seconds", default=3600.0, show_default=True, help="Of each command, at most.")
@click.option("--only", multiple=True, type=click.Choice([*CASES]), help="Instead of all.")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the tallies, and write nothing.")
def main(
    kills: int, segments: int, seconds: float, only: tuple[str, ...], seed: int, as_json: bool
) -> None:
    """Kill, count, and write to RESULTS.md."""
    chance = random.Random(seed)
    tallies = {}
    with TemporaryDirectory() as place:
        stores = write_stores_apart(Path(place), segments)
        for name in only or CASES:
            folder = Path(place) / name
            folder.mkdir()
            case = Case(CASES[name], stores, segments, folder, chance)
            tallies[name] = case.run(kills, time.monotonic() + seconds)
            print(f"{name}: {tallies[name]}", file=sys.stderr)
    if as_json:
        print(json.dumps({name: asdict(tally) for name, tally in tallies.items()}))
    else:
        write(
            "kills",
            f"## Runs that were killed, {segments} segments\n\n"
            "Real `fit` and `accumulate --checkpoint`, by SIGKILL at random moments, with 1 to 3 "
            "threads, in turn; between runs the newest file is cut or a bit of it flipped. A "
            "mismatch is a result that differs in any bit from that of a run never stopped.\n\n"
            + lines(tallies),
        )
    sys.exit(any(one.mismatches or one.refusals or one.beyond for one in tallies.values()))


def write_stores_apart(folder: Path, segments: int) -> list[Path]:
    """Write the stores in a process of their own: threads of codecs are not to be forked."""
    process = os.fork()
    if not process:
        write_stores(folder, segments)
        os._exit(0)
    if os.waitpid(process, 0)[1]:
        raise click.ClickException("the stores could not be written")
    return [folder / "a.zarr", folder / "b.zarr"]


if __name__ == "__main__":
    main()
