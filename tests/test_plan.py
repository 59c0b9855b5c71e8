from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import moderate

import crossgram as cg
from crossgram.plan import make_plan, parse_bytes
from crossgram.source import Source
from crossgram.spaces import Space, all_pairs


def source(rows: int, dim: int, chunk_rows: int = 1, dtype: str = "float32") -> Source:
    return Source("x", rows, dim, np.dtype(dtype), chunk_rows, lambda start, out: None)


def planned(*sources: Source, **options: Any) -> cg.Plan:
    spaces = [Space(f"space {k}", source.dim) for k, source in enumerate(sources)]
    return make_plan(sources, spaces, all_pairs(len(sources)), **options)


class TestSegments:
    @given(st.integers(1, 3_000_000), st.lists(st.integers(1, 100_000), min_size=1, max_size=3))
    @moderate
    def test_cover_every_row_once(self, rows: int, chunks: list[int]) -> None:
        plan = planned(*(source(rows, 8, chunk) for chunk in chunks))
        segments = [plan.segment(index) for index in range(plan.segments)]
        assert [segment.index for segment in segments] == list(range(plan.segments))
        assert segments[0].start == 0
        assert segments[-1].stop == rows
        assert all(segment.start < segment.stop for segment in segments)
        for earlier, later in pairwise(segments):
            assert earlier.stop == later.start

    @pytest.mark.parametrize("chunks", [(64,), (1000, 2500), (4096, 16_384), (50_000,)])
    def test_start_on_the_chunks_of_every_source(self, chunks: tuple[int, ...]) -> None:
        plan = planned(*(source(1_000_000, 8, chunk) for chunk in chunks))
        for index in range(plan.segments):
            assert all(plan.segment(index).start % chunk == 0 for chunk in chunks)

    @pytest.mark.parametrize("options", [{"threads": 1}, {"threads": 16}, {"memory": 150 << 20}])
    def test_do_not_depend_on_threads_or_memory(self, options: dict[str, Any]) -> None:
        sources = [source(10**7, 256, 4096), source(10**7, 128, 2048)]
        assert planned(*sources, **options).segment_rows == planned(*sources).segment_rows


class TestMemory:
    sources = (source(10**6, 512, 1024), source(10**6, 512, 1024))

    def least(self) -> int:
        """Return the bytes that a refusal says are the fewest."""
        with pytest.raises(cg.MemoryLimitError) as refusal:
            planned(*self.sources, memory=1, threads=4)
        found = re.search(r"holds ([\d,]+) MB", str(refusal.value))
        assert found is not None
        return int(found[1].replace(",", "")) * 10**6

    def test_that_is_short_makes_blocks_smaller_and_then_threads_fewer(self) -> None:
        roomy = planned(*self.sources, threads=4)
        plans = [
            planned(*self.sources, threads=4, memory=limit)
            for limit in np.linspace(
                roomy.planned_memory_bytes, self.least() + 10**6, 12, dtype=int
            )
        ]
        sizes = [(plan.threads, plan.block_rows, plan.ring_blocks) for plan in plans]
        assert sizes == sorted(sizes, reverse=True)
        assert plans[0].to_dict() == roomy.to_dict()
        assert plans[-1].threads == 1
        assert plans[-1].block_rows < roomy.block_rows

    def test_planned_never_exceeds_what_is_given(self) -> None:
        for limit in np.linspace(self.least() + 10**6, 2 * 10**9, 20, dtype=int):
            plan = planned(*self.sources, threads=4, memory=int(limit))
            assert plan.planned_memory_bytes <= limit

    def test_that_cannot_suffice_is_refused_with_the_numbers(self) -> None:
        with pytest.raises(
            cg.MemoryLimitError, match=r"memory: 50,000,000 bytes given.* holds [\d,]+ MB \(.*ring"
        ):
            planned(*self.sources, memory=50 * 10**6)

    def test_that_has_no_room_for_a_chunk_names_the_source_and_what_to_do(self) -> None:
        large = replace(source(10**6, 512, 100_000), label="large.zarr")
        said = r"large\.zarr has chunks of 100,000 rows, 205 MB each.*ingest --chunk-rows"
        with pytest.raises(cg.MemoryLimitError, match=said):
            planned(source(10**6, 512, 1024), large, memory=300 * 10**6)

    @pytest.mark.parametrize("chunk_rows", [1024, 3000, 100_000])
    def test_counts_what_is_fetched_as_stored_and_as_decoded(self, chunk_rows: int) -> None:
        near = source(10**6, 512, chunk_rows)
        plan = planned(replace(near, fetched=True), threads=1)
        # a block that does not end where a chunk does has parts of two
        over = 0 if plan.block_rows % chunk_rows == 0 else chunk_rows
        assert plan.memory["fetching"] >= 2 * (plan.block_rows + over) * 512 * 4
        assert planned(near, threads=1).memory["fetching"] == 0

    def test_does_not_grow_with_the_rows(self) -> None:
        few, many = (planned(source(rows, 512, 1024), threads=2) for rows in (10**7, 10**9))
        assert many.planned_memory_bytes <= 1.1 * few.planned_memory_bytes

    def test_grows_with_every_block_that_is_kept(self) -> None:
        one = planned(source(10**5, 512))
        two = planned(source(10**5, 512), source(10**5, 512))
        assert two.planned_memory_bytes - one.planned_memory_bytes >= 8 * 2 * 512 * 512

    def test_is_little_where_a_narrow_space_has_long_chunks(self) -> None:
        plan = planned(source(10**6, 256, 2048), source(10**6, 4, 65_536))
        assert plan.memory["ring"] < 2 * plan.threads * 3 * (16 << 20)

    def test_is_that_of_the_rows_where_they_are_few(self) -> None:
        plan = planned(source(50, 5000, 64), source(50, 5, 16_384))
        assert plan.memory["ring"] <= 3 * 1024 * 5005 * 4

    def test_counts_what_a_join_holds_before_the_pass(self) -> None:
        roomy = planned(*self.sources, joining=10**10)
        assert roomy.planned_memory_bytes - roomy.memory["reserved"] == 10**10


def test_a_plan_counts_bytes_and_operations() -> None:
    plan = planned(source(1000, 3, dtype="float16"), source(1000, 5, dtype="float64"))
    assert plan.bytes_to_read == 1000 * (3 * 2 + 5 * 8)
    # a multiplication and an addition per product, half as many for a symmetric block
    assert plan.flops == 1000 * (3 * 3 + 2 * 3 * 5 + 5 * 5)
    assert plan.to_dict()["planned_memory_bytes"] == plan.planned_memory_bytes


def test_the_plan_of_a_fit_reads_no_row() -> None:
    def refuse(start: int, out: Any) -> None:
        raise AssertionError("read")

    unread = Source("x", 1000, 3, np.dtype("float32"), 1, refuse)
    plan = cg.plan_fit(unread, unread)
    assert (plan.rows, plan.segments) == (1000, 1)
    assert plan.pairs == {(0, 0), (0, 1)}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1500000000", 1_500_000_000),
        ("2GB", 2 * 10**9),
        ("2 gib", 2 << 30),
        ("1.5k", 1500),
        ("512MiB", 512 << 20),
        ("0.25T", 250 * 10**9),
        ("100B", 100),
    ],
)
def test_sizes_are_written_as_people_write_them(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-2GB", "2 PB", "1e9", "2GBs", "nan", "1,5GB", "i"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(cg.InputError, match="is not a size; write it like 2GB or 512MiB"):
        parse_bytes(text)
