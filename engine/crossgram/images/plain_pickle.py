"""Pickles of plain data, read opcode by opcode: nothing is unpickled, so nothing can be run.

Byte strings are not held, but named by where they lie in the file.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from crossgram.errors import InputError
from crossgram.images.decoding import UnusableImageError

__all__ = ["Piece", "piece_of", "plain_pickle", "value_of"]

_MOST_OPCODES = 1 << 22
_MOST_BYTES = 1 << 26
_MOST_SIDES = 32
_SHORT = 64
_LONGEST = 200


@dataclass(frozen=True)
class Piece:
    """A byte string or a text.

    Attributes
    ----------
    place : (int, int)
        Offset and length in the file of the opcode that holds it; `value_of` reads it from there.
    size : int
        Bytes, or characters.
    is_text : bool
        Whether it is a text.
    short : str
        The value itself, where it is short enough for a name; bytes as Latin-1.
    """

    place: tuple[int, int]
    size: int
    is_text: bool
    short: str


@dataclass(frozen=True)
class _Global:
    name: str


class _Bytewise:
    """NumPy's dtype of uint8."""


@dataclass
class _Array:
    """An array of uint8, which is filled after it was made."""

    piece: Piece | None = None


_GLOBALS = frozenset(
    {"_codecs encode", "__builtin__ bytes", "builtins bytes", "numpy ndarray", "numpy dtype"}
    | {f"numpy.{core}.multiarray _reconstruct" for core in ("core", "_core")}
    | {f"numpy.{core}.numeric _frombuffer" for core in ("core", "_core")}
)
"""What pickles of bytes and of arrays name; each is known by its name and never called."""

_BYTES = ("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8", "SHORT_BINSTRING", "BINSTRING")
_TEXTS = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE")
_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG1")
_CONSTANTS: Mapping[str, bool | None] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES: Mapping[str, int] = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def plain_pickle(path: Path) -> Any:
    """Return what a pickle holds, as far as that is plain data.

    Parameters
    ----------
    path : Path
        A pickle of protocol 0 to 5, of Python 3 or 2.

    Returns
    -------
    object
        Lists, tuples, numbers, bools, None, a `Piece` for each byte string and each text, and for
        each line of bytes in a NumPy array what `piece_of` takes.

    Raises
    ------
    InputError
        At the first opcode that is none of these, with its offset; if the file ends early, goes on
        behind its end, or has more opcodes than any list of images.

    Notes
    -----
    Bytes are opcodes of their own from protocol 3 on; before, Python 3 writes them as a call of
    `_codecs.encode` on a text. NumPy writes an array as a call of `_reconstruct` and a state, or
    from protocol 5 on as a call of `_frombuffer`. These calls are recognised by names and arguments
    and understood; none is made.
    """
    with path.open("rb") as file:
        reading = _Reading(_Bounded(file, path.stat().st_size))
        try:
            return reading.result()
        except ValueError as error:
            raise InputError(
                f"{path}: at byte {reading.at:,}: {str(error)[:_LONGEST]}; expected lists of bytes "
                "and of true and false as pickle writes them: copy it again, and trust no file "
                "with anything else"
            ) from error


def piece_of(value: Any) -> Piece | None:
    """Return the byte string that a value is, also as an array; None if it is none."""
    if isinstance(value, _Array):
        return value.piece
    return value if isinstance(value, Piece) and not value.is_text else None


def value_of(opcode: bytes) -> bytes:
    """Return the byte string of a `Piece`, of the bytes that lie at its place.

    Raises
    ------
    UnusableImageError
        If it is none.
    """
    if not opcode:
        return b""
    try:
        _, value, _ = next(pickletools.genops(opcode))
        if isinstance(value, str):
            return value.encode("latin-1")
        if isinstance(value, bytes | bytearray):
            return bytes(value)
    except ValueError as error:
        raise UnusableImageError(f"is no byte string of a pickle ({error})") from error
    raise UnusableImageError("is no byte string of a pickle")


