"""What an atlas holds: plain data, and the JSON file that keeps it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossgram.comparison import Comparison
from crossgram.documents import read_document
from crossgram.errors import CorruptDataError, InputError
from crossgram.evaluation import ClassificationReport, IdentificationReport, VerificationReport

if TYPE_CHECKING:
    from pydantic import ValidationError

__all__ = [
    "FACTS",
    "Atlas",
    "AtlasMap",
    "AtlasSpace",
    "AtlasSplit",
    "PairClassification",
    "PairIdentification",
    "RidgePoint",
    "check_pydantic",
    "load_atlas",
    "save_facts",
]

FACTS = "atlas.json"
"""The file's name in the folder of an atlas."""

_FORMAT = 1
_MOST_BYTES, _MOST_VALUES = 1 << 24, 1 << 22
"""Of the file, which in memory is ten times as long; ten spaces of 2,048 columns take 10 MB."""


@dataclass(frozen=True)
class AtlasSpace:
    """One of the networks.

    Attributes
    ----------
    name : str
        Its name.
    dim : int
        Columns.
    spectrum : tuple of float
        Singular values of the centred rows, columns scaled to length 1, falling.
    """

    name: str
    dim: int
    spectrum: tuple[float, ...]


@dataclass(frozen=True)
class RidgePoint:
    """How a map with a ridge does on rows that were held out.

    Attributes
    ----------
    strength : float
        On the scale of sums of squares.
    r2 : float
        Share of variance explained.
    """

    strength: float
    r2: float


@dataclass(frozen=True)
class AtlasMap:
    """A map from one space to another.

    Attributes
    ----------
    source, target : str
        Names of the spaces.
    file : str
        Where it is, from the folder of the atlas.
    method : str
        How it was solved.
    ridge, condition, digits : float
        As its certificate has them.
    rank : int
        As its certificate has it.
    r2, held_out_r2 : float
        Share of variance explained of the rows it was fitted to, and of others.
    held_out_r2_per_output : tuple of float
        The latter of each column of the target, falling; of a constant column 0.
    singular_values : tuple of float
        Of its matrix, falling.
    ridge_curve : tuple of RidgePoint
        Other strengths, by the rows held out; empty of other methods than least squares.
    notes : tuple of str
        Of its certificate, and one of a map that is of no use to images held out.
    """

    source: str
    target: str
    file: str
    method: str
    ridge: float
    condition: float
    digits: float
    rank: int
    r2: float
    held_out_r2: float
    held_out_r2_per_output: tuple[float, ...]
    singular_values: tuple[float, ...]
    ridge_curve: tuple[RidgePoint, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class AtlasSplit:
    """Which images the maps were fitted on, and which they are tried on.

    Attributes
    ----------
    by : {"labels", "ids", "rows", "other stores"}
        What the images tried on were held out by: of labels, no person is on both sides.
    fitted_on, tried_on : tuple of str
        The stores, one per space.
    fitted_rows, held_out_rows : int
        Images that the maps were fitted to, and others that R² is of.
    recognised_rows : int
        Those of the latter that recognition is tried on.
    recognised_people : int or None
        Of whom there are two of these or more, so that they can be recognised; None where labels
        are missing, or classes.
    shared_images, shared_people : int or None
        Found on both sides; None where that cannot be told.
    seed : int
        Of the choice.
    """

    by: str
    fitted_on: tuple[str, ...]
    tried_on: tuple[str, ...]
    fitted_rows: int
    held_out_rows: int
    recognised_rows: int
    recognised_people: int | None
    shared_images: int | None
    shared_people: int | None
    seed: int


@dataclass(frozen=True)
class PairIdentification:
    """Probes of one space, searched for in the gallery of another.

    Attributes
    ----------
    source, target : str
        Names of the spaces.
    report : IdentificationReport
        What was found.
    """

    source: str
    target: str
    report: IdentificationReport


@dataclass(frozen=True)
class PairClassification:
    """Embeddings of one space, read by the classifier of another.

    Attributes
    ----------
    source, target : str
        Names of the spaces.
    report : ClassificationReport
        What was found.
    """

    source: str
    target: str
    report: ClassificationReport


@dataclass(frozen=True)
class Atlas:
    """All maps between some networks, and what they keep.

    Attributes
    ----------
    made_by, time : str
        The crossgram that made it, and when, UTC.
    spaces : tuple of AtlasSpace
        The networks.
    split : AtlasSplit
        Which images are whose.
    maps : tuple of AtlasMap
        From every space to every other one.
    comparison : Comparison
        Measures of every pair, of the rows that the maps were fitted to.
    verification : VerificationReport or None
        1:1; None without labels of people.
    identification : tuple of PairIdentification
        1:N, of every pair; empty without labels of people.
    classification : tuple of PairClassification
        Of every pair; empty without classifiers.
    notes : tuple of str
        What to know before relying on the figures.
    """

    made_by: str
    time: str
    spaces: tuple[AtlasSpace, ...]
    split: AtlasSplit
    maps: tuple[AtlasMap, ...]
    comparison: Comparison
    verification: VerificationReport | None
    identification: tuple[PairIdentification, ...]
    classification: tuple[PairClassification, ...]
    notes: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """What the spaces are called."""
        return tuple(space.name for space in self.spaces)

    def to_dict(self) -> dict[str, Any]:
        """Return all facts as JSON values."""
        return asdict(self)


def save_facts(atlas: Atlas, folder: Path) -> None:
    """Write the facts into the folder of an atlas."""
    facts = {"format": _FORMAT, **atlas.to_dict()}
    (folder / FACTS).write_text(json.dumps(facts, allow_nan=False), encoding="utf-8")


def check_pydantic() -> None:
    """Refuse to read an atlas where pydantic is missing."""
    if find_spec("pydantic") is None:
        raise InputError("report: needs pydantic; pip install 'crossgram[report]'")


def load_atlas(folder: str | Path) -> Atlas:
    """Read the facts of an atlas.

    Raises
    ------
    InputError
        If the folder is none that `crossgram atlas` made, or pydantic is missing.
    CorruptDataError
        If its facts are not of their kinds.
    """
    check_pydantic()
    from pydantic import TypeAdapter, ValidationError

    path = Path(folder) / FACTS
    try:
        facts = read_document(path, _MOST_BYTES, _MOST_VALUES)
    except OSError as error:
        raise InputError(
            f"{folder}: is no atlas, {FACTS} cannot be read ({error.strerror or error}); make one "
            "with crossgram atlas"
        ) from error
    except ValueError as error:
        raise CorruptDataError(f"{path}: is no JSON ({error}); make the atlas again") from error
    if not isinstance(facts, dict) or facts.pop("format", None) != _FORMAT:
        raise CorruptDataError(
            f"{path}: is not of the format {_FORMAT} that this version reads; make the atlas again"
        )
    try:
        return TypeAdapter(Atlas).validate_json(json.dumps(facts, allow_nan=False), strict=True)
    except ValidationError as error:
        raise CorruptDataError(f"{path}: {_first(error)}; make the atlas again") from error
    except ValueError as error:
        raise CorruptDataError(f"{path}: holds a number too large; make the atlas again") from error


def _first(error: ValidationError) -> str:
    fault = error.errors()[0]
    return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
