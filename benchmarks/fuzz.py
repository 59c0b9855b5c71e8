"""Give every reader files that were valid and are changed, and say which of them it cannot take.

A file is taken, or refused with an error of crossgram's own. Anything else is a finding: another
exception, a crash, more memory or time than the bounds. What was found is kept with its input.
"""

from __future__ import annotations

import logging
import mmap
import os
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from random import Random

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import contextlib

import click
from fuzz_mutators import DIRECTORY, LINK, Files, mutated
from fuzz_readers import READERS, Reader
from results import table, write

import crossgram as cg

__all__ = ["Outcome", "fuzzed"]

MOST_SECONDS = 10.0
"""Of processor time that a case may take."""

MOST_WALL_SECONDS = 300.0
MOST_RESIDENT = 400 << 20
"""By which a case may make the process grow."""

_MOST_ADDRESSES = 3 << 30
_SINGLE = "single"
"""The folder of what is one file."""

_SLOT = struct.Struct("<qddqq")


@dataclass
class Outcome:
    """What came of cases.

    Attributes
    ----------
    accepted, refused : int
        Cases that were read, and those that were refused as they should be.
    findings : dict of str to Path
        The input by what it did, one of each kind.
    counts : Counter
        How often each finding came.
    """

    accepted: int = 0
    refused: int = 0
    findings: dict[str, Path] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, other: Outcome) -> None:
        """Add what came of other cases."""
        self.accepted += other.accepted
        self.refused += other.refused
        self.findings |= other.findings
        self.counts += other.counts

    @property
    def cases(self) -> int:
        """How many there were."""
        return self.accepted + self.refused + self.counts.total()


def fuzzed(
    name: str, seeds: Path, start: int, count: int, findings: Path, outcome: Outcome
) -> None:
    """Run the cases `start` to `start + count` of a reader, in child processes."""
    next_case, end = start, start + count
    while next_case < end:
        slot = mmap.mmap(-1, _SLOT.size)
        slot[:] = _SLOT.pack(next_case, _cpu(os.getpid()), time.monotonic(), 0, 0)
        reports = findings / f".{name}.{os.getpid()}"
        child = os.fork()
        if not child:
            _work(name, seeds, next_case, end, findings, slot, reports)
        status = _watched(child, slot)
        case, _, _, accepted, refused = _SLOT.unpack(slot[:])
        outcome.accepted += accepted
        outcome.refused += refused
        if reports.exists():
            for line in reports.read_text(errors="replace").splitlines():
                number, _, what = line.partition(" ")
                _note(outcome, name, what, findings / name / number)
            reports.unlink()
        if status is not None:
            with tempfile.TemporaryDirectory() as folder:
                kept = _kept(name, seeds, case, findings, Path(folder))
            _note(outcome, name, status, kept)
        next_case = case + 1


def _note(outcome: Outcome, name: str, what: str, kept: Path) -> None:
    kind = f"{name}: {what}"
    outcome.counts[kind] += 1
    if kind in outcome.findings:
        shutil.rmtree(kept, ignore_errors=True)
        return
    outcome.findings[kind] = kept
    print(f"FOUND {kind} ({kept})", flush=True)


def _watched(child: int, slot: mmap.mmap) -> str | None:
    """Wait for a child, and say how it failed, if it did."""
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if os.WIFSIGNALED(status):
                return f"crash, signal {os.WTERMSIG(status)}"
            return "crash, exit" if os.WEXITSTATUS(status) else None
        _, began_cpu, began, _, _ = _SLOT.unpack(slot[:])
        used = _cpu(child) - began_cpu
        if used > MOST_SECONDS or time.monotonic() - began > MOST_WALL_SECONDS:
            os.kill(child, 9)
            os.waitpid(child, 0)
            return f"hang, over {MOST_SECONDS:g} s" if used > MOST_SECONDS else "hang, waiting"
        time.sleep(0.01)


