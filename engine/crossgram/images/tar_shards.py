"""Tar shards in the layout of WebDataset: the files of a sample share a name up to the dot."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossgram.documents import parsed
from crossgram.errors import InputError
from crossgram.images.entry import ImageEntry, read_bytes
from crossgram.images.folder import as_text, is_image_name

__all__ = ["TarShards", "is_shard_name"]

_MOST_FACTS_BYTES = 1 << 16


@dataclass(frozen=True)
class TarShards:
    """Images of tar files, in the order of the files' names and then of the members.

    An image's id is the shard's name and its key; its label stands in the sample's .cls file, or
    as `label` in its .json file. Nothing is unpacked.

    Attributes
    ----------
    root : Path
        A .tar file, or a folder of them.
    """

    root: Path

    @property
    def shares_files(self) -> bool:
        """True: a file holds many images."""
        return True

    def files(self) -> Iterator[Path]:
        """Name the shards."""
        if not self.root.is_dir():
            return iter([self.root])
        return iter(sorted(path for path in self.root.iterdir() if is_shard_name(path.name)))

    def entries(self) -> Iterator[ImageEntry]:
        """List the images."""
        count = 0
        for shard in self.files():
            for key, label, place in _samples(shard):
                count += 1
                name = as_text(f"{shard.stem}/{key}", shard)
                yield ImageEntry(name, label, shard.name, place)
        if not count:
            raise InputError(f"{self.root}: no images in its tar files; expected WebDataset shards")

    def read(self, entry: ImageEntry) -> bytes:
        """Return the contents of a member."""
        folder = self.root if self.root.is_dir() else self.root.parent
        return read_bytes(folder / entry.file, *entry.place)


def is_shard_name(name: str) -> bool:
    """Tell whether a file in a folder is a shard by its name."""
    return not name.startswith(".") and name.endswith(".tar")


_Sample = tuple[str, str | None, tuple[int, int]]


def _samples(shard: Path) -> Iterator[_Sample]:
    key, place, label = None, None, None
    for member, own_key, suffix, content in _members(shard):
        if own_key != key:
            if key is not None and place is not None:
                yield key, label, place
            key, place, label = own_key, None, None
        if content is not None:
            own = _label(shard, member, suffix, content)
            label = (own or label) if suffix == "cls" else (label or own)
        elif place is not None:
            raise InputError(
                f"{shard}: the sample {key} has more than one image; expected one each"
            )
        else:
            place = (member.offset_data, member.size)
    if key is not None and place is not None:
        yield key, label, place


def _members(shard: Path) -> Iterator[tuple[tarfile.TarInfo, str, str, bytes | None]]:
    """Return images, and files that hold a label with their contents."""
    try:
        size = shard.stat().st_size
        with tarfile.open(shard, "r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # it would remember them all
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if member.size < 0 or (member.isreg() and member.offset_data + member.size > size):
                    raise InputError(f"{shard}: is cut in {member.name}; copy it again")
                if not member.isreg() or not stem:
                    continue
                if is_image_name(name):
                    yield member, key, suffix, None
                elif suffix in ("cls", "json") and member.size <= _MOST_FACTS_BYTES:
                    content = archive.extractfile(member)
                    assert content is not None
                    yield member, key, suffix, content.read()
            _check_end(shard, archive)
    except (OSError, tarfile.TarError) as error:
        raise InputError(
            f"{shard}: cannot be read as an uncompressed tar file ({error}); unpack it if it is "
            "compressed, or copy it again"
        ) from error


def _check_end(shard: Path, archive: tarfile.TarFile) -> None:
    """Refuse a shard that does not end in zeros: a damaged header is the end for tarfile."""
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise InputError(f"{shard}: is cut or damaged at byte {archive.offset:,}; copy it again")


def _label(shard: Path, member: tarfile.TarInfo, suffix: str, content: bytes) -> str | None:
    """Return the label that a file of a sample holds, if any."""
    try:
        text = content.decode()
        if suffix == "json":
            facts: Any = parsed(text)
            label = facts.get("label") if isinstance(facts, dict) else None
            text = "" if label is None else str(label)
            text.encode()  # JSON can name half of a character
    except ValueError as error:
        raise InputError(f"{shard}: {member.name} cannot be read ({error})") from error
    return text.strip() or None
