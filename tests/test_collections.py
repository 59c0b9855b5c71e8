"""Every kind of collection lists its images in one order, or says what is wrong with it."""

from __future__ import annotations

import csv
import json
import os
import struct
import sys
import tarfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from strategies import moderate, values_of

from crossgram import repeats
from crossgram.errors import CrossgramError, InputError
from crossgram.images import ImageEntry, ImageList, list_digest, open_collection
from crossgram.images.decoding import UnusableImageError, decode
from crossgram.resources import PeakMemory

BOX = (1.0, 2.5, 30.0, 41.0)
LANDMARKS = tuple(float(k) / 4 for k in range(10))


def png(shade: int = 0) -> bytes:
    """The file of a small picture that its shade tells from others."""
    file = BytesIO()
    Image.new("L", (3, 2), shade).save(file, "PNG")
    return file.getvalue()


def write(root: Path, files: Mapping[str, bytes] | Sequence[str]) -> Path:
    """Write files below a folder: these, or pictures of these names."""
    contents = files if isinstance(files, Mapping) else dict.fromkeys(files, png())
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    root.mkdir(exist_ok=True)
    return root


def listed(path: Path) -> list[ImageEntry]:
    return list(open_collection(path).entries())


def ids(path: Path) -> list[str]:
    return [entry.id for entry in listed(path)]


def labels(path: Path) -> list[str | None]:
    return [entry.label for entry in listed(path)]


def shades(path: Path) -> list[Any]:
    collection = open_collection(path)
    return [decode(collection.read(e), 1).getpixel((0, 0)) for e in collection.entries()]


class TestFolder:
    def test_is_listed_in_the_order_of_the_paths_as_text(self, tmp_path: Path) -> None:
        names = ["b/2.png", "a/x/1.JPG", "a-b/0.png", "a/10.png", "a/2.png", "a/x.png", "B/1.webp"]
        root = write(tmp_path / "images", names)
        assert ids(root) == sorted(names)

    def test_labels_by_the_first_folder(self, tmp_path: Path) -> None:
        root = write(tmp_path / "images", ["ann/1.png", "ann/deep/2.png", "größe/1.png"])
        assert labels(root) == ["ann", "ann", "größe"]
        assert labels(root / "ann" / "deep") == [None]

    def test_gives_ids_and_bytes_that_do_not_depend_on_where_it_lies(self, tmp_path: Path) -> None:
        root = write(tmp_path / "images", {"a/1.png": png(7), "b/1.png": png(9)})
        first = listed(root)
        moved = root.rename(tmp_path / "moved")
        assert listed(moved) == first
        assert shades(moved) == [7, 9]

    def test_leaves_out_what_is_hidden_or_no_image(self, tmp_path: Path) -> None:
        names = ["a/1.png", "a/.2.png", ".a/1.png", "a/.b/1.png", "a/1.txt", "a/png", "a/.png"]
        assert ids(write(tmp_path / "images", names)) == ["a/1.png"]

    def test_may_itself_be_hidden(self, tmp_path: Path) -> None:
        assert ids(write(tmp_path / ".images", ["1.png"])) == ["1.png"]

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (["1.png", "a/2.png"], "a/2.png lies in a folder that names its label, others do not"),
            (["a/2.png", "b.png"], "b.png lies in no folder that names its label"),
        ],
    )
    def test_with_labels_for_some_only_is_refused(
        self, tmp_path: Path, names: list[str], message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            listed(write(tmp_path / "images", names))

    def test_follows_links_to_folders_and_files(self, tmp_path: Path) -> None:
        elsewhere = write(tmp_path / "elsewhere", {"1.png": png(5)})
        root = write(tmp_path / "images", {"b/1.png": png(6)})
        (root / "a").symlink_to(elsewhere)
        (root / "c").symlink_to(elsewhere)
        (root / "b" / "2.png").symlink_to(elsewhere / "1.png")
        assert ids(root) == ["a/1.png", "b/1.png", "b/2.png", "c/1.png"]
        assert shades(root) == [5, 6, 5, 5]

    @pytest.mark.parametrize("target", ["images", "images/a"])
    def test_with_a_link_to_a_folder_around_it_is_refused(
        self, tmp_path: Path, target: str
    ) -> None:
        root = write(tmp_path / "images", ["a/b/1.png"])
        (root / "a" / "b" / "up").symlink_to(tmp_path / target)
        with pytest.raises(InputError, match="up.*: is a link to a folder around it"):
            listed(root)

    def test_with_a_link_to_itself_is_refused(self, tmp_path: Path) -> None:
        root = write(tmp_path / "images", ["a/1.png"])
        (root / "a" / "loop").symlink_to("loop")
        with pytest.raises(InputError, match="images/a.* cannot be listed: Too many levels"):
            listed(root)

    @pytest.mark.skipif(sys.platform == "darwin", reason="names are UTF-8 there")
    @pytest.mark.parametrize("name", [b"a/\xff.png", b"\xfe/1.png"])
    def test_with_names_that_are_not_utf_8_is_refused(self, tmp_path: Path, name: bytes) -> None:
        root = write(tmp_path / "images", ["a/1.png", os.fsdecode(name)])
        with pytest.raises(InputError, match="its name is not UTF-8"):
            listed(root)

    @pytest.mark.parametrize("names", [[], ["a/readme.txt"], [".hidden/1.png"]])
    def test_without_images_is_refused(self, tmp_path: Path, names: list[str]) -> None:
        with pytest.raises(InputError, match=r"images: no images in it .* end in \.bmp, \.gif"):
            listed(write(tmp_path / "images", names))

    def test_names_why_an_image_cannot_be_read(self, tmp_path: Path) -> None:
        root = write(tmp_path / "images", ["0.png", "1.png"])
        (root / "2.png").symlink_to(root / "gone")
        os.mkfifo(root / "3.png")
        with (root / "4.png").open("wb") as file:
            file.truncate((1 << 28) + 1)
        collection = open_collection(root)
        _, lost, dangling, pipe, huge = collection.entries()
        (root / "1.png").unlink()
        for entry, message in [
            (lost, "cannot be read: No such file"),
            (dangling, "cannot be read: No such file"),
            (pipe, "is not a file"),
            (huge, "is 268,435,457 bytes long, at most 268,435,456 are read"),
        ]:
            with pytest.raises(UnusableImageError, match=message):
                collection.read(entry)


def write_csv(path: Path, columns: Mapping[str, Sequence[Any]]) -> Path:
    def cell(value: Any) -> Any:
        return " ".join(map(str, value)) if isinstance(value, list | tuple) else value

    with path.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([map(cell, row) for row in zip(*columns.values(), strict=True)])
    return path.with_suffix(".csv")


def write_parquet(path: Path, columns: Mapping[str, Sequence[Any]]) -> Path:
    pq.write_table(pa.table(dict(columns)), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


both_tables = pytest.mark.parametrize("write_table", [write_csv, write_parquet])


class TestTable:
    @both_tables
    def test_is_listed_in_its_own_order_with_all_it_knows(
        self, tmp_path: Path, write_table: Any
    ) -> None:
        columns = {
            "label": ["zoe", "ann", "ann, the \n2nd"],
            "path": ["b.png", "x/a, b.png", "größe.png"],
            "box": [BOX, None, (0, 0, 1, 1)],
            "landmarks": [None, LANDMARKS, None],
            "id": ["two", "one", "three"],
            "age": [1, 2, 3],
        }
        assert listed(write_table(tmp_path / "t", columns)) == [
            ImageEntry("two", "zoe", "b.png", box=BOX),
            ImageEntry("one", "ann", "x/a, b.png", landmarks=LANDMARKS),
            ImageEntry("three", "ann, the \n2nd", "größe.png", box=(0, 0, 1, 1)),
        ]

    @both_tables
    def test_names_images_by_their_paths_where_it_has_no_ids(
        self, tmp_path: Path, write_table: Any
    ) -> None:
        write(tmp_path, {"x/a.png": png(3), "b.png": png(4)})
        path = write_table(tmp_path / "t", {"path": ["b.png", "./x/a.png"]})
        assert listed(path) == [ImageEntry("b.png"), ImageEntry("./x/a.png")]
        assert shades(path) == [4, 3]

    @both_tables
    def test_reads_paths_relative_to_itself_or_absolute(
        self, tmp_path: Path, write_table: Any
    ) -> None:
        write(tmp_path / "images", {"a.png": png(3)})
        write(tmp_path / "elsewhere", {"b.png": png(4)})
        paths = ["a.png", str(tmp_path / "elsewhere" / "b.png")]
        path = write_table(tmp_path / "images" / "t", {"path": paths, "id": ["p", "q"]})
        assert ids(path) == ["p", "q"]
        assert shades(path) == [3, 4]

    @both_tables
    def test_takes_numbers_for_names(self, tmp_path: Path, write_table: Any) -> None:
        columns = {"path": ["a.png", "b.png"], "id": [10, 2], "label": [0, 1]}
        path = write_table(tmp_path / "t", columns)
        assert ids(path) == ["10", "2"]
        assert labels(path) == ["0", "1"]

    @both_tables
    def test_may_have_a_suffix_in_capitals(self, tmp_path: Path, write_table: Any) -> None:
        path = write_table(tmp_path / "t", {"path": ["a.png"]})
        assert ids(path.rename(path.with_suffix(path.suffix.upper()))) == ["a.png"]

    @both_tables
    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"file": ["a"], "label": ["b"]}, "has the columns file, label; expected path"),
            ({"path": ["a", ""]}, "image 2 has no path"),
            ({"path": ["a", "b"], "label": ["x", ""]}, "image 2 has no label; give it one"),
            ({"path": ["a", "b"], "id": ["", "y"]}, "image 1 has no id; give it one"),
            ({"path": ["a"], "box": [BOX[:3]]}, r"image 1 has the box .*, expected 4 numbers"),
            ({"path": ["a"], "box": [(*BOX, 1)]}, "image 1 has the box .*, expected 4 numbers"),
            ({"path": ["a"], "box": ["1 2 3 x"]}, "image 1 has the box '1 2 3 x', expected 4"),
            ({"path": ["a"], "landmarks": [BOX]}, "image 1 has the landmarks .*, expected 10"),
            ({"path": pa.array([], pa.string())}, "lists no images"),
        ],
    )
    def test_that_leaves_something_out_is_refused(
        self, tmp_path: Path, write_table: Any, columns: dict[str, Any], message: str
    ) -> None:
        path = write_table(tmp_path / "t", columns)
        with pytest.raises(InputError, match=f"{path.name}: {message}"):
            listed(path)

    @both_tables
    def test_names_why_an_image_cannot_be_read(self, tmp_path: Path, write_table: Any) -> None:
        path = write_table(tmp_path / "t", {"path": ["gone.png", "folder"]})
        (tmp_path / "folder").mkdir()
        collection = open_collection(path)
        for entry, message in zip(
            collection.entries(), ["No such file or directory", "is not a file"], strict=True
        ):
            with pytest.raises(UnusableImageError, match=message):
                collection.read(entry)


