"""Embeddings of a folder of images by a PyTorch network, as an embedding store."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import DTypeLike, NDArray

import crossgram
from crossgram.errors import InputError, NonFiniteError, WidthMismatchError
from crossgram.output import check_output, refuse_overlap
from crossgram.progress import Progress, ProgressCallback, ignore
from crossgram.store import EmbeddingStore

try:
    import torch
    from PIL import Image, ImageOps
except ImportError as error:
    raise InputError(
        "extract: needs PyTorch and Pillow; pip install 'crossgram[extract]'"
    ) from error

__all__ = ["SUFFIXES", "ImageFile", "Recipe", "extract", "find_images", "load_image"]

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
"""Endings, in lower case, of the files that count as images."""

_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class Recipe:
    """How an image becomes what a network takes: (pixel / 255 - mean) / scale.

    Attributes
    ----------
    size : (int, int)
        Height and width; images of another size are resized as a whole, bilinear, antialiased.
    channels : {1, 3}
        Grey or RGB.
    mean, scale : tuple of float
        One per channel.
    """

    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    scale: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.channels not in _MODES:
            raise InputError(f"recipe: {self.channels} channels given, expected 1 or 3")
        if len(self.size) != 2 or min(self.size) < 1:
            raise InputError(f"recipe: size {self.size} given, expected a height and a width")
        if not len(self.mean) == len(self.scale) == self.channels:
            raise InputError(
                f"recipe: {len(self.mean)} means and {len(self.scale)} scales given for "
                f"{self.channels} channels; expected one per channel"
            )
        if not all(map(math.isfinite, (*self.mean, *self.scale))) or min(self.scale) <= 0:
            raise InputError("recipe: means must be finite, scales finite and above 0")


@dataclass(frozen=True)
class ImageFile:
    """One image of a folder tree.

    Attributes
    ----------
    path : Path
        Where it is.
    id : str
        Its path relative to the folder, with forward slashes.
    label : str or None
        The first folder of that path, None for an image that lies in none.
    """

    path: Path
    id: str
    label: str | None


def find_images(folder: str | Path) -> list[ImageFile]:
    """Return the images of a folder tree, sorted by id.

    Links to folders are followed. Files and folders whose names begin with a dot, and files with
    other endings than `SUFFIXES`, are not images.

    Raises
    ------
    InputError
        If there is no such folder, there is no image in it, a folder in it cannot be listed, or
        some images lie in folders that name their labels and others do not.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected a folder of images")
    files = sorted((_image_file(root, path) for path in _walk(root)), key=lambda file: file.id)
    if not files:
        raise InputError(
            f"{root}: no images in it or its folders; expected files that end in "
            f"{', '.join(sorted(SUFFIXES))}"
        )
    unlabelled = [file for file in files if file.label is None]
    if 0 < len(unlabelled) < len(files):
        raise InputError(
            f"{unlabelled[0].path}: lies in no folder that names its label, others do; put it "
            "into one, or give the folders one by one"
        )
    return files


def load_image(path: Path, recipe: Recipe) -> NDArray[np.float32]:
    """Return an image as a network takes it, shape (channels, height, width).

    Raises
    ------
    InputError
        If it cannot be decoded, or its values have more than 8 bits.
    """
    try:
        with Image.open(path) as image:
            image.load()
            decoded = ImageOps.exif_transpose(image)
    except Exception as error:
        raise InputError(
            f"{path}: cannot be decoded as an image ({str(error) or type(error).__name__}); mend "
            "the file or take it away"
        ) from error
    if decoded.mode == "F" or decoded.mode.startswith("I"):
        raise InputError(
            f"{path}: has values of more than 8 bits (mode {decoded.mode}); convert it to 8 bits"
        )
    height, width = recipe.size
    pixels = decoded.convert(_MODES[recipe.channels])
    if pixels.size != (width, height):
        pixels = pixels.resize((width, height), Image.Resampling.BILINEAR)
    values = np.asarray(pixels, np.float32).reshape(height, width, recipe.channels) / 255
    mean, scale = np.asarray(recipe.mean, np.float32), np.asarray(recipe.scale, np.float32)
    return np.ascontiguousarray(((values - mean) / scale).transpose(2, 0, 1))


