"""NetworkSpec: which network, by name, so that every process can load it for itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from crossgram.errors import InputError
from crossgram.images.recipe import Recipe

__all__ = ["OUTPUT", "PENULTIMATE", "NetworkSpec", "check_names"]

PENULTIMATE, OUTPUT = "penultimate", "output"
"""Layers that every module has by these names: what its classifier takes, and what it gives."""

_NAMED = ("torchvision", "timm")
_FILES = ("torchscript", "export", "onnx")
_CALLABLE = "python"
_NAME = r"[\w.-]+"


@dataclass(frozen=True)
class NetworkSpec:
    """A network that can be loaded.

    Attributes
    ----------
    name : str
        What its space is called.
    kind : {"torchvision", "timm", "torchscript", "export", "onnx", "python"}
        Where it comes from. TorchScript, torch.export and Python run code of whoever made them.
    what : str
        The model's name, the file, or package.module:callable.
    weights : str, optional
        File of the weights: safetensors, or what torch.load reads with weights_only.
    layer : str, optional
        Whose output is the embedding: a module by name, "penultimate" or "output"; of an ONNX
        file, one of its outputs.
    recipe : Recipe, optional
        Where the network does not say itself.
    flip : {"none", "sum", "concatenate"}, optional
        Instead of what the recipe says.
    """

    name: str
    kind: str
    what: str
    weights: str | None = None
    layer: str | None = None
    recipe: Recipe | None = None
    flip: str | None = None

    @property
    def text(self) -> str:
        """How it is written on the command line, without its name."""
        return self.what if self.kind == _CALLABLE else f"{self.kind}:{self.what}"

    @classmethod
    def parse(cls, text: str) -> NetworkSpec:
        """Read `[NAME=]SPEC`.

        Raises
        ------
        InputError
            If it is no network that is known.

        Examples
        --------
        >>> NetworkSpec.parse("old=torchvision:resnet50")
        NetworkSpec(name='old', kind='torchvision', what='resnet50', weights=None, layer=None,
                    recipe=None, flip=None)
        >>> NetworkSpec.parse("onnx:nets/b.onnx").name
        'b'
        """
        match = re.fullmatch(rf"(?:(?P<name>{_NAME})=)?(?P<kind>[\w.]+):(?P<what>.+)", text)
        if match is None:
            raise InputError(
                f"model: {text!r} given, expected torchvision:NAME, timm:NAME, onnx:FILE, "
                "torchscript:FILE, export:FILE or package.module:callable, maybe after NAME="
            )
        name, kind, what = match["name"], match["kind"], match["what"]
        if kind in _NAMED:
            return cls(name or _as_name(what), kind, what)
        if kind in _FILES:
            return cls(name or _as_name(Path(what).stem), kind, what)
        if not re.fullmatch(r"[\w.]+", what):
            raise InputError(
                f"model: {text!r} given; {kind!r} is no kind of network that is known "
                f"({', '.join(_NAMED + _FILES)}), and {what!r} no name of a callable"
            )
        return cls(name or what, _CALLABLE, f"{kind}:{what}")

    def absolute(self) -> NetworkSpec:
        """Return the same network for a process that runs in another folder."""
        what = str(Path(self.what).absolute()) if self.kind in _FILES else self.what
        weights = None if self.weights is None else str(Path(self.weights).absolute())
        return replace(self, what=what, weights=weights)

    def check_files(self) -> None:
        """Refuse a spec whose files are not there."""
        files = [self.what] if self.kind in _FILES else []
        for file in [*files, *([] if self.weights is None else [self.weights])]:
            if not Path(file).is_file():
                raise InputError(f"{self.name}: {file} is no file; expected the network's weights")
        if self.kind in _NAMED and self.weights is None:
            raise InputError(
                f"{self.name}: no weights given for {self.text}, and none are downloaded; give a "
                "file of them (--model-weights)"
            )
        if self.kind in _FILES and self.weights is not None:
            raise InputError(
                f"{self.name}: weights given for {self.text}, which has its own; leave them out"
            )


def _as_name(text: str) -> str:
    return re.sub(r"[^\w.-]", "-", text)


def check_names(names: Sequence[str]) -> None:
    """Refuse several networks of one name, and names that are no names of files."""
    for name in names:
        if not re.fullmatch(_NAME, name):
            raise InputError(
                f"model: {name!r} is the name of a network, expected letters, digits, _, . and -"
            )
        if names.count(name) > 1:
            raise InputError(
                f"model: {names.count(name)} networks are called {name!r}; write NAME=SPEC"
            )
