"""Network: prepared pixels in, embeddings out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from crossgram.devices import check_device_name
from crossgram.errors import CrossgramError, InputError, WidthMismatchError
from crossgram.heads import ClassifierHead
from crossgram.images.recipe import Recipe

__all__ = ["PRECISIONS", "Network", "choose_device", "normalized"]

PRECISIONS = ("float32", "bfloat16", "float16")
"""Of the arithmetic in a network."""

_PROBE_IMAGES = 2


@dataclass(frozen=True)
class Network:
    """A network that is ready to run.

    Attributes
    ----------
    name : str
        What its space is called.
    module : torch.nn.Module
        (n, channels, height, width) float32 on `device` to the embeddings.
    recipe : Recipe
        How images are prepared.
    device : torch.device
        Where it runs.
    precision : {"float32", "bfloat16", "float16"}
        Of its arithmetic.
    dim : int
        Width of an embedding.
    facts : mapping
        What the provenance of its embeddings says of it.
    head : ClassifierHead or None
        The classifier that was cut off.
    channels_last : bool
        Whether batches lie in memory so.
    """

    name: str
    module: torch.nn.Module
    recipe: Recipe
    device: torch.device
    precision: str
    dim: int
    facts: Mapping[str, Any]
    head: ClassifierHead | None = None
    channels_last: bool = False

    @classmethod
    def of(
        cls,
        name: str,
        module: torch.nn.Module,
        recipe: Recipe,
        device: torch.device,
        precision: str,
        facts: Mapping[str, Any],
        *,
        head: ClassifierHead | None = None,
        channels_last: bool = False,
        compiled: bool = False,
    ) -> Network:
        """Try a module on blank images, and return the network."""
        if precision not in PRECISIONS:
            raise InputError(f"precision: {precision!r} given, expected one of {PRECISIONS}")
        stated = {**facts, "recipe": recipe.to_dict(), "precision": precision}
        network = cls(name, module, recipe, device, precision, 0, stated, head, channels_last)
        if compiled:
            network = replace(network, module=cast(torch.nn.Module, torch.compile(module)))
        blank = torch.zeros(_PROBE_IMAGES, *recipe.size, recipe.channels, dtype=torch.uint8)
        with network.running():
            return replace(network, dim=network.embed(blank).shape[1])

    @contextmanager
    def running(self) -> Iterator[None]:
        """Do both: `evaluating` and `inferring`."""
        with self.evaluating(), self.inferring():
            yield

    @contextmanager
    def inferring(self) -> Iterator[None]:
        """Keep no gradients, and the arithmetic as precise as it was asked for, in this thread."""
        kind = getattr(torch, self.precision)
        narrow = kind != torch.float32
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, kind if narrow else None, enabled=narrow),
        ):
            yield

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Keep the module in evaluation mode, and PyTorch from rounding float32, in any thread."""
        modes = [(module, module.training) for module in self.module.modules()]
        with ExitStack() as stack:
            stack.enter_context(_without_tf32())
            with suppress(RuntimeError):  # who mixed PyTorch's two ways to set it cannot read it
                if (products := torch.get_float32_matmul_precision()) != "highest":
                    stack.callback(torch.set_float32_matmul_precision, products)
                    torch.set_float32_matmul_precision("highest")
            try:
                self.module.eval()
                yield
            finally:
                for module, mode in modes:
                    module.training = mode

    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of a batch, shape (n, d), float32 or wider, on the CPU.

        Parameters
        ----------
        pixels : torch.Tensor, shape (n, height, width, channels), uint8
            As the recipe takes them; called within `running`.

        Raises
        ------
        InputError
            If the network does not take them, or does not give rows of floats.
        WidthMismatchError
            If it does not give one row of the same width for each image.
        """
        order = torch.channels_last if self.channels_last else torch.contiguous_format
        batch = normalized(pixels.to(self.device, non_blocking=True), self.recipe, order)
        # both before: a module may write into what it is given, and give what it writes to again
        mirror = None if self.recipe.flip == "none" else batch.flip(3)
        rows = self._forward(batch)
        if mirror is not None:
            rows = rows.clone()
            mirrored = self._forward(mirror)
            rows = rows + mirrored if self.recipe.flip == "sum" else torch.cat([rows, mirrored], 1)
        if len(rows) != len(pixels) or (self.dim and rows.shape[1] != self.dim):
            wanted = (len(pixels), self.dim or rows.shape[1])
            raise WidthMismatchError(
                f"{self.name}: gave an output of shape {tuple(rows.shape)} for {len(pixels)} "
                f"images, expected {wanted}; every image needs one row of the same width"
            )
        return rows.cpu()

    def _forward(self, batch: torch.Tensor) -> torch.Tensor:
        try:
            rows = self.module(batch)
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"{self.name}: {self.device} has no room for a batch of {len(batch)} images; give "
                "a smaller batch size"
            ) from error
        except CrossgramError:
            raise
        except Exception as error:
            raise InputError(
                f"{self.name}: cannot take a batch of shape {tuple(batch.shape)} "
                f"({_first_line(error)}); change the recipe or the batch size"
            ) from error
        if isinstance(rows, torch.Tensor) and rows.ndim == 4 and rows.shape[2:] == (1, 1):
            rows = rows.flatten(1)
        if (
            not isinstance(rows, torch.Tensor)
            or rows.ndim != 2
            or not rows.shape[1]
            or not rows.is_floating_point()
        ):
            found = (
                f"{rows.dtype} {tuple(rows.shape)}"
                if isinstance(rows, torch.Tensor)
                else type(rows).__name__
            )
            raise InputError(
                f"{self.name}: gave {found}, expected a tensor of floats of shape (images, width)"
            )
        return rows if rows.dtype == torch.float64 else rows.float()


def normalized(
    pixels: torch.Tensor, recipe: Recipe, order: torch.memory_format = torch.contiguous_format
) -> torch.Tensor:
    """Return pixels as a network takes them, shape (n, channels, height, width), float32.

    Parameters
    ----------
    pixels : torch.Tensor, shape (n, height, width, channels), uint8
        As the recipe takes them.
    recipe : Recipe
        Its mean and scale.
    order : torch.memory_format
        How the batch lies in memory.
    """
    mean, scale = (
        torch.tensor(values, dtype=torch.float32, device=pixels.device).view(1, -1, 1, 1)
        for values in (recipe.mean, recipe.scale)
    )
    batch = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=order)
    return batch.div_(255).sub_(mean).div_(scale)


def _without_tf32() -> AbstractContextManager[None]:
    cudnn = torch.backends.cudnn
    own = {name: getattr(cudnn, name) for name in ("enabled", "benchmark", "deterministic")}
    # the other settings are kept: those that it is not given it sets to its own defaults
    return cudnn.flags(**own, allow_tf32=False)


def choose_device(asked: str) -> torch.device:
    """Return the device of a name; of "auto", a GPU where there is one.

    Raises
    ------
    InputError
        If there is no such device.
    """
    check_device_name(asked)
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(asked)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device: {asked} given, PyTorch {torch.__version__} finds {torch.cuda.device_count()} "
            "GPUs; take another device"
        )
    return device


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
