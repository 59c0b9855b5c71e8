"""insightface's .bin files are read as plain data, whatever wrote them; nothing in them runs."""

from __future__ import annotations

import csv
import os
import pickle
import struct
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.model_selection import KFold
from strategies import moderate

import crossgram as cg
from crossgram.errors import InputError
from crossgram.evaluation.pair_list import read_pairs
from crossgram.images import ImageEntry, open_collection, plain_pickle
from crossgram.images.decoding import UnusableImageError, decode
from crossgram.resources import PeakMemory

every_protocol = pytest.mark.parametrize("protocol", range(6))


def picture(seed: int, kind: str) -> bytes:
    """The file of a small photograph."""
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


PICTURES = [picture(seed, "JPEG" if seed % 2 else "PNG") for seed in range(6)]
SAME = [True, False, True]


def as_bytes(image: bytes) -> Any:
    return image


def as_array(image: bytes) -> Any:
    return np.frombuffer(image, np.uint8)


def as_column(image: bytes) -> Any:
    """What OpenCV's imencode gave for years."""
    return np.array(np.frombuffer(image, np.uint8)[:, None])


def write(path: Path, images: Sequence[Any], same: Sequence[Any], protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps((list(images), list(same)), protocol))
    return path


def python_2(images: Sequence[bytes], same: Sequence[bool]) -> bytes:
    """What Python 2 writes at its highest protocol: str of 256 bytes and more, and shorter ones."""

    def text(value: bytes) -> bytes:
        short = len(value) < 256
        head = (
            b"U" + struct.pack("B", len(value)) if short else b"T" + struct.pack("<i", len(value))
        )
        return head + value + b"q\x07"

    bins = b"]q\x01(" + b"".join(map(text, images)) + b"e"
    truths = b"]q\x02(" + b"".join(b"\x88" if one else b"\x89" for one in same) + b"e"
    return b"\x80\x02" + bins + truths + b"\x86q\x03."


def contents(path: Path) -> list[bytes]:
    collection = open_collection(path)
    return [bytes(collection.read(entry)) for entry in collection.entries()]