def _cpu(process: int) -> float:
    """Return the processor time of a process and of those it waited for."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _work(
    name: str, seeds: Path, start: int, end: int, findings: Path, slot: mmap.mmap, reports: Path
) -> None:
    """Run cases in this process, a child, and leave it."""
    status = 1
    warnings.simplefilter("ignore")
    logging.disable()
    try:
        reader = READERS[name]
        originals = _originals(seeds / name)
        place = Path(tempfile.mkdtemp(prefix="fuzz-", dir=_memory()))
        try:
            _cases(name, reader, originals, range(start, end), (findings, place, slot, reports))
        finally:
            shutil.rmtree(place, ignore_errors=True)
        status = 0
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def _cases(
    name: str,
    reader: Reader,
    originals: list[tuple[str, Files]],
    cases: range,
    tools: tuple[Path, Path, mmap.mmap, Path],
) -> None:
    findings, place, slot, reports = tools
    accepted = refused = 0
    _limit_addresses()
    written: dict[str, Files] = {}
    # what is loaded once, and is no case's
    for kind, files in originals:
        _write(place, kind, files, written)
        with contextlib.suppress(cg.CrossgramError):
            reader.read(place / kind)
    first = _resident()
    for case in cases:
        _, _, _, accepted, refused = _SLOT.unpack(slot[:])
        # to make a large case takes more than to refuse it, and does not count
        slot[:] = _SLOT.pack(case, float("inf"), time.monotonic(), accepted, refused)
        kind, files = _case(name, originals, case)
        _write(place, kind, files, written)
        before = _resident()
        slot[:] = _SLOT.pack(case, _cpu(os.getpid()), time.monotonic(), accepted, refused)
        what = None
        try:
            reader.read(place / kind)
            accepted += 1
        except cg.CrossgramError as error:
            refused += 1
            str(error).encode("utf-8", "surrogatepass")
        except BaseException as error:  # noqa: BLE001
            what = _described(error)
        if what is None and _cpu(os.getpid()) - _SLOT.unpack(slot[:])[1] > MOST_SECONDS:
            what = f"hang, over {MOST_SECONDS:g} s"
        if what is None and _grown(before) > MOST_RESIDENT:
            what = f"memory, over {MOST_RESIDENT >> 20} MB"
        if what is not None:
            accepted, refused = _SLOT.unpack(slot[:])[3:]
            _save(findings / name / str(case), kind, files)
            with reports.open("a", encoding="utf-8", errors="replace") as file:
                file.write(f"{case} {what}\n")
        slot[:] = _SLOT.pack(case, _cpu(os.getpid()), time.monotonic(), accepted, refused)
        if _grown(first) > MOST_RESIDENT:
            return


def _described(error: BaseException) -> str:
    """Return kind and place of an error, which tell it from others."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/crossgram/" in frame.filename]
    at = own[-1] if own else frames[-1]
    return f"{type(error).__name__} at {Path(at.filename).name}:{at.lineno} {at.name}"