class _Bounded:
    """A file for `genops` that takes no memory for what is not there."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.position = 0
        self.size = size
        self._file = file

    def read(self, count: int) -> bytes:
        left = self.size - self.position
        if not left:
            return b""
        if count > min(left, _MOST_BYTES):
            raise ValueError(
                f"{count:,} bytes declared, of which {left:,} are there"
                if count > left
                else f"{count:,} bytes declared, at most {_MOST_BYTES:,} are read"
            )
        return self._moved(self._file.read(count))

    def readline(self) -> bytes:
        line = self._file.readline(_MOST_BYTES)
        if not line.endswith(b"\n"):
            raise ValueError("a line without its end")
        return self._moved(line)

    def _moved(self, data: bytes) -> bytes:
        self.position += len(data)
        return data


class _Reading:
    """What opcodes have built so far: the stack, the marks in it, and what was put aside.

    Attributes
    ----------
    at : int
        Where the opcode begins that is at hand.
    """

    def __init__(self, source: _Bounded) -> None:
        self.at = 0
        self._source = source
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._opcodes: dict[str, Callable[[Any, tuple[int, int]], None]] = {
            **dict.fromkeys(_BYTES, self._piece),
            **dict.fromkeys(_TEXTS, self._text),
            **dict.fromkeys(_NUMBERS, lambda number, _: self._stack.append(number)),
            **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda key, _: self._put(key)),
            **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda key, _: self._get(key)),
            **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda *_: None),
            "MEMOIZE": lambda *_: self._put(len(self._memo)),
            "MARK": lambda *_: self._marks.append(len(self._stack)),
            "EMPTY_LIST": lambda *_: self._stack.append([]),
            "LIST": lambda *_: self._stack.append(self._since_mark()),
            "TUPLE": lambda *_: self._stack.append(tuple(self._since_mark())),
            "APPEND": lambda *_: self._extend(self._pop(1)),
            "APPENDS": lambda *_: self._extend(self._since_mark()),
            "GLOBAL": lambda name, _: self._global(name),
            "STACK_GLOBAL": lambda *_: self._global(" ".join(map(_name, self._pop(2)))),
            "REDUCE": lambda *_: self._stack.append(_called(*self._pop(2))),
            "BUILD": lambda *_: self._build(),
        }

    def result(self) -> Any:
        """Do what the opcodes say; raises `ValueError` at one that is not of plain data."""
        opcodes = pickletools.genops(cast("IO[bytes]", self._source))
        for count, (opcode, argument, _) in enumerate(opcodes):
            if count == _MOST_OPCODES:
                raise ValueError(f"more than {_MOST_OPCODES:,} opcodes")
            self._take(opcode.name, argument, (self.at, self._source.position - self.at))
            self.at = self._source.position
        if self.at != self._source.size:
            raise ValueError(f"{self._source.size - self.at:,} bytes behind the end of the pickle")
        if len(self._stack) != 1 or self._marks:
            raise ValueError(f"{len(self._stack)} values at the end of the pickle")
        return self._stack[0]

    def _take(self, name: str, argument: Any, place: tuple[int, int]) -> None:
        if name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            self._stack.append(tuple(self._pop(_TUPLES[name])))
        elif name in self._opcodes:
            self._opcodes[name](argument, place)
        else:
            raise ValueError(f"the opcode {name}")

    def _piece(self, value: Any, place: tuple[int, int], is_text: bool = False) -> None:
        short = ""
        if len(value) <= _SHORT:
            short = value if isinstance(value, str) else bytes(value).decode("latin-1")
        self._stack.append(Piece(place, len(value), is_text, short))

    def _text(self, value: str, place: tuple[int, int]) -> None:
        self._piece(value, place, is_text=True)

    def _pop(self, count: int) -> list[Any]:
        bottom = self._marks[-1] if self._marks else 0
        if len(self._stack) - bottom < count:
            raise ValueError("an opcode for values that are not there")
        taken = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return taken

    def _since_mark(self) -> list[Any]:
        if not self._marks:
            raise ValueError("an opcode for a mark that is not there")
        mark = self._marks.pop()
        taken = self._stack[mark:]
        del self._stack[mark:]
        return taken

    def _extend(self, values: list[Any]) -> None:
        match self._pop(1):
            case [list() as target]:
                target += values
                self._stack.append(target)
            case _:
                raise ValueError("values appended to what is no list")

    def _build(self) -> None:
        target, state = self._pop(2)
        _fill(target, state)
        self._stack.append(target)

    def _put(self, key: int) -> None:
        (self._memo[key],) = taken = self._pop(1)
        self._stack += taken

    def _get(self, key: int) -> None:
        if key not in self._memo:
            raise ValueError(f"the value {key} asked for, which was not put aside")
        self._stack.append(self._memo[key])

    def _global(self, name: str) -> None:
        if name not in _GLOBALS:
            raise ValueError(
                f"{'.'.join(name.split())[:_SHORT]!r} named, which is no data and could be run"
            )
        self._stack.append(_Global(name.rpartition(" ")[2]))


def _name(value: Any) -> str:
    return value.short if isinstance(value, Piece) else "?"


def _called(function: Any, arguments: Any) -> Any:
    """Return what a call that writes bytes or an array makes."""
    match function, arguments:
        case _Global("encode"), (Piece(is_text=True) as piece, Piece(short="latin1")):
            return replace(piece, is_text=False)
        case _Global("bytes"), ():
            return Piece((0, 0), 0, is_text=False, short="")
        case _Global("dtype"), (Piece(short="u1"), *_):
            return _Bytewise()
        case _Global("_reconstruct"), (_Global("ndarray"), (0,), Piece(short="b")):
            return _Array()
        case _Global("_frombuffer"), (Piece() as piece, _Bytewise(), shape, Piece()):
            return _Array(_line_of_bytes(piece, shape))
    raise ValueError(f"a call of {getattr(function, 'name', 'something')} that makes no bytes")


def _fill(target: Any, state: Any) -> None:
    """Put back what was made, with its state."""
    match target, state:
        case _Bytewise(), (3, Piece(short="|"), None, None, None, -1, -1, 0):
            pass
        case _Array(), (1, shape, _Bytewise(), False, Piece() as piece):
            target.piece = _line_of_bytes(piece, shape)
        case _:
            raise ValueError("a state that is none of an array of bytes")


def _line_of_bytes(piece: Piece, shape: Any) -> Piece:
    sides = shape if isinstance(shape, tuple) else ("?",)
    if len(sides) > _MOST_SIDES or not all(
        type(side) is int and 0 <= side <= _MOST_BYTES for side in sides
    ):
        raise ValueError("an array without a shape that an array has")
    if piece.is_text or math.prod(sides) != piece.size or sum(side != 1 for side in sides) > 1:
        raise ValueError(f"an array of shape {sides}, expected a line of {piece.size:,} bytes")
    return piece
