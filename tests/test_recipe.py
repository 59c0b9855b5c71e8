"""A recipe says in numbers what a network is shown, and an image is shown so."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from strategies import moderate, seeds
from torchvision_stub import transforms

import crossgram as cg
from crossgram.errors import InputError
from crossgram.images import PRESETS, Recipe, decoding
from crossgram.images.decoding import UnusableImageError, decode
from crossgram.images.geometry import pixels_of, similarity
from crossgram.resources import PeakMemory

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
CROPS = ("whole", "centre", "box", "align")
RGB: dict[str, Any] = {"channels": 3, "mean": (0.5, 0.4, 0.3), "scale": (0.2, 0.25, 0.3)}
GREY: dict[str, Any] = {"channels": 1, "mean": (0.5,), "scale": (0.2,)}

ARCFACE = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)
"""Where ArcFace has eyes, nose and corners of the mouth in 112 x 112 pixels."""


def recipe(height: int, width: int, **parts: Any) -> Recipe:
    return Recipe(**{"size": (height, width), **RGB, **parts})


def flat(points: NDArray[Any]) -> list[float]:
    """Landmarks as a collection gives them."""
    numbers: list[float] = points.ravel().tolist()
    return numbers


def noise(height: int, width: int, channels: int = 3) -> Image.Image:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return Image.fromarray(np.random.default_rng(height * width).integers(0, 256, shape, np.uint8))


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Draw recipes of every kind."""
    size = draw(st.tuples(st.integers(1, 4096), st.integers(1, 4096)))
    channels = draw(st.sampled_from([1, 3]))
    crop = draw(st.sampled_from(CROPS))
    numbers = st.floats(-1e6, 1e6) | st.integers(-9, 9)
    positive = st.floats(1e-6, 1e6) | st.integers(1, 9)
    return Recipe(
        size,
        channels,
        tuple(draw(st.lists(numbers, min_size=channels, max_size=channels))),
        tuple(draw(st.lists(positive, min_size=channels, max_size=channels))),
        crop,
        draw(st.none() | st.integers(max(size), 4096)) if crop == "centre" else None,
        draw(st.floats(0, 9)) if crop == "box" else 0.0,
        draw(st.sampled_from(["rgb", "bgr"])),
        draw(st.sampled_from(INTERPOLATIONS)),
        draw(st.sampled_from(["none", "sum", "concatenate"])),
    )


class TestRecipe:
    @pytest.mark.parametrize(
        ("parts", "message"),
        [
            ({"channels": 4}, r"channels 4 given, expected one of \(1, 3\)"),
            ({"channels": 3.0}, "channels 3.0 given"),
            ({"channels": True, "mean": (0,), "scale": (1,)}, "channels True given"),
            ({"crop": "center"}, "crop 'center' given, expected one of .*'centre'"),
            ({"order": "gbr"}, "order 'gbr' given"),
            (
                {"interpolation": "cubic"},
                "interpolation 'cubic' given, expected one of .*'bicubic'",
            ),
            ({"flip": True}, "flip True given"),
            ({"size": (8,)}, "expected a height and a width"),
            ({"size": (8, 6, 3)}, "expected a height and a width"),
            ({"size": (8, 0)}, "expected a height and a width"),
            ({"size": (8, -6)}, "expected a height and a width"),
            ({"size": (8, 6.0)}, "expected a height and a width"),
            ({"size": (True, True)}, "expected a height and a width"),
            ({"size": (8193, 2048)}, "at most 16,777,216 pixels"),
            ({"size": (10**300, 10**300)}, "at most 16,777,216 pixels"),
            ({"mean": (0.5,)}, "1 means and 3 scales given for 3 channels; expected one per"),
            ({"scale": (1,) * 4}, "3 means and 4 scales given for 3 channels"),
            ({"mean": (0, 0, float("nan"))}, "means must be finite"),
            ({"mean": (0, 0, float("-inf"))}, "means must be finite"),
            ({"mean": (0, 0, 10**400)}, "means must be finite"),
            ({"mean": (0, 0, "0")}, "means must be finite"),
            ({"scale": (1, 1, 0)}, "scales finite and above 0"),
            ({"scale": (1, 1, -1)}, "scales finite and above 0"),
            ({"scale": (1, 1, float("inf"))}, "scales finite and above 0"),
            ({"margin": 0.1}, "a margin given for crop 'whole', it is for 'box'"),
            ({"crop": "box", "margin": -0.1}, "margin -0.1 given, expected 0 or more"),
            ({"crop": "box", "margin": float("nan")}, "margin nan given"),
            ({"crop": "box", "margin": "0.1"}, "margin 0.1 given"),
            ({"resize": 9}, "resize 9 given for crop 'whole'"),
            ({"crop": "centre", "resize": 7}, r"resize 7 given .* at least as long as the longer"),
            ({"crop": "centre", "resize": 8.5}, "resize 8.5 given .* a whole number"),
            ({"crop": "centre", "resize": "9"}, "resize '9' given .* a whole number"),
            ({"crop": "centre", "resize": 4097}, "resized to 4097 x 4097 .* at most 4096"),
            ({"crop": "centre", "resize": 10**30}, "expected at most 4096 for the shorter side"),
            ({"crop": "centre", "size": (8192, 1)}, "resized to 8192 x 8192 .* at most 4096"),
        ],
    )
    def test_that_cannot_be_is_refused(self, parts: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=f"recipe: .*{message}"):
            recipe(8, 6, **parts)

    @moderate
    @given(given=recipes())
    def test_comes_back_from_its_values(self, given: Recipe) -> None:
        values = given.to_dict()
        assert values == json.loads(json.dumps(values, allow_nan=False))
        assert Recipe.from_dict(values) == given
        assert hash(Recipe.from_dict(values)) == hash(given)

    def test_comes_back_from_a_file(self, tmp_path: Path) -> None:
        given = recipe(8, 6, crop="box", margin=0.3, order="bgr", flip="sum")
        path = tmp_path / "recipe.json"
        path.write_text(json.dumps(given.to_dict()), encoding="utf-8")
        assert Recipe.load(str(path)) == given

    def test_needs_no_more_values_than_have_no_default(self) -> None:
        values = {"size": [8, 6], "channels": 1, "mean": [0], "scale": [1]}
        assert Recipe.from_dict(values) == Recipe((8, 6), 1, (0,), (1,))

    def test_is_offered_by_the_package(self) -> None:
        assert cg.Recipe is Recipe


