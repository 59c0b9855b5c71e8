"""Reports: one page that needs nothing else, looked at in a real browser."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import browser
from people import write_people
from PIL import Image
from playwright.sync_api import Browser

import crossgram as cg
from crossgram.atlases.words import basis, headline, split_in_words
from crossgram.errors import CorruptDataError, InputError, OutputExistsError
from crossgram.figures import INK, LINES, SHADE

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    cg.atlas(write_people(root), root / "atlas", resamples=20, held_out=0.25)
    cg.write_report(root / "atlas")
    return root / "atlas"


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


class Parsed(HTMLParser):
    """Elements that are closed in order, what they are called, and what they point to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: Counter[str] = Counter()
        self.tags: Counter[str] = Counter()
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)
        self.handle_startendtag(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids[value or ""] += 1
            if name in ("href", "xlink:href", "src", "srcset", "data", "action"):
                self.addresses.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)


class TestPage:
    def test_needs_nothing_else(self, page: str) -> None:
        parsed = Parsed(page)
        assert parsed.open == []
        assert parsed.tags["script"] == parsed.tags["link"] == parsed.tags["img"] == 0
        assert all(address.startswith("#") for address in parsed.addresses)
        assert not re.search(r"@import|url\((?!#)", page)

    def test_parts_of_figures_have_names_of_their_own(self, page: str) -> None:
        parsed = Parsed(page)
        # 11 tables of source and target, 8 measures; ROC, DET, CMC, and three of maps, per target
        assert parsed.tags["svg"] == parsed.tags["figure"] > 30
        assert [name for name, count in parsed.ids.items() if count > 1] == []
        pointed = {address[1:] for address in parsed.addresses} | set(
            re.findall(r"url\(#([^)]+)\)", page)
        )
        assert pointed <= set(parsed.ids)

    def test_figures_have_the_colours_of_the_page(self, page: str) -> None:
        style, body = page.split("</style>", 1)
        assert not any(colour in body for colour in (INK, SHADE, *LINES))
        for variable in set(re.findall(r"var\((--[\w-]+)\)", page)):
            # for light and for dark pages
            assert len(re.findall(rf"{variable}:", style)) == 2

    def test_says_what_is_kept_and_of_which_images(self, folder: Path, page: str) -> None:
        atlas = cg.load_atlas(folder)
        text = " ".join(Parsed(page).words)
        for sentence in (*headline(atlas), *basis(atlas), split_in_words(atlas)):
            assert sentence in text
        for title in ("Verification, 1:1", "Identification, 1:N", "Maps and their certificates"):
            assert title in text
        assert atlas.verification is not None
        for own in atlas.verification.comparisons:
            assert own.comparison in text
            assert f"{100 * own.area_under_curve:.2f} [" in text

    def test_is_the_same_of_the_same_atlas(self, folder: Path, page: str, tmp_path: Path) -> None:
        again = cg.write_report(folder, tmp_path / "again.html")
        assert again.read_text(encoding="utf-8") == page

    def test_names_are_text_and_never_markup(self, tmp_path: Path) -> None:
        cg.atlas(write_people(tmp_path)[:2], tmp_path / "atlas", resamples=0)
        facts = tmp_path / "atlas" / "atlas.json"
        evil = facts.read_text().replace('"a"', '"<script>alert(1)</script>&$1_"')
        facts.write_text(evil)
        page = cg.write_report(tmp_path / "atlas").read_text(encoding="utf-8")
        parsed = Parsed(page)
        assert parsed.tags["script"] == 0
        assert "<script>alert(1)</script>&$1_" in "".join(parsed.words)


class TestWriting:
    def test_what_is_there_is_kept_unless_overwritten(self, folder: Path, page: str) -> None:
        with pytest.raises(OutputExistsError):
            cg.write_report(folder)
        cg.write_report(folder, overwrite=True)
        assert (folder / "report.html").read_text(encoding="utf-8") == page

    def test_what_is_read_is_never_replaced(self, folder: Path) -> None:
        before = (folder / "atlas.json").read_bytes()
        with pytest.raises(InputError, match="would be replaced"):
            cg.write_report(folder, folder / "atlas.json", overwrite=True)
        assert (folder / "atlas.json").read_bytes() == before

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda facts: facts | {"spaces": []},
            lambda facts: facts | {"verification": facts["verification"] | {"comparisons": []}},
            lambda facts: facts | {"comparison": facts["comparison"] | {"pairs": []}},
            lambda facts: facts | {"spaces": [s | {"spectrum": [0.0]} for s in facts["spaces"]]},
            lambda facts: facts | {"maps": [facts["maps"][0] | {"r2": 1e308 * 10}]},
        ],
        ids=["spaces", "comparisons", "pairs", "spectrum", "number"],
    )
    def test_facts_that_contradict_each_other_are_refused(
        self, folder: Path, tmp_path: Path, spoil: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> None:
        facts = json.loads((folder / "atlas.json").read_text())
        spoilt = json.dumps(spoil(facts)).replace("Infinity", "1e400")
        (tmp_path / "atlas.json").write_text(spoilt)
        with pytest.raises(CorruptDataError, match=r"atlas\.json: (its facts|holds a number)"):
            cg.write_report(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["atlas.json"]

    def test_nothing_is_left_of_a_failure(self, tmp_path: Path) -> None:
        (tmp_path / "atlas.json").write_text('{"format": 1}')
        with pytest.raises(CorruptDataError, match=r"atlas\.json: made_by"):
            cg.write_report(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["atlas.json"]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_looks_right_in_a_browser(
    folder: Path, chromium: Browser, tmp_path: Path, width: int, scheme: str
) -> None:
    tab = chromium.new_page(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
    )
    asked: list[str] = []
    faults: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: faults.append(message.text))
    tab.on("pageerror", lambda error: faults.append(str(error)))
    address = (folder / "report.html").as_uri()
    tab.goto(address)
    shown = tab.evaluate(
        """() => ({
            overflow: document.documentElement.scrollWidth - innerWidth,
            ink: getComputedStyle(document.body).color,
            page: getComputedStyle(document.body).backgroundColor,
            figures: [...document.querySelectorAll("figure svg")].map(one => {
                const box = one.getBoundingClientRect();
                return [box.left, box.right, box.width, box.height];
            }),
        })"""
    )
    screenshot = tab.screenshot(path=tmp_path / "report.png", full_page=True)
    tab.close()
    assert asked == [address]
    assert faults == []
    assert shown["overflow"] <= 0
    for left, right, *size in shown["figures"]:
        assert 0 <= left < right <= width
        assert min(size) > 100
    assert _contrast(shown["ink"], shown["page"]) > 7
    with Image.open(io.BytesIO(screenshot)) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[1] == width
    background = (pixels == pixels[0, 0]).all(axis=2)
    is_dark = pixels[0, 0].mean() < 128
    assert is_dark == (scheme == "dark")
    # neither blank nor covered: text, lines and coloured cells on the page's ground
    assert 0.3 < background.mean() < 0.97
    assert len(np.unique(pixels.reshape(-1, 3)[::7], axis=0)) > 200


def _contrast(one: str, other: str) -> float:
    """Return the contrast of two colours (WCAG 2.2, "contrast ratio")."""
    light = []
    for colour in (one, other):
        channels = np.array([int(c) for c in re.findall(r"\d+", colour)[:3]]) / 255
        linear = np.where(
            channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        light.append(float(linear @ [0.2126, 0.7152, 0.0722]))
    return (max(light) + 0.05) / (min(light) + 0.05)
