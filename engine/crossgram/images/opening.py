"""Which kind of collection a path is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from crossgram.errors import InputError
from crossgram.images.bin_file import BinFile
from crossgram.images.entry import Collection
from crossgram.images.folder import ImageFolder, is_image_name
from crossgram.images.landmark_list import LandmarkList, is_landmark_list
from crossgram.images.pairs import PairsFile
from crossgram.images.pixel_array import PixelArray
from crossgram.images.record_io import RecordFile
from crossgram.images.table import ImageTable
from crossgram.images.tar_shards import TarShards, is_shard_name

__all__ = ["open_collection"]

_FILES: Mapping[str, type[Collection]] = {
    ".csv": ImageTable,
    ".parquet": ImageTable,
    ".tar": TarShards,
    ".rec": RecordFile,
    ".bin": BinFile,
    ".npy": PixelArray,
    ".txt": PairsFile,
}
_ZARR = ("zarr.json", ".zarray", ".zgroup")


def open_collection(path: str | Path) -> Collection:
    """Return the images that a path names.

    Parameters
    ----------
    path : path
        A folder tree of images; a .csv or .parquet list; a .tar shard or a folder of them; a .rec
        file with its .idx; insightface's .bin file of pairs; LFW's pairs.txt in the tree of its
        images; IJB-C's name_5pts_score.txt; a .npy or Zarr array of pixels.

    Raises
    ------
    InputError
        If nothing is there, or it is none of these.
    """
    root = Path(path)
    if root.is_dir():
        if any((root / name).exists() for name in _ZARR):
            return PixelArray(root)
        return TarShards(root) if _holds_shards(root) else ImageFolder(root)
    if not root.exists():
        raise InputError(f"{root}: no such file or folder; expected images")
    kind = _FILES.get(root.suffix.lower())
    if kind is None:
        raise InputError(
            f"{root}: not a collection of images that is known; expected a folder, a Zarr array, "
            f"or a file that ends in {', '.join(_FILES)}"
        )
    if kind is PairsFile and is_landmark_list(root):
        return LandmarkList(root)
    return kind(root)  # type: ignore[call-arg]


def _holds_shards(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.is_dir()) for entry in entries if entry.name[0] != "."]
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed: {error.strerror}") from error
    shards = [name for name, is_folder in found if is_shard_name(name) and not is_folder]
    images = [name for name, is_folder in found if is_folder or is_image_name(name)]
    if shards and images:
        raise InputError(
            f"{folder}: holds tar files ({shards[0]}) and folders or images ({images[0]}); move "
            "the ones or the others away, or name one tar file"
        )
    return bool(shards)