class TestHostileJson:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "not JSON"),
            (b"{", "not JSON"),
            (b"[" * 60_000, "not JSON"),
            (b'{"size":' * 6_000, "not JSON"),
            (b"\xff\xfe{}", "not JSON"),
            (b'{"size": [1' + b"0" * 5000 + b", 1]}", "not JSON"),
            (b"[1, 2]", "holds list, expected a JSON object"),
            (b"null", "holds NoneType, expected a JSON object"),
            (b" " * 70_000 + b"{}", "larger than any recipe"),
            (b"{}", "missing size, channels, mean, scale; a recipe has size, channels"),
            (b'{"size": [2, 2], "std": [1], "a": 0}', "unknown a, std; missing channels, mean"),
        ],
    )
    def test_is_refused(self, tmp_path: Path, content: bytes, message: str) -> None:
        (tmp_path / "recipe.json").write_bytes(content)
        with pytest.raises(InputError, match=message):
            Recipe.load(str(tmp_path / "recipe.json"))

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("mean", "[NaN, 0, 0]"),
            ("mean", "[1e999, 0, 0]"),
            ("mean", f"[{10**400}, 0, 0]"),
            ("mean", '"abc"'),
            ("mean", '{"a": 1, "b": 2, "c": 3}'),
            ("mean", "null"),
            ("scale", "[-Infinity, 1, 1]"),
            ("scale", "[[1], [1], [1]]"),
            ("size", "[1e9, 1e9]"),
            ("size", f"[{10**18}, {10**18}]"),
            ("size", '"ab"'),
            ("size", "224"),
            ("size", "[[8, 6], [8, 6]]"),
            ("channels", "3.0"),
            ("channels", "[3]"),
            ("crop", "{}"),
            ("crop", '["whole"]'),
            ("resize", "16777216"),
            ("resize", "true"),
            ("resize", "[9]"),
            ("margin", "NaN"),
            ("margin", "null"),
            ("flip", "1"),
        ],
    )
    def test_with_one_value_of_another_kind_is_refused(
        self, tmp_path: Path, name: str, value: str
    ) -> None:
        values = {key: json.dumps(v) for key, v in recipe(8, 6, crop="centre").to_dict().items()}
        content = ", ".join(f'"{key}": {text}' for key, text in {**values, name: value}.items())
        (tmp_path / "recipe.json").write_text(f"{{{content}}}", encoding="utf-8")
        with pytest.raises(InputError, match="recipe"):
            Recipe.load(str(tmp_path / "recipe.json"))

    @moderate
    @given(data=st.data())
    def test_becomes_a_recipe_that_works_or_is_refused(self, data: st.DataObject) -> None:
        scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
        anything = st.recursive(
            scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner)
        )
        values = recipe(4, 3, crop=data.draw(st.sampled_from(CROPS))).to_dict()
        for name in data.draw(st.lists(st.sampled_from(sorted(values)), max_size=2)):
            values[name] = data.draw(anything)
        try:
            made = Recipe.from_dict(values)
        except InputError:
            return
        assert Recipe.from_dict(made.to_dict()) == made
        if max(*made.size, made.resize or 1) < 100:
            image = decode(np.zeros((9, 7, 3), np.uint8), made.channels)
            found = pixels_of(image, made, (0, 0, 5, 5), flat(ARCFACE))
            assert found.shape == (*made.size, made.channels)

    @pytest.mark.parametrize("name", ["resnet", "absent.json", ".", "{" + " " * 300 + "}", "a\0b"])
    def test_that_is_not_there_is_refused_and_presets_are_named(self, name: str) -> None:
        with pytest.raises(InputError, match=r"neither a preset \(imagenet, arcface, .*nor a JSON"):
            Recipe.load(name)