class TestCsv:
    @pytest.mark.parametrize("content", ["\ufeffpath,label\r\na,b\r\n", 'label,path\n\n"b","a"'])
    def test_may_be_written_by_any_program(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "t.csv").write_text(content, encoding="utf-8", newline="")
        assert listed(tmp_path / "t.csv") == [ImageEntry("a", "b")]

    @pytest.mark.parametrize(
        "numbers", ["1 2.5 30 41", " 1,2.5,30,41 ", "1; 2.5; 30; 41", "1\t2.5 30  41"]
    )
    def test_takes_boxes_with_any_space_between(self, tmp_path: Path, numbers: str) -> None:
        path = write_csv(tmp_path / "t", {"path": ["a"], "box": [numbers]})
        assert listed(path)[0].box == BOX

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "lists no images"),
            (b"path,label\na,b\nc\n", "line 3 has more or fewer cells than the first line"),
            (b"path,label\na,b\nc,d,e\n", "line 3 has more or fewer cells than the first line"),
            (b"path\na\n\xff.png\n", "cannot be read as CSV .*utf-8"),
            (b'path\n"a\nb.png\n', "cannot be read as CSV .*unexpected end of data"),
            (b'path\n"a"b\n', "cannot be read as CSV .*expected after"),
            (b"path\na\0.png\n", "image 1 has no path"),
            (b"path\n" + b"a" * 200_000, "cannot be read as CSV .*field larger"),
            (png(), "cannot be read as CSV"),
        ],
    )
    def test_that_is_damaged_is_refused(self, tmp_path: Path, content: bytes, message: str) -> None:
        (tmp_path / "t.csv").write_bytes(content)
        with pytest.raises(InputError, match=rf"t\.csv: {message}"):
            listed(tmp_path / "t.csv")


