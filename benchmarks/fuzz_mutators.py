"""Valid files, changed: by their structure where it is known, and by their bytes."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Mapping
from copy import deepcopy
from random import Random
from typing import Any

import google_crc32c

__all__ = ["DIRECTORY", "LINK", "Files", "mutated"]

Files = dict[str, bytes]
"""Contents by path; of `DIRECTORY` or `LINK` there is something else than a file."""

DIRECTORY, LINK = b"\0directory", b"\0link"

_NUMBERS = (0, -1, 1, 2, 7, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63)
_HUGE = (*_NUMBERS, 2**64, 10**15, 10**30, -(2**63), 1e308, -1e308, 0.5, -0.0, 1e-320)
_VALUES: tuple[Any, ...] = (
    *_HUGE,
    *(float("nan"), float("inf"), float("-inf")),
    *(None, True, False, "", "a", "\0", "../../../etc/passwd", "/etc/passwd", "\ud800", "é" * 50),
    *("nan", "x" * 5000, [], {}, [[]], [None], {"": None}, [1, 2, 3], ["a", "b"]),
    *("pickle", "zstd", "blosc", "gzip", "bz2", "vlen-utf8", "sharding_indexed", "crc32c", "bytes"),
    *("float16", "float32", "float64", "int8", "int64", "bool", "string", "<f4", "|O", "|V8"),
)
_WORDS = ("", "nan", "inf", "-1", "0", "1e999", "9" * 400, "\0", '"', "'", ",", "\ufeff", "٣", "²")
_DEEP = (50, 990, 100_000)


def mutated(random: Random, seed: Mapping[str, bytes]) -> Files:
    """Return files of which some are changed."""
    files = dict(seed)
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 5))):
        names = sorted(files)
        if not names:
            break
        # what describes comes more often than what is described
        name = random.choice(names[:1] * 2 + names + [n for n in names if _is_json(n)] * 2)
        if random.random() < 0.04:
            _misplace(random, files, name)
        else:
            files[name] = _changed(random, name, files[name])
    return files


def _misplace(random: Random, files: Files, name: str) -> None:
    match random.randrange(5):
        case 0:
            del files[name]
        case 1:
            files[name] = DIRECTORY
        case 2:
            files[name] = LINK
        case 3:
            files[name] = files[random.choice(sorted(files))]
        case _:
            files[name] = b""


def _changed(random: Random, name: str, content: bytes) -> bytes:
    if content in (DIRECTORY, LINK):
        return content
    if random.random() < 0.25:
        return _bytes(random, content)
    if _is_json(name):
        return _json(random, content)
    if "/c/" in f"/{name}" or re.search(r"(^|/)[\d.]+$", name):
        return _chunk(random, content)
    ending = name.rpartition(".")[2]
    special: Mapping[str, Callable[[Random, bytes], bytes]] = {
        "safetensors": _safetensors,
        "npy": _npy,
        **dict.fromkeys(("txt", "csv", "idx"), _text),
    }
    return special.get(ending, _bytes)(random, content)


def _is_json(name: str) -> bool:
    return name.endswith((".json", ".zarray", ".zattrs", ".zgroup"))


# ---- any bytes


def _bytes(random: Random, content: bytes) -> bytes:
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        size = len(data)
        at = (
            random.randrange(size + 1)
            if random.random() < 0.6
            else random.randrange(min(size, 64) + 1)
        )
        match random.randrange(9):
            case 0 | 1 if at < size:
                data[at] ^= 1 << random.randrange(8)
            case 2 if at < size:
                data[at] = random.choice((0, 1, 127, 128, 255, random.randrange(256)))
            case 3:
                number = int(random.choice(_NUMBERS)) & (2**64 - 1)
                kind = random.choice(("<H", "<I", "<Q", ">H", ">I", ">Q"))
                width = struct.calcsize(kind)
                data[at : at + width] = struct.pack(kind, number & (2 ** (8 * width) - 1))
            case 4:
                del data[at:]
            case 5:
                del data[at : at + random.choice((1, 4, 100))]
            case 6:
                data[at:at] = random.randbytes(random.choice((1, 4, 100)))
            case 7:
                data[at:at] = data[at : at + random.choice((1, 16, 1000))]
            case _ if random.random() < 0.05:
                data = bytearray(random.randbytes(random.randrange(2000)))
    return bytes(data)


# ---- JSON


def _json(random: Random, content: bytes) -> bytes:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return _bytes(random, content)
    text = json.dumps(_changed_json(random, document))
    if random.random() < 0.06:
        depth = random.choice(_DEEP)
        opening, closing = random.choice((("[", "]"), ('{"a":', "}")))
        deep = opening * depth + "1" + closing * depth
        text = text.replace(random.choice(re.findall(r"[\d.]+|\"\w+\"", text) or ["1"]), deep, 1)
    if random.random() < 0.05:
        # names twice
        text = re.sub(r'("\w+"): ([^{}\[\],]+)', r"\1: null, \1: \2", text, count=1)
    return text.encode("utf-8", "surrogatepass")


def _changed_json(random: Random, document: Any) -> Any:
    for _ in range(random.choice((1, 1, 2, 3))):
        holders = list(_holders(document))
        if not holders:
            return deepcopy(random.choice(_VALUES))
        holder, key = random.choice(holders)
        old = holder[key]
        match random.randrange(8):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[str(random.choice(_VALUES))[:40]] = holder.pop(key)
            case 2 if isinstance(old, int | float):
                holder[key] = old * random.choice((-1, 2, 10**6)) + random.choice((-1, 0, 1))
            case 3:
                other, place = random.choice(holders)
                holder[key] = (
                    json.loads(json.dumps(other[place])) if place in _keys(other) else None
                )
            case 4 if isinstance(old, list) and old:
                holder[key] = old * random.choice((2, 1000))
            case 5 if isinstance(old, int | float) and not isinstance(old, bool):
                holder[key] = random.choice(_HUGE)
            case 6 if isinstance(old, str) and old[:1] == "{":
                holder[key] = _json(random, old.encode("utf-8", "replace")).decode(
                    "utf-8", "replace"
                )
            case _:
                holder[key] = deepcopy(random.choice(_VALUES))
    return document


def _holders(value: Any) -> Any:
    keys = _keys(value)
    for key in keys:
        yield value, key
        yield from _holders(value[key])


def _keys(value: Any) -> Any:
    if isinstance(value, dict):
        return list(value)
    return range(len(value)) if isinstance(value, list) else ()


# ---- chunks of Zarr arrays


def _chunk(random: Random, content: bytes) -> bytes:
    """Change what lies before the checksum, and mostly mend that."""
    changed = _bytes(random, content[:-4])
    if random.random() < 0.3:
        changed = changed + content[-4:]
    return changed + struct.pack("<I", google_crc32c.value(changed))


# ---- safetensors


def _safetensors(random: Random, content: bytes) -> bytes:
    if len(content) < 8:
        return _bytes(random, content)
    (size,) = struct.unpack_from("<Q", content)
    head, body = content[8 : 8 + size], content[8 + size :]
    match random.randrange(4):
        case 0:
            head = _json(random, head)
        case 1 | 2:
            head = _facts(random, head)
        case _:
            body = _bytes(random, body)
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + body


def _facts(random: Random, head: bytes) -> bytes:
    """Change the JSON that is a text inside the head."""
    try:
        document = json.loads(head)
        facts = document["__metadata__"]["crossgram"]
        changed = _json(random, facts.encode())
        document["__metadata__"]["crossgram"] = changed.decode("utf-8", "surrogatepass")
        return json.dumps(document).encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return _json(random, head)


# ---- .npy


def _npy(random: Random, content: bytes) -> bytes:
    if len(content) < 12 or content[6] != 1:
        return _bytes(random, content)
    (size,) = struct.unpack_from("<H", content, 8)
    head, body = content[10 : 10 + size].decode("latin-1"), content[10 + size :]
    for _ in range(random.choice((1, 1, 2))):
        match random.randrange(4):
            case 0 | 1:
                numbers = list(re.finditer(r"\d+", head))
                if numbers:
                    one = random.choice(numbers)
                    head = head[: one.start()] + str(random.choice(_HUGE)) + head[one.end() :]
            case 2:
                kinds = (
                    "|O",
                    "<f2",
                    "<f8",
                    ">f4",
                    "<c8",
                    "<U9",
                    "|V3",
                    "|S0",
                    "<U0",
                    "<f16",
                    "f,f",
                )
                head = re.sub(r"'descr': '[^']*'", f"'descr': '{random.choice(kinds)}'", head)
            case _:
                head = head.replace(
                    random.choice(("False", "fortran", "(", ")", "shape", "{")),
                    random.choice(("True", "", "((", "lambda: 1", "[" * 300, "shape")),
                    1,
                )
    encoded = head.encode("latin-1", "replace")[: 2**16 - 1]
    return content[:8] + struct.pack("<H", len(encoded)) + encoded + body


# ---- text


def _text(random: Random, content: bytes) -> bytes:
    text = content.decode("utf-8", "replace")
    lines = text.split("\n")
    for _ in range(random.choice((1, 1, 2, 5))):
        at = random.randrange(len(lines))
        words = re.split(r"([\s,;]+)", lines[at])
        match random.randrange(8):
            case 0:
                lines[at] = random.choice(lines)
            case 1:
                lines[at] = ""
            case 2:
                lines[at] *= random.choice((2, 3000)) if len(lines[at]) < 1000 else 1
            case 3:
                lines.insert(at, random.choice(_WORDS))
            case 4:
                words[random.randrange(len(words))] = str(random.choice(_HUGE))
                lines[at] = "".join(words)
            case 5:
                words[random.randrange(len(words))] = random.choice(_WORDS)
                lines[at] = "".join(words)
            case 6:
                words[random.randrange(len(words))] = random.choice(("../../x", "/etc/passwd", "~"))
                lines[at] = "".join(words)
            case _:
                del lines[at:]
                lines.append(random.choice(_WORDS))
    changed = "\n".join(lines).encode("utf-8", "surrogatepass")
    return _bytes(random, changed) if random.random() < 0.2 else changed
