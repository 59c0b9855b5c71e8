"""Second half: pairs of images of classes that neither the networks nor the map ever saw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from crossgram.demonstration.experiment import Experiment
from crossgram.evaluation.scoring import as_wide
from crossgram.verification import (
    OperatingPoint,
    PairScores,
    area_under_curve,
    equal_error_rate,
    pair_scores,
    true_accepts_at,
)

__all__ = ["OpenSet", "Verification", "measure"]

_FAR = 0.01


@dataclass(frozen=True)
class Verification:
    """How well scores tell pairs of one class from pairs of two.

    Attributes
    ----------
    area_under_curve, equal_error_rate : float
        Of the ROC curve.
    operating_point : OperatingPoint
        The true accept rate at a false accept rate of 0.01.
    genuine_pairs, impostor_pairs : int
        How many of each.
    """

    area_under_curve: float
    equal_error_rate: float
    operating_point: OperatingPoint
    genuine_pairs: int
    impostor_pairs: int


@dataclass(frozen=True)
class OpenSet:
    """Verification of images of classes that were in no training and no fit.

    Attributes
    ----------
    learnt_images, held_out_images : int
        Images of the classes that networks and map saw, and of the others.
    own : mapping of str to Verification
        By network: its embeddings against its own.
    mapped, unmapped : Verification
        A's embeddings against B's: after the fitted map; zero-padded to B's width.
    """

    learnt_images: int
    held_out_images: int
    own: Mapping[str, Verification]
    mapped: Verification
    unmapped: Verification


def measure(experiment: Experiment) -> OpenSet:
    """Return the verification figures of an experiment whose held-out classes are new."""
    labels = experiment.held_out_labels()
    a, b = (experiment.held_out_rows(name) for name in ("a", "b"))
    mapped = experiment.maps["a", "b"].apply(a)
    return OpenSet(
        learnt_images=experiment.networks["a"].learnt.rows,
        held_out_images=len(np.asarray(labels)),
        own={"a": _verify(pair_scores(labels, a)), "b": _verify(pair_scores(labels, b))},
        mapped=_verify(pair_scores(labels, mapped, b)),
        unmapped=_verify(pair_scores(labels, as_wide(a, b.shape[1]), b)),
    )


def _verify(scores: PairScores) -> Verification:
    return Verification(
        area_under_curve(scores),
        equal_error_rate(scores),
        true_accepts_at(_FAR, scores),
        len(scores.genuine),
        len(scores.impostor),
    )
