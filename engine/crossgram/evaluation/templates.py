"""Templates of IJB-B and IJB-C: several images of a person, compared as one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossgram.errors import InputError, NonFiniteError
from crossgram.evaluation.pair_list import MOST_PAIRS, PairList, subjects_of
from crossgram.images.landmark_list import landmark_rows
from crossgram.kernels.numpy import unit_rows

__all__ = ["Pooling", "Templates", "read_template_pairs", "read_templates"]

_BLOCK_IMAGES = 4096
_MOST_DIGITS = 18
_MOST_LINE = 1 << 12
_EXPECTED = "expected two templates and 1 or 0 in each line"


@dataclass(frozen=True)
class Pooling:
    """How images became templates.

    Attributes
    ----------
    templates, media : int
        Templates in pairs, and the media that their images are of.
    normalized_images : bool
        Whether images' embeddings were divided by their lengths, after the map.
    detector_scores : bool
        Whether they were then multiplied by the detector's scores.
    """

    templates: int
    media: int
    normalized_images: bool
    detector_scores: bool


@dataclass(frozen=True)
class Templates:
    """Which images each template is made of, those of a template together.

    Attributes
    ----------
    numbers : ndarray of int, shape (t,)
        What the templates are called, ascending.
    images : ndarray of int, shape (n,)
        Rows of the images.
    template, media : ndarray of int, shape (n,)
        Which template, from 0 to t - 1 and ascending, and which media each image is of.
    weights : ndarray, shape (n,), float64
        What each image counts in the sum of its template.
    normalized_images, detector_scores : bool
        See `Pooling`.
    """

    numbers: NDArray[np.int64]
    images: NDArray[np.int64]
    template: NDArray[np.int64]
    media: NDArray[np.int64]
    weights: NDArray[np.float64]
    normalized_images: bool
    detector_scores: bool

    def pool(self, rows: NDArray[np.floating], name: str) -> NDArray[np.float64]:
        """Return one row per template: of each media the mean, and their sum.

        Parameters
        ----------
        rows : ndarray, shape (m, d), floating
            Embeddings of images, mapped if they are to be.
        name : str
            How messages call them.

        Returns
        -------
        ndarray, shape (t, d), float64

        Raises
        ------
        NonFiniteError
            If the embedding of an image is not finite, or zero and to be normalized.

        Notes
        -----
        t = Σ_m (1/n_m) Σ_i s_i u_i over the media m of a template and their n_m images i, s the
        detector's score or 1, u = x / |x| or x (insightface, image2template_feature).
        """
        pooled = np.zeros((len(self.numbers), rows.shape[1]))
        for start in range(0, len(self.images), _BLOCK_IMAGES):
            own = slice(start, start + _BLOCK_IMAGES)
            block = rows[self.images[own]]
            block = unit_rows(block) if self.normalized_images else block.astype(np.float64)
            finite = np.isfinite(block).all(axis=1)
            if not finite.all():
                raise NonFiniteError(
                    f"{name}: row {self.images[own][np.argmin(finite)]} is zero or holds NaN or "
                    "infinity and cannot be pooled; mend it"
                )
            block *= self.weights[own, None]
            template = self.template[own]
            first = np.flatnonzero(np.diff(template, prepend=-1))
            pooled[template[first]] += np.add.reduceat(block, first, axis=0)
        return pooled

    def images_of(self, templates: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows of the images of some templates."""
        return np.unique(self.images[np.isin(self.template, templates)])

    def pooling(self, templates: NDArray[np.int64]) -> Pooling:
        """Say how some templates were made."""
        media = np.unique(self.media[np.isin(self.template, templates)])
        return Pooling(len(templates), len(media), self.normalized_images, self.detector_scores)


def read_templates(
    path: str | Path,
    ids: Sequence[Any],
    *,
    normalize_images: bool = False,
    detector_scores: str | Path | None = None,
) -> Templates:
    """Read which images make up which templates, and find them among the ids of rows.

    Parameters
    ----------
    path : path
        Lines `image template media`, such as ijbc_face_tid_mid.txt.
    ids : sequence
        Of the rows.
    normalize_images : bool
        Divide embeddings by their lengths before they are pooled.
    detector_scores : path, optional
        Lines of a name, ten coordinates and a score, such as ijbc_name_5pts_score.txt: multiply
        each image's embedding by its score.

    Raises
    ------
    InputError
        At the first line that is none; if an image or a score is not there: none is left out.
    """
    names, template, media = _template_lines(Path(path))
    row_of = {str(own): row for row, own in enumerate(ids)}
    missing = [name for name in names if name not in row_of]
    if missing:
        raise InputError(
            f"{path}: {len(missing):,} of its {len(names):,} images have no embedding in the "
            f"store, the first is {missing[0]}; a protocol leaves out none: embed them too"
        )
    order = np.lexsort((media, template))
    template, media = template[order], media[order]
    # of the same template and the same media
    begins = (np.diff(template, prepend=-1) != 0) | (np.diff(media, prepend=-1) != 0)
    group = np.cumsum(begins) - 1
    weights = 1 / np.bincount(group)[group]
    if detector_scores is not None:
        weights *= np.array(_scores(Path(detector_scores), names))[order]
    numbers, position = np.unique(template, return_inverse=True)
    return Templates(
        numbers=numbers,
        images=np.array([row_of[name] for name in names], np.int64)[order],
        template=position.astype(np.int64),
        media=group.astype(np.int64),
        weights=weights,
        normalized_images=normalize_images,
        detector_scores=detector_scores is not None,
    )


