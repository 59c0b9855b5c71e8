"""Images: how collections of them are kept, decoded, and prepared for a network."""

from __future__ import annotations

from crossgram.images.entry import Collection, ImageEntry
from crossgram.images.image_list import ImageList, list_digest
from crossgram.images.opening import open_collection
from crossgram.images.recipe import PRESETS, Recipe

__all__ = [
    "PRESETS",
    "Collection",
    "ImageEntry",
    "ImageList",
    "Recipe",
    "list_digest",
    "open_collection",
]
