"""From paired sources to moments, in one pass."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from hashlib import blake2b
from numbers import Integral
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossgram.checkpoint import Checkpoint, opened_checkpoint
from crossgram.cluster_sums import Apart, KeptTree, sums_on_cluster
from crossgram.devices import check_device, check_device_name, free_bytes, gpu_number, release
from crossgram.errors import InputError
from crossgram.fingerprint import RECORDING_BYTES, fingerprint, id_sum, known_rows
from crossgram.folds import FOLD_BY, FoldedMoments, with_history
from crossgram.grouping import Assign, assigner, assigner_to, balanced_weights
from crossgram.history import Operation
from crossgram.kernels import tile_rows_of
from crossgram.merge_tree import MergeTree, merge_folds
from crossgram.moments import Moments
from crossgram.pairing import (
    at_rows,
    check_counts,
    check_ids,
    joined,
    joining_bytes,
    matched,
)
from crossgram.plan import Plan, make_plan, on_processor
from crossgram.preconditioner import Preconditioner
from crossgram.progress import Progress, ProgressCallback, ignore
from crossgram.residual_moments import ResidualMoments
from crossgram.seen import UNSEEN, Seen
from crossgram.segment_sums import (
    Accumulating,
    MomentsWork,
    ResidualWork,
    Sums,
    Work,
    add_block,
)
from crossgram.source import Source, SourceLike, computed_by, first_column, open_source, read_npy
from crossgram.spaces import Space, all_pairs, map_pairs, unique_names
from crossgram.stream import Block, stream_segments

__all__ = [
    "Options",
    "Pass",
    "accumulate",
    "checked_weights",
    "open_spaces",
    "paired_by",
    "planned",
    "prepared",
]


@dataclass(frozen=True)
class Options:
    """How a pass is to be made; the same for `accumulate`, `fit` and `plan`.

    Attributes
    ----------
    names : sequence of str, optional
        Names of the spaces; by default the stems of paths, and "array 1", ... of arrays.
    maps : collection of (source, target) names, optional
        Keep only the blocks that these maps need; by default every block.
    folds : int
        Sets of moments to keep apart; 0 for one.
    group_by : {"rows", "ids", "labels"}
        Contiguous runs of rows, by hash of the id, or by hash of the label.
    normalize : bool or collection of names
        Which spaces' rows are divided by their lengths: all, none, or these.
    weights : array, shape (rows,), or path of a .npy file, optional
        Non-negative weight of each row.
    balance : bool
        Weigh each row by one over the number of rows of its label, so that every person counts
        alike, whether photographed once or a hundred times. Masked rows do not count.
    precision : {"exact", "fast"}
        float64 products; or float32 products of centred rows added in float64, nearly twice as fast
        for about 7 digits fewer.
    on_nonfinite : {"stop", "skip"}
        Stop at the first row with NaN or infinity; or leave such rows out of every space. Rows
        that a store masks are left out either way.
    join : {None, "ids"}
        Pair rows by position; or by id.
    memory : int, optional
        Bytes that the run may hold above the interpreter with imports.
    threads : int, optional
        Threads; by default the processors that this process may use.
    device : str
        Where products are computed: "cpu"; "cuda", or "cuda:1" for the second GPU; or "auto", a GPU
        where there is one. A GPU adds up longer tiles, so that results differ in their last bits.
    norms : bool
        Keep the sums that unbiased CKA needs too; not with `maps` or `weights`.
    checkpoint : path, optional
        A folder to keep finished parts in: the same run, if it was stopped, goes on from there.
    client : distributed.Client, optional
        Of a Dask cluster whose workers are to do it, a segment at a time; `memory` is then that of
        each, and a result the same bit for bit.
    remember : bool
        Remember which images and people the rows are of, by hashes of ids and labels.
    """

    names: Sequence[str] | None = None
    maps: Collection[tuple[str, str]] | None = None
    folds: int = 0
    group_by: str = "rows"
    normalize: bool | Collection[str] = False
    weights: ArrayLike | Path | None = None
    balance: bool = False
    precision: str = "exact"
    on_nonfinite: str = "stop"
    join: str | None = None
    memory: int | None = None
    threads: int | None = None
    device: str = "cpu"
    norms: bool = False
    checkpoint: str | Path | None = None
    client: Any = None
    remember: bool = True

    def __post_init__(self) -> None:
        choices = {
            "group_by": FOLD_BY,
            "precision": ("exact", "fast"),
            "on_nonfinite": ("stop", "skip"),
            "join": (None, "ids"),
        }
        for name, allowed in choices.items():
            value = getattr(self, name)
            if not (value is None or isinstance(value, str)) or value not in allowed:
                raise InputError(f"{name}: {value!r} given, expected one of {allowed}")
        for name in ("memory", "threads", "folds"):
            number = getattr(self, name)
            if number is not None and not isinstance(number, Integral):
                raise InputError(f"{name}: {number!r} given, expected a whole number")
            if name != "folds" and number is not None and number < 1:
                raise InputError(f"{name}: {number} given, expected at least 1")
        check_device_name(self.device)
        if self.group_by != "rows" and not self.folds:
            raise InputError(f"group_by: {self.group_by!r} given without folds; say how many")
        if self.balance and self.weights is not None:
            raise InputError("balance: given with weights; multiply them yourself, or give one")
        for name in ("maps", "weights", "balance"):
            value = getattr(self, name)
            if self.norms and value is not None and value is not False:
                raise InputError(
                    f"norms: given with {name}, but unbiased CKA needs every block and rows of "
                    f"weight 1; leave out the norms or the {name}"
                )

    @property
    def solving_device(self) -> str:
        """Where maps are solved: on `device`, but where workers have it, on this processor."""
        return self.device if self.client is None else "cpu"


@dataclass(frozen=True)
class Pass:
    """A pass over the data, planned and ready to run.

    Attributes
    ----------
    plan : Plan
        What it will read, hold and compute.
    sources : sequence of Source
        The paired rows.
    """

    plan: Plan
    sources: Sequence[Source]
    _options: Options
    _weights: NDArray[np.float64] | None
    _assign: Assign | None
    _given: Sequence[Source] = ()
    _solve: tuple[int, int] | None = None
    _grouped_by: str | None = None
    _checkpoint: Checkpoint | None = None

    def run(
        self, progress: ProgressCallback = ignore, *, record: bool = False
    ) -> Moments | FoldedMoments:
        """Read everything once and return the moments.

        Parameters
        ----------
        progress : callable
            Called with a `Progress` now and then, in the calling thread.
        record : bool
            Whether the moments record what was read.

        Raises
        ------
        PairingError
            If ids differ, naming the first row.
        NonFiniteError
            If a row holds NaN or infinity and such rows are not to be skipped.
        CorruptDataError
            If a chunk cannot be read.
        """
        reads = record or self._options.remember
        with ThreadPoolExecutor(1, "crossgram-ids") as beside:
            is_over = Event()
            knowing = beside.submit(self.known, is_over) if reads else None
            try:
                kept = self.collect(progress)
                if isinstance(kept, FoldedMoments) and len(kept.with_rows) < 2:
                    raise InputError(
                        f"folds: all of the {self.plan.rows} rows fell into one fold of "
                        f"{len(kept.folds)} by {kept.by}; group them by something else"
                    )
                seen, ids = (UNSEEN, None) if knowing is None else knowing.result()
            finally:
                is_over.set()
        return with_history(kept, (self.recorded(ids),) if record else kept.history, seen)

    def known(self, is_over: Event | None = None) -> tuple[Seen, str | None]:
        """Return what is to be remembered of the rows, and the sum of the hashes of their ids.

        Both from one reading of ids and labels; the sum is None if no source has ids. An event that
        is set ends it early.
        """

        def is_wanted() -> bool:
            return is_over is None or not is_over.is_set()

        if self._options.remember:
            used = None if self._weights is None else self._counts
            return known_rows(self.sources, used, is_wanted)
        return UNSEEN, id_sum(first_column(self.sources, "ids"), is_wanted)

    def recorded(self, ids: str | None) -> Operation:
        """Describe the rows of this pass and what they are read from, as the history has it.

        Sources that are paired by position have the same `ids`, whose sum of hashes is given.
        """
        inputs = [
            fingerprint(given, ids if given is own and given.ids else id_sum(given.ids))
            for given, own in zip(self._given, self.sources, strict=True)
        ]
        facts: dict[str, Any] = {
            "precision": self.plan.precision,
            "normalize": [space.name for space in self.plan.spaces if space.normalized],
            "on_nonfinite": self._options.on_nonfinite,
        }
        if self.plan.device != "cpu":
            facts["device"] = self.plan.device.partition(":")[0]
        if self._options.join is not None:
            facts["join"] = self._options.join
        if self._assign is not None:
            facts |= {"folds": self.plan.folds, "group_by": self._options.group_by}
        if self._weights is not None:
            facts["weights"] = blake2b(self._weights.tobytes(), digest_size=16).hexdigest()
        return Operation.now("accumulate", self.plan.rows, ids, inputs, facts)

    def row_ids(self) -> str | None:
        """Return the sum of the hashes of the rows' ids, None if no source has ids."""
        return id_sum(first_column(self.sources, "ids"))

    def only(self, rows: NDArray[np.int64]) -> Pass:
        """Return a pass over some of the rows, in the same folds, that reads little besides them.

        Parameters
        ----------
        rows : ndarray of int
            Positions among the paired rows, rising.
        """
        sources = [at_rows(source, rows) for source in self.sources]
        plan = make_plan(
            sources,
            self.plan.spaces,
            self.plan.pairs,
            folds=self.plan.folds,
            precision=self.plan.precision,
            device=self.plan.device,
            device_memory=_free_bytes(self.plan.device, self._options),
            memory=self._options.memory,
            threads=self._options.threads,
            norms=self._options.norms,
        )
        assign = self._assign
        if assign is not None:
            by, total = self._options.group_by, self.plan.rows
            assign = assigner_to(sources, self.plan.folds, by, positions=(rows, total))
        weights = None if self._weights is None else self._weights[rows]
        return replace(self, plan=plan, sources=sources, _assign=assign, _weights=weights)

    def divided(self, folds: int, assign: Assign, *, scoring: int = 0) -> Pass:
        """Return a pass over the same rows in other folds, each of which may stay empty.

        Parameters
        ----------
        folds : int
            How many.
        assign : Assign
            Which fold each row is in.
        scoring : int
            Bytes that scoring pairs of rows will take afterwards.

        Raises
        ------
        MemoryLimitError
            If so many folds do not fit the memory.
        """
        options = replace(self._options, folds=folds)
        plan = _plan(self.sources, self.plan.spaces, options, self._solve, scoring)
        return replace(self, plan=plan, _options=options, _assign=assign, _grouped_by=None)

    def collect(self, progress: ProgressCallback = ignore) -> Moments | FoldedMoments:
        """Read everything once and return the moments, also if all rows are in one fold."""
        folds = self._reduce(self._moments_of(self.plan), self.plan.folds, "accumulate", progress)
        if self._assign is None:
            return folds[0]
        return FoldedMoments(tuple(folds), self._options.group_by)

    def precondition(
        self, preconditioner: Preconditioner, progress: ProgressCallback = ignore
    ) -> Moments:
        """Read everything again; return the moments of the rows that a preconditioner makes."""
        work = replace(self._moments_of(self.plan), preconditioner=preconditioner)
        return self._reduce(work, 1, "accumulate again", progress)[0]

    def residuals(
        self,
        coefficients: NDArray[np.float64],
        bias: NDArray[np.float64],
        progress: ProgressCallback = ignore,
    ) -> ResidualMoments:
        """Read everything again; return the sums of a map's residuals, to about 100 bits."""
        # computing takes so long that reading need not be far ahead, and memory besides
        chunks = [s.chunk_rows for s in self.sources if s.chunk_rows <= self.plan.block_rows]
        block_rows = max([tile_rows_of("cpu"), *chunks])
        plan = replace(self.plan, block_rows=block_rows, ring_blocks=2)
        if plan.device != "cpu":
            plan = on_processor(plan, self.sources, self._options.threads)
        work = ResidualWork(plan, self._labels, self._skips, coefficients, bias)
        return self._reduce(work, 1, "residuals", progress)[0]

    def _counts(self, start: int, stop: int) -> NDArray[np.bool_]:
        return self._weights_of(start, stop) > 0

    def _weights_of(self, start: int, stop: int) -> NDArray[np.float64]:
        assert self._weights is not None
        return self._weights[start:stop]

    @property
    def _labels(self) -> tuple[str, ...]:
        return tuple(source.label for source in self.sources)

    @property
    def _skips(self) -> bool:
        return self._options.on_nonfinite == "skip"

    def _moments_of(self, plan: Plan) -> MomentsWork:
        return MomentsWork(plan, self._labels, self._skips, self._options.norms)

    def _reduce(
        self, work: Work[Sums], folds: int, stage: str, progress: ProgressCallback
    ) -> list[Sums]:
        plan = work.plan
        assign = self._assign if folds > 1 else None
        spent: deque[list[Sums]] = deque()

        def merge(left: list[Sums], right: list[Sums]) -> list[Sums]:
            merged = merge_folds(left, right)
            spent.append(right)
            return merged

        kept = self._kept(work, folds, merge)
        rows = 0

        def report(count: int) -> None:
            nonlocal rows
            rows += count
            row_bytes = plan.bytes_to_read // plan.rows
            progress(Progress(stage, rows, plan.rows, rows * row_bytes))

        for index in kept.done:
            segment = plan.segment(index)
            report(segment.stop - segment.start)
        if len(kept.done) == plan.segments:
            return kept.tree.result()
        if self._options.client is not None:
            told = assign if self._grouped_by is None else None
            apart = Apart(self._weights, folds, self._grouped_by, told)
            return sums_on_cluster(
                self._options.client,
                work,
                self.sources,
                apart,
                report,
                kept if self._checkpoint is not None else None,
            )
        weigh = None if self._weights is None else self._weights_of

        def consumer() -> Callable[[Block], None]:
            accumulators = work.accumulators(folds)

            def consume(block: Block) -> None:
                add_block(block, accumulators, self.sources, weigh, assign)
                if block.is_last:
                    kept.tree.add(block.segment.index, _sums_of(accumulators, spent))

            return consume

        try:
            stream_segments(
                plan,
                self.sources,
                consumer,
                check=partial(check_ids, self.sources),
                progress=report,
                done=kept.done,
            )
        finally:
            release(plan.device)
        return kept.tree.result()

    def _kept(
        self,
        work: Work[Sums],
        folds: int,
        merge: Callable[[list[Sums], list[Sums]], list[Sums]],
    ) -> KeptTree[Sums]:
        """Return what merges the sums of segments, with those that an earlier run has kept."""
        segments = work.plan.segments
        if self._checkpoint is None:
            return KeptTree(MergeTree(segments, merge), frozenset())
        there = self._checkpoint.next_pass(self._deciding(work, folds), work.kind, folds)
        tree: MergeTree[list[Sums]] = MergeTree(segments, merge, there.keep)
        done: set[int] = set()
        for node in there.nodes():
            tree.add(node.index, node.sums, node.level, is_kept=True)
            first = node.index << node.level
            done |= set(range(first, min(first + (1 << node.level), segments)))
        return KeptTree(tree, frozenset(done))

    @cached_property
    def _recorded(self) -> dict[str, Any]:
        # ids are read for it, and a solution may take several passes
        return self.recorded(self.row_ids()).to_dict()

    def _deciding(self, work: Work[Sums], folds: int) -> dict[str, Any]:
        """Return what decides the sums of a pass, as JSON values."""
        facts = self._recorded
        plan = work.plan.to_dict()
        decisive = ["spaces", "blocks", "segment_rows", "tile_rows", "precision"]
        # of one fold, smaller blocks give the same bits
        decisive += ["block_rows"] if folds > 1 else []
        matrices = blake2b(digest_size=16)
        for matrix in work.matrices:
            matrices.update(np.ascontiguousarray(matrix).tobytes())
        return {
            "version": facts["version"],
            "rows": facts["rows"],
            "ids": facts["ids"],
            "inputs": [{"rows": own["rows"], "digest": own["digest"]} for own in facts["inputs"]],
            "options": facts["options"] | {"folds": folds, "norms": self._options.norms},
            "plan": {name: plan[name] for name in decisive},
            "earlier passes": matrices.hexdigest(),
        }