class TestParquet:
    @pytest.mark.parametrize("column", ["path", "id", "label"])
    def test_with_a_null_where_a_name_is_expected_is_refused(
        self, tmp_path: Path, column: str
    ) -> None:
        columns = {"path": ["a", "b"], "id": ["c", "d"], "label": ["e", "f"]}
        columns[column] = ["x", None]  # type: ignore[list-item]
        with pytest.raises(InputError, match=f"image 2 has no {column}"):
            listed(write_parquet(tmp_path / "t", columns))

    @pytest.mark.parametrize(
        "box", [[[1.0, None, 2.0, 3.0]], [{"left": 1.0}], [5], [[[1.0], [2.0], [3.0], [4.0]]]]
    )
    def test_with_boxes_that_are_not_four_numbers_is_refused(
        self, tmp_path: Path, box: list[Any]
    ) -> None:
        with pytest.raises(InputError, match="expected 4 numbers"):
            listed(write_parquet(tmp_path / "t", {"path": ["a"], "box": box}))

    def test_is_cut_nowhere_without_being_refused(self, tmp_path: Path) -> None:
        content = write_parquet(tmp_path / "t", {"path": ["a", "b"]}).read_bytes()
        for stop in range(0, len(content), 7):
            (tmp_path / "cut.parquet").write_bytes(content[:stop])
            with pytest.raises(InputError, match=r"cut\.parquet: cannot be read as Parquet"):
                listed(tmp_path / "cut.parquet")

    def test_with_text_that_is_no_utf_8_is_refused(self, tmp_path: Path) -> None:
        table = pa.table({"path": ["aaaa", "bbbb"]})
        pq.write_table(table, tmp_path / "t.parquet", use_dictionary=False, compression="none")
        content = (tmp_path / "t.parquet").read_bytes()
        damaged = content.replace(b"\x04\0\0\0bbbb", b"\x04\0\0\0\xff\xffbb")
        assert damaged != content
        (tmp_path / "t.parquet").write_bytes(damaged)
        with pytest.raises(InputError, match=r"t\.parquet: cannot be read as Parquet .*utf-8"):
            listed(tmp_path / "t.parquet")

    def test_needs_pyarrow_and_says_so(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write_parquet(tmp_path / "t", {"path": ["a"]})
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(InputError, match=r"needs pyarrow; pip install 'crossgram\[ingest\]'"):
            listed(path)


def write_tar(path: Path, members: Sequence[tuple[str, bytes]], layout: int = 2) -> Path:
    with tarfile.open(path, "w", format=layout) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, BytesIO(content))
    return path


SHARD = [
    ("0001.cls", b"5"),
    ("0001.png", png(1)),
    ("0002.json", b'{"label": "x"}'),
    ("0002.png", png(2)),
]
BLOCK = tarfile.BLOCKSIZE


class TestTarShards:
    def test_are_listed_by_their_names_and_then_in_the_order_of_the_members(
        self, tmp_path: Path
    ) -> None:
        root = write(tmp_path / "shards", {"readme.txt": b"", "a.parquet": b""})
        write_tar(root / "b.tar", [("z.png", png(1)), ("a.jpg", png(2))])
        write_tar(root / "a.tar", [("k/2.png", png(3)), ("k/1.png", png(4))])
        assert ids(root) == ["a/k/2", "a/k/1", "b/z", "b/a"]
        assert shades(root) == [3, 4, 1, 2]

    @pytest.mark.parametrize("beside", ["loose.png", "ann/1.png"])
    def test_beside_images_are_refused_rather_than_one_of_the_two_passed_over(
        self, tmp_path: Path, beside: str
    ) -> None:
        root = write(tmp_path / "both", {beside: png(9)})
        write_tar(root / "a.tar", SHARD)
        with pytest.raises(InputError, match=r"both: holds tar files \(a\.tar\) and folders or"):
            open_collection(root)

    def test_may_be_one_file(self, tmp_path: Path) -> None:
        path = write_tar(tmp_path / "x.tar", SHARD)
        assert ids(path) == ["x/0001", "x/0002"]
        assert labels(path) == ["5", "x"]
        assert shades(path) == [1, 2]

    @pytest.mark.parametrize(
        "layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
    )
    def test_may_have_long_names_in_every_format_of_tar(self, tmp_path: Path, layout: int) -> None:
        key = f"{'folder/' * 20}größe"
        path = write_tar(
            tmp_path / "x.tar", [(f"{key}.cls", b" ann\n"), (f"{key}.png", png(8))], layout
        )
        assert ids(path) == [f"x/{key}"]
        assert labels(path) == ["ann"]
        assert shades(path) == [8]

    def test_take_the_name_up_to_the_first_dot_for_the_key(self, tmp_path: Path) -> None:
        members = [
            ("a.b/1.left.png", png(1)),
            ("a.b/1.cls", b"x"),
            ("2.x.cls", b"y"),
            ("2.png", png()),
        ]
        path = write_tar(tmp_path / "x.tar", members)
        assert ids(path) == ["x/a.b/1", "x/2"]
        assert labels(path) == ["x", None]

    def test_leave_out_what_is_hidden_or_no_image(self, tmp_path: Path) -> None:
        root = write(tmp_path / "shards", {})
        write_tar(root / "x.tar", [("._1.png", b"?"), ("1.png", png()), ("2.txt", b"")])
        write_tar(root / "._x.tar", [("hidden.png", png())])
        with tarfile.open(root / "y.tar", "w") as archive:
            archive.add(write(tmp_path / "d.png", {"1.png": png()}), "d.png", recursive=False)
            link = tarfile.TarInfo("link.png")
            link.type, link.linkname = tarfile.SYMTYPE, "1.png"
            archive.addfile(link)
            archive.add(tmp_path / "d.png" / "1.png", "3.png")
        assert ids(root) == ["x/1", "y/3"]

    @pytest.mark.parametrize(
        ("files", "label"),
        [
            ({"cls": b" 5\n"}, "5"),
            ({"json": b'{"label": "ann"}'}, "ann"),
            ({"json": b'{"label": 7, "width": 3}'}, "7"),
            ({"json": b'{"label": 0}'}, "0"),
            ({"cls": b"5", "json": b'{"width": 3}'}, "5"),
            ({"cls": b"5", "json": b'{"label": 7}'}, "5"),
            ({"cls": b"", "json": b'{"label": 7}'}, "7"),
            ({"cls": b""}, None),
            ({"json": b'{"label": null}'}, None),
            ({"json": b'["label"]'}, None),
            ({"json": b'{"label": "' + b"x" * (1 << 16) + b'"}'}, None),
            ({"txt": b"a caption"}, None),
            ({}, None),
        ],
    )
    @pytest.mark.parametrize("image_first", [True, False])
    @pytest.mark.parametrize("reverse", [True, False])
    def test_are_labelled_by_cls_or_else_by_json_in_any_order(
        self,
        tmp_path: Path,
        files: dict[str, bytes],
        label: str | None,
        image_first: bool,
        reverse: bool,
    ) -> None:
        facts = [(f"1.{suffix}", content) for suffix, content in files.items()]
        facts = facts[::-1] if reverse else facts
        image = [("1.png", png())]
        members = [*image, *facts] if image_first else [*facts, *image]
        other = [("0.png", png()), ("0.cls", b"before"), ("2.cls", b"after"), ("2.png", png())]
        path = write_tar(tmp_path / "x.tar", [*other[:2], *members, *other[2:]])
        assert labels(path) == ["before", label, "after"]

    @pytest.mark.parametrize(
        ("member", "message"),
        [
            (("1.jpg", png()), "the sample 1 has more than one image"),
            (("1.mask.png", png()), "the sample 1 has more than one image"),
            (("1.cls", b"\xff"), "1.cls cannot be read"),
            (("1.json", b'{"label":'), "1.json cannot be read"),
            (("1.json", b"[" * 60_000), "1.json cannot be read"),
            (("1.json", b'{"label": "\\ud800"}'), "1.json cannot be read .*surrogates"),
        ],
    )
    def test_with_samples_that_cannot_be_understood_are_refused(
        self, tmp_path: Path, member: tuple[str, bytes], message: str
    ) -> None:
        path = write_tar(tmp_path / "x.tar", [("1.png", png()), member])
        with pytest.raises(InputError, match=rf"x\.tar: {message}"):
            listed(path)

    @pytest.mark.parametrize("name", ["a\udcff.png", "\udcff/a.png"])
    def test_with_names_that_are_not_utf_8_are_refused(self, tmp_path: Path, name: str) -> None:
        path = write_tar(tmp_path / "x.tar", [(name, png())], tarfile.GNU_FORMAT)
        with pytest.raises(InputError, match=r"x\.tar: its name is not UTF-8"):
            listed(path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "cannot be read as an uncompressed tar file .*empty"),
            (b"no tar file" * 99, "cannot be read as an uncompressed tar file"),
            (bytes(20 * BLOCK), "no images in its tar files"),
        ],
    )
    def test_that_are_none_are_refused(self, tmp_path: Path, content: bytes, message: str) -> None:
        (tmp_path / "x.tar").write_bytes(content)
        with pytest.raises(InputError, match=message):
            listed(tmp_path / "x.tar")

    def test_that_are_compressed_are_refused(self, tmp_path: Path) -> None:
        with tarfile.open(tmp_path / "x.tar", "w:gz") as archive:
            archive.add(write(tmp_path / "d", {"1.png": png()}), "d")
        with pytest.raises(InputError, match="unpack it if it is compressed"):
            listed(tmp_path / "x.tar")

    def test_are_cut_nowhere_without_being_refused(self, tmp_path: Path) -> None:
        root = write(tmp_path / "shards", {})
        write_tar(root / "0.tar", SHARD)
        content = write_tar(root / "1.tar", SHARD).read_bytes()
        end = 8 * BLOCK  # four members of a header and a block of data
        for stop in range(0, end + BLOCK, BLOCK // 4):
            (root / "1.tar").write_bytes(content[:stop])
            with pytest.raises(InputError, match=r"1\.tar: .*copy it again"):
                listed(root)
        (root / "1.tar").write_bytes(content[: end + BLOCK])
        assert len(ids(root)) == 4

    @pytest.mark.parametrize("member", range(4))
    def test_with_a_damaged_header_are_refused(self, tmp_path: Path, member: int) -> None:
        path = write_tar(tmp_path / "x.tar", SHARD)
        content = bytearray(path.read_bytes())
        content[2 * BLOCK * member] ^= 1
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"x\.tar: .*copy it again"):
            listed(path)

    def test_with_a_negative_size_are_refused(self, tmp_path: Path) -> None:
        header = bytearray(tarfile.TarInfo("1.png").tobuf(tarfile.GNU_FORMAT))
        header[124:136] = b"\xff" * 11 + b"\0"  # -256, in base 256
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        (tmp_path / "x.tar").write_bytes(bytes(header) + bytes(2 * BLOCK))
        with pytest.raises(InputError, match=r"x\.tar: is cut in 1\.png"):
            listed(tmp_path / "x.tar")

    def test_with_many_images_are_listed_in_little_memory(self, tmp_path: Path) -> None:
        content = write_tar(tmp_path / "x.tar", [("1.png", png()), ("2.png", png())]).read_bytes()
        (tmp_path / "x.tar").write_bytes(content[: 4 * BLOCK] * 10_000 + bytes(2 * BLOCK))
        entries = open_collection(tmp_path / "x.tar").entries()
        memory = PeakMemory()
        assert sum(1 for _ in entries) == 20_000
        assert memory.bytes() < 1 << 22

    def test_that_shrank_since_they_were_listed_say_so_of_the_image(self, tmp_path: Path) -> None:
        path = write_tar(tmp_path / "x.tar", SHARD)
        collection = open_collection(path)
        first, second = collection.entries()
        path.write_bytes(path.read_bytes()[: 7 * BLOCK + 9])
        assert collection.read(first) == png(1)
        with pytest.raises(UnusableImageError, match=f"is cut: 9 of {len(png(2))} bytes"):
            collection.read(second)


