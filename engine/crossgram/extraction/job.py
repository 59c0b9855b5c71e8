"""Job: everything that a process needs to embed any part of the images, and what it leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from crossgram.documents import read_document
from crossgram.errors import CorruptDataError
from crossgram.images import Collection, ImageList
from crossgram.networks.loading import GivenNetwork
from crossgram.networks.spec import NetworkSpec
from crossgram.output import whole_file

__all__ = ["BadImage", "Job", "Running", "WorkFolder"]


@dataclass(frozen=True)
class BadImage:
    """Why an image has no embedding.

    Attributes
    ----------
    row : int
        Which.
    network : str or None
        The network that gave none; None if no network was given it.
    reason : str
        In words.
    """

    row: int
    network: str | None
    reason: str

    def concerns(self, network: str) -> bool:
        """Tell whether a network has no embedding of the image."""
        return self.network in (None, network)


@dataclass(frozen=True)
class WorkFolder:
    """Where an extraction keeps what it has until it is complete.

    One that is begun anew has another one: a worker that is still at an old task does no harm.

    Attributes
    ----------
    path : Path
        The folder.
    """

    path: Path

    @property
    def images(self) -> Path:
        """The list of the images."""
        return self.path / "images"

    @property
    def stores(self) -> Path:
        """The folder of the stores that are being made."""
        return self.path / "stores"

    @property
    def marks(self) -> Path:
        """The folder of the marks of tasks that are done."""
        return self.path / "done"

    def store(self, name: str) -> Path:
        """Where the store of a network is made."""
        return self.stores / f"{name}.zarr"


@dataclass(frozen=True)
class Running:
    """How networks are run; nothing of it changes what is meant by an embedding.

    Attributes
    ----------
    device : str
        "auto", "cpu", "cuda" or "cuda:1".
    precision : {"float32", "bfloat16", "float16"}
        Of the arithmetic.
    compiled : bool
        Whether the network goes through torch.compile.
    batch_size : int
        Images that go through a network at a time.
    decoders : int
        Processes that decode images while networks run; with 0 the two take turns.
    spread : bool
        Whether workers, numbered from 0, take a GPU each.
    """

    device: str
    precision: str
    compiled: bool
    batch_size: int
    decoders: int
    spread: bool


@dataclass(frozen=True)
class Job:
    """An extraction under way, in a folder beside its output.

    Rows are cut into tasks of whole chunks of every store, so that no two tasks write to one file,
    and a task that is repeated writes the same again. A task that is done leaves a mark with the
    images that it could not use.

    Attributes
    ----------
    work : WorkFolder
        Where everything is until it is complete.
    collection : Collection
        The images.
    images : ImageList
        Their list.
    networks : sequence of NetworkSpec or GivenNetwork
        What embeds them.
    facts : sequence of mapping
        What is known of each, once loaded: wherever it is loaded, it must be the same.
    task_rows : int
        Rows of a task.
    stop_at_bad_image : bool
        Whether an image that cannot be used stops the run instead of being recorded.
    running : Running
        How.
    token : str
        Tells this run from every other.
    """

    work: WorkFolder
    collection: Collection
    images: ImageList
    networks: Sequence[NetworkSpec | GivenNetwork]
    facts: Sequence[Mapping[str, Any]]
    task_rows: int
    stop_at_bad_image: bool
    running: Running
    token: str

    @property
    def tasks(self) -> int:
        """How many there are."""
        return -(-self.images.rows // self.task_rows)

    def rows(self, task: int) -> tuple[int, int]:
        """Return the first row of a task, and the row behind its last."""
        start = task * self.task_rows
        return start, min(start + self.task_rows, self.images.rows)

    def rows_of(self, tasks: Sequence[int]) -> int:
        """Return how many rows some tasks have."""
        return sum(stop - start for start, stop in map(self.rows, tasks))

    def unfinished(self) -> list[int]:
        """Return the tasks that have left no mark."""
        done = {path.name for path in self.work.marks.iterdir()}
        return [task for task in range(self.tasks) if self._mark(task).name not in done]

    def finish(self, task: int, bad: Sequence[BadImage]) -> None:
        """Leave the mark of a task, once its rows are on disk."""
        with whole_file(self._mark(task), overwrite=True) as file:
            file.write_text(json.dumps([asdict(image) for image in bad]), encoding="utf-8")

    def bad_images(self) -> list[BadImage]:
        """Return the images that finished tasks could not use, by row."""
        found = [image for task in range(self.tasks) for image in _marked(self._mark(task))]
        return sorted(found, key=lambda image: image.row)

    def _mark(self, task: int) -> Path:
        return self.work.marks / f"{task:08d}.json"


def _marked(mark: Path) -> list[BadImage]:
    """Read the mark of a task that is done."""
    try:
        return [
            BadImage(int(facts["row"]), facts["network"], str(facts["reason"]))
            for facts in read_document(mark)
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CorruptDataError(
            f"{mark}: cannot be read ({error}); begin anew (--restart)"
        ) from error