@contextmanager
def prepared(
    spaces: Sequence[SourceLike], options: Options, *, solve: tuple[int, int] | None = None
) -> Iterator[Pass]:
    """Open, check, pair and plan; yields a `Pass` to run, once or never.

    Parameters
    ----------
    spaces : sequence of source-like
        The same images in every one.
    options : Options
        How.
    solve : pair of positions, optional
        The map that will be solved afterwards, whose memory the plan counts too.

    Raises
    ------
    InputError
        If something cannot be used, naming it.
    """
    sources, described = _opened(spaces, options)
    with paired_by(sources, options.join) as paired:
        plan = _plan(paired, described, options, solve)
        assign = assigner(paired, options.folds, options.group_by) if options.folds else None
        if options.balance:
            weights: NDArray[np.float64] | None = balanced_weights(paired)
        else:
            weights = checked_weights(options.weights, plan.rows)
        by = options.group_by if options.folds else None
        keeping = (
            nullcontext() if options.checkpoint is None else opened_checkpoint(options.checkpoint)
        )
        with keeping as checkpoint:
            yield Pass(plan, paired, options, weights, assign, sources, solve, by, checkpoint)


def planned(
    spaces: Sequence[SourceLike], options: Options, *, solve: tuple[int, int] | None = None
) -> Plan:
    """Return the plan that `prepared` would run, reading no more than ids; parameters as there."""
    sources, described = _opened(spaces, options)
    if options.join is None:
        check_counts(sources)
    else:
        sources = matched(sources)
    return _plan(sources, described, options, solve)