MAGIC = (0xCED7230A).to_bytes(4, "little")


def record(data: bytes) -> bytes:
    """Write a record as dmlc's recordio.h describes it.

    Magic number, a word of 3 bits that say which part this is (0 all, 1 first, 2 middle, 3 last)
    over 29 bits of length, data, zeros up to a multiple of 4. Where the magic number stands in the
    data at a multiple of 4, it is left out and the record goes on in another part.
    """
    aligned = len(data) // 4 * 4
    cuts = [k for k in range(0, aligned, 4) if data[k : k + 4] == MAGIC]
    starts, stops = [0, *(k + 4 for k in cuts)], [*cuts, len(data)]
    written = b""
    for number, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        kind = 0 if not cuts else 1 if not number else 3 if number == len(cuts) else 2
        written += MAGIC + struct.pack("<I", kind << 29 | stop - start) + data[start:stop]
        written += bytes(-len(written) % 4)
    return written


def labelled(image: bytes, *labels: float, number: int = 0) -> bytes:
    """Put MXNet's IRHeader before an image: flag, label, two ids; of several labels, the count."""
    if len(labels) == 1:
        return struct.pack("<IfQQ", 0, *labels, number, 0) + image
    return struct.pack(f"<IfQQ{len(labels)}f", len(labels), 0, number, 0, *labels) + image


def write_records(path: Path, records: Mapping[int, bytes]) -> Path:
    """Write records of these keys, and the index."""
    content, index = b"", ""
    for key, data in records.items():
        index += f"{key}\t{len(content)}\n"
        content += record(data)
    path.write_bytes(content)
    path.with_suffix(".idx").write_text(index, encoding="ascii")
    return path


PEOPLE = [12, 12, 3]


def write_insightface(path: Path, images: Sequence[bytes]) -> Path:
    """Write faces as insightface does: a header, the images, then one record per identity."""
    stop, count = len(images) + 1, len(set(PEOPLE))
    faces = {
        k: labelled(image, person, number=k)
        for k, (image, person) in enumerate(zip(images, PEOPLE, strict=True), 1)
    }
    identities = {stop + k: labelled(b"", k + 1, k + 2) for k in range(count)}
    return write_records(path, {0: labelled(b"", stop, stop + count), **faces, **identities})


