"""The images that a pairs.txt of Labeled Faces in the Wild names, in the tree around it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from crossgram.errors import InputError
from crossgram.images.decoding import SUFFIXES
from crossgram.images.entry import ImageEntry, is_there, read_bytes

__all__ = ["PairsFile", "paired_images"]

_MOST_DIGITS = 18


@dataclass(frozen=True)
class PairsFile:
    """Images name/name_0001.jpg of people and numbers that a pairs.txt names, sorted by id.

    Attributes
    ----------
    root : Path
        The pairs.txt; the people's folders lie beside it.
    """

    root: Path

    @property
    def shares_files(self) -> bool:
        """False: each image has a file of its own."""
        return False

    def files(self) -> Iterator[Path]:
        """Name the images' files."""
        return (self.root.parent / entry.id for entry in self.entries())

    def entries(self) -> Iterator[ImageEntry]:
        """List the images; none may be missing."""
        wanted = {image for pair in paired_images(self.root)[0] for image in pair}
        for person, number in sorted(wanted):
            stem = f"{person}/{person}_{number:04d}"
            found = [s for s in sorted(SUFFIXES) if is_there(self.root.parent / f"{stem}{s}")]
            if len(found) != 1:
                raise InputError(
                    f"{self.root}: names {stem}, of which {len(found)} images are in "
                    f"{self.root.parent}; expected one, the protocol leaves no pair out"
                )
            yield ImageEntry(stem + found[0], person)

    def read(self, entry: ImageEntry) -> bytes:
        """Return a file's contents."""
        return read_bytes(self.root.parent / entry.id)


_Image = tuple[str, int]


def paired_images(path: Path) -> tuple[list[tuple[_Image, _Image]], int]:
    """Read the pairs of a pairs.txt, matched and mismatched, in its order, and how many sets.

    Raises
    ------
    InputError
        At the first line that is no pair, and if there are not as many as the file says.

    Notes
    -----
    The first line says how many sets of how many matched and mismatched pairs follow. A number
    alone, as in View 1, is that of the pairs of a kind, of one set. A matched
    pair is `name i j`, a mismatched one `name i other j` (Huang et al. 2007, LFW technical report).
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({error})") from error
    pairs: list[tuple[_Image, _Image]] = []
    for number, line in enumerate(lines[1:], 2):
        match line.split("\t") if "\t" in line else line.split():
            case [name, i, j] if _is_number(i) and _is_number(j):
                pairs.append(((name, int(i)), (name, int(j))))
            case [name, i, other, j] if _is_number(i) and _is_number(j):
                pairs.append(((name, int(i)), (other, int(j))))
            case []:
                continue
            case _:
                raise InputError(
                    f"{path}: line {number} is {line!r}, expected a name and two numbers, or two "
                    "names with a number each"
                )
    if not pairs:
        raise InputError(f"{path}: names no pairs; expected LFW's pairs.txt")
    counts = lines[0].split()
    if (
        not counts
        or not all(map(_is_number, counts))
        or len(pairs) != 2 * math.prod(map(int, counts))
    ):
        raise InputError(
            f"{path}: has {len(pairs)} pairs and the first line {lines[0]!r}; expected there how "
            "many sets of how many matched and mismatched pairs follow, in all twice the product"
        )
    return pairs, int(counts[0]) if len(counts) > 1 else 1


def _is_number(word: str) -> bool:
    return word.isdecimal() and len(word) <= _MOST_DIGITS
