"""How much the suites measure: briefly, at length, or so little that they are only tried."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["FORM", "FORMS", "VARIABLE", "Form"]

VARIABLE = "CROSSGRAM_BENCH"
"""Of the environment, which names the form."""


@dataclass(frozen=True)
class Form:
    """Sizes and rounds.

    Attributes
    ----------
    seconds, rounds : float, int
        Of every benchmark and its ceiling, and the fewest rounds that it has.
    dim : int
        Columns, where there is one width only.
    square : int
        Rows and columns of the product that gives the rate of gemm.
    block_rows : int
        Of resident rows.
    read_rows : int
        Of a store that is read.
    pass_rows : mapping of int to int
        Rows of the stores of a pass, by their width.
    solve_dims : tuple of int
        Widths of what is solved.
    strengths : int
        Of a ridge path.
    images, pairs, probes, gallery : int
        Of all pairs, of a list of pairs, and of a search.
    photographs : int
        That embeddings are extracted from.
    """

    seconds: float
    rounds: int
    dim: int
    square: int
    block_rows: int
    read_rows: int
    pass_rows: Mapping[int, int]
    solve_dims: tuple[int, ...]
    strengths: int
    images: int
    pairs: int
    probes: int
    gallery: int
    photographs: int


# a pass has a segment of 16,384 rows for each core, and some
FORMS = {
    "tiny": Form(
        seconds=0,
        rounds=1,
        dim=16,
        square=64,
        block_rows=2048,
        read_rows=5000,
        pass_rows={8: 2000, 16: 1000},
        solve_dims=(16,),
        strengths=20,
        images=300,
        pairs=1000,
        probes=50,
        gallery=500,
        photographs=40,
    ),
    "short": Form(
        seconds=1,
        rounds=3,
        dim=512,
        square=1024,
        block_rows=16_384,
        read_rows=65_536,
        pass_rows={512: 65_536, 2048: 32_768},
        solve_dims=(512,),
        strengths=1000,
        images=8000,
        pairs=50_000,
        probes=1000,
        gallery=50_000,
        photographs=500,
    ),
    "full": Form(
        seconds=5,
        rounds=5,
        dim=512,
        square=2048,
        block_rows=16_384,
        read_rows=196_608,
        pass_rows={512: 196_608, 2048: 65_536},
        solve_dims=(512, 1024),
        strengths=1000,
        images=20_000,
        pairs=300_000,
        probes=2000,
        gallery=200_000,
        photographs=2000,
    ),
}

FORM = FORMS[os.environ.get(VARIABLE, "short")]