class TestRecordFile:
    def test_lists_its_images_in_the_order_of_the_index(self, tmp_path: Path) -> None:
        records = {k: labelled(png(k), k % 2, number=k) for k in (5, 0, 10, 2)}
        path = write_records(tmp_path / "x.rec", records)
        assert ids(path) == ["5", "0", "10", "2"]
        assert labels(path) == ["1", "0", "0", "0"]
        assert shades(path) == [5, 0, 10, 2]

    def test_of_insightface_lists_the_faces_alone(self, tmp_path: Path) -> None:
        path = write_insightface(tmp_path / "train.rec", [png(7), png(8), png(9)])
        assert ids(path) == ["1", "2", "3"]
        assert labels(path) == ["12", "12", "3"]
        assert shades(path) == [7, 8, 9]

    @pytest.mark.parametrize("count", [0.0, 2.0, 1e8])
    def test_of_insightface_loses_none_where_a_float_cannot_count_them(
        self, tmp_path: Path, count: float
    ) -> None:
        path = write_insightface(tmp_path / "train.rec", [png(7), png(8), png(9)])
        first = record(labelled(b"", 4, 6))
        other = record(labelled(b"", count, count + 2))
        path.write_bytes(path.read_bytes().replace(first, other, 1))
        assert ids(path) == ["1", "2", "3"]

    def test_takes_the_first_of_several_labels(self, tmp_path: Path) -> None:
        records = {1: labelled(png(4), 7, 0.5, 3), 2: labelled(png(5), 0.5, 1)}
        path = write_records(tmp_path / "x.rec", records)
        assert labels(path) == ["7", "0.5"]
        assert shades(path) == [4, 5]

    def test_keeps_an_image_that_is_empty(self, tmp_path: Path) -> None:
        path = write_records(tmp_path / "x.rec", {1: labelled(b"", 7), 2: labelled(png(), 7)})
        collection = open_collection(path)
        assert [len(collection.read(entry)) for entry in collection.entries()] == [0, len(png())]

    @moderate
    @given(
        parts=st.lists(st.sampled_from([MAGIC, b"abcd", b"x", b"\0\0", b"end"]), max_size=9),
        labels=st.lists(st.sampled_from([0.0, 3.0]), min_size=1, max_size=3),
    )
    def test_reads_images_that_contain_the_magic_number(
        self, tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], labels: list[float]
    ) -> None:
        image = b"!" + b"".join(parts)
        records = {1: labelled(image, *labels), 2: labelled(image[::-1], *labels)}
        path = write_records(tmp_path_factory.mktemp("records") / "x.rec", records)
        collection = open_collection(path)
        assert [collection.read(e) for e in collection.entries()] == [image, image[::-1]]

    @pytest.mark.parametrize("image", [MAGIC, MAGIC * 3, b"abcd" + MAGIC, MAGIC + b"a"])
    def test_reads_images_of_which_every_part_but_one_is_empty(
        self, tmp_path: Path, image: bytes
    ) -> None:
        path = write_records(tmp_path / "x.rec", {1: labelled(image, 0, 0), 2: labelled(image, 0)})
        assert path.read_bytes().count(MAGIC) > 2
        collection = open_collection(path)
        assert [collection.read(entry) for entry in collection.entries()] == [image, image]

    def test_is_cut_nowhere_without_being_refused(self, tmp_path: Path) -> None:
        path = write_records(tmp_path / "x.rec", {k: labelled(png(k), k) for k in range(3)})
        content = path.read_bytes()
        end = len(content) - -len(labelled(png(2), 2)) % 4
        for stop in range(end):
            path.write_bytes(content[:stop])
            with pytest.raises(InputError, match=r"x\.rec: (no whole|ends before) record \d.*copy"):
                listed(path)
        path.write_bytes(content[:end])
        assert len(listed(path)) == 3

    def test_says_of_an_image_that_a_later_part_is_lost(self, tmp_path: Path) -> None:
        image = b"x" * 40 + MAGIC + b"y" * 40 + MAGIC + b"z" * 40
        path = write_records(tmp_path / "x.rec", {0: labelled(image, 1)})
        content = path.read_bytes()
        collection = open_collection(path)
        (entry,) = collection.entries()
        second = content.index(b"y") - 8
        for damaged, message in [
            (content[: second + 4], "is cut: 4 of 8 bytes"),
            (content[: second + 20], "is cut: 12 of 40 bytes"),
            (content[:second] + b"?" + content[second + 1 :], "its record is damaged"),
            (content[:second] + record(labelled(image, 1)), "its record is damaged"),
        ]:
            path.write_bytes(damaged)
            with pytest.raises(UnusableImageError, match=message):
                collection.read(entry)

    def test_says_of_a_record_that_it_is_too_short_for_an_image(self, tmp_path: Path) -> None:
        path = write_records(tmp_path / "x.rec", {0: b"short", 1: labelled(png(), 1)})
        collection = open_collection(path)
        with pytest.raises(UnusableImageError, match="too short for an image"):
            collection.read(next(iter(collection.entries())))

    def test_without_its_index_is_refused(self, tmp_path: Path) -> None:
        path = write_records(tmp_path / "x.rec", {0: labelled(png(), 1)})
        path.with_suffix(".idx").unlink()
        with pytest.raises(InputError, match=r"x\.rec: its index .*x\.idx is missing"):
            listed(path)

    @pytest.mark.parametrize(
        ("index", "message"),
        [
            (b"", r"x\.idx: names no records"),
            (b"0\t0\n1\n", r"x\.idx: line 2 is '1\\n', expected a key and an offset"),
            (b"0\t0\tx\n", r"x\.idx: line 1"),
            (b"a\t0\n", r"x\.idx: line 1"),
            (b"0\t-8\n", r"x\.idx: line 1"),
            (b"\xff\xfe\0\n", r"x\.idx: line 1"),
            (b"0\t0\n1\t4\n", r"x\.rec: no whole record 1 at byte 4"),
            (b"0\t99999999999999999999999\n", r"x\.rec: ends before record 0"),
        ],
    )
    def test_with_an_index_of_something_else_is_refused(
        self, tmp_path: Path, index: bytes, message: str
    ) -> None:
        path = write_records(tmp_path / "x.rec", {0: labelled(png(), 1)})
        path.with_suffix(".idx").write_bytes(index)
        with pytest.raises(InputError, match=message):
            listed(path)


PAIRS = "2\t1\nann\t1\t3\nann\t3\tbo lee\t12\nbo lee\t12\t12\nbo lee\t12\tann\t1\n"
FACES = ["ann/ann_0001.jpg", "ann/ann_0003.jpg", "bo lee/bo lee_0012.png"]


