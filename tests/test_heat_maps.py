"""Heat maps of a comparison."""

from __future__ import annotations

import importlib.util
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

import crossgram as cg
from crossgram import InputError, OutputExistsError
from crossgram.heat_maps import write_heat_maps

rng = np.random.default_rng(0)
X = rng.normal(size=(200, 4))
COMPARED = cg.compare(
    [X, X[:, :3] + rng.normal(size=(200, 3)), X @ rng.normal(size=(4, 6))],
    names=["first net", "second", "third"],
)


def texts(path: Path) -> list[str]:
    return [e.text or "" for e in ET.parse(path).iter("{http://www.w3.org/2000/svg}text")]


class TestDrawn:
    @pytest.fixture(autouse=True)
    def _matplotlib(self) -> None:
        pytest.importorskip("matplotlib")

    def test_every_value_is_printed_in_its_cell(self, tmp_path: Path) -> None:
        write_heat_maps(COMPARED, tmp_path / "m.svg")
        shown = texts(tmp_path / "m.svg")
        for measure in ("r2", "linear_cka", "pwcca", "procrustes"):
            for value in COMPARED.matrix(measure).ravel():
                assert f"{value:.2f}" in shown
        assert shown.count("first net") == 2 * 8

    def test_a_measure_that_is_missing_has_no_map(self, tmp_path: Path) -> None:
        moments = cg.accumulate([X, X[:, :2] ** 2], names=["a", "b"])
        write_heat_maps(cg.compare(moments), tmp_path / "m.svg")
        shown = texts(tmp_path / "m.svg")
        assert "CKA" in shown
        assert "unbiased CKA" not in shown
        assert "nan" not in shown

    def test_the_same_comparison_gives_the_same_bytes(self, tmp_path: Path) -> None:
        for name in ("one.svg", "two.svg"):
            write_heat_maps(COMPARED, tmp_path / name)
        assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()

    @pytest.mark.parametrize(("name", "magic"), [("m.png", b"\x89PNG"), ("m.PDF", b"%PDF")])
    def test_formats_follow_the_ending(self, tmp_path: Path, name: str, magic: bytes) -> None:
        write_heat_maps(COMPARED, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(magic)

    def test_an_unknown_ending_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"m\.gif: ends in '.gif', expected \.svg"):
            write_heat_maps(COMPARED, tmp_path / "m.gif")

    def test_a_file_is_not_replaced_unless_asked(self, tmp_path: Path) -> None:
        write_heat_maps(COMPARED, tmp_path / "m.svg")
        with pytest.raises(OutputExistsError, match="already exists"):
            write_heat_maps(COMPARED, tmp_path / "m.svg")
        write_heat_maps(COMPARED, tmp_path / "m.svg", overwrite=True)


def test_without_matplotlib_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"need matplotlib; pip install 'crossgram\[report\]'"):
        write_heat_maps(COMPARED, tmp_path / "m.svg")
