"""An hour of runs that are killed, on disks and services that fail, with other workers each time.

Real `fit` and `accumulate --checkpoint`, of stores on the disk and in a bucket, each run with
another number of threads or Dask workers than the one before. Runs are ended by SIGKILL at random
moments; what they kept is cut or gets bits flipped; chunks that they read are cut, flipped or taken
away; and a proxy before the bucket's server refuses, cuts and spoils answers, all at random.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from kills import SEGMENT_BYTES, Case, Tally, Way, write_stores_apart
from results import table, write

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

_WAYS: tuple[Way, ...] = (
    *(("--threads", n) for n in (1, 1, 2, 2, 3, 3)),
    *(("--workers", n) for n in (1, 2, 3)),
)
_COMMANDS = {
    "accumulate": ["accumulate"],
    "fit, 3 folds": ["fit", "--folds", "3"],
    "fit, 3 passes": ["fit", "--digits", "14"],
}
_FAULTS = (*("busy", "cut", "closed") * 4, "short", "flipped")
_REFUSAL = r"[ab]\.zarr"
"""A run may stop at a chunk that is lost or a service that fails, if it names the store."""


@dataclass
class Spoilt:
    """What was done to the inputs.

    Attributes
    ----------
    chunks : Counter
        Chunks on the disk, by what was done to them.
    answers : Counter
        Answers of the service, by what went wrong with them.
    """

    chunks: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)


@contextmanager
def flaky_bucket(
    stores: list[Path], seed: int, answers: Counter[str]
) -> Iterator[tuple[list[str], dict[str, str], Callable[[], object]]]:
    """Serve stores from a bucket; give URLs, environment, and what has answers fail, or not again.

    By a process of its own: this one forks, and must not have threads.
    """
    (told, tell), (stopped, stop) = os.pipe(), os.pipe()
    process = os.fork()
    if not process:
        os.close(stop)
        _serve(stores, random.Random(seed), tell, stopped)
        os._exit(0)
    os.close(tell)
    os.close(stopped)
    with os.fdopen(told) as answer:
        served = json.loads(answer.readline() or "null")
        if served is None:
            raise click.ClickException("the bucket could not be served")
        try:
            yield served["urls"], served["environment"], lambda: os.write(stop, b"!")
        finally:
            os.close(stop)
            answers.update(json.loads(answer.readline()))
            os.waitpid(process, 0)


def _serve(stores: list[Path], chance: random.Random, tell: int, stopped: int) -> None:
    from object_server import Fault, bucket_environment, proxy, upload

    over, failing = threading.Event(), threading.Event()

    def listen() -> None:
        while os.read(stopped, 1):
            failing.clear() if failing.is_set() else failing.set()
        over.set()

    threading.Thread(target=listen, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    failed: Counter[str] = Counter()
    with bucket_environment(), proxy(os.environ["AWS_ENDPOINT_URL"]) as before:
        urls = [upload(store, store.name) for store in stores]
        kept = ("AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_CONFIG_FILE")
        environment = {name: os.environ[name] for name in kept}
        environment |= {"AWS_ENDPOINT_URL": before.url, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
        os.write(tell, json.dumps({"urls": urls, "environment": environment}).encode() + b"\n")
        while not over.wait(chance.uniform(0.05, 3.0)):
            with before.lock:
                failed.update(fault.kind for fault in before.faults if not fault.times)
                before.faults.clear()
                before.requests.clear()
                if failing.is_set():
                    before.faults.append(Fault(chance.choice(_FAULTS), r"GET .*/c/"))
    os.write(tell, json.dumps(failed).encode() + b"\n")


@contextmanager
def spoilt_chunk(store: Path, chance: random.Random, chunks: Counter[str]) -> Iterator[None]:
    """Cut a chunk of a store, flip a bit of it, or take it away; put it back afterwards."""
    file = chance.choice(sorted((store / "embeddings" / "c").rglob("*/0")))
    content = file.read_bytes()
    what = chance.choice(["cut", "flipped", "missing"])
    if what == "cut":
        file.write_bytes(content[: chance.randrange(len(content))])
    elif what == "flipped":
        spoilt = bytearray(content)
        spoilt[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        file.write_bytes(spoilt)
    else:
        file.unlink()
    chunks[what] += 1
    try:
        yield
    finally:
        file.write_bytes(content)


def soak(
    cases: dict[str, Case], stores: list[Path], until: float, spoilt: Spoilt, chance: random.Random
) -> None:
    """Take one of the commands after the other, until a time."""
    while time.monotonic() < until:
        name = chance.choice(sorted(cases))
        case = cases[name]
        way = chance.random()
        if "bucket" in name:
            case.kill_one(_REFUSAL)
        elif way < 0.15:
            with spoilt_chunk(chance.choice(stores), chance, spoilt.chunks):
                case.run_one(refusal=_REFUSAL)
        elif way < 0.25:
            case.run_one()
        else:
            case.kill_one()


def lines(tallies: dict[str, Tally]) -> str:
    """Return the tallies as a table."""
    columns: dict[str, Callable[[Tally], str]] = {
        "runs": lambda tally: f"{tally.runs:,}",
        "kills": lambda tally: f"{tally.kills:,}",
        "stopped at bad input": lambda tally: f"{tally.refused:,}",
        "checkpoints cut or flipped": lambda tally: f"{tally.cut + tally.flipped:,}",
        "GB read": lambda tally: f"{tally.begun * SEGMENT_BYTES / 1e9:.1f}",
        "results": lambda tally: f"{tally.results:,}",
        "mismatches": lambda tally: f"{tally.mismatches}",
        "other failures": lambda tally: f"{len(tally.refusals)}",
        "most redone per worker and kill": lambda tally: f"{tally.most_redone:g}",
    }
    rows = [[name, *(of(one) for of in columns.values())] for name, one in tallies.items()]
    return table(["", *columns], rows)


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{number:,} {what}" for what, number in sorted(counts.items()))


@click.command()
@click.option("--minutes", default=60.0, show_default=True)
@click.option("--segments", default=40, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(minutes: float, segments: int, seed: int) -> None:
    """Soak, count, and write to RESULTS.md."""
    chance, spoilt = random.Random(seed), Spoilt()
    began = time.monotonic()
    with TemporaryDirectory() as place:
        stores = write_stores_apart(Path(place), segments)
        with flaky_bucket(stores, seed, spoilt.answers) as (urls, environment, fail):
            cases = {}
            for name, command in _COMMANDS.items():
                for where, own in (("disk", stores), ("bucket", urls)):
                    folder = Path(place) / f"{name}, {where}"
                    folder.mkdir()
                    case = Case((command, _WAYS), own, segments, folder, chance, environment)
                    case.prepare()
                    cases[folder.name] = case
            fail()
            soak(cases, stores, began + 60 * minutes, spoilt, chance)
            fail()
            for case in cases.values():
                case.run_one()
    tallies = {name: case.tally for name, case in cases.items()}
    failures = [said for one in tallies.values() for said in one.refusals]
    for said in failures:
        print(said, file=sys.stderr)
    write(
        "soak",
        f"## A soak of {(time.monotonic() - began) / 60:.0f} minutes\n\n"
        "Runs with --checkpoint, on the disk and from a bucket behind a proxy that fails, each "
        "with 1 to 3 threads or 1 to 3 Dask workers, killed at random moments. A mismatch is a "
        "result that differs in any bit from that of a run never stopped.\n\n"
        + lines(tallies)
        + f"\n\nChunks on the disk spoilt: {_counted(spoilt.chunks)}. "
        f"Answers of the service spoilt: {_counted(spoilt.answers)}.",
    )
    sys.exit(bool(failures) or any(one.mismatches or one.beyond for one in tallies.values()))


if __name__ == "__main__":
    main()