def _opened(
    spaces: Sequence[SourceLike], options: Options
) -> tuple[list[Source], tuple[Space, ...]]:
    sources, names = open_spaces(spaces, options.names)
    if options.client is not None:
        # also of arrays that are kept on the cluster
        sources = [computed_by(source, _on(options.client)) for source in sources]
    unknown = set(_chosen(options.normalize)) - set(names)
    if unknown:
        raise InputError(f"normalize: no space {min(unknown)!r}; there are {', '.join(names)}")
    described = tuple(
        Space(
            name,
            source.dim,
            options.normalize is True or name in _chosen(options.normalize),
            source.signature,
        )
        for name, source in zip(names, sources, strict=True)
    )
    return sources, described


def _on(client: Any) -> Callable[[Any], NDArray[Any]]:
    def compute(rows: Any) -> NDArray[Any]:
        found: NDArray[Any] = client.compute(rows).result()
        return found

    return compute


def _plan(
    sources: Sequence[Source],
    spaces: tuple[Space, ...],
    options: Options,
    solve: tuple[int, int] | None,
    scoring: int = 0,
) -> Plan:
    wanted = options.maps
    device = _device(options)
    return make_plan(
        sources,
        spaces,
        all_pairs(len(spaces)) if wanted is None else map_pairs(spaces, wanted),
        folds=options.folds or 1,
        precision=options.precision,
        device=device,
        device_memory=_free_bytes(device, options),
        memory=options.memory,
        threads=options.threads if options.client is None else 1,
        joining=0 if options.join is None else joining_bytes(sources),
        norms=options.norms,
        solve=solve,
        scoring=scoring,
        recording=0 if options.checkpoint is None else RECORDING_BYTES,
    )