def extract(
    images: str | Path,
    model: torch.nn.Module,
    out: str | Path,
    *,
    recipe: Recipe,
    network: str | None = None,
    batch_size: int = 64,
    workers: int = 0,
    dtype: DTypeLike = "float32",
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: ProgressCallback = ignore,
    **layout: Any,
) -> EmbeddingStore:
    """Embed every image of a folder tree with a network, into an embedding store.

    Rows are in the order of the ids, which are the paths relative to the folder; an image's label
    is the first folder of that path. No image is left out: one that cannot be used stops the run.

    Parameters
    ----------
    images : path
        The folder.
    model : torch.nn.Module
        Takes (batch, channels, height, width) float32 on the device of its parameters, gives
        (batch, d). It is run in evaluation mode and left in the mode it was in.
    out : path
        The new store; it appears when it is complete.
    recipe : Recipe
        What is done to an image before the network sees it.
    network : str, optional
        Its name in the provenance, by default that of its class.
    batch_size : int
        Images that go through the network at a time.
    workers : int
        Processes that decode images while the network runs; with 0 the two take turns.
    dtype : dtype, default float32
        Of the store: float16, float32 or float64.
    provenance : mapping, optional
        More to record, or other values for `images`, `network`, `recipe`, `weights_sha256`.
    overwrite : bool
        Replace what stands at `out`.
    progress : callable
        Called with a `Progress` after each batch.
    **layout
        `codec`, `chunk_rows` and `shard_rows` of the new store.

    Returns
    -------
    EmbeddingStore

    Raises
    ------
    InputError
        If there are no images, one cannot be decoded, or the network does not take them.
    WidthMismatchError
        If the network does not give one row of the same width for each image.
    NonFiniteError
        If an embedding holds NaN, infinity, or values too large for `dtype`.
    OutputExistsError
        If `out` exists and `overwrite` is false.
    """
    root, target = Path(images), Path(out)
    refuse_overlap(target, root)
    check_output(target, overwrite=overwrite, folder=True)
    if batch_size < 1 or workers < 0:
        raise InputError(
            f"extract: batch_size {batch_size} and workers {workers} given; at least 1 and 0"
        )
    files = find_images(root)
    name = network or type(model).__name__
    facts = {
        "made_by": f"crossgram {crossgram.__version__} extract",
        "images": str(root),
        "network": name,
        "recipe": asdict(recipe),
        "weights_sha256": _weights_digest(model),
        **(provenance or {}),
    }
    kind = np.dtype(dtype)
    with _evaluating(model), torch.inference_mode():
        blocks = _embed(files, model, name, recipe, batch_size, workers, kind)
        first = next(blocks)
        width = first.shape[1]
        created = EmbeddingStore.create(
            target, width, dtype=kind, provenance=facts, overwrite=overwrite, **layout
        )
        with created as writer:
            for block in chain([first], blocks):
                batch = files[writer.rows : writer.rows + len(block)]
                labels = [file.label for file in batch if file.label is not None]
                writer.append(block, ids=[file.id for file in batch], labels=labels or None)
                done = writer.rows
                progress(Progress("extract", done, len(files), done * width * kind.itemsize))
    return EmbeddingStore.open(target)


def _walk(root: Path) -> Iterator[Path]:
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=_refuse):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in names:
            path = Path(folder, name)
            if not name.startswith(".") and path.suffix.lower() in SUFFIXES:
                yield path


def _refuse(error: OSError) -> NoReturn:
    raise InputError(f"{error.filename}: cannot be listed: {error.strerror}") from error


def _image_file(root: Path, path: Path) -> ImageFile:
    relative = path.relative_to(root)
    try:
        relative.as_posix().encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{str(path)!r}: its name is not UTF-8, and ids are text; rename it"
        ) from error
    label = relative.parts[0] if len(relative.parts) > 1 else None
    return ImageFile(path, relative.as_posix(), label)


def _weights_digest(model: torch.nn.Module) -> str:
    """Return the SHA-256 of names, dtypes, shapes and bytes of the parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(chain(model.named_parameters(), model.named_buffers())):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@dataclass(frozen=True)
class _Images(torch.utils.data.Dataset[Any]):
    """Decoded images by number; an image that cannot be used is returned as its error.

    Raised in a worker process, the error would come back as a traceback in a message.
    """

    files: Sequence[ImageFile]
    recipe: Recipe

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor | InputError:
        try:
            return torch.from_numpy(load_image(self.files[index].path, self.recipe))
        except InputError as error:
            return error


def _stack(items: list[torch.Tensor | InputError]) -> torch.Tensor | InputError:
    for item in items:
        if isinstance(item, InputError):
            return item
    return torch.stack([item for item in items if isinstance(item, torch.Tensor)])


def _embed(
    files: Sequence[ImageFile],
    model: torch.nn.Module,
    name: str,
    recipe: Recipe,
    batch_size: int,
    workers: int,
    dtype: np.dtype[Any],
) -> Iterator[NDArray[Any]]:
    # a generator of its own, because the loader draws a seed and would take it from the global one
    loader = torch.utils.data.DataLoader(
        _Images(files, recipe),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=_stack,
        generator=torch.Generator(),
    )
    start, width = 0, None
    for batch in loader:
        if isinstance(batch, InputError):
            raise batch
        rows = _forward(model, name, batch)
        width = width or rows.shape[1]
        if rows.shape != (len(batch), width):
            raise WidthMismatchError(
                f"{name}: gave an output of shape {tuple(rows.shape)} for {len(batch)} images, "
                f"expected {(len(batch), width)}; every image needs one row of the same width"
            )
        with np.errstate(over="ignore"):
            block = rows.double().numpy(force=True).astype(dtype)
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            raise NonFiniteError(
                f"{files[start + int(np.argmin(finite))].path}: {name} gives NaN, infinity or "
                f"values too large for {dtype} for this image; mend the network, or choose a "
                "wider dtype"
            )
        yield block
        start += len(batch)


def _forward(model: torch.nn.Module, name: str, batch: torch.Tensor) -> torch.Tensor:
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    try:
        rows = model(batch.to(device))
    except RuntimeError as error:
        raise InputError(
            f"{name}: cannot take a batch of shape {tuple(batch.shape)} ({error}); change the "
            "recipe or the batch size"
        ) from error
    if not isinstance(rows, torch.Tensor) or rows.ndim != 2 or not rows.is_floating_point():
        found = f"{rows.dtype} {tuple(rows.shape)}" if isinstance(rows, torch.Tensor) else rows
        raise InputError(
            f"{name}: gave {found if isinstance(found, str) else type(found).__name__}, expected "
            "a tensor of floats of shape (images, width)"
        )
    return rows
