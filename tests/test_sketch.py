"""Sketches of hashes: those of the multiset itself, whatever the way it came together."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import moderate, seeds

import crossgram as cg
from crossgram import sketch as module
from crossgram.hashing import text_hashes
from crossgram.sketch import SKETCH_SIZE, Sketch, SketchBuilder

SMALL = 8
multisets = st.lists(st.integers(0, 30), max_size=40)


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    """Cut sketches early, so that few hashes are many."""
    module.SKETCH_SIZE = SMALL
    yield
    module.SKETCH_SIZE = SKETCH_SIZE


def hashes_of(values: Any) -> np.ndarray:
    return text_hashes(np.array(values, np.int64))


def sketch_of(values: list[int]) -> Sketch:
    return Sketch.of(hashes_of(values))


def parts(sketch: Sketch) -> tuple[Any, ...]:
    return sketch.hashes.tolist(), sketch.counts.tolist(), sketch.below


def by_definition(counts: Counter[int], below: int = 1 << 64) -> tuple[Any, ...]:
    """Return the smallest hashes with their numbers, and the least that is left out."""
    rising = sorted((h, n) for h, n in counts.items() if n > 0 and h < below)
    kept, rest = rising[:SMALL], rising[SMALL:]
    return [h for h, _ in kept], [n for _, n in kept], rest[0][0] if rest else below


def counted(values: list[int]) -> Counter[int]:
    return Counter(hashes_of(values).tolist())


@given(multisets)
@moderate
def test_a_sketch_has_the_smallest_hashes_and_how_often_each_was_there(values: list[int]) -> None:
    assert parts(sketch_of(values)) == by_definition(counted(values))


@given(multisets, multisets, multisets)
@moderate
def test_a_sum_is_the_sketch_of_the_whole_in_any_order(
    a: list[int], b: list[int], c: list[int]
) -> None:
    whole = parts(sketch_of(a + b + c))
    x, y, z = map(sketch_of, (a, b, c))
    assert parts(x.plus(y).plus(z)) == whole
    assert parts(x.plus(y.plus(z))) == whole
    assert parts(z.plus(x).plus(y)) == whole


@given(multisets)
@moderate
def test_a_sum_with_itself_has_the_same_hashes(values: list[int]) -> None:
    own = sketch_of(values)
    twice = own.plus(own)
    assert (twice.hashes.tolist(), twice.below) == (own.hashes.tolist(), own.below)
    assert parts(twice.once()) == parts(own.once())


@given(multisets, multisets)
@moderate
def test_a_difference_is_what_is_left_below_both_bounds(stays: list[int], goes: list[int]) -> None:
    whole, gone = sketch_of(stays + goes), sketch_of(goes)
    expected = by_definition(counted(stays), min(whole.below, gone.below))
    assert parts(whole.minus(gone)) == expected


def test_what_was_never_there_is_not_missed() -> None:
    assert parts(sketch_of([1, 1, 2]).minus(sketch_of([2, 2, 3]))) == by_definition(counted([1, 1]))


@given(multisets, st.integers(1, 7))
@moderate
def test_blocks_give_the_sketch_of_all(values: list[int], size: int) -> None:
    builder = SketchBuilder()
    for start in range(0, len(values), size):
        block = hashes_of(values[start : start + size])
        builder.add(block, np.ones(len(block), np.int64))
    assert parts(builder.sketch()) == parts(sketch_of(values))


@given(multisets, multisets)
@moderate
def test_what_is_found_is_there_and_a_complete_sketch_finds_all(
    own: list[int], asked: list[int]
) -> None:
    shared = sketch_of(own).shared(hashes_of(sorted({*asked})))
    there = len({*own} & {*asked})
    assert shared.found <= there
    assert shared.asked == len({*asked})
    if len({*own}) <= SMALL:
        assert shared.is_counted
    if shared.is_counted:
        assert shared.estimate == there


@given(seeds)
@moderate
def test_estimates_are_within_the_spread_of_a_sample(seed: int) -> None:
    """Of what can be told, a uniform sample, the share is off by five standard deviations at most.

    25 draws leave these with a probability below 1e-4.
    """
    rng = np.random.default_rng(seed)
    module.SKETCH_SIZE = 1000
    own = np.unique(rng.integers(0, 1 << 64, 20_000, np.uint64))
    others = rng.integers(0, 1 << 64, 6000, np.uint64)
    asked = np.unique(np.concatenate([own[rng.choice(len(own), 4000, replace=False)], others]))
    sketch = Sketch.of(own)
    module.SKETCH_SIZE = SMALL
    shared = sketch.shared(asked)
    rate = sketch.below / 2**64
    assert abs(sketch.distinct - len(own)) < 5 * len(own) / math.sqrt(1000)
    assert abs(shared.told - rate * len(asked)) < 5 * math.sqrt(rate * len(asked))
    deviation = len(asked) * math.sqrt(0.4 * 0.6 / shared.told)
    assert not shared.is_counted
    assert abs(shared.estimate - 4000) < 5 * deviation + 0.5


@given(multisets)
@moderate
def test_facts_give_the_same_sketch(values: list[int]) -> None:
    own = sketch_of(values)
    assert parts(Sketch.from_facts(own.to_facts())) == parts(own)


def text(*values: int) -> str:
    return base64.b64encode(np.array(values, "<u8").tobytes()).decode()


GOOD: dict[str, Any] = {"hashes": text(1, 2, 3), "below": "10000000000000000"}


def test_the_facts_that_others_are_changes_of_are_good() -> None:
    assert parts(Sketch.from_facts(GOOD)) == ([1, 2, 3], [1, 1, 1], 1 << 64)


@pytest.mark.parametrize(
    "facts",
    [
        None,
        [],
        "text",
        {},
        {"hashes": GOOD["hashes"]},
        GOOD | {"more": 1},
        *(GOOD | {"hashes": wrong} for wrong in (None, 3, [1, 2], "!", "AAAA", text(1, 2)[:-1])),
        *(GOOD | {"hashes": text(*wrong)} for wrong in ((1, 1), (2, 1), (1, 3, 2))),
        GOOD | {"hashes": text(*range(SMALL + 1))},
        GOOD | {"hashes": "A" * 10_000_000},
        *(GOOD | {"below": wrong} for wrong in (None, 4, "", "0", "-1", "x", "3", "1" + "0" * 17)),
        GOOD | {"below": "10000000000000001"},
        *(
            GOOD | {"counts": wrong}
            for wrong in (None, text(1, 1), text(1, 0, 1), text(1, 1, 1, 1))
        ),
        GOOD | {"counts": text(1, 1, 1 << 63)},
        GOOD | {"counts": text(1, 1, 1 << 62)},
    ],
    ids=lambda facts: str(facts)[:60],
)
def test_facts_of_no_sketch_are_refused(facts: Any) -> None:
    with pytest.raises(cg.InputError, match="a sketch of "):
        Sketch.from_facts(facts)
