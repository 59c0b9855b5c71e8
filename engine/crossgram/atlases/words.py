"""An atlas in words: what is kept, and of which images that is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from crossgram.atlases.facts import Atlas, AtlasMap
from crossgram.evaluation import Interval
from crossgram.evaluation.resampling import fewest_people

__all__ = ["Kept", "basis", "headline", "is_of_few", "kept_by_pair", "map_notes", "split_in_words"]

_MOST_NAMED = 3


@dataclass(frozen=True)
class Kept:
    """What a map keeps of a figure that its target reaches by itself.

    Attributes
    ----------
    source, target : str
        Names of the spaces.
    figure : str
        Which, for example "rank-1".
    share : float
        Of the native figure.
    interval : Interval or None
        Of the share.
    """

    source: str
    target: str
    figure: str
    share: float
    interval: Interval | None


def kept_by_pair(atlas: Atlas) -> list[Kept]:
    """Return what every map keeps of its target's rank-1; of classifiers, of their top-1.

    Empty where neither was tried.
    """
    kept = []
    for pair in atlas.identification:
        mapped = next(one for one in pair.report.searches if one.kind == "mapped")
        share = mapped.kept.get("rank-1")
        if share is not None:
            interval = mapped.kept_intervals.get("rank-1")
            kept.append(Kept(pair.source, pair.target, "rank-1", share, interval))
    for own in atlas.classification:
        top = {
            one.kind: one.top[1] for one in own.report.classifications if one.target == own.target
        }
        if top["native"]:
            share = top["mapped"] / top["native"]
            kept.append(Kept(own.source, own.target, "top-1", share, None))
    return kept


def headline(atlas: Atlas) -> list[str]:
    """Return what the maps keep, in a sentence or two; `basis` says what that rests on."""
    kept = kept_by_pair(atlas)
    if not kept:
        return [_of_variance(atlas)]
    if len(kept) <= 2:
        return [_of_pair(one) for one in kept]
    ordered = sorted(kept, key=lambda one: one.share)
    least, most = ordered[0], ordered[-1]
    middle = _percent(median(one.share for one in ordered))
    what = "a mapped probe" if least.figure == "rank-1" else "a mapped embedding"
    sentence = (
        f"Over all {len(kept)} pairs of networks, {what} keeps {middle} of what the target's own "
        f"reaches ({least.figure}) in the median: from {_percent(least.share)} "
        f"({least.source} to {least.target}) to {_percent(most.share)} "
        f"({most.source} to {most.target})."
    )
    return [sentence]


def basis(atlas: Atlas) -> list[str]:
    """Return what the figures of recognition rest on, and whether these are too few people."""
    if atlas.identification:
        report, people = atlas.identification[0].report, atlas.split.recognised_people or 0
        searches = "1 search" if report.mated == 1 else f"{report.mated:,} searches"
        of = "1 person" if people == 1 else f"{people:,} people"
        least = fewest_people(report.confidence)
        few = f", too few to tell how it is with others (at least {least})"
        return [f"Recognition rests on {searches} for {of}{few if is_of_few(atlas) else ''}."]
    if atlas.classification:
        return [f"Classification rests on {atlas.classification[0].report.images:,} images."]
    return []


def is_of_few(atlas: Atlas) -> bool:
    """Tell whether recognition was tried on too few people for an interval over them."""
    if not atlas.identification:
        return False
    least = fewest_people(atlas.identification[0].report.confidence)
    return (atlas.split.recognised_people or 0) < least


def split_in_words(atlas: Atlas) -> str:
    """Return which images the maps were fitted on, and which they were tried on."""
    split = atlas.split
    fitted = f"The maps were fitted on {split.fitted_rows:,} images"
    tried = f"and tried on {split.held_out_rows:,}"
    if split.recognised_rows not in (0, split.held_out_rows):
        tried += f", recognition on {split.recognised_rows:,} of these"
    return f"{fitted} {tried}. {_apart(atlas)}"


def map_notes(atlas: Atlas) -> list[str]:
    """Return the notes of the maps' certificates, each once, and of which maps it is."""
    noted: dict[str, list[AtlasMap]] = {}
    for one in atlas.maps:
        for note in one.notes:
            noted.setdefault(note, []).append(one)
    return [f"{_maps(atlas, maps)}: {note}" for note, maps in noted.items()]


def _maps(atlas: Atlas, maps: Sequence[AtlasMap]) -> str:
    if len(maps) == len(atlas.maps):
        return "all maps"
    if len(maps) == 1:
        return f"the map {maps[0].source} to {maps[0].target}"
    for end, word in (("source", "from"), ("target", "to")):
        ends = {getattr(one, end) for one in maps}
        of_ends = [one for one in atlas.maps if getattr(one, end) in ends]
        if len(ends) == 1 and len(maps) == len(of_ends):
            return f"the maps {word} {ends.pop()}"
    named = ", ".join(f"{one.source} to {one.target}" for one in maps[:_MOST_NAMED])
    more = len(maps) - _MOST_NAMED
    return f"the maps {named}" + (f" and {more:,} more" if more > 0 else "")


def _apart(atlas: Atlas) -> str:
    split = atlas.split
    if split.by == "labels":
        return "Images tried on were held out by label: no person is on both sides."
    if split.by in ("ids", "rows"):
        return f"Images tried on were held out by {split.by}; whose they are is not known."
    if split.shared_images is None and not split.shared_people:
        return "Whether images are on both sides cannot be told, for the stores have no ids" + (
            "." if split.shared_people is None else "; no person is, by labels."
        )
    if split.shared_images or split.shared_people:
        people = "" if split.shared_people is None else f" and {split.shared_people:,} people"
        images = "" if split.shared_images is None else f"{split.shared_images:,} images"
        both = f"{images}{people}".removeprefix(" and ")
        return f"{both} are on both sides, which flatters the figures."
    if split.shared_people is None:
        return "No image is on both sides, by its id."
    return "No image and no person is on both sides, by ids and labels."


def _of_pair(kept: Kept) -> str:
    spread = ""
    if kept.interval is not None:
        spread = f" ({_percent(kept.interval.low)} to {_percent(kept.interval.high)})"
    if kept.figure == "rank-1":
        return (
            f"Searching {kept.target}'s gallery with {kept.source}'s probes keeps "
            f"{_percent(kept.share)} of {kept.target}'s rank-1{spread}."
        )
    return (
        f"{kept.source}'s embeddings in {kept.target}'s classifier keep {_percent(kept.share)} of "
        f"{kept.target}'s top-1{spread}."
    )


def _of_variance(atlas: Atlas) -> str:
    shares = sorted(one.held_out_r2 for one in atlas.maps)
    return (
        f"The maps explain {_percent(median(shares))} of their targets' variance in the median, "
        f"from {_percent(shares[0])} to {_percent(shares[-1])}, on the images they were tried on."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
