"""The whole demonstration, and the directory that it leaves."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import crossgram
from crossgram.demonstration import closed_set, experiment, open_set
from crossgram.demonstration.closed_set import ClosedSet
from crossgram.demonstration.digits import load_digits
from crossgram.demonstration.open_set import OpenSet
from crossgram.demonstration.training import one_thread
from crossgram.documents import read_document
from crossgram.errors import InputError, OutputExistsError
from crossgram.locations import local
from crossgram.output import check_output, whole_directory
from crossgram.progress import ProgressCallback, ignore

__all__ = ["Demonstration", "NetworkFacts", "demonstrate"]

_CLOSED, _OPEN = "closed-set", "open-set"
_RECORD = "demo.json"
_FIRST_NEW_DIGIT = 7
_LEVELS = ("*", "*/*", "*/*/*", "*/atlas/maps/*")


@dataclass(frozen=True)
class NetworkFacts:
    """What a network of the first half is.

    Attributes
    ----------
    design : str
        In words.
    dim, parameters : int
        Width of its embeddings, and how many numbers were trained.
    """

    design: str
    dim: int
    parameters: int


@dataclass(frozen=True)
class Demonstration:
    """What was found, and where the files are.

    Attributes
    ----------
    directory : Path
        Everything is in it: images, stores and heads of both halves, an atlas of each, with its
        maps and its report, and `demo.json`.
    seed : int
        Of the split and the training.
    seconds : float
        Wall time.
    networks : dict of str to NetworkFacts
        By name.
    closed_set : ClosedSet
        All ten digits known, images held out.
    open_set : OpenSet
        Digits 7, 8 and 9 held out.
    """

    directory: Path
    seed: int
    seconds: float
    networks: dict[str, NetworkFacts]
    closed_set: ClosedSet
    open_set: OpenSet

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as JSON values."""
        return {**asdict(self), "directory": str(self.directory)}


def demonstrate(
    out: str | Path,
    *,
    seed: int = 0,
    overwrite: bool = False,
    progress: ProgressCallback = ignore,
) -> Demonstration:
    """Train two networks on handwritten digits, map between their embeddings, and measure.

    Parameters
    ----------
    out : path
        The new directory; it appears when it is complete. One that an earlier demonstration made
        is replaced, unless something was put into it since.
    seed : int
        Of the split and the training, at least 0.
    overwrite : bool
        Replace whatever stands at `out`.
    progress : callable
        Called with a `Progress` now and then.

    Returns
    -------
    Demonstration

    Raises
    ------
    OutputExistsError
        If something else stands at `out` and `overwrite` is false.
    """
    directory = local(out)
    if seed < 0:
        raise InputError(f"seed: {seed} given, expected a whole number from 0 on")
    replace = overwrite or _may_be_replaced(directory)
    if directory.exists() and not replace:
        raise OutputExistsError(
            f"{directory}: already exists and holds files that no demo made; choose another "
            "directory (--out), or overwrite it (--overwrite)"
        )
    check_output(directory, overwrite=replace, folder=True)
    started = time.perf_counter()
    digits = load_digits()
    is_new = digits.labels >= _FIRST_NEW_DIGIT
    run = partial(experiment.run, digits=digits, seed=seed, progress=progress)
    with whole_directory(directory, overwrite=replace) as folder, one_thread():
        first = run(
            folder / _CLOSED,
            *digits.split(seed),
            known_classes=True,
            shown_as=directory / _CLOSED,
        )
        second = run(
            folder / _OPEN,
            np.flatnonzero(~is_new),
            np.flatnonzero(is_new),
            known_classes=False,
            shown_as=directory / _OPEN,
        )
        found = Demonstration(
            directory=directory,
            seed=seed,
            seconds=time.perf_counter() - started,
            networks={
                name: NetworkFacts(network.design, network.head.dim, network.parameters)
                for name, network in first.networks.items()
            },
            closed_set=closed_set.measure(first),
            open_set=open_set.measure(second),
        )
        _record(found, folder)
    return found


def _record(found: Demonstration, folder: Path) -> None:
    record = {
        "made_by": f"crossgram {crossgram.__version__} demo",
        **found.to_dict(),
        "contents": _contents(folder),
    }
    (folder / _RECORD).write_text(json.dumps(record, indent=1, allow_nan=False), encoding="utf-8")


def _may_be_replaced(directory: Path) -> bool:
    """Tell whether nothing of the user's would be lost: it is empty, or a demo made all of it."""
    if not directory.is_dir():
        return False
    try:
        record = read_document(directory / _RECORD)
    except (OSError, ValueError):
        return not any(directory.iterdir())
    return isinstance(record, dict) and record.get("contents") == _contents(directory)


def _contents(directory: Path) -> list[str]:
    """Return the names of three levels, and of the maps: a user might add something there."""
    paths = (path for level in _LEVELS for path in directory.glob(level))
    names = (path.relative_to(directory).as_posix() for path in paths)
    return sorted(name for name in names if name != _RECORD)