def _device(options: Options) -> str:
    if options.client is None:
        return check_device(options.device)
    # which GPUs there are, each worker finds out; with dask-cuda, its own is its first
    return "cpu" if options.device in ("cpu", "auto") else f"cuda:{gpu_number(options.device)}"


def _free_bytes(device: str, options: Options) -> int | None:
    return None if device == "cpu" or options.client is not None else free_bytes(device)


def _chosen(normalize: bool | Collection[str]) -> Collection[str]:
    return () if isinstance(normalize, bool) else normalize


def accumulate(
    spaces: Sequence[SourceLike], *, progress: ProgressCallback = ignore, **options: Any
) -> Moments | FoldedMoments:
    """Return the moments of K spaces in one pass.

    Parameters
    ----------
    spaces : sequence of source-like
        Paths, stores, arrays or Dask arrays; row i is the same image in every one.
    progress : callable
        Called with a `Progress` now and then, in the calling thread.
    **options
        The fields of `Options`.

    Returns
    -------
    Moments
        Or FoldedMoments, with `folds`.

    Raises
    ------
    InputError
        Of the kind that fits: `PairingError`, `NonFiniteError`, `CorruptDataError`, ...

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(100, 3))
    >>> accumulate([x, x[:, :2]], names=["a", "b"])
    Moments(a: 3, b: 2; 100 rows, 3 blocks)
    """
    with prepared(spaces, Options(**options)) as ready:
        return ready.run(progress, record=True)


