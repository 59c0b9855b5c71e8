"""First half: classes that both networks know, read through each other's heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from crossgram.demonstration.experiment import Experiment
from crossgram.evaluation.scoring import as_wide
from crossgram.heads import head_map, top_k_accuracy

__all__ = ["ClosedSet", "measure"]


@dataclass(frozen=True)
class ClosedSet:
    """Top-1 accuracies on held-out images of classes that both networks were trained on.

    Attributes
    ----------
    learnt_images, held_out_images : int
        Images that networks and maps saw, and images that neither saw.
    own : mapping of str to float
        By network: its embeddings, its head.
    mapped, unmapped, head_mapped : mapping of str to float
        By the network whose embeddings the other's head reads: after the fitted map; cut or
        zero-padded to the other's width; after the map that follows from the two heads alone.
    r2 : mapping of str to float
        Share of the other's variance that the map from a network explains, on the learnt images.
    """

    learnt_images: int
    held_out_images: int
    own: Mapping[str, float]
    mapped: Mapping[str, float]
    unmapped: Mapping[str, float]
    head_mapped: Mapping[str, float]
    r2: Mapping[str, float]


def measure(experiment: Experiment) -> ClosedSet:
    """Return the accuracies of an experiment whose held-out images are of the learnt classes."""
    labels = experiment.held_out_labels()
    own, mapped, without, by_heads, r2 = ({} for _ in range(5))
    for (source, target), fitted in experiment.maps.items():
        heads = [experiment.networks[name].head for name in (source, target)]
        rows = experiment.held_out_rows(source)
        closed_form = head_map(*heads, names=(source, target))
        own[source] = top_k_accuracy(heads[0].logits(rows), labels)
        mapped[source] = top_k_accuracy(heads[1].logits(fitted.apply(rows)), labels)
        without[source] = top_k_accuracy(heads[1].logits(as_wide(rows, heads[1].dim)), labels)
        by_heads[source] = top_k_accuracy(
            heads[1].logits(closed_form.apply(rows.astype(float))), labels
        )
        assert fitted.certificate is not None
        r2[source] = fitted.certificate.r2
    learnt = experiment.networks[source].learnt.rows
    return ClosedSet(learnt, len(labels), own, mapped, without, by_heads, r2)