class TestPresets:
    @pytest.mark.parametrize("name", PRESETS)
    def test_are_loaded_by_name_and_come_back_from_their_values(self, name: str) -> None:
        assert Recipe.load(name) is PRESETS[name]
        assert Recipe.from_dict(PRESETS[name].to_dict()) == PRESETS[name]

    @pytest.mark.parametrize(
        ("names", "subtracted", "divided"),
        [
            (["arcface", "arcface-crops"], 127.5, 127.5),
            (["facenet", "facenet-crops"], 127.5, 128),
            (["imagenet"], np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])),
        ],
    )
    def test_scale_pixels_as_their_networks_were_trained(
        self, names: list[str], subtracted: Any, divided: Any
    ) -> None:
        levels = np.arange(256)[:, None]
        for name in names:
            own = PRESETS[name]
            found = (levels / 255 - own.mean) / own.scale
            np.testing.assert_allclose(
                found, (levels - subtracted) / divided + 0 * found, atol=1e-12
            )

    def test_for_crops_differ_in_what_they_take_alone(self) -> None:
        for name in ("arcface", "facenet"):
            own, crops = asdict(PRESETS[name]), asdict(PRESETS[f"{name}-crops"])
            assert {key for key in own if own[key] != crops[key]} <= {"crop", "margin"}
            assert crops["crop"] == "whole"

    @pytest.mark.parametrize("shape", [(375, 500), (500, 333), (256, 256), (64, 80)])
    def test_of_imagenet_is_the_usual_pipeline(self, shape: tuple[int, int]) -> None:
        vision = transforms()
        usual = vision.Compose([vision.Resize(256), vision.CenterCrop(224)])
        found = pixels_of(noise(*shape), PRESETS["imagenet"])
        np.testing.assert_array_equal(found, np.asarray(usual(noise(*shape))))


class TestCentre:
    @moderate
    @given(
        shape=st.tuples(st.integers(1, 70), st.integers(1, 70)).filter(
            lambda shape: max(shape) <= 8 * min(shape)
        ),
        size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
        longer=st.none() | st.integers(0, 30),
        interpolation=st.sampled_from(INTERPOLATIONS),
        channels=st.sampled_from([1, 3]),
    )
    def test_is_that_of_torchvision(
        self,
        shape: tuple[int, int],
        size: tuple[int, int],
        longer: int | None,
        interpolation: str,
        channels: int,
    ) -> None:
        vision = transforms()
        resize = None if longer is None else max(size) + longer
        own = Recipe(
            size,
            **(RGB if channels == 3 else GREY),
            crop="centre",
            resize=resize,
            interpolation=interpolation,
        )
        mode = vision.InterpolationMode(interpolation)
        usual = vision.Compose([vision.Resize(resize or max(size), mode), vision.CenterCrop(size)])
        image = noise(*shape, channels)
        expected = np.asarray(usual(image)).reshape(*size, channels)
        np.testing.assert_array_equal(pixels_of(image, own), expected)

    @pytest.mark.parametrize("interpolation", INTERPOLATIONS)
    @pytest.mark.parametrize("shape", [(4, 100), (100, 4), (3, 1001), (1, 30_000)])
    def test_of_a_long_strip_is_that_of_its_middle(
        self, shape: tuple[int, int], interpolation: str
    ) -> None:
        vision = transforms()
        usual = vision.Compose(
            [vision.Resize(12, vision.InterpolationMode(interpolation)), vision.CenterCrop(10)]
        )
        own = recipe(10, 10, crop="centre", resize=12, interpolation=interpolation)
        expected = np.asarray(usual(noise(*shape))).astype(int)
        assert np.abs(pixels_of(noise(*shape), own) - expected).max() <= 1


