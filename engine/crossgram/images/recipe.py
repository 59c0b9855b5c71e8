"""Recipe: how an image becomes what a network takes, declared so that it can be stored."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from crossgram.documents import parsed
from crossgram.errors import InputError

__all__ = ["PRESETS", "Recipe"]

_CHOICES = {
    "channels": (1, 3),
    "crop": ("whole", "centre", "box", "align"),
    "order": ("rgb", "bgr"),
    "interpolation": ("nearest", "bilinear", "bicubic", "lanczos"),
    "flip": ("none", "sum", "concatenate"),
}
_MOST_PIXELS = 1 << 24
_MOST_RECIPE_BYTES = 1 << 16


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


@dataclass(frozen=True)
class Recipe:
    """How an image becomes what a network takes: (pixel / 255 - mean) / scale.

    Attributes
    ----------
    size : (int, int)
        Height and width.
    channels : {3, 1}
        RGB or grey.
    mean, scale : tuple of float
        One per channel.
    crop : {"whole", "centre", "box", "align"}
        What of the image is taken. The whole, stretched to `size`. The centre, after the shorter
        side was resized to `resize`. The image's box, widened by `margin`, stretched. Or what the
        similarity transform that fits the image's five landmarks to the ArcFace template shows.
    resize : int, optional
        With "centre": pixels of the shorter side before the cut; by default that of `size`.
    margin : float
        With "box": share of its width and height that is added, half on each side.
    order : {"rgb", "bgr"}
        Of three channels.
    interpolation : {"nearest", "bilinear", "bicubic", "lanczos"}
        Antialiased where an image is made smaller, but for "align".
    flip : {"none", "sum", "concatenate"}
        Whether the mirrored image is embedded too, and how the two embeddings become one.

    Notes
    -----
    The template of "align" is that of ArcFace (Deng et al. 2019) for 112 x 112; for other sizes it
    is scaled with the height and centred in the width, which gives the usual one of 112 x 96.
    """

    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    crop: str = "whole"
    resize: int | None = None
    margin: float = 0.0
    order: str = "rgb"
    interpolation: str = "bilinear"
    flip: str = "none"

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            # 3.0 and True equal numbers that are allowed
            if value not in allowed or isinstance(value, float | bool):
                raise InputError(f"recipe: {name} {value!r} given, expected one of {allowed}")
        if len(self.size) != 2 or not all(_is_count(side) for side in self.size):
            raise InputError(f"recipe: size {self.size} given, expected a height and a width")
        if math.prod(self.size) > _MOST_PIXELS:
            raise InputError(f"recipe: size {self.size} given, at most {_MOST_PIXELS:,} pixels")
        if not len(self.mean) == len(self.scale) == self.channels:
            raise InputError(
                f"recipe: {len(self.mean)} means and {len(self.scale)} scales given for "
                f"{self.channels} channels; expected one per channel"
            )
        if not all(map(_is_finite, (*self.mean, *self.scale))) or min(self.scale) <= 0:
            raise InputError("recipe: means must be finite, scales finite and above 0")
        if not _is_finite(self.margin) or self.margin < 0:
            raise InputError(f"recipe: margin {self.margin} given, expected 0 or more")
        if self.margin and self.crop != "box":
            raise InputError(f"recipe: a margin given for crop {self.crop!r}, it is for 'box'")
        self._check_resize()

    def _check_resize(self) -> None:
        short = max(self.size) if self.resize is None else self.resize
        if self.resize is not None and (
            self.crop != "centre" or not _is_count(short) or short < max(self.size)
        ):
            raise InputError(
                f"recipe: resize {short!r} given for crop {self.crop!r} of {self.size}; it is for "
                "'centre', a whole number, and at least as long as the longer side"
            )
        if self.crop == "centre" and short**2 > _MOST_PIXELS:
            raise InputError(
                f"recipe: with crop 'centre', images would be resized to {short} x {short} pixels "
                f"and more; expected at most {math.isqrt(_MOST_PIXELS)} for the shorter side"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON values."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Make a recipe of JSON values.

        Raises
        ------
        InputError
            If they are not those of a recipe.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        missing = [name for name in ("size", "channels", "mean", "scale") if name not in values]
        if unknown or missing:
            raise InputError(
                f"recipe: {'unknown ' + ', '.join(unknown) if unknown else ''}"
                f"{'; ' if unknown and missing else ''}"
                f"{'missing ' + ', '.join(missing) if missing else ''}; a recipe has "
                f"{', '.join(field.name for field in fields(cls))}"
            )
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list | tuple) else value
            for name, value in values.items()
        }
        try:
            return cls(**given)
        except TypeError as error:
            raise InputError(f"recipe: a value is of the wrong kind ({error})") from error

    @classmethod
    def load(cls, given: str) -> Recipe:
        """Return the preset of that name, or what the JSON file of that name holds.

        Raises
        ------
        InputError
            If it is neither.
        """
        if given in PRESETS:
            return PRESETS[given]
        path = Path(given)
        if not os.path.isfile(given):  # noqa: PTH113  (a name too long is none, not an error)
            raise InputError(
                f"recipe: {given!r} is neither a preset ({', '.join(PRESETS)}) nor a JSON file"
            )
        if path.stat().st_size > _MOST_RECIPE_BYTES:
            raise InputError(f"{path}: larger than any recipe, expected a small JSON file")
        try:
            values = parsed(path.read_bytes())
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: not JSON ({error}); expected a recipe") from error
        if not isinstance(values, dict):
            raise InputError(f"{path}: holds {type(values).__name__}, expected a JSON object")
        return cls.from_dict(values)


_ARCFACE = Recipe((112, 112), 3, (0.5,) * 3, (0.5,) * 3, crop="align")
_FACENET = Recipe((160, 160), 3, (0.5,) * 3, (128 / 255,) * 3, crop="box")

PRESETS: Mapping[str, Recipe] = {
    "imagenet": Recipe(
        (224, 224), 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), crop="centre", resize=256
    ),
    "arcface": _ARCFACE,
    "arcface-crops": replace(_ARCFACE, crop="whole"),
    "facenet": _FACENET,
    "facenet-crops": replace(_FACENET, crop="whole"),
}
"""By name. The ones for crops take the whole image: of images that are aligned or cut already."""