class TestPairsFile:
    def write(self, root: Path, content: str | bytes = PAIRS, faces: Sequence[str] = FACES) -> Path:
        write(root, {name: png(k) for k, name in enumerate(faces)})
        data = content.encode() if isinstance(content, str) else content
        (root / "pairs.txt").write_bytes(data)
        return root / "pairs.txt"

    def test_lists_each_image_once_sorted_by_name(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, faces=[*FACES, "ann/ann_0002.jpg", "zoe/zoe_0001.jpg"])
        assert ids(path) == FACES
        assert labels(path) == ["ann", "ann", "bo lee"]
        assert shades(path) == [0, 1, 2]

    @pytest.mark.parametrize(
        "content",
        [PAIRS.replace("\n", "\r\n"), PAIRS.replace("2\t1", "2", 1), PAIRS + "\n"],
    )
    def test_may_differ_in_what_does_not_matter(self, tmp_path: Path, content: str) -> None:
        assert ids(self.write(tmp_path, content)) == FACES

    def test_may_have_spaces_where_names_have_none(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "1\nann 1 3\nann 1 bob 2\n", [*FACES, "bob/bob_0002.jpg"])
        assert ids(path) == [*FACES[:2], "bob/bob_0002.jpg"]

    @pytest.mark.parametrize(
        ("faces", "message"),
        [
            (FACES[:2], "names bo lee/bo lee_0012, of which 0 images are in"),
            ([*FACES, "ann/ann_0001.png"], "names ann/ann_0001, of which 2 images are in"),
        ],
    )
    def test_whose_images_are_not_there_once_each_is_refused(
        self, tmp_path: Path, faces: list[str], message: str
    ) -> None:
        with pytest.raises(InputError, match=rf"pairs\.txt: {message}"):
            listed(self.write(tmp_path, faces=faces))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "names no pairs"),
            ("2\t1\n", "names no pairs"),
            (PAIRS + "ann\t1\n", r"line 6 is 'ann\\t1', expected a name and two numbers"),
            (PAIRS.replace("\t12\n", "\ttwelve\n"), "line 3 is"),
            (PAIRS.replace("\t3\n", "\t-3\n", 1), "line 2 is"),
            (PAIRS + "\t\t\n", "line 6 is"),
            (PAIRS.partition("\n")[2], "has 3 pairs and the first line 'ann.*expected there how"),
            ("\n" + PAIRS.partition("\n")[2], "has 4 pairs and the first line ''"),
            (PAIRS + "ann\t1\t3\n", r"has 5 pairs and the first line '2\\t1'"),
            (b"2\t1\n\xff\t1\t2\n", "cannot be read as text"),
        ],
    )
    def test_that_is_damaged_is_refused(
        self, tmp_path: Path, content: str | bytes, message: str
    ) -> None:
        with pytest.raises(InputError, match=rf"pairs\.txt: {message}"):
            listed(self.write(tmp_path, content))

    def test_is_cut_nowhere_without_being_refused(self, tmp_path: Path) -> None:
        for stop in range(len(PAIRS) - 1):
            with pytest.raises(InputError, match=r"pairs\.txt: "):
                listed(self.write(tmp_path, PAIRS[:stop]))


LANDMARK_LINES = "".join(
    f"{k}.jpg {' '.join(f'{value + k:.3f}' for value in LANDMARKS)} 0.9{k}\n" for k in range(3)
)


class TestLandmarkList:
    def write(self, root: Path, content: str = LANDMARK_LINES, images: str = "loose_crop") -> Path:
        write(root / images, {f"{k}.jpg": png(k) for k in range(3)})
        (root / "meta").mkdir(exist_ok=True)
        (root / "meta" / "ijbc_name_5pts_score.txt").write_text(content, newline="")
        return root / "meta" / "ijbc_name_5pts_score.txt"

    @pytest.mark.parametrize("images", ["loose_crop", "meta"])
    def test_lists_its_images_and_their_landmarks(self, tmp_path: Path, images: str) -> None:
        path = self.write(tmp_path, images=images)
        assert ids(path) == ["0.jpg", "1.jpg", "2.jpg"]
        assert labels(path) == [None] * 3
        assert [entry.landmarks for entry in listed(path)] == [
            tuple(value + k for value in LANDMARKS) for k in range(3)
        ]
        assert shades(path) == [0, 1, 2]
        assert all(file.is_file() for file in open_collection(path).files())

    def test_may_differ_in_what_does_not_matter(self, tmp_path: Path) -> None:
        content = LANDMARK_LINES.replace("\n", "\r\n").replace(" ", "\t", 3) + "\n"
        assert ids(self.write(tmp_path, content)) == ["0.jpg", "1.jpg", "2.jpg"]

    def test_names_why_an_image_cannot_be_read(self, tmp_path: Path) -> None:
        path = self.write(tmp_path)
        (tmp_path / "loose_crop" / "1.jpg").unlink()
        collection = open_collection(path)
        _, lost, _ = collection.entries()
        with pytest.raises(UnusableImageError, match="cannot be read: No such file"):
            collection.read(lost)

    def test_without_its_images_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"first image 0\.jpg is neither beside it nor in .*"):
            listed(self.write(tmp_path, images="elsewhere"))

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("3.jpg 1 2 3\n", r"line 4 cannot be read \(3 numbers\); expected a name, ten"),
            ("3.jpg 1 2 3 4 5 6 7 8 9 10 11 12\n", "line 4 cannot be read .12 numbers"),
            ("3.jpg 1 2 3 4 5 6 7 8 9 x 1\n", "line 4 cannot be read .could not convert"),
            ("\0.jpg 1 2 3 4 5 6 7 8 9 1 1\n", "line 4 cannot be read"),
            ("x" * 9000, "line 4 cannot be read"),
        ],
    )
    def test_that_is_damaged_is_refused(self, tmp_path: Path, line: str, message: str) -> None:
        with pytest.raises(InputError, match=rf"5pts_score\.txt: {message}"):
            listed(self.write(tmp_path, LANDMARK_LINES + line))


def as_npy(path: Path, pixels: NDArray[Any]) -> Path:
    np.save(path.with_suffix(".npy"), pixels)
    return path.with_suffix(".npy")


def as_zarr(path: Path, pixels: NDArray[Any], zarr_format: Any = 3, **layout: Any) -> Path:
    layout = {"chunks": (4, *pixels.shape[1:]), **layout}
    array = zarr.create_array(
        path, shape=pixels.shape, dtype=pixels.dtype, zarr_format=zarr_format, **layout
    )
    array[...] = pixels
    return path


def as_zarr_2(path: Path, pixels: NDArray[Any]) -> Path:
    return as_zarr(path, pixels, zarr_format=2)


def as_small_chunks(path: Path, pixels: NDArray[Any]) -> Path:
    return as_zarr(path, pixels, chunks=(3, 2, *pixels.shape[2:]))