class TestWhole:
    @pytest.mark.parametrize("interpolation", INTERPOLATIONS)
    @pytest.mark.parametrize("shape", [(13, 29), (5, 4), (1, 1), (8, 6)])
    def test_is_stretched_to_the_size(self, shape: tuple[int, int], interpolation: str) -> None:
        image = noise(*shape)
        expected = image.resize((6, 8), Image.Resampling[interpolation.upper()])
        found = pixels_of(image, recipe(8, 6, interpolation=interpolation))
        np.testing.assert_array_equal(found, expected)

    @pytest.mark.parametrize("interpolation", INTERPOLATIONS)
    def test_of_the_right_size_is_left_as_it_is(self, interpolation: str) -> None:
        found = pixels_of(noise(8, 6), recipe(8, 6, interpolation=interpolation))
        np.testing.assert_array_equal(found, noise(8, 6))

    def test_of_grey_has_one_channel(self) -> None:
        found = pixels_of(noise(8, 6, 1), Recipe((8, 6), **GREY))
        np.testing.assert_array_equal(found, np.asarray(noise(8, 6, 1))[..., None])


class TestBox:
    @pytest.mark.parametrize("interpolation", INTERPOLATIONS)
    @pytest.mark.parametrize(
        ("box", "margin", "cut"),
        [
            ((4, 6, 12, 14), 0.0, (4, 6, 12, 14)),
            ((4, 6, 12, 14), 0.5, (2, 4, 14, 16)),
            ((4, 6, 14, 10), 1.0, (0, 4, 19, 12)),
            ((-5, 2, 10, 12), 0.0, (0, 2, 10, 12)),
            ((10, 10, 99, 99), 0.0, (10, 10, 20, 30)),
            ((0, 0, 20, 30), 9.0, (0, 0, 20, 30)),
            ((19, 29, 20, 30), 0.0, (19, 29, 20, 30)),
        ],
    )
    def test_is_cut_with_its_margin_as_far_as_the_image_goes(
        self,
        box: tuple[float, ...],
        margin: float,
        cut: tuple[int, int, int, int],
        interpolation: str,
    ) -> None:
        image = noise(30, 20)
        size = (cut[3] - cut[1], cut[2] - cut[0])
        own = recipe(*size, crop="box", margin=margin, interpolation=interpolation)
        np.testing.assert_array_equal(pixels_of(image, own, box), image.crop(cut))

    def test_is_stretched_to_the_size(self) -> None:
        image = Image.new("RGB", (30, 30), "#ff0000")
        image.paste("#0000ff", (10, 5, 20, 25))
        found = pixels_of(image, recipe(8, 6, crop="box", interpolation="nearest"), (10, 5, 20, 25))
        np.testing.assert_array_equal(found, np.full((8, 6, 3), [0, 0, 255]))

    @pytest.mark.parametrize(
        "box",
        [
            (5, 5, 5, 9),
            (9, 5, 5, 9),
            (20, 0, 40, 10),
            (-9, 0, 0, 10),
            (0.2, 0.3, 0.8, 0.9),
            (float("nan"), 1, 9, 9),
            (1, 1, float("inf"), 9),
        ],
    )
    def test_that_shows_nothing_is_unusable(self, box: tuple[float, ...]) -> None:
        with pytest.raises(
            UnusableImageError, match=r"its box \(.*shows less than a pixel of 20 x"
        ):
            pixels_of(noise(30, 20), recipe(8, 6, crop="box"), box)

    def test_that_is_missing_is_unusable(self) -> None:
        with pytest.raises(UnusableImageError, match="has no box, and the recipe cuts by it"):
            pixels_of(noise(30, 20), recipe(8, 6, crop="box"))


def turned(angle: float, scale: float) -> NDArray[np.float64]:
    """Return the matrix that turns and scales the plane."""
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s], [s, c]])


