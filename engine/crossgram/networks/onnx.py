"""ONNX networks through onnxruntime."""

from __future__ import annotations

import hashlib
import mmap
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crossgram.errors import CorruptDataError, InputError
from crossgram.networks.weights import file_digest

__all__ = ["OnnxNetwork", "onnx_digest"]

_LOCATION = re.compile(rb"\x0a\x08location\x12([\x80-\xff]?[\x01-\x7f])", re.DOTALL)
"""A key and the length of its value, as a protocol buffer has them: the name of a file of weights
that are kept apart (onnx.proto, TensorProto.external_data)."""


class OnnxNetwork(torch.nn.Module):
    """An ONNX file as a module: (n, channels, height, width) float32 to one of its outputs.

    A file whose batch has a fixed size is run so many images at a time, the last ones filled up
    with zeros; one that takes channels last gets them so.

    Parameters
    ----------
    path : path
        The file.
    output : str, optional
        Which output; by default the first.
    device : torch.device
        CUDA is used where onnxruntime has it.

    Raises
    ------
    CorruptDataError
        If onnxruntime cannot read the file.
    InputError
        If it has not one image input, or not that output.
    """

    def __init__(self, path: Path, output: str | None, device: torch.device) -> None:
        super().__init__()
        try:
            import onnxruntime
        except ImportError as error:
            raise InputError(f"{path}: needs onnxruntime; pip install onnxruntime") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        available = onnxruntime.get_available_providers()
        wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
        providers = [name for name in [*wanted, "CPUExecutionProvider"] if name in available]
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=providers)
        except Exception as error:
            raise CorruptDataError(f"{path}: cannot be read as ONNX ({error})") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4:
            raise InputError(
                f"{path}: takes {[(one.name, one.shape) for one in inputs]}, expected one batch of "
                "images"
            )
        names = [one.name for one in outputs]
        if output is not None and output not in names:
            raise InputError(f"{path}: has no output {output!r}; it has {', '.join(names)}")
        self._input, self._output = inputs[0].name, output or names[0]
        self._kind = np.float16 if inputs[0].type == "tensor(float16)" else np.float32
        batch, *shape = inputs[0].shape
        self._batch = batch if isinstance(batch, int) and batch > 0 else None
        self._channels_last = shape[2] in (1, 3) and shape[0] not in (1, 3)

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxNetwork:
        """Return the same: any number of threads may run it."""
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the output for a batch."""
        batch = images.movedim(1, 3) if self._channels_last else images
        values = np.ascontiguousarray(batch.numpy(force=True), self._kind)
        step = self._batch or len(values)
        rows = [self._run(values[start : start + step]) for start in range(0, len(values), step)]
        return torch.from_numpy(np.concatenate(rows))

    def _run(self, values: Any) -> Any:
        given = len(values)
        if self._batch is not None and given < self._batch:
            values = np.concatenate(
                [values, np.zeros_like(values[:1]).repeat(self._batch - given, 0)]
            )
        try:
            rows = self._session.run([self._output], {self._input: values})[0]
        except Exception as error:
            # a RuntimeError, as a module that is given images of the wrong shape raises
            raise RuntimeError(str(error)) from error
        return rows[:given] if self._batch is not None else rows


def onnx_digest(path: Path) -> str:
    """Return the SHA-256 of an ONNX file; and of the files with weights that it names, if any."""
    own = file_digest(path)
    others = {name: file_digest(path.parent / name) for name in _weight_files(path)}
    if not others:
        return own
    lines = [own, *(f"{name} {digest}" for name, digest in sorted(others.items()))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _weight_files(path: Path) -> set[str]:
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        found = {
            data[match.end() : match.end() + _number(match[1])]
            for match in _LOCATION.finditer(data)
        }
    names = {name.decode(errors="replace").partition("\0")[0] for name in found}
    there = {name for name in names if name and (path.parent / name).is_file()}
    for name in there:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise InputError(
                f"{path}: names the file {name!r}, which lies in another folder; put its weights "
                "beside it"
            )
    return there


def _number(digits: bytes) -> int:
    return sum((digit & 127) << 7 * place for place, digit in enumerate(digits))