def as_shards(path: Path, pixels: NDArray[Any]) -> Path:
    return as_zarr(path, pixels, chunks=(2, *pixels.shape[1:]), shards=(6, *pixels.shape[1:]))


def pictures(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


class TestPixelArray:
    @pytest.mark.parametrize("save", [as_npy, as_zarr, as_zarr_2, as_small_chunks, as_shards])
    @pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1), (5, 4, 3), (1, 1)])
    def test_gives_its_pixels_in_any_order(
        self, tmp_path: Path, save: Any, shape: tuple[int, ...]
    ) -> None:
        pixels = pictures(11, *shape)
        collection = open_collection(save(tmp_path / "x", pixels))
        entries = list(collection.entries())
        assert [entry.id for entry in entries] == [str(k) for k in range(11)]
        assert {entry.label for entry in entries} == {None}
        for k in [*range(11), 10, 3, 0, 7, 0]:
            found = collection.read(entries[k])
            np.testing.assert_array_equal(found, pixels[k])
            decoded = np.asarray(decode(found, 3 if shape[2:] == (3,) else 1))
            np.testing.assert_array_equal(decoded, pixels[k].reshape(decoded.shape))

    def test_may_have_a_suffix_in_capitals(self, tmp_path: Path) -> None:
        path = as_npy(tmp_path / "x", pictures(2, 3, 3)).rename(tmp_path / "X.NPY")
        assert ids(path) == ["0", "1"]
        found = open_collection(path).read(listed(path)[1])
        np.testing.assert_array_equal(found, pictures(2, 3, 3)[1])

    @pytest.mark.parametrize("save", [as_npy, as_zarr])
    @pytest.mark.parametrize(
        "pixels",
        [
            np.zeros((2, 3, 3), "float32"),
            np.zeros((2, 3, 3), "int8"),
            np.zeros((2, 3, 3), "uint16"),
            np.zeros((2, 3), "uint8"),
            np.zeros((2, 3, 3, 3, 3), "uint8"),
            np.zeros((2, 3, 3, 4), "uint8"),
            np.zeros((2, 3, 5, 5), "uint8"),
        ],
    )
    def test_of_another_shape_or_type_is_refused(
        self, tmp_path: Path, save: Any, pixels: NDArray[Any]
    ) -> None:
        with pytest.raises(InputError, match=r"has shape \(2, 3.*expected uint8 pixels"):
            listed(save(tmp_path / "x", pixels))

    @pytest.mark.parametrize("shape", [(0, 3, 3), (2, 0, 3), (2, 3, 0), (1, 1 << 14, 1 << 13)])
    def test_of_no_pixels_or_too_many_is_refused(
        self, tmp_path: Path, shape: tuple[int, ...]
    ) -> None:
        chunks = tuple(max(1, min(side, 64)) for side in shape)
        zarr.create_array(tmp_path / "x", shape=shape, dtype="uint8", chunks=chunks)
        with pytest.raises(InputError, match="expected at least one image of at most 67,108,864"):
            listed(tmp_path / "x")

    def test_in_fortran_order_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="is in Fortran order; save it in C order"):
            listed(as_npy(tmp_path / "x", np.asfortranarray(pictures(3, 4, 5))))

    def test_of_python_objects_is_refused_and_not_unpickled(self, tmp_path: Path) -> None:
        with pytest.raises(CrossgramError, match=r"x\.npy"):
            listed(as_npy(tmp_path / "x", np.array([[["a"]], [["b"]]], object)))

    def test_of_embeddings_is_refused(self, tmp_path: Path) -> None:
        zarr.create_group(tmp_path / "x")
        with pytest.raises(InputError, match="is a Zarr group, expected an array of pixels"):
            listed(tmp_path / "x")

    def test_is_cut_nowhere_without_being_refused(self, tmp_path: Path) -> None:
        path = as_npy(tmp_path / "x", pictures(3, 4, 5))
        content = path.read_bytes()
        for stop in range(0, len(content), 5):
            path.write_bytes(content[:stop])
            with pytest.raises(InputError, match=r"x\.npy"):
                listed(path)

    @pytest.mark.parametrize("save", [as_npy, as_zarr])
    def test_says_of_an_image_that_it_is_damaged(self, tmp_path: Path, save: Any) -> None:
        path = save(tmp_path / "x", pictures(11, 6, 7))
        file = path / "c" / "2" / "0" / "0" if path.is_dir() else path
        collection = open_collection(path)
        entries = list(collection.entries())
        file.write_bytes(file.read_bytes()[:-9])
        assert len(collection.read(entries[7])) == 6
        with pytest.raises(UnusableImageError, match=str(path)):
            collection.read(entries[10])


class TestOpening:
    def test_refuses_what_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="absent: no such file or folder; expected images"):
            open_collection(tmp_path / "absent")

    @pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x", "x.png", "x.idx"])
    def test_refuses_what_it_does_not_know_and_lists_what_it_does(
        self, tmp_path: Path, name: str
    ) -> None:
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(InputError, match=r"expected a folder.*\.csv, \.parquet, \.tar, \.rec"):
            open_collection(tmp_path / name)

    @pytest.mark.parametrize("name", [".x.tar", "x.tar/1.png", "x.TAR.txt"])
    def test_takes_a_folder_for_shards_only_if_it_holds_some(
        self, tmp_path: Path, name: str
    ) -> None:
        root = write(tmp_path / "images", {"x.tar/2.png": png(), name: png()})
        assert ids(root)[-1] == "x.tar/2.png"


def table_of(file: Path, rows: int, **changes: Any) -> Path:
    """Write a list of images that need not be there, with whatever is to be known of some."""
    columns: dict[str, Any] = {
        "path": [f"{k}.png" for k in range(rows)],
        "id": [f"größe/{k}" for k in range(rows)],
        "label": [str(k % 7) for k in range(rows)],
        "box": [None if k % 3 else (k, 2, 3.5, 4) for k in range(rows)],
        "landmarks": [tuple(range(k, k + 10)) if k % 2 else None for k in range(rows)],
    }
    return write_csv(file, {**columns, **changes})


