"""Identification of probes in a gallery: what is kept when the probes' network changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossgram.accumulation import open_spaces
from crossgram.cluster import check_workers
from crossgram.devices import check_device_for
from crossgram.errors import InputError, WidthMismatchError
from crossgram.evaluation.maps import loaded_map
from crossgram.evaluation.resampling import Interval, check_draws, intervals
from crossgram.evaluation.scoring import as_wide, prepared
from crossgram.evaluation.searching import Probes, Search, search, task_bytes
from crossgram.evaluation.splits import Overlap, checked_overlaps, split_notes
from crossgram.linear_map import LinearMap
from crossgram.pairing import check_counts, check_ids, check_labels
from crossgram.progress import Progress, ProgressCallback, ignore
from crossgram.source import Source, SourceLike, address_of, open_source, usable_rows
from crossgram.verification import allowed_false_accepts, least_rate, tellable

__all__ = ["Identification", "IdentificationReport", "OpenSetPoint", "identify"]

_RANKS = (1, 5, 10)
_FPIRS = (1e-1, 1e-2, 1e-3)
_NEAREST = 10
_ROWS = 1 << 16
_CHANCE = 0.1
"""From which share on what a random order finds is said."""

_OWN_IMAGES = (
    "probes or gallery have no ids: where the gallery has a probe's own image, the probe finds it, "
    "which flatters the figures"
)


@dataclass(frozen=True)
class OpenSetPoint:
    """Identification of people of whom not all are enrolled, at a threshold.

    Attributes
    ----------
    fpir : float
        False positive identification rate asked for.
    threshold : float
        A candidate counts if its score is above it.
    true_positive_rate : float
        TPIR: share of the searches for enrolled people whose mate comes first, above it.
    achieved_fpir : float
        Share of the searches for people who are not enrolled that give a candidate above it.
    """

    fpir: float
    threshold: float
    true_positive_rate: float
    achieved_fpir: float


@dataclass(frozen=True)
class Identification:
    """What searches of one kind find.

    Attributes
    ----------
    search : str
        Probe space, or map, and gallery space.
    kind : {"native", "mapped", "unmapped"}
        How the probes came into the gallery's space.
    source, target : str
        Where the probes are from, and the space of the gallery.
    ranks : mapping of int to float
        Share of the searches for enrolled people whose mate is among so many first (CMC).
    open_set : tuple of OpenSetPoint
        By false positive identification rate.
    intervals : mapping of str to Interval or None
        Of "rank-1" and others and "tpir@FPIR"; empty without resamples.
    kept : mapping of str to float
        Share of the native search's figures; empty for the native search itself.
    kept_intervals : mapping of str to Interval or None
        Of the shares, the same people drawn for both.
    recall : float or None
        Share of the nearest entries that the search in the re-embedded gallery finds, too.
    changed_lists : float or None
        Share of the probes for which it finds other ones.
    """

    search: str
    kind: str
    source: str
    target: str
    ranks: Mapping[int, float]
    open_set: tuple[OpenSetPoint, ...]
    intervals: Mapping[str, Interval | None] = field(default_factory=dict)
    kept: Mapping[str, float] = field(default_factory=dict)
    kept_intervals: Mapping[str, Interval | None] = field(default_factory=dict)
    recall: float | None = None
    changed_lists: float | None = None

    def figures(self) -> dict[str, float]:
        """Return the figures by name."""
        ranks = {_rank(rank): share for rank, share in self.ranks.items()}
        return ranks | {_tpir(point.fpir): point.true_positive_rate for point in self.open_set}


@dataclass(frozen=True)
class IdentificationReport:
    """All searches of one evaluation.

    Attributes
    ----------
    searches : tuple of Identification
        The native one first, where there is one.
    native : str or None
        Which that is.
    probes, gallery : int
        Images that were searched for, and entries searched.
    mated : int
        Probes of people who are in the gallery, by another image.
    left_out : int
        Images of probes and gallery without an embedding.
    non_mated : {"strangers", "mates left out"}
        Searches that false positives are counted in: for people who are not in the gallery, or,
        where all are, for each probe among the other people.
    non_mated_searches : int
        Their number.
    nearest : int
        Entries whose recall is given.
    untold_fpirs : tuple of float
        Rates that their number is too small for.
    resamples, seed : int
        Of the intervals.
    confidence : float
        Of the intervals.
    overlaps : tuple of Overlap
        What fit and the probes share, by the stores that were said to be fitted on, and by the
        map if it remembers it.
    gallery_overlaps : tuple of Overlap
        What fit and the gallery share likewise, by images only.
    notes : tuple of str
        What to know before relying on the figures.
    """

    searches: tuple[Identification, ...]
    native: str | None
    probes: int
    gallery: int
    mated: int
    left_out: int
    non_mated: str
    non_mated_searches: int
    nearest: int
    untold_fpirs: tuple[float, ...]
    resamples: int
    seed: int
    confidence: float
    overlaps: tuple[Overlap, ...]
    gallery_overlaps: tuple[Overlap, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        facts = asdict(self)
        for point in (point for own in facts["searches"] for point in own["open_set"]):
            # where nobody else is enrolled, there is no score to be above
            point["threshold"] = point["threshold"] if np.isfinite(point["threshold"]) else None
        return facts


def identify(
    probes: SourceLike,
    gallery: SourceLike,
    *,
    linear_map: LinearMap | str | Path | None = None,
    native: SourceLike | None = None,
    reembedded: SourceLike | None = None,
    names: Sequence[str] | None = None,
    ranks: Sequence[int] = _RANKS,
    fpirs: Sequence[float] = _FPIRS,
    nearest: int = _NEAREST,
    device: str = "cpu",
    client: Any = None,
    resamples: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
    fitted_on: Sequence[SourceLike] = (),
    allow_overlap: bool = False,
    progress: ProgressCallback = ignore,
) -> IdentificationReport:
    """Search a gallery for every probe, by the cosine; the gallery is streamed.

    Parameters
    ----------
    probes : source-like, shape (m, p)
        Embeddings of labelled images, held in memory.
    gallery : source-like, shape (n, q)
        Embeddings of enrolled images, with labels; of a probe's own image, by its id, none is
        found.
    linear_map : LinearMap or path, optional
        From the probes' space to the gallery's; without it they must be of one width.
    native : source-like, shape (m, q), optional
        The probes by the gallery's network, whose search is what is to be kept.
    reembedded : source-like, shape (n, p), optional
        The gallery by the probes' network, whose nearest entries are what is to be found.
    names : sequence of str, optional
        What the probes' and the gallery's spaces are called.
    ranks : sequence of int
        To give the CMC at.
    fpirs : sequence of float
        False positive identification rates.
    nearest : int
        Entries to compare with the re-embedded gallery's.
    device : {"auto", "cpu", "cuda", "cuda:1", ...}
        Where cosines are computed; auto takes a GPU where there is one. The rest is done on the
        processor.
    client : distributed.Client, optional
        Of a Dask cluster whose workers read the galleries, and each hold all probes; the figures
        are the same.
    resamples, confidence, seed, fitted_on, allow_overlap, progress
        As for `verify`.

    Returns
    -------
    IdentificationReport
        The native search; the mapped one; the one without a map, cut or filled up with zeros, as
        the floor; and that of the re-embedded gallery.

    Raises
    ------
    InputError
        If arguments contradict each other, there are no labels, nobody is enrolled, or what was
        fitted on is searched for.
    PairingError
        If native probes or the re-embedded gallery are not of the same images.
    WidthMismatchError
        If rows and map do not fit.
    NonFiniteError
        If an embedding is zero or not finite.

    Notes
    -----
    Rank: 1 and the number of entries of other people that reach the best entry of the probe's
    person, so ties count against it. TPIR and FPIR as in ISO/IEC 19795-1: at the threshold, the
    (k + 1)-th largest of the best scores of N non-mated searches, k = floor(FPIR N), a mated search
    succeeds if the mate comes first and is above it.
    """
    _check(ranks, fpirs, nearest, resamples, confidence)
    where = check_device_for(client, device)
    (probe, enrolled), called = open_spaces([probes, gallery], names)
    own = _twin("native", probe, native, enrolled.dim)
    again = _twin("reembedded", enrolled, reembedded, probe.dim)
    fitted = _checked_map(linear_map, probe, enrolled, called)
    usable, in_gallery = (
        usable_rows([first, *([] if twin is None else [twin])])
        for first, twin in ((probe, own), (enrolled, again))
    )
    searched = np.flatnonzero(usable)
    if not len(searched) or not in_gallery.any():
        empty = probe if not len(searched) else enrolled
        raise InputError(f"{empty.label}: none of its rows has an embedding, all are masked")
    maps = [] if fitted is None else [fitted]
    shared = checked_overlaps([probe], searched, fitted_on, maps, allow_overlap)
    entries = np.flatnonzero(in_gallery)
    enrolled_shared = checked_overlaps(
        [enrolled], entries, fitted_on, maps, True, people_count=False
    )
    who, people = _people(probe, enrolled, searched)
    itself = _same_images(probe, enrolled, searched)
    # but for the probe itself
    nearest = max(1, min(nearest, len(entries) - bool((itself >= 0).any())))
    here, there = called
    native_name = None if own is None else f"{there} in {there}"
    truth = None if again is None else f"{here} in {here}"
    planned = list(_planned(probe, enrolled, own, again, fitted, searched, called))
    if client is not None:
        _check_cluster(client, planned, nearest)
    total, done = 2 * len(planned) * enrolled.rows, 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        progress(Progress("identify", done, total, 0))

    found = {}
    for each in planned:
        unit = prepared(each.rows, "cosine", each.label, each.rows.dtype, numbers=searched)
        wanted = Probes(unit, who, itself)
        found[each.name] = search(
            wanted, each.gallery, people, in_gallery, nearest, report, where, client
        )
    mated = next(iter(found.values())).rank > 0
    if not mated.any():
        raise InputError(
            f"{enrolled.label}: nobody of {probe.label} is enrolled there by another image, so "
            "that nobody can be found; look at the labels of both"
        )
    strangers = not mated.all()
    against = ~mated if strangers else np.ones(len(mated), bool)
    rated = tellable(fpirs, int(against.sum()))
    count = int(mated.sum())
    enrolled_people = len(np.unique(who[mated]))
    measuring = _Measuring(
        who, against, count, tuple(ranks), tuple(rated), resamples, seed, enrolled_people
    )
    reported = _reported(
        planned, found, measuring, native=native_name, truth=truth, confidence=confidence
    )
    return IdentificationReport(
        searches=tuple(reported),
        native=native_name,
        probes=len(searched),
        gallery=len(entries),
        mated=count,
        left_out=int((~usable).sum()) + enrolled.rows - len(entries),
        non_mated="strangers" if strangers else "mates left out",
        non_mated_searches=int(against.sum()),
        nearest=nearest,
        untold_fpirs=tuple(far for far in fpirs if far not in rated),
        resamples=resamples,
        seed=seed,
        confidence=confidence,
        overlaps=shared,
        gallery_overlaps=enrolled_shared,
        notes=(
            *([] if probe.ids is not None and enrolled.ids is not None else [_OWN_IMAGES]),
            *_notes(fpirs, rated, int(against.sum()), strangers, fitted, shared),
            *_fitted_gallery(enrolled_shared),
            *_by_chance(ranks, None if again is None else nearest, len(entries)),
        ),
    )


def _check(
    ranks: Sequence[int],
    fpirs: Sequence[float],
    nearest: int,
    resamples: int,
    confidence: float,
) -> None:
    for name, numbers, least in (
        ("ranks", ranks, 1),
        ("nearest", [nearest], 1),
    ):
        if min(numbers, default=least) < least:
            raise InputError(f"{name}: {min(numbers)} given, expected {least} or more")
    for far in fpirs:
        allowed_false_accepts(far, 1)
    check_draws(resamples, confidence)


def _twin(name: str, first: Source, given: SourceLike | None, dim: int) -> Source | None:
    """Open the same images by the other network."""
    if given is None:
        return None
    twin = open_source(given, name)
    if twin.dim != dim:
        raise WidthMismatchError(
            f"{twin.label}: has {twin.dim} columns, the other store of its network has {dim}; give "
            f"the images of {first.label} by the other network"
        )
    check_counts([first, twin])
    check_ids([first, twin], 0, first.rows)
    check_labels([first, twin])
    return twin


def _checked_map(
    given: LinearMap | str | Path | None, probe: Source, gallery: Source, names: Sequence[str]
) -> LinearMap | None:
    if given is None:
        if probe.dim != gallery.dim:
            raise WidthMismatchError(
                f"{probe.label} has {probe.dim} columns, {gallery.label} has {gallery.dim}; give a "
                "map from the first to the second (--map)"
            )
        return None
    return loaded_map(given, probe, gallery, f"{names[0]} to {names[1]}")


def _rows(source: Source, wanted: NDArray[np.int64]) -> NDArray[np.floating]:
    rows = np.empty((source.rows, source.dim), source.dtype)
    source.read(0, rows)
    kept: NDArray[np.floating] = rows[wanted].astype(np.result_type(rows.dtype, np.float32))
    return kept


def _planned(
    probe: Source,
    enrolled: Source,
    own: Source | None,
    again: Source | None,
    fitted: LinearMap | None,
    searched: NDArray[np.int64],
    names: Sequence[str],
) -> Iterator[_Planned]:
    """Yield the searches to make: native, mapped, in the re-embedded gallery, and unmapped."""
    here, there = names
    rows, label = _rows(probe, searched), probe.label
    if own is not None:
        theirs = _rows(own, searched)
        yield _Planned(f"{there} in {there}", "native", there, there, own.label, theirs, enrolled)
    if fitted is not None:
        mapped = f"{label}, mapped to {there}"
        name = f"{here} to {there} in {there}"
        yield _Planned(name, "mapped", here, there, mapped, fitted.apply(rows), enrolled)
    if again is not None:
        yield _Planned(f"{here} in {here}", "native", here, here, label, rows, again)
    name = f"{here} {'' if fitted is None else 'unmapped '}in {there}"
    cut = as_wide(rows, enrolled.dim)
    # of rows whose numbers are all cut off, there is nothing to search for
    if fitted is None or cut.any(axis=1).all():
        yield _Planned(name, "unmapped", here, there, label, cut, enrolled)


def _check_cluster(client: Any, planned: Sequence[_Planned], nearest: int) -> None:
    galleries = list({id(one.gallery): one.gallery for one in planned}.values())
    for gallery in galleries:
        address_of(gallery)
    largest = max(task_bytes(one.rows, one.gallery.dim, nearest) for one in planned)
    check_workers(client, galleries, largest)


def _people(
    probe: Source, gallery: Source, searched: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return a number for whom each probe and each entry shows; -1 for no probe's person."""
    for source in (probe, gallery):
        if source.labels is None:
            raise InputError(
                f"{source.label}: has no labels, so that nobody knows who is who; make the store "
                "with labels"
            )
    assert probe.labels is not None
    assert gallery.labels is not None
    names, who = np.unique(probe.labels.hashes(0, probe.rows)[searched], return_inverse=True)
    people = np.empty(gallery.rows, np.int64)
    for start in range(0, gallery.rows, _ROWS):
        own = gallery.labels.hashes(start, min(start + _ROWS, gallery.rows))
        place, found = _places(names, own)
        people[start : start + len(own)] = np.where(found, place, -1)
    return who.astype(np.int64), people


