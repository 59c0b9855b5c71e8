"""Linear classifier heads, and the map between two spaces that follows from them alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossgram.errors import InputError, NonFiniteError, WidthMismatchError
from crossgram.linear_map import LinearMap
from crossgram.locations import local
from crossgram.spaces import Space
from crossgram.tensor_file import kind_of, read_layer, read_tensors, write_tensors

__all__ = ["ClassifierHead", "head_map", "in_top_k", "top_k_accuracy"]

_KIND = "classifier head"


@dataclass(frozen=True, eq=False)
class ClassifierHead:
    """The last, linear layer of a classifier: logits = x Wᵀ + b.

    Attributes
    ----------
    weight : ndarray, shape (K, d), float64
        One row per class, as in torch.nn.Linear.
    bias : ndarray, shape (K,), float64
        One value per class.

    Examples
    --------
    >>> head = ClassifierHead([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.5])
    >>> head.logits([[2.0, 1.0]])
    array([[2. , 1.5]])
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name in ("weight", "bias"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
        if self.weight.ndim != 2 or 0 in self.weight.shape:
            raise InputError(
                f"head: a weight of shape {self.weight.shape} given, expected (classes, width)"
            )
        if self.bias.shape != self.weight.shape[:1]:
            raise InputError(
                f"head: a bias of shape {self.bias.shape} given for {len(self.weight)} classes"
            )
        if not (np.isfinite(self.weight).all() and np.isfinite(self.bias).all()):
            raise NonFiniteError("head: its weight or bias holds NaN or infinity")

    @property
    def classes(self) -> int:
        """Number of classes, K."""
        return int(self.weight.shape[0])

    @property
    def dim(self) -> int:
        """Width of the embeddings it takes, d."""
        return int(self.weight.shape[1])

    @property
    def rank(self) -> int:
        """Numerical rank of the weight: how many directions of logits it can tell apart."""
        return int(np.linalg.matrix_rank(self.weight))

    def logits(self, x: ArrayLike) -> NDArray[np.float64]:
        """Return the logits of embeddings (n, d), shape (n, K).

        Raises
        ------
        WidthMismatchError
            If `x` has not d columns.
        """
        rows = np.asarray(x, np.float64)
        if rows.ndim != 2 or rows.shape[1] != self.dim:
            raise WidthMismatchError(
                f"head: takes rows of {self.dim} columns, an array of shape {rows.shape} was given"
            )
        return rows @ self.weight.T + self.bias

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write a safetensors file with the keys `weight` and `bias`, whole or not at all.

        Raises
        ------
        OutputExistsError
            If `path` exists and `overwrite` is false.
        """
        tensors = {"weight": self.weight, "bias": self.bias}
        write_tensors(path, _KIND, tensors, {}, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> ClassifierHead:
        """Read a file that `save` wrote, or the state of a linear layer as safetensors saves it.

        Parameters
        ----------
        path : path
            A safetensors file with `weight` (K, d) and `bias` (K,) of a float dtype, as the state
            of a torch.nn.Linear has them. Without `bias` it is 0.

        Raises
        ------
        InputError
            If it is no such file.
        CorruptDataError
            If it is truncated.
        """
        location = local(path)
        if kind_of(location) is None:
            tensors = read_layer(location)
            tensors.setdefault("bias", np.zeros(tensors["weight"].shape[:1]))
        else:
            tensors, _ = read_tensors(location, _KIND)
        try:
            return cls(tensors["weight"], tensors["bias"])
        except (KeyError, InputError) as error:
            raise InputError(
                f"{path}: the parts of this head file contradict each other ({error}); save it "
                "again"
            ) from error


def top_k_accuracy(logits: ArrayLike, classes: ArrayLike, k: int = 1) -> float:
    """Return the share of rows whose class is among the k largest logits.

    Among equal logits the class with the lower number comes first, as with numpy.argmax.

    Parameters
    ----------
    logits : array, shape (n, K)
        Without NaN.
    classes : array of int, shape (n,)
        The true classes, 0 to K - 1.
    k : int
        1 to K.

    Examples
    --------
    >>> top_k_accuracy([[3.0, 3.0, 1.0], [3.0, 3.0, 1.0]], [0, 1])
    0.5
    """
    return float(np.mean(in_top_k(logits, classes, k)))


def in_top_k(logits: ArrayLike, classes: ArrayLike, k: int) -> NDArray[np.bool_]:
    """Tell which rows' class is among the k largest logits, as `top_k_accuracy` counts them."""
    scores, true = np.asarray(logits, np.float64), np.asarray(classes)
    if scores.ndim != 2 or not len(scores) or true.shape != scores.shape[:1]:
        raise InputError(
            f"top_k_accuracy: logits {scores.shape} and classes {true.shape} given, expected "
            "(n, K) and (n,)"
        )
    count = scores.shape[1]
    if true.dtype.kind not in "iu" or true.min() < 0 or true.max() >= count:
        raise InputError(f"top_k_accuracy: classes must be whole numbers from 0 to {count - 1}")
    if not 1 <= k <= count:
        raise InputError(f"top_k_accuracy: k is {k}, expected 1 to {count}")
    if np.isnan(scores).any():
        raise NonFiniteError("top_k_accuracy: the logits hold NaN")
    own = np.take_along_axis(scores, true[:, None], axis=1)
    earlier = np.arange(count) < true[:, None]
    before = (scores > own) | ((scores == own) & earlier)
    within: NDArray[np.bool_] = before.sum(axis=1) < k
    return within


def head_map(
    source: ClassifierHead,
    target: ClassifierHead,
    *,
    names: tuple[str, str] = ("source", "target"),
) -> LinearMap:
    """Return the map that makes the target's head see what the source's head sees.

    It needs no embeddings, only two heads for the same classes in the same order. Where the
    target's weight has rank K (which needs d_B >= K), the target's head gives the source's logits
    exactly on mapped rows, so the source's accuracy, whatever the embeddings are: it is a check
    and a ceiling, not evidence that two spaces are alike, and it reproduces only as much of the
    target's space as its head looks at. Otherwise the logits are the nearest in least squares.

    Parameters
    ----------
    source, target : ClassifierHead
        Of widths d_A and d_B, for the same K classes.
    names : (str, str)
        Of the two spaces, in the map.

    Raises
    ------
    WidthMismatchError
        If the heads have different numbers of classes.

    Notes
    -----
    With the heads' matrices C (d, K): M = C_A C_B⁺ and t = (b_A - b_B) C_B⁺, the minimum-norm
    least-squares solution of M C_B = C_A and t C_B = b_A - b_B.
    """
    if source.classes != target.classes:
        raise WidthMismatchError(
            f"head_map: heads of {source.classes} and {target.classes} classes given for "
            f"{names[0]} and {names[1]}, expected the same classes"
        )
    wanted = np.column_stack([source.weight, source.bias - target.bias])
    solved = np.linalg.lstsq(target.weight, wanted, rcond=None)[0]
    return LinearMap(
        weight=np.ascontiguousarray(solved[:, :-1], np.float64),
        bias=np.ascontiguousarray(solved[:, -1], np.float64),
        source=Space(names[0], source.dim),
        target=Space(names[1], target.dim),
    )