def _sums_of(accumulators: Sequence[Accumulating[Sums]], spent: deque[list[Sums]]) -> list[Sums]:
    """Return what was added up, in the memory of spent sums where there are any."""
    try:
        memory: Sequence[Sums | None] = spent.pop()
    except IndexError:
        memory = [None] * len(accumulators)
    return [each.moments(old) for each, old in zip(accumulators, memory, strict=True)]


def open_spaces(
    spaces: Sequence[SourceLike], names: Sequence[str] | None
) -> tuple[list[Source], tuple[str, ...]]:
    """Open what is to be read and settle what the spaces are called."""
    if not spaces:
        raise InputError("no spaces given, expected at least one")
    sources = [open_source(given, f"array {k + 1}") for k, given in enumerate(spaces)]
    if names is not None and len(names) != len(sources):
        raise InputError(f"names: {len(names)} given for {len(sources)} spaces")
    if names is not None and len(set(names)) < len(names):
        raise InputError(f"names: {', '.join(names)} given; expected a different one per space")
    return sources, unique_names(names or [_stem(source.label) for source in sources])


def _stem(label: str) -> str:
    name = label.rstrip("/").rsplit("/", 1)[-1]
    return name.removesuffix(".zarr").removesuffix(".npy") or label


@contextmanager
def paired_by(sources: Sequence[Source], join: str | None) -> Iterator[Sequence[Source]]:
    """Give the sources with row i the same image in all: as they are, or joined by id."""
    if join is None:
        check_counts(sources)
        yield sources
    else:
        with joined(sources) as aligned:
            yield aligned


def checked_weights(given: ArrayLike | Path | None, rows: int) -> NDArray[np.float64] | None:
    """Return the weights as float64, refused unless there is one for each row."""
    if given is None:
        return None
    try:
        values = read_npy(Path(given)) if isinstance(given, str | Path) else given
        weights = np.asarray(values, np.float64)
    except InputError:
        raise
    except (TypeError, ValueError, OSError) as error:
        where = f" {given}" if isinstance(given, str | Path) else ""
        raise InputError(f"weights{where}: {error}; expected a number for each row") from error
    if weights.shape != (rows,):
        raise InputError(
            f"weights: shape {weights.shape} given, expected ({rows},), one for each paired row"
        )
    return weights
