"""Learning curves, drawn."""

from __future__ import annotations

import importlib.util
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import crossgram as cg
from crossgram import InputError, OutputExistsError
from crossgram.curve_plot import write_curve_plot

rng = np.random.default_rng(0)
X = rng.normal(size=(600, 20))
CURVE = cg.learning_curve(X, X + rng.normal(size=(600, 20)), names=["old net", "new net"])


def texts(path: Path) -> list[str]:
    return [e.text or "" for e in ET.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def recognising(curve: cg.LearningCurve) -> cg.LearningCurve:
    """Return the curve with made-up recognition."""
    points = tuple(replace(point, auc=0.9, tar=0.5) for point in curve.points)
    ranks = tuple(replace(point, auc=0.9, tar=0.5) for point in curve.ranks)
    return replace(curve, points=points, ranks=ranks, native_auc=0.95, native_tar=0.6)


class TestDrawn:
    @pytest.fixture(autouse=True)
    def _matplotlib(self) -> None:
        pytest.importorskip("matplotlib")

    def test_every_method_and_both_axes_are_named(self, tmp_path: Path) -> None:
        write_curve_plot(CURVE, tmp_path / "c.svg")
        shown = texts(tmp_path / "c.svg")
        assert "old net to new net" in shown
        for name in ("plain", "ridge", "rotation", "reduced rank", "rank"):
            assert shown.count(name) == 1
        assert any(text.startswith("pairs") for text in shown)
        assert "AUC" not in shown
        assert {"20", "16", "8"} <= set(shown)

    def test_recognition_has_panels_of_its_own_with_the_target_itself(self, tmp_path: Path) -> None:
        write_curve_plot(recognising(CURVE), tmp_path / "c.svg")
        shown = texts(tmp_path / "c.svg")
        assert shown.count("AUC") == shown.count("TAR at FAR 0.01") == 2
        assert shown.count("target itself") == 4
        assert shown.count("plain") == 3

    def test_one_measure_alone_may_be_missing(self, tmp_path: Path) -> None:
        curve = recognising(CURVE)
        points = tuple(replace(point, tar=None) for point in curve.points)
        curve = replace(curve, points=points, native_tar=None)
        write_curve_plot(curve, tmp_path / "c.svg")
        shown = texts(tmp_path / "c.svg")
        assert "AUC" in shown
        assert "TAR at FAR 0.01" not in shown

    def test_values_far_below_are_cut_off_and_that_is_said(self, tmp_path: Path) -> None:
        assert min(point.r2 for point in CURVE.points) < -0.2
        write_curve_plot(CURVE, tmp_path / "c.svg")
        assert any("below -0.2 cut off" in text for text in texts(tmp_path / "c.svg"))
        above = tuple(point for point in CURVE.points if point.r2 > 0)
        write_curve_plot(replace(CURVE, points=above), tmp_path / "above.svg")
        assert not any("cut off" in text for text in texts(tmp_path / "above.svg"))

    def test_the_same_curve_gives_the_same_bytes(self, tmp_path: Path) -> None:
        for name in ("one.svg", "two.svg"):
            write_curve_plot(CURVE, tmp_path / name)
        assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()

    def test_a_file_is_not_replaced_unless_asked(self, tmp_path: Path) -> None:
        write_curve_plot(CURVE, tmp_path / "c.png")
        assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
        with pytest.raises(OutputExistsError, match="already exists"):
            write_curve_plot(CURVE, tmp_path / "c.png")
        write_curve_plot(CURVE, tmp_path / "c.png", overwrite=True)


def test_without_matplotlib_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"need matplotlib; pip install 'crossgram\[report\]'"):
        write_curve_plot(CURVE, tmp_path / "c.svg")