def _same_images(probe: Source, gallery: Source, searched: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the gallery's row of each probe's image, by the ids; -1 where there is none."""
    if probe.ids is None or gallery.ids is None:
        return np.full(len(searched), -1, np.int64)
    images, which = np.unique(probe.ids.hashes(0, probe.rows)[searched], return_inverse=True)
    row_of = np.full(len(images), -1, np.int64)
    for start in range(0, gallery.rows, _ROWS):
        own = gallery.ids.hashes(start, min(start + _ROWS, gallery.rows))
        place, found = _places(images, own)
        row = np.flatnonzero(found)
        for k, image in zip(row.tolist(), place[row].tolist(), strict=True):
            if row_of[image] >= 0:
                value = gallery.ids.read(start + k, start + k + 1)[0]
                raise InputError(
                    f"{gallery.label}: rows {row_of[image]} and {start + k} both have the id "
                    f"{value!r} of a probe's image, which must not find itself; give each "
                    "image one row, or other ids"
                )
            row_of[image] = start + k
    return row_of[which]


def _places(
    known: NDArray[np.uint64], asked: NDArray[np.uint64]
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return where each is among the known ones, which rise, and whether it is there."""
    place = np.minimum(np.searchsorted(known, asked), len(known) - 1)
    return place, known[place] == asked


@dataclass(frozen=True)
class _Planned:
    """A search to make; the fields as `Identification` has them."""

    name: str
    kind: str
    source: str
    target: str
    label: str
    rows: NDArray[np.floating]
    gallery: Source


@dataclass(frozen=True)
class _Measuring:
    who: NDArray[np.int64]
    against: NDArray[np.bool_]
    mated: int
    ranks: tuple[int, ...]
    fpirs: tuple[float, ...]
    resamples: int
    seed: int
    enrolled_people: int

    @property
    def names(self) -> list[str]:
        return [*map(_rank, self.ranks), *map(_tpir, self.fpirs)]

    def points(self, found: Search) -> list[OpenSetPoint]:
        """Return what is found at each false positive identification rate."""
        once = np.ones(len(self.who), np.int64)
        others = self._others(found)
        points = []
        for fpir in self.fpirs:
            threshold, rate = self._open_set(found, others, once, fpir)
            achieved = float(np.mean(found.other[self.against] > threshold))
            points.append(OpenSetPoint(fpir, threshold, rate, achieved))
        return points

    def closed_set(self, found: Search, weights: NDArray[np.int64]) -> list[float]:
        """Return the CMC at the ranks, each probe counted as often as its weight says."""
        mated = weights[found.rank > 0]
        total = mated.sum()
        if not total:
            return [float("nan")] * len(self.ranks)
        rank = found.rank[found.rank > 0]
        return [float(mated[rank <= limit].sum() / total) for limit in self.ranks]

    def draws(self, found: Search) -> NDArray[np.float64]:
        """Return the figures of probes' people drawn anew, the same ones for every search."""
        rng = np.random.default_rng(self.seed)
        people = int(self.who.max()) + 1
        drawn = np.empty((self.resamples, len(self.names)))
        others = self._others(found)
        for figures in drawn:
            times = np.bincount(rng.integers(people, size=people), minlength=people)
            weights = times[self.who]
            rates = [self._open_set(found, others, weights, fpir)[1] for fpir in self.fpirs]
            figures[:] = [*self.closed_set(found, weights), *rates]
        return drawn

    def _others(self, found: Search) -> NDArray[np.int64]:
        """Return the non-mated searches, the one with the highest score first."""
        searches = np.flatnonzero(self.against)
        return searches[np.argsort(-found.other[searches], kind="stable")]

    def _open_set(
        self,
        found: Search,
        others: NDArray[np.int64],
        weights: NDArray[np.int64],
        fpir: float,
    ) -> tuple[float, float]:
        counted = np.cumsum(weights[others])
        mated = weights * (found.rank > 0)
        allowed = allowed_false_accepts(fpir, int(counted[-1]))
        if allowed < 1 or not mated.sum():
            return float("nan"), float("nan")
        threshold = float(found.other[others[np.searchsorted(counted, allowed, "right")]])
        hits = mated * ((found.rank == 1) & (found.mate > threshold))
        return threshold, float(hits.sum() / mated.sum())


def _reported(
    planned: Sequence[_Planned],
    found: Mapping[str, Search],
    measuring: _Measuring,
    *,
    native: str | None,
    truth: str | None,
    confidence: float,
) -> Iterator[Identification]:
    base: dict[str, float] = {}
    base_draws: NDArray[np.float64] | None = None
    for one in planned:
        name, own = one.name, found[one.name]
        once = np.ones(len(measuring.who), np.int64)
        shares = measuring.closed_set(own, once)
        drawn = measuring.draws(own)
        result = Identification(
            search=name,
            kind=one.kind,
            source=one.source,
            target=one.target,
            ranks=dict(zip(measuring.ranks, shares, strict=True)),
            open_set=tuple(measuring.points(own)),
            intervals=_named(measuring, drawn, confidence),
        )
        if name == native:
            base, base_draws = result.figures(), drawn
        elif base_draws is not None:
            # of whole searches: what is rounded once meets what somebody asks for
            kept = {
                figure: round(value * measuring.mated) / round(base[figure] * measuring.mated)
                for figure, value in result.figures().items()
                if base[figure] > 0
            }
            with np.errstate(divide="ignore", invalid="ignore"):
                ratios = np.where(base_draws > 0, drawn / base_draws, np.nan)
            named = _named(measuring, ratios, confidence)
            result = replace(
                result,
                kept=kept,
                kept_intervals={figure: named[figure] for figure in kept if figure in named},
            )
        if truth is not None and name != truth:
            recall, changed = _against(own.nearest, found[truth].nearest)
            result = replace(result, recall=recall, changed_lists=changed)
        yield result


def _named(
    measuring: _Measuring, drawn: NDArray[np.float64], confidence: float
) -> dict[str, Interval | None]:
    if not measuring.resamples:
        return {}
    ends = intervals(drawn, confidence, measuring.enrolled_people)
    return dict(zip(measuring.names, ends, strict=True))


def _against(found: NDArray[np.int64], wanted: NDArray[np.int64]) -> tuple[float, float]:
    """Return the share of wanted entries that were found, and of lists with any other."""
    there = (found[:, :, None] == wanted[:, None, :]).any(axis=1).sum(axis=1)
    count = wanted.shape[1]
    return float(there.mean() / count), float(np.mean(there < count))


def _rank(rank: int) -> str:
    return f"rank-{rank}"


def _tpir(fpir: float) -> str:
    return f"tpir@{fpir:.12g}"


def _by_chance(ranks: Sequence[int], nearest: int | None, entries: int) -> Iterator[str]:
    """Say what a random order of so few entries gives."""
    for figure, count in (
        *((_rank(rank), rank) for rank in ranks),
        *([] if nearest is None else [(f"{nearest} nearest entries found", nearest)]),
    ):
        chance = min(1, count / entries)
        if chance >= _CHANCE:
            yield f"of {entries:,} entries, chance gives {100 * chance:.0f} % {figure}"


def _fitted_gallery(overlaps: Sequence[Overlap]) -> Iterator[str]:
    for own in overlaps:
        if own.images:
            yield (
                f"{own.amount} of the gallery's images are among those that the map was fitted on: "
                "where the probes show the same people, that flatters it"
            )


def _notes(
    fpirs: Sequence[float],
    rated: Sequence[float],
    non_mated: int,
    strangers: bool,
    fitted: LinearMap | None,
    shared: Sequence[Overlap],
) -> Iterator[str]:
    if len(rated) < len(set(fpirs)):
        yield (
            f"{non_mated:,} non-mated searches tell false positive identification rates down to "
            f"{least_rate(non_mated)}; lower ones were left out"
        )
    if not strangers:
        yield (
            "everybody is enrolled: false positives are counted in searches among the other people"
        )
    if fitted is not None:
        yield from split_notes(shared, [fitted])
