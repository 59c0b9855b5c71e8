"""Atlases: all maps between some networks, and what they keep."""

from crossgram.atlases.facts import Atlas, load_atlas
from crossgram.atlases.making import atlas

__all__ = ["Atlas", "atlas", "load_atlas"]
