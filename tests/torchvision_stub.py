"""torchvision's transforms, also beside a torch that its compiled operators were not built for."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest
import torch

_OPERATORS = ("nms", "qnms")


def transforms() -> Any:
    """Return `torchvision.transforms`; the test that asks is skipped where there is none."""
    try:
        return importlib.import_module("torchvision.transforms")
    except ModuleNotFoundError:
        pytest.skip("torchvision is not installed")
    except RuntimeError:
        _define_operators()
    return importlib.import_module("torchvision.transforms")


def _define_operators() -> None:
    """Declare what torchvision describes to torch on import; transforms of images call none."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for name in _OPERATORS:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(library)


_KEPT: list[torch.library.Library] = []
"""A library's definitions are gone when it is."""