def read_template_pairs(path: str | Path, templates: Templates) -> PairList:
    """Read which templates are compared, such as ijbc_template_pair_label.txt.

    Parameters
    ----------
    path : path
        Lines `template template label`, the label being 1 for one person and 0 for two.
    templates : Templates
        That the pairs are of.

    Returns
    -------
    PairList
        Whose rows are positions in `templates.numbers`, without folds.

    Raises
    ------
    InputError
        If a line is none, a template is not among those given, there are more than 20 million
        pairs, or pairs of one kind only.
    """
    lines = _pair_lines(Path(path))
    ends, label = lines[:, :2].T, lines[:, 2]
    is_label = np.isin(label, (0, 1))
    if not is_label.all():
        raise InputError(
            f"{path}: pair {np.argmin(is_label) + 1:,} has a label that is neither 1 for one "
            "person nor 0 for two"
        )
    rows = np.stack([_positions(templates.numbers, side, path) for side in ends])
    same = label == 1
    if same.all() or not same.any():
        raise InputError(f"{path}: has pairs of one kind only; expected same and different people")
    subject = subjects_of(rows, same, len(templates.numbers))
    return PairList(rows[0], rows[1], same, None, subject)


def _positions(
    numbers: NDArray[np.int64], wanted: NDArray[np.int64], path: str | Path
) -> NDArray[np.int64]:
    found = np.searchsorted(numbers, wanted)
    known = numbers[np.minimum(found, len(numbers) - 1)] == wanted
    if not known.all():
        raise InputError(
            f"{path}: the template {wanted[np.argmin(known)]} is none of those given; a protocol "
            "leaves out no pair: give the list of templates that goes with it"
        )
    return found


def _template_lines(path: Path) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    names: list[str] = []
    numbers: list[tuple[int, int]] = []
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                match line.split():
                    case [name, template, media] if _is_number(template) and _is_number(media):
                        names.append(name)
                        numbers.append((int(template), int(media)))
                    case []:
                        continue
                    case _:
                        raise InputError(
                            f"{path}: after {len(names):,} images comes {line[:80]!r}, expected an "
                            "image, and the numbers of its template and its media"
                        )
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({error})") from error
    if not names:
        raise InputError(f"{path}: names no images")
    template, media = np.array(numbers, np.int64).T
    return names, template, media


def _is_number(word: str) -> bool:
    return word.isdecimal() and len(word) <= _MOST_DIGITS


def _scores(path: Path, names: Sequence[str]) -> list[float]:
    score_of = {name: score for name, _, score in landmark_rows(path)}
    missing = [name for name in names if name not in score_of]
    if missing:
        raise InputError(
            f"{path}: {len(missing):,} images have no detector's score in it, the first is "
            f"{missing[0]}; give the list that goes with the templates"
        )
    scores = [score_of[name] for name in names]
    wrong = next((k for k, score in enumerate(scores) if not 0 <= score < np.inf), None)
    if wrong is not None:
        raise InputError(
            f"{path}: {names[wrong]} has the score {scores[wrong]}, expected 0 or more"
        )
    return scores


def _pair_lines(path: Path) -> NDArray[np.int64]:
    """Return the numbers of each line, shape (m, 3)."""
    if path.suffix.lower() != ".txt":
        # NumPy would unpack one that ends in .gz
        raise InputError(f"{path}: not a list of pairs of templates; expected a .txt")
    _check_first_line(path)
    try:
        with warnings.catch_warnings():
            # of blank lines, and of none
            warnings.simplefilter("ignore", UserWarning)
            # of 1.5, which would be read as 1
            warnings.simplefilter("error", DeprecationWarning)
            lines = np.loadtxt(
                path,
                dtype=np.int64,
                comments=None,
                ndmin=2,
                encoding="ascii",
                max_rows=MOST_PAIRS + 1,
            )
    except (OSError, ValueError, DeprecationWarning) as error:
        raise InputError(f"{path}: cannot be read ({error}); {_EXPECTED}") from error
    if not lines.size or lines.shape[1] != 3:
        raise InputError(
            f"{path}: has {len(lines):,} lines of {lines.shape[1]} numbers; {_EXPECTED}"
        )
    if len(lines) > MOST_PAIRS:
        raise InputError(f"{path}: has more than {MOST_PAIRS:,} pairs, which are not held")
    return lines


def _check_first_line(path: Path) -> None:
    """Refuse a list of other numbers than three in a line: NumPy takes the memory of all at once.

    It refuses itself a line that has not as many as the first.
    """
    try:
        with path.open(encoding="ascii") as file:
            while (line := file.readline(_MOST_LINE)) and not line.strip():
                pass
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {_EXPECTED}") from error
    if len(line.split()) not in (0, 3):
        raise InputError(f"{path}: begins with {line.strip()[:80]!r}; {_EXPECTED}")