class TestSimilarity:
    @moderate
    @given(
        seed=seeds,
        angle=st.floats(-np.pi, np.pi),
        scale=st.floats(1e-3, 1e3),
        shift=st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)),
    )
    def test_is_found_to_rounding(
        self, seed: int, angle: float, scale: float, shift: tuple[float, float]
    ) -> None:
        points = np.random.default_rng(seed).normal(scale=30, size=(5, 2))
        linear, offset = similarity(points, points @ turned(angle, scale).T + shift)
        rounding = 1e-12 * (scale + np.abs(shift).max())
        np.testing.assert_allclose(linear, turned(angle, scale), rtol=0, atol=rounding)
        np.testing.assert_allclose(offset, shift, rtol=0, atol=100 * rounding)

    @moderate
    @given(seed=seeds, mirrored=st.booleans())
    def test_is_that_of_least_squares_and_never_mirrors(self, seed: int, mirrored: bool) -> None:
        rng = np.random.default_rng(seed)
        points = rng.normal(size=(5, 2)) + rng.normal(size=2)
        onto = points * [-1, 1] if mirrored else rng.normal(size=(5, 2))
        linear, offset = similarity(points, onto)
        # without mirroring, a similarity is (a -b; b a) x + t, whose four numbers are linear
        x, y, one, zero = *points.T, np.ones(5), np.zeros(5)
        equations = np.vstack([np.c_[x, -y, one, zero], np.c_[y, x, zero, one]])
        a, b, *t = np.linalg.lstsq(equations, onto.T.ravel())[0]
        np.testing.assert_allclose(linear, [[a, -b], [b, a]], atol=1e-10)
        np.testing.assert_allclose(offset, t, atol=1e-10)
        assert np.linalg.det(linear) >= 0


def scene(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """A smooth picture that is known at every point (..., 2) of the plane."""
    x, y = points[..., 0], points[..., 1]
    shades = [np.sin(x / 9) + np.cos(y / 11), np.sin((x + y) / 13), np.cos((x - 2 * y) / 17)]
    return 127.5 + 60 * np.stack(shades, axis=-1)


def grid(height: int, width: int) -> NDArray[np.float64]:
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y], axis=-1).astype(float)


def photographed(
    angle: float, scale: float, side: int = 400
) -> tuple[Image.Image, NDArray[np.float64], NDArray[np.float64]]:
    """Show the scene turned and scaled, the template's middle in the middle.

    Returns the image and the matrix and shift that take the scene's points to its pixels.
    """
    linear = turned(angle, scale)
    shift = (side - 1) / 2 - linear @ ARCFACE.mean(axis=0)
    seen = scene((grid(side, side) - shift) @ np.linalg.inv(linear).T)
    return Image.fromarray(np.clip(np.rint(seen), 0, 255).astype(np.uint8)), linear, shift