def _limit_addresses() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + _MOST_ADDRESSES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _resident() -> tuple[int, int]:
    """Return the most that this process has held, and any that it waited for."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    own, others = (resource.getrusage(kind).ru_maxrss * 1024 for kind in kinds)
    return own, others


def _grown(before: tuple[int, int]) -> int:
    return max(now - then for now, then in zip(_resident(), before, strict=True))


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


# ---- files


def _case(name: str, originals: list[tuple[str, Files]], case: int) -> tuple[str, Files]:
    random = Random(f"{name} {case}")
    kind, files = random.choice(originals)
    return kind, mutated(random, files)


def _originals(folder: Path) -> list[tuple[str, Files]]:
    found = []
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            inside = {
                str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()
            }
            found.append((path.name, inside))
        else:
            found.append((f"{_SINGLE}/{path.name}", {path.name: path.read_bytes()}))
    return found


def _write(place: Path, kind: str, files: Mapping[str, bytes], written: dict[str, Files]) -> None:
    """Bring what is in `place` from what it was to what it shall be."""
    root = place / (_SINGLE if kind.startswith(f"{_SINGLE}/") else kind)
    before = written.get(kind, {})
    for relative in before.keys() | files.keys():
        old, new = before.get(relative), files.get(relative)
        path = root / relative
        if old == new:
            continue
        # whatever is there: readers of checkpoints write what is missing
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        if new == DIRECTORY:
            path.mkdir()
        elif new == LINK:
            path.symlink_to("/etc/hostname")
        elif new is not None:
            path.write_bytes(new)
    written[kind] = dict(files)


def _save(target: Path, kind: str, files: Files) -> None:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    _write(target, kind, files, {})


def _kept(name: str, seeds: Path, case: int, findings: Path, folder: Path) -> Path:
    kind, files = _case(name, _originals(seeds / name), case)
    _save(findings / name / str(case), kind, files)
    return findings / name / str(case)


def write_seeds(folder: Path, names: list[str]) -> None:
    """Write the valid files of readers; in a child, as what it starts must not be forked."""
    child = os.fork()
    if not child:
        status = 1
        try:
            for name in names:
                own = folder / name
                with tempfile.TemporaryDirectory() as scratch:
                    paths = READERS[name].write(Path(scratch))
                    own.mkdir(parents=True)
                    for path in paths:
                        shutil.move(path, own / path.name)
            status = 0
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if status:
        raise SystemExit("fuzz: the valid files could not be written")


@click.command()
@click.option("--cases", default=10_000, show_default=True, help="Cases in all.")
@click.option("--seconds", default=float("inf"), help="Stop after these.")
@click.option("--readers", default=",".join(READERS), help="Which, with commas between.")
@click.option("--batch", default=100, show_default=True, help="Cases of each in a round, a share.")
@click.option("--skip", default="", help="Which not.")
@click.option("--first", default=0, show_default=True, help="Number of the first case of each.")
@click.option("--findings", type=click.Path(path_type=Path), default=Path("fuzz-findings"))
@click.option("--jobs", default=1, show_default=True, help="Processes, each with its own cases.")
@click.option("--record", is_flag=True, help="Write the counts to RESULTS.md.")
def main(
    cases: int,
    seconds: float,
    readers: str,
    batch: int,
    skip: str,
    first: int,
    findings: Path,
    jobs: int,
    record: bool,
) -> None:
    """Fuzz, print what was found, and exit 1 if that is anything."""
    names = [name for name in readers.split(",") if name not in skip.split(",")]
    began = time.monotonic()
    findings.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(jobs, mp_context=get_context("fork")) as pool,
    ):
        write_seeds(Path(folder), names)
        share = -(-cases // jobs)
        running = [
            pool.submit(
                _rounds, Path(folder), names, first + k * share, share, seconds, batch, findings
            )
            for k in range(jobs)
        ]
        outcomes = {name: Outcome() for name in names}
        for own in running:
            for name, outcome in own.result().items():
                outcomes[name].add(outcome)
    found = sum(len(one.findings) for one in outcomes.values())
    print(_table(outcomes))
    if record:
        write("fuzzing", _words(outcomes, time.monotonic() - began, found))
    raise SystemExit(1 if found else 0)


def _rounds(
    seeds: Path,
    names: list[str],
    first: int,
    cases: int,
    seconds: float,
    batch: int,
    findings: Path,
) -> dict[str, Outcome]:
    """Give each reader some cases, in turn, until there were so many."""
    outcomes = {name: Outcome() for name in names}
    began = time.monotonic()
    reached = dict.fromkeys(names, first)
    while (
        sum(one.cases for one in outcomes.values()) < cases and time.monotonic() - began < seconds
    ):
        for name in names:
            count = batch * READERS[name].share
            fuzzed(name, seeds, reached[name], count, findings, outcomes[name])
            reached[name] += count
            (findings / f"counts-{first}.txt").write_text(
                _table(outcomes) + f"\n{time.monotonic() - began:.0f} s\n"
            )
    return outcomes


def _table(outcomes: Mapping[str, Outcome]) -> str:
    lines = [
        [name, f"{one.cases:,}", f"{one.accepted:,}", f"{one.refused:,}", f"{len(one.findings)}"]
        for name, one in outcomes.items()
    ]
    total = [
        sum(getattr(one, what) for one in outcomes.values())
        for what in ("cases", "accepted", "refused")
    ]
    found = sum(len(one.findings) for one in outcomes.values())
    lines.append(["all", *(f"{count:,}" for count in total), f"{found}"])
    return table(["reader", "cases", "read", "refused", "findings"], lines)


def _words(outcomes: Mapping[str, Outcome], seconds: float, found: int) -> str:
    return (
        "## Files of strangers\n\n"
        "Valid files of every kind, changed by their structure and by their bytes, given to what "
        "reads them. Each is to be read, or refused with an error of crossgram's own; another "
        f"exception, a crash, more than {MOST_SECONDS:g} s of processor time or "
        f"{MOST_RESIDENT >> 20} MB of memory is a finding. Findings in {seconds / 60:.0f} minutes: "
        f"{found}.\n\n" + _table(outcomes)
    )


if __name__ == "__main__":
    main()
