"""From the folder of an extraction whose tasks are all done to its output."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from crossgram.errors import InputError
from crossgram.extraction.job import BadImage, Job
from crossgram.heads import ClassifierHead
from crossgram.images import ImageList
from crossgram.output import beside, check_output, put_folder, run_errors, whole_file
from crossgram.store_writer import Appender, create_column, seal

__all__ = ["Outputs", "complete", "write_bad_images"]

_COLUMN_ROWS = 1 << 16


@dataclass(frozen=True)
class Outputs:
    """Where an extraction leaves what it makes.

    Of one network, the store is at `out`, and the rest beside it; of several, `out` is a folder of
    all.

    Attributes
    ----------
    out : Path
        As the user named it.
    names : sequence of str
        The networks.
    """

    out: Path
    names: Sequence[str]

    @property
    def several(self) -> bool:
        """Whether `out` is a folder."""
        return len(self.names) > 1

    def store(self, name: str) -> Path:
        """Where the store of a network is."""
        return self.out / f"{name}.zarr" if self.several else self.out

    def head(self, name: str) -> Path:
        """Where the classifier head of a network is."""
        return self._beside("head.safetensors", f"{name}.head.safetensors")

    @property
    def bad_images(self) -> Path:
        """Where the table of images without an embedding is."""
        return self._beside("bad-images.csv", "bad-images.csv")

    def check(self, *, overwrite: bool) -> None:
        """Refuse outputs that are there already and are not to be overwritten."""
        check_output(self.out, overwrite=overwrite, folder=True)
        if not self.several:
            for path in (self.bad_images, self.head(self.names[0])):
                check_output(path, overwrite=overwrite)

    def _beside(self, ending: str, inside: str) -> Path:
        return self.out / inside if self.several else beside(self.out, ending)


def complete(
    job: Job,
    outputs: Outputs,
    provenance: Mapping[str, Mapping[str, Any]],
    heads: Mapping[str, ClassifierHead],
    *,
    overwrite: bool,
) -> list[BadImage]:
    """Turn the folder of a job into its output, whole; return the images without an embedding.

    Parameters
    ----------
    job : Job
        All of its tasks are done.
    outputs : Outputs
        Where to.
    provenance : mapping of str to mapping
        Of each network's store.
    heads : mapping of str to ClassifierHead
        What to write beside the stores.
    overwrite : bool
        As for `Outputs.check`, which is asked again: something may have come there meanwhile.

    Raises
    ------
    InputError
        If not one image has an embedding by every network.
    OutputExistsError
        If there is an output now that is not to be overwritten; what is done is kept.
    """
    bad = job.bad_images()
    unusable = {name: _masked(bad, name) for name in outputs.names}
    for name, rows in unusable.items():
        if len(rows) == job.images.rows:
            raise InputError(
                f"{job.collection.root}: none of the {len(rows):,} images has an embedding by "
                f"{name}; the first: {bad[0].reason}; mend them and begin anew (--restart)"
            )
    with run_errors(outputs.out, "what is done is kept"):
        for name in outputs.names:
            path = job.work.store(name)
            _drop_unfinished_writes(path)
            group = zarr.open_group(path, mode="r+")
            columns = [*_copy_columns(job.images, path), *_write_mask(group, job, unusable[name])]
            seal(group, columns, {**provenance[name], "images_sha256": job.images.digest})
        outputs.check(overwrite=overwrite)
        if outputs.several:
            # everything is put in place at once
            side = Outputs(job.work.stores, outputs.names)
            _write_beside(side, heads, bad, job.images)
            (side.out / "extraction.json").write_text(
                json.dumps({"networks": dict(provenance), "rows": job.images.rows}, indent=1),
                encoding="utf-8",
            )
            put_folder(side.out, outputs.out, overwrite=overwrite)
        else:
            put_folder(job.work.store(outputs.names[0]), outputs.out, overwrite=overwrite)
            # not before: they would be of another store than the one that is there
            _write_beside(outputs, heads, bad, job.images)
    return bad


def _write_beside(
    outputs: Outputs,
    heads: Mapping[str, ClassifierHead],
    bad: Sequence[BadImage],
    images: ImageList,
) -> None:
    for name in outputs.names:
        if name in heads:
            heads[name].save(outputs.head(name), overwrite=True)
        else:
            outputs.head(name).unlink(missing_ok=True)
    write_bad_images(bad, images, outputs.bad_images)


def write_bad_images(bad: Sequence[BadImage], images: ImageList, path: Path) -> None:
    """Write the table of images without an embedding, by row; without any, remove an old one."""
    if not bad:
        path.unlink(missing_ok=True)
        return
    with (
        whole_file(path, overwrite=True) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "row", "network", "reason"])
        for image in bad:
            (entry,) = images.entries(image.row, image.row + 1)
            writer.writerow([entry.id, image.row, image.network or "", image.reason])


def _masked(bad: Sequence[BadImage], name: str) -> set[int]:
    return {image.row for image in bad if image.concerns(name)}


def _copy_columns(images: ImageList, store: Path) -> Iterator[str]:
    for name in ("ids", "labels"):
        if images.column_path(name).exists():
            shutil.copytree(images.column_path(name), store / name, dirs_exist_ok=True)
            yield name


def _write_mask(group: zarr.Group, job: Job, rows: set[int]) -> Iterator[str]:
    if not rows:
        return
    if "masked" in group:
        del group["masked"]
    appender = Appender(create_column(group, "masked", np.dtype(bool)))
    positions = np.array(sorted(rows))
    for start in range(0, job.images.rows, _COLUMN_ROWS):
        stop = min(start + _COLUMN_ROWS, job.images.rows)
        part = np.zeros(stop - start, bool)
        part[positions[(positions >= start) & (positions < stop)] - start] = True
        appender.append(part)
    appender.flush()
    yield "masked"


def _drop_unfinished_writes(store: Path) -> None:
    """Remove what a process that was killed while it wrote a chunk left beside it."""
    for path in store.rglob("*.partial"):
        path.unlink()