class TestAlign:
    @moderate
    @given(angle=st.floats(-np.pi, np.pi), scale=st.floats(0.8, 2.0))
    def test_undoes_a_known_transform(self, angle: float, scale: float) -> None:
        image, linear, shift = photographed(angle, scale)
        landmarks = flat(ARCFACE @ linear.T + shift)
        found = pixels_of(image, PRESETS["arcface"], landmarks=landmarks)
        # a level for rounding twice, and 60 / 9² / 8 / 0.8² for straight lines between pixels
        assert np.abs(found - scene(grid(112, 112))).max() < 2.0

    @pytest.mark.parametrize("interpolation", INTERPOLATIONS)
    def test_at_rest_changes_nothing(self, interpolation: str) -> None:
        own = replace(PRESETS["arcface"], interpolation=interpolation)
        found = pixels_of(noise(112, 112), own, landmarks=flat(ARCFACE))
        assert np.abs(found - np.asarray(noise(112, 112)).astype(int)).max() <= 1

    def test_moves_by_whole_pixels_without_blurring(self) -> None:
        image = noise(150, 160)
        found = pixels_of(image, PRESETS["arcface"], landmarks=flat(np.add(ARCFACE, (30, 20))))
        expected = np.asarray(image.crop((30, 20, 142, 132))).astype(int)
        assert np.abs(found - expected).max() <= 1

    @pytest.mark.parametrize(
        ("size", "points"),
        [
            ((112, 112), ARCFACE),
            ((112, 96), ARCFACE - (8, 0)),
            ((224, 224), 2 * ARCFACE),
            ((160, 160), ARCFACE / 0.7),
            ((112, 128), np.add(ARCFACE, (8, 0))),
        ],
    )
    @pytest.mark.parametrize("angle", [0.0, 0.7])
    def test_brings_each_landmark_to_its_point_of_the_template(
        self, size: tuple[int, int], points: NDArray[np.float64], angle: float
    ) -> None:
        placed = ARCFACE @ turned(angle, 1.5).T + [120, 60]
        own = Recipe(size, **GREY, crop="align")
        for landmark, point in zip(placed, points, strict=True):
            spot = np.exp(-((grid(300, 300) - landmark) ** 2).sum(axis=-1) / 50)
            image = Image.fromarray(np.rint(255 * spot).astype(np.uint8))
            weights = pixels_of(image, own, landmarks=flat(placed))[..., 0].astype(float)
            centroid = np.tensordot(weights, grid(*size), 2) / weights.sum()
            assert np.abs(centroid - point).max() < 0.05

    def test_shows_black_where_the_image_ends(self) -> None:
        image = Image.new("RGB", (112, 112), "#ffffff")
        found = pixels_of(image, PRESETS["arcface"], landmarks=flat(np.add(ARCFACE, (40, 0))))
        assert (found[:, :71] == 255).all()
        assert (found[:, 73:] == 0).all()

    def test_takes_bicubic_for_the_lanczos_that_no_transform_has(self) -> None:
        landmarks = flat(ARCFACE @ turned(0.3, 0.8).T)
        lanczos, bicubic = (
            pixels_of(
                noise(112, 112), replace(PRESETS["arcface"], interpolation=name), None, landmarks
            )
            for name in ("lanczos", "bicubic")
        )
        np.testing.assert_array_equal(lanczos, bicubic)

    @pytest.mark.parametrize(
        "landmarks",
        [
            [5.0] * 10,
            [0.2, 0.4, 0.7, 0.4, 0.5, 0.5, 0.3, 0.8, 0.7, 0.8],
            [float("nan"), *range(9)],
            [float("inf"), *range(9)],
            [1e300, *range(9)],
        ],
    )
    def test_by_points_of_no_face_is_unusable(self, landmarks: list[float]) -> None:
        with pytest.raises(UnusableImageError, match="landmarks are not five points of a face"):
            pixels_of(noise(30, 30), PRESETS["arcface"], landmarks=landmarks)

    def test_without_landmarks_is_unusable(self) -> None:
        with pytest.raises(UnusableImageError, match="has no landmarks, and the recipe aligns by"):
            pixels_of(noise(30, 30), PRESETS["arcface"])


@pytest.mark.parametrize("crop", CROPS)
def test_bgr_is_rgb_with_the_channels_in_reverse(crop: str) -> None:
    options: dict[str, Any] = {"box": (3, 4, 30, 33), "landmarks": flat(ARCFACE / 3)}
    rgb, bgr = (
        pixels_of(noise(40, 50), recipe(8, 6, crop=crop, order=order), **options)
        for order in ("rgb", "bgr")
    )
    np.testing.assert_array_equal(bgr, np.dstack([rgb[..., 2], rgb[..., 1], rgb[..., 0]]))


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("shape", [(1, 30_000), (30_000, 1)])
def test_strips_need_no_more_memory_than_other_images(crop: str, shape: tuple[int, int]) -> None:
    height, width = shape
    image = noise(height, width)
    own = recipe(224, 224, crop=crop, resize=256 if crop == "centre" else None)
    memory = PeakMemory()
    found = pixels_of(image, own, (0, 0, width, height), flat(ARCFACE * (width / 112, 1)))
    assert found.shape == (224, 224, 3)
    # 256 x 2048 pixels at the most, four bytes each as Pillow holds them
    assert memory.bytes() < 1 << 25


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_boxes_and_landmarks_hold_for_an_image_that_was_decoded_smaller(
    monkeypatch: pytest.MonkeyPatch, factor: int
) -> None:
    image, linear, shift = photographed(0.4, 8.0, side=1600)
    file = BytesIO()
    image.save(file, "JPEG", quality=95)
    landmarks = flat(ARCFACE @ linear.T + shift)
    box = (600, 700, 1200, 1100)
    aligned, cut = PRESETS["arcface"], recipe(50, 75, crop="box")
    whole = [
        pixels_of(decode(file.getvalue(), 3), own, box, landmarks).astype(int)
        for own in (aligned, cut)
    ]
    monkeypatch.setattr(decoding, "MAX_PIXELS", (1600 // factor) ** 2)
    smaller = decode(file.getvalue(), 3)
    assert smaller.size == (1600 // factor, 1600 // factor)
    for own, expected in zip((aligned, cut), whole, strict=True):
        found = pixels_of(smaller, own, box, landmarks)
        assert np.abs(found - expected).mean() < 0.75
