"""The story of `crossgram demo`: two small networks, real images, and the maps between them."""

from importlib.util import find_spec

from crossgram.errors import InputError

if not all(map(find_spec, ("PIL", "sklearn", "torch", "matplotlib", "jinja2", "pydantic"))):
    raise InputError(
        "the demo needs PyTorch, Pillow, scikit-learn and what reports need; pip install "
        "'crossgram[extract,sklearn,report]'"
    )

from crossgram.demonstration.closed_set import ClosedSet
from crossgram.demonstration.open_set import OpenSet, Verification
from crossgram.demonstration.story import Demonstration, NetworkFacts, demonstrate

__all__ = [
    "ClosedSet",
    "Demonstration",
    "NetworkFacts",
    "OpenSet",
    "Verification",
    "demonstrate",
]
