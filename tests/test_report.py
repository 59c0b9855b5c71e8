"""Reports: one page that needs nothing else, looked at in a real browser."""

from __future__ import annotations

import io
import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from browser import browser
from jinja2 import Environment, PackageLoader
from people import write_people
from PIL import Image
from playwright.sync_api import Browser

import crossgram as cg
from crossgram.atlases.words import basis, headline, split_in_words
from crossgram.errors import CorruptDataError, InputError, OutputExistsError
from crossgram.figures import INK, LINES, SHADE
from crossgram.reporting.names import Names
from crossgram.reporting.paper import Table

pytestmark = pytest.mark.usefixtures("one_blas_thread")

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
        text = " ".join(" ".join(Parsed(page).words).split())
        for sentence in (*headline(atlas), *basis(atlas), split_in_words(atlas)):
            assert sentence in text
        for title in ("Verification, 1:1", "Identification, 1:N", "Maps and their certificates"):
            assert title in text
        assert atlas.verification is not None
        for own in atlas.verification.comparisons:
            assert own.comparison in text
            assert f"{100 * own.area_under_curve:.2f} [" in text

    def test_writes_the_numbers_of_logarithmic_axes_plainly(self, page: str) -> None:
        assert "mathdefault" not in page
        assert re.search(r">0\.01</text>", page)

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


class TestNames:
    def test_that_are_short_stand_everywhere(self) -> None:
        names = Names(["a", "resnet"])
        assert not names.are_numbered
        assert names.short("a") == names.numbered("a") == names.cut("a") == "a"

    @pytest.mark.parametrize("all_names", [["a", "b" * 21], [f"net-{k:03}" for k in range(20)]])
    def test_that_are_too_long_together_are_numbered(self, all_names: list[str]) -> None:
        names = Names(all_names)
        assert [names.short(name) for name in all_names] == [
            str(k + 1) for k in range(len(all_names))
        ]
        assert names.numbered(all_names[1]).split() == ["2", all_names[1]]
        assert all(len(names.cut(name)) <= 19 for name in all_names)


class TestTables:
    """On paper a table is as many as it takes, and none is too wide."""

    @staticmethod
    def of(columns: int, cell: str, name: str = "n") -> Table:
        head = ["from / to", *map(str, range(columns))]
        return Table("T", head, [[f"{name}{k}", *[cell] * columns] for k in range(3)])

    def test_that_fit_stay_as_they_are(self) -> None:
        table = self.of(4, "98.12 (-1.2)")
        assert not table.is_stacked
        assert table.sheets == [table]

    def test_that_are_wide_have_cells_of_two_lines(self) -> None:
        table = self.of(10, "98.12 (-12.2)", "n" * 60)
        assert table.is_stacked
        assert table.sheets == [table]

    def test_that_are_wider_are_cut_and_no_column_is_lost(self) -> None:
        table = self.of(50, "98.12 (-12.2)", "n" * 60)
        sheets = table.sheets
        assert len(sheets) > 2
        assert [name for sheet in sheets for name in sheet.head[1:]] == table.head[1:]
        for sheet in sheets:
            assert [row[0] for row in sheet.rows] == [row[0] for row in table.rows]
            assert all(len(row) == len(sheet.head) for row in sheet.rows)

    def test_without_rows_or_columns_are_no_trouble(self) -> None:
        assert len(Table("T", ["a", "b"], []).sheets) == 1
        assert len(Table("T", ["a"], [["x"]]).sheets) == 1


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
        with pytest.raises(CorruptDataError, match=r"atlas\.json: (its facts|.*holds a number)"):
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


LONG = ("vit_huge_patch14_clip_336.laion2b_ft_in12k_in1k-and-more_0001", "b" * 60, "W " * 30)


@pytest.fixture(scope="module")
def with_long_names(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("long")
    facts = (folder / "atlas.json").read_text()
    for name, long in zip(NAMES, LONG, strict=True):
        facts = facts.replace(f'"{name}"', f'"{long}"')
    (out / "atlas.json").write_text(facts)
    with warnings.catch_warnings():
        # of figures that have no room for their names
        warnings.simplefilter("error")
        return cg.write_report(out)


TOO_WIDE = """() => [...document.querySelectorAll("table, p, h1, ol, figure, figcaption")]
    .filter(one => !one.closest(".scroll") || matchMedia("print").matches)
    .filter(one => one.getBoundingClientRect().right > innerWidth + 0.5)
    .map(one => one.textContent.slice(0, 60))"""

COVERED = """() => [...document.querySelectorAll("tr")]
    .map(row => [...row.children].map(one => one.getBoundingClientRect()))
    .filter(cells => cells.some((one, k) => k > 0 && one.left < cells[k - 1].right - 0.5))
    .length"""

_SHEET = 703
"""Pixels between the margins of an upright A4 sheet."""


@pytest.mark.parametrize(
    ("width", "medium"), [(400, "screen"), (1280, "screen"), (_SHEET, "print")]
)
def test_long_names_neither_overflow_nor_cover(
    with_long_names: Path, chromium: Browser, width: int, medium: Literal["screen", "print"]
) -> None:
    tab = chromium.new_page(viewport={"width": width, "height": 900})
    tab.emulate_media(media=medium)
    tab.goto(with_long_names.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert tab.evaluate(TOO_WIDE) == []
    assert tab.evaluate(COVERED) == 0
    shares = tab.evaluate(
        """() => [...document.querySelectorAll(".scroll tbody tr:first-child")]
            .map(row => row.firstElementChild.getBoundingClientRect().width / innerWidth)"""
    )
    # beside what a row is of, its figures can be seen
    assert max(shares) < 0.5
    text = tab.inner_text("ol")
    assert all(name.strip() in text for name in LONG)
    tab.close()


@pytest.mark.parametrize("columns", [10, 50])
def test_every_column_is_on_paper(page: str, chromium: Browser, columns: int) -> None:
    style = page[page.index("<style>") : page.index("</style>") + len("</style>")]
    environment = Environment(
        loader=PackageLoader("crossgram.reporting", "."), autoescape=True, trim_blocks=True
    )
    macros: Any = environment.get_template("table.html.jinja").module
    head = ["from / to", *(f"column{k}" for k in range(columns))]
    rows = [[f"{k} {'w' * 60}", *["100.00 [100.00, 100.00]"] * columns] for k in range(columns)]
    tab = chromium.new_page(viewport={"width": _SHEET, "height": 900})
    tab.emulate_media(media="print")
    tab.set_content(f"{style}<div class='tables'>{macros.shown(Table('T', head, rows))}</div>")
    assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert tab.evaluate(TOO_WIDE) == []
    shown = [own.inner_text() for own in tab.query_selector_all("thead th") if own.is_visible()]
    assert [name for name in shown if name != head[0]] == head[1:]
    tab.close()


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