class TestImageList:
    def test_gives_back_what_was_listed_by_range(self, tmp_path: Path) -> None:
        path = table_of(tmp_path / "t", 9000)  # two whole batches and a part
        images = ImageList.write(open_collection(path), tmp_path / "list")
        assert images.rows == 9000
        entries = listed(path)
        for start, stop in [(0, 1), (0, 9000), (4090, 4100), (8191, 8193), (8999, 9000), (5, 5)]:
            assert images.entries(start, stop) == entries[start:stop]
        assert values_of(images.ids) == [entry.id for entry in entries]
        assert values_of(images.labels) == [entry.label for entry in entries]

    def test_of_shards_knows_where_the_images_are(self, tmp_path: Path) -> None:
        collection = open_collection(write_tar(tmp_path / "x.tar", SHARD))
        images = ImageList.write(collection, tmp_path / "list")
        assert [collection.read(entry) for entry in images.entries(0, 2)] == [png(1), png(2)]

    def test_without_labels_has_none(self, tmp_path: Path) -> None:
        root = write(tmp_path / "images", ["1.png", "2.png"])
        images = ImageList.write(open_collection(root), tmp_path / "list")
        assert images.labels is None
        assert not images.column_path("labels").exists()
        assert images.entries(0, 2) == listed(root)

    @pytest.mark.parametrize("rows", [1, 4096, 4097])
    def test_has_the_digest_of_its_collection(self, tmp_path: Path, rows: int) -> None:
        collection = open_collection(table_of(tmp_path / "t", rows))
        images = ImageList.write(collection, tmp_path / "list")
        assert images.digest == list_digest(collection)

    def test_has_a_digest_that_any_change_changes(self, tmp_path: Path) -> None:
        def with_one(name: str, value: Any) -> dict[str, Any]:
            columns = table_of(tmp_path / "changed", 50)
            with columns.open(encoding="utf-8", newline="") as file:
                values = [row[name] for row in csv.DictReader(file)]
            return {name: [*values[:33], value, *values[34:]]}

        changes: list[dict[str, Any]] = [
            {},
            with_one("path", "other.png"),
            with_one("id", "größe/other"),
            with_one("label", "other"),
            with_one("box", "33 2 3.5 4.0000000001"),
            with_one("box", ""),
            with_one("landmarks", ""),
            {"label": ["x"] * 50},
            {"id": [f"größe/{k}" for k in [1, 0, *range(2, 50)]]},
        ]
        digests = [
            list_digest(open_collection(table_of(tmp_path / "changed", 50, **change)))
            for change in changes
        ]
        digests += [
            list_digest(open_collection(table_of(tmp_path / "changed", rows))) for rows in (49, 51)
        ]
        assert len(set(digests)) == len(changes) + 2

    def test_has_a_digest_of_shards_that_a_moved_image_changes(self, tmp_path: Path) -> None:
        digests = set()
        for filler in (b"", b"x", b"x" * (BLOCK + 1)):
            path = write_tar(tmp_path / "x.tar", [("0.txt", filler), *SHARD])
            digests.add(list_digest(open_collection(path)))
        assert len(digests) == 3

    def test_has_a_digest_that_moving_the_collection_does_not_change(self, tmp_path: Path) -> None:
        root = write(tmp_path / "images", ["a/1.png", "b/2.png"])
        before = list_digest(open_collection(root))
        assert list_digest(open_collection(root.rename(tmp_path / "moved"))) == before

    @pytest.mark.parametrize("first", [0, 1, 13, 38])
    @pytest.mark.parametrize("partition", [7, 1 << 20])
    def test_refuses_an_id_that_occurs_twice(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int, partition: int
    ) -> None:
        monkeypatch.setattr(repeats, "_PARTITION_ROWS", partition)
        names = [f"größe/{k}" for k in range(40)]
        names[39] = names[first]
        path = table_of(tmp_path / "t", 40, id=names)
        with pytest.raises(InputError, match=rf"t\.csv: the id 'größe/{first}' occurs 2 times"):
            ImageList.write(open_collection(path), tmp_path / "list")

    def test_takes_many_ids_a_part_at_a_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(repeats, "_PARTITION_ROWS", 7)
        collection = open_collection(table_of(tmp_path / "t", 40))
        assert ImageList.write(collection, tmp_path / "list").rows == 40

    @pytest.mark.parametrize(
        ("labelled", "message"),
        [
            ([True, False], "x/1 has no label, images before it do not alike"),
            ([False, True], "x/1 has a label, images before it do not alike"),
            ([True] * 4096 + [False], "x/4096 has no label"),
            ([False] * 4096 + [True], "x/4096 has a label"),
        ],
    )
    def test_refuses_labels_of_some_images_only(
        self, tmp_path: Path, labelled: list[bool], message: str
    ) -> None:
        members = [
            (f"{k}.{suffix}", content)
            for k, is_labelled in enumerate(labelled)
            for suffix, content in [("cls", b"1" if is_labelled else b""), ("png", b"")]
        ]
        collection = open_collection(write_tar(tmp_path / "x.tar", members))
        with pytest.raises(InputError, match=message):
            ImageList.write(collection, tmp_path / "list")

    def test_refuses_a_collection_that_holds_no_images(self, tmp_path: Path) -> None:
        path = write_records(tmp_path / "x.rec", {0: labelled(b"", 1, 2)})
        with pytest.raises(InputError, match=r"x\.rec: holds no images"):
            ImageList.write(open_collection(path), tmp_path / "list")


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Return a file with a bit flipped, bytes lost, put in or cut off."""
    place = int(rng.integers(len(content)))
    head, tail = content[:place], content[place:]
    return [
        head + bytes([tail[0] ^ 1 << int(rng.integers(8))]) + tail[1:],
        head + tail[int(rng.choice([1, 4, BLOCK])) :],
        head + bytes([int(rng.integers(256))]) * int(rng.choice([1, 4, BLOCK])) + tail,
        head + b"\xff\xff\xff\xff" + tail[4:],
        head,
    ][int(rng.integers(5))]


def kinds(root: Path) -> list[tuple[Path, Path]]:
    """Write a collection of each kind that is one file, and name the file to damage."""
    records = write_insightface(root / "r.rec", [png(1), png(2), png(3)])
    (root / "0.jpg").write_bytes(png())
    (root / "l.txt").write_text(LANDMARK_LINES)
    files = [
        root / "l.txt",
        table_of(root / "t", 4),
        write_parquet(root / "t", {"path": ["a", "b"], "box": [BOX, BOX]}),
        write_tar(root / "gnu.tar", SHARD, tarfile.GNU_FORMAT),
        write_tar(root / "pax.tar", [(f"ü{name}", data) for name, data in SHARD]),
        as_npy(root / "x", pictures(2, 3, 3)),
        records,
    ]
    return [*((path, path) for path in files), (records, records.with_suffix(".idx"))]


@pytest.mark.parametrize("kind", range(8))
def test_no_damage_is_met_with_anything_but_a_reason(tmp_path: Path, kind: int) -> None:
    path, file = kinds(tmp_path)[kind]
    whole = file.read_bytes()
    rng = np.random.default_rng(kind)
    refused = 0
    for _ in range(150):
        file.write_bytes(damaged(whole, rng))
        collection = open_collection(path)
        try:
            for entry in list(collection.entries()):
                json.dumps([entry.id, entry.label]).encode()
                collection.read(entry)
        except (InputError, UnusableImageError):
            refused += 1
    assert refused > 30