class TestImages:
    @every_protocol
    @pytest.mark.parametrize("form", [as_bytes, as_array, as_column])
    def test_are_the_bytes_that_were_pickled(
        self, tmp_path: Path, protocol: int, form: Any
    ) -> None:
        path = write(tmp_path / "lfw.bin", list(map(form, PICTURES)), SAME, protocol)
        entries = list(open_collection(path).entries())
        assert [entry.id for entry in entries] == [f"0000{k}" for k in range(6)]
        assert {entry.label for entry in entries} == {None}
        assert contents(path) == PICTURES
        for image in contents(path):
            assert decode(image, 3).size == (7, 9)

    def test_are_those_of_python_2(self, tmp_path: Path) -> None:
        images = [*PICTURES, b"short", b"x" * 255, b"y" * 256, bytes(range(256))]
        (tmp_path / "old.bin").write_bytes(python_2(images, [True, False] * 2 + [True]))
        assert contents(tmp_path / "old.bin") == images

    @every_protocol
    def test_that_occur_again_or_are_empty_are_kept(self, tmp_path: Path, protocol: int) -> None:
        images = [PICTURES[0], PICTURES[1], PICTURES[0], b""]
        path = write(tmp_path / "x.bin", images, [True, False], protocol)
        assert contents(path) == images

    @moderate
    @given(
        images=st.lists(st.binary(max_size=300), min_size=2, max_size=6).map(
            lambda drawn: drawn[: len(drawn) // 2 * 2]
        ),
        protocol=st.integers(0, 5),
        arrays=st.booleans(),
    )
    def test_may_hold_any_bytes(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        images: list[bytes],
        protocol: int,
        arrays: bool,
    ) -> None:
        path = tmp_path_factory.mktemp("bin") / "x.bin"
        form = as_array if arrays else as_bytes
        write(path, list(map(form, images)), [True] * (len(images) // 2), protocol)
        assert contents(path) == images

    def test_are_read_one_by_one(self, tmp_path: Path) -> None:
        image = os.urandom(1 << 20)
        images = [image[k:] for k in range(64)]
        path = write(tmp_path / "x.bin", images, [True] * 32, 4)
        memory = PeakMemory()
        collection = open_collection(path)
        entries = list(collection.entries())
        assert collection.read(entries[63]) == images[63]
        assert memory.bytes() < 1 << 23

    def test_that_changed_since_they_were_listed_say_so(self, tmp_path: Path) -> None:
        path = write(tmp_path / "x.bin", PICTURES, SAME)
        collection = open_collection(path)
        last = list(collection.entries())[-1]
        path.write_bytes(path.read_bytes()[: last.place[0] + 9])
        with pytest.raises(UnusableImageError, match="is cut: 9 of"):
            collection.read(last)
        for opcodes in (b"K\x07", b"X\x03\x00\x00\x00\xe2\x82\xac", b"C\x09ab"):
            path.write_bytes(opcodes)
            with pytest.raises(UnusableImageError, match="is no byte string of a pickle"):
                collection.read(ImageEntry("0", place=(0, len(opcodes))))


class Malicious:
    """Runs a program when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


class Stateful:
    def __init__(self) -> None:
        self.state = 1


class TestRefusals:
    @every_protocol
    @pytest.mark.parametrize("where", range(3))
    def test_what_runs_a_program_is_named_and_not_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int, where: int
    ) -> None:
        monkeypatch.chdir(tmp_path)
        images: list[Any] = list(PICTURES)
        same: list[Any] = list(SAME)
        (images if where < 2 else same)[where] = Malicious()
        path = write(tmp_path / "x.bin", images, same, protocol)
        with pytest.raises(InputError, match=r"x\.bin: at byte [\d,]+: 'posix\.system' named"):
            list(open_collection(path).entries())
        assert not (tmp_path / "ran").exists()
        path.write_bytes(pickle.dumps(Malicious(), protocol))
        with pytest.raises(InputError, match=r"posix\.system"):
            read_pairs(path, [])
        assert not (tmp_path / "ran").exists()
        # which it does if it is unpickled
        pickle.loads(path.read_bytes())
        assert (tmp_path / "ran").exists()

    @every_protocol
    @pytest.mark.parametrize(
        "image",
        [
            Stateful(),
            Path("x"),
            np.zeros((2, 2), np.uint8),
            np.zeros(3, np.int8),
            np.zeros(3, np.float32),
            np.array(["a"], object),
            np.uint8(3),
            {1: 2},
            {1},
            1.5,
            "text",
            3,
            None,
            (b"a",),
            [b"a"],
        ],
    )
    def test_what_is_no_image_is_refused(self, tmp_path: Path, protocol: int, image: Any) -> None:
        path = write(tmp_path / "x.bin", [PICTURES[0], image], [True], protocol)
        with pytest.raises(InputError, match=r"x\.bin: (at byte|image 1 is no byte string)"):
            list(open_collection(path).entries())

    @every_protocol
    @pytest.mark.parametrize(
        "content",
        [
            ([b"a", b"b"], [True, False]),
            ([b"a"], [True]),
            ([], []),
            ([b"a", b"b"], [1]),
            ([b"a", b"b"], ["True"]),
            ([b"a", b"b"], True),
            ((b"a", b"b"), [True]),
            ([b"a", b"b"],),
            ([b"a", b"b"], [True], []),
            [b"a", b"b"],
            b"a",
            None,
        ],
    )
    def test_another_shape_is_refused(self, tmp_path: Path, protocol: int, content: Any) -> None:
        (tmp_path / "x.bin").write_bytes(pickle.dumps(content, protocol))
        with pytest.raises(InputError, match=r"x\.bin: "):
            list(open_collection(tmp_path / "x.bin").entries())

    @every_protocol
    @pytest.mark.parametrize("form", [as_bytes, as_column])
    def test_it_is_cut_nowhere_without_being_refused(
        self, tmp_path: Path, protocol: int, form: Any
    ) -> None:
        images = [form(image) for image in (b"\x00ab\n", b"\xffc", b"d'\\", b"e")]
        content = pickle.dumps((images, [True, False]), protocol)
        path = tmp_path / "x.bin"
        for stop in range(len(content)):
            path.write_bytes(content[:stop])
            with pytest.raises(InputError, match=r"x\.bin: at byte [\d,]+: "):
                list(open_collection(path).entries())
        path.write_bytes(content + b"x")
        with pytest.raises(InputError, match="1 bytes behind the end"):
            list(open_collection(path).entries())
        path.write_bytes(content)
        assert len(contents(path)) == 4

    @every_protocol
    def test_no_damage_is_met_with_anything_but_a_reason(
        self, tmp_path: Path, protocol: int
    ) -> None:
        images = [as_array(b"abc"), b"d" * 300, b"\xffe", as_column(b"fg")]
        whole = pickle.dumps((images, [True, False]), protocol)
        rng = np.random.default_rng(protocol)
        refused = 0
        for _ in range(600):
            content = bytearray(whole)
            for place in rng.integers(len(whole), size=rng.integers(1, 4)):
                content[place] = rng.integers(256)
            (tmp_path / "x.bin").write_bytes(content)
            try:
                contents(tmp_path / "x.bin")
            except (InputError, UnusableImageError):
                refused += 1
        assert refused > 100

    @pytest.mark.parametrize(
        ("declared", "message"),
        [
            (b"B\xff\xff\xff\xff", "4,294,967,295 bytes declared, of which 2,000 are there"),
            (b"T\xff\xff\xff\x7f", "2,147,483,647 bytes declared"),
            (b"T\xff\xff\xff\xff", "byte count < 0"),
            (b"X\xff\xff\xff\xff", "4,294,967,295 bytes declared"),
            (b"\x8e" + struct.pack("<Q", 1 << 62), "4,611,686,018,427,387,904 bytes declared"),
            (b"\x8e" + b"\xff" * 8, "byte count > sys.maxsize"),
            (b"\x96" + struct.pack("<Q", 1 << 40), "1,099,511,627,776 bytes declared"),
            (b"\x8d" + struct.pack("<Q", 1 << 40), "1,099,511,627,776 bytes declared"),
            (b"\x8b\xff\xff\xff\x7f", "2,147,483,647 bytes declared"),
        ],
    )
    def test_lengths_beyond_the_file_take_no_memory(
        self, tmp_path: Path, declared: bytes, message: str
    ) -> None:
        (tmp_path / "x.bin").write_bytes(b"\x80\x05](" + declared + b"a" * 2000)
        memory = PeakMemory()
        with pytest.raises(InputError, match=rf"x\.bin: at byte 4: .*{message}"):
            list(open_collection(tmp_path / "x.bin").entries())
        assert memory.bytes() < 1 << 22

    @pytest.mark.parametrize(
        "opcode",
        [
            b"]",  # lists in lists, not ended
            b"(",
            b"]a",
            b"\x85",  # each a tuple of the one before
            b"2",
            b"\x88\x94",
            b"]\x94h\x00h\x00\x86\x94",
            b"(h\x00h\x00h\x00h\x00t\x94",
        ],
    )
    def test_bombs_take_little_memory(self, tmp_path: Path, opcode: bytes) -> None:
        path = tmp_path / "x.bin"
        path.write_bytes(b"\x80\x04]\x94\x88" + opcode * 300_000 + b".")
        memory = PeakMemory()
        with pytest.raises(InputError, match=r"x\.bin: "):
            list(open_collection(path).entries())
        assert memory.bytes() < 1 << 27

    def test_more_opcodes_than_images_have_are_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(plain_pickle, "_MOST_OPCODES", 1000)
        path = tmp_path / "x.bin"
        path.write_bytes(b"\x80\x04" + b"\x88" * 5000 + b".")
        with pytest.raises(InputError, match="at byte 1,001: more than 1,000 opcodes"):
            list(open_collection(path).entries())

    @pytest.mark.parametrize(
        ("opcodes", "message"),
        [
            (b"cposix\nsystem\n.", "'posix.system' named, which is no data"),
            (b"\x8c\x02os\x8c\x06system\x93.", "'os.system' named"),
            (b"]]\x93.", r"'\?.\?' named"),
            (b"cbuiltins\nbytes\n(K\x05tR.", "a call of bytes that makes no bytes"),
            (b"c_codecs\nencode\n(X\x01\0\0\0aX\x05\0\0\0utf-8tR.", "a call of encode"),
            (b"cnumpy\ndtype\n(X\x01\0\0\0OtR.", "a call of dtype"),
            (b"K\x01)R.", "a call of something"),
            (b"]}b.", "the opcode EMPTY_DICT"),
            (b"]Nb.", "a state that is none"),
            (b"h\x07.", "the value 7 asked for, which was not put aside"),
            (b"e.", "an opcode for a mark that is not there"),
            (b"\x86.", "an opcode for values that are not there"),
            (b"(\x88a.", "an opcode for values that are not there"),
            (b"\x88\x88a.", "appended to what is no list"),
            (b"\x88\x88.", "2 values at the end"),
            (b"I" + b"9" * 9000 + b"\n.", "."),
            (b"Q.", "the opcode BINPERSID"),
            (b"Pid\n.", "the opcode PERSID"),
            (b"ios\nsystem\n.", "the opcode INST"),
            (b"\x81.", "the opcode NEWOBJ"),
            (b"\x82\x01.", "the opcode EXT1"),
            (b"\x97.", "the opcode NEXT_BUFFER"),
            (b"\xf9.", "unknown"),
            (b"", "exhausted"),
        ],
    )
    def test_opcodes_that_are_of_no_list_are_named(
        self, tmp_path: Path, opcodes: bytes, message: str
    ) -> None:
        (tmp_path / "x.bin").write_bytes(opcodes)
        with pytest.raises(InputError, match=rf"x\.bin: at byte \d+: .*{message}") as refused:
            list(open_collection(tmp_path / "x.bin").entries())
        assert len(str(refused.value)) < 1000

    def test_one_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"x\.bin: cannot be read"):
            read_pairs(tmp_path / "x.bin", [])


def ids(count: int) -> list[str]:
    return [f"{k:05d}" for k in range(count)]


class TestPairs:
    @every_protocol
    def test_are_of_neighbours(self, tmp_path: Path, protocol: int) -> None:
        path = write(tmp_path / "x.bin", PICTURES, SAME, protocol)
        pairs = read_pairs(path, ids(6)[::-1])
        assert pairs.left.tolist() == [5, 3, 1]
        assert pairs.right.tolist() == [4, 2, 0]
        assert pairs.same.tolist() == SAME
        assert pairs.fold is None

    @given(st.integers(10, 200))
    def test_are_folded_as_insightface_does(self, count: int) -> None:
        from crossgram.evaluation.pair_list import _folds

        fold = _folds(count)
        assert fold is not None
        expected = KFold(10, shuffle=False).split(np.arange(count))
        for number, (_, test) in enumerate(expected):
            np.testing.assert_array_equal(np.flatnonzero(fold == number), test)

    def test_leave_out_no_image_and_take_no_store_of_other_ones(self, tmp_path: Path) -> None:
        path = write(tmp_path / "x.bin", PICTURES, SAME)
        with pytest.raises(InputError, match=r"1 of its 6 images .* the first is 00005; a prot"):
            read_pairs(path, ids(5))
        with pytest.raises(InputError, match="has 6 images, the store 7; give the store that was"):
            read_pairs(path, ids(7))

    def test_give_the_figures_of_a_csv_of_the_same_pairs(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        same = rng.random(47) < 0.5
        people = rng.normal(size=(47, 2, 5))
        people[same, 1] = people[same, 0]
        rows = people.reshape(94, 5) + 0.8 * rng.normal(size=(94, 5))
        turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
        for name, own in (("a", rows), ("b", rows @ turn)):
            with cg.EmbeddingStore.create(tmp_path / f"{name}.zarr", dim=5) as writer:
                writer.append(own.astype("f4"), ids=ids(94))
        listed = write(tmp_path / "x.bin", [b"image"] * 94, same.tolist(), 4)
        with (tmp_path / "x.csv").open("w", newline="") as file:
            writer_of_rows = csv.writer(file)
            writer_of_rows.writerow(["left", "right", "same"])
            writer_of_rows.writerows(
                [f"{2 * k:05d}", f"{2 * k + 1:05d}", int(one)] for k, one in enumerate(same)
            )
        stores = [tmp_path / "a.zarr", tmp_path / "b.zarr"]
        fitted = cg.fit(*stores, intercept=False, remember=False)
        reports = [
            cg.verify(*stores, linear_map=fitted, pairs=pairs, resamples=20)
            for pairs in (listed, tmp_path / "x.csv")
        ]
        assert reports[0] == reports[1]
        assert reports[0].comparisons[0].accuracy is not None
        assert len(reports[0].comparisons[0].accuracy.thresholds) == 10
