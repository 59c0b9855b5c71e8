"""Lists of pairs: read as distributed, found by ids, and never cut short."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import crossgram as cg
from crossgram.evaluation.pair_list import all_pairs, read_pairs

PEOPLE = ("Ann_Other", "Bo", "Cy_D")
IDS = [f"{person}/{person}_{number:04d}.jpg" for person in PEOPLE for number in (1, 2, 3)]


def write_lfw(path: Path, sets: int = 2) -> Path:
    """Write sets of two matched and two mismatched pairs."""
    block = ["Ann_Other\t1\t2", "Bo\t1\t3", "Ann_Other\t1\tBo\t2", "Cy_D\t3\tBo\t1"]
    path.write_text("\n".join([f"{sets}\t2", *(block * sets)]) + "\n")
    return path


class TestLfw:
    def test_is_read_as_distributed(self, tmp_path: Path) -> None:
        pairs = read_pairs(write_lfw(tmp_path / "pairs.txt"), IDS)
        assert pairs.left.tolist() == [0, 3, 0, 8] * 2
        assert pairs.right.tolist() == [1, 5, 4, 3] * 2
        assert pairs.same.tolist() == [True, True, False, False] * 2
        assert pairs.fold is not None
        assert pairs.fold.tolist() == [0] * 4 + [1] * 4

    def test_of_the_real_size_has_its_sets_every_600_pairs(self, tmp_path: Path) -> None:
        lines = ["10\t300"]
        for _ in range(10):
            lines += ["Bo\t1\t2"] * 300 + ["Bo\t1\tCy_D\t2"] * 300
        (tmp_path / "pairs.txt").write_text("\n".join(lines))
        pairs = read_pairs(tmp_path / "pairs.txt", IDS)
        assert pairs.fold is not None
        np.testing.assert_array_equal(pairs.fold, np.repeat(np.arange(10), 600))
        assert (len(pairs.same), pairs.same.sum()) == (6000, 3000)

    def test_finds_images_whatever_their_ending(self, tmp_path: Path) -> None:
        ids = [one.replace(".jpg", ".png") for one in IDS]
        assert read_pairs(write_lfw(tmp_path / "pairs.txt"), ids).left[3] == 8

    def test_refuses_an_image_that_two_rows_are_called(self, tmp_path: Path) -> None:
        path = write_lfw(tmp_path / "pairs.txt")
        # of those that no pair names, it does not matter
        found = read_pairs(path, [*IDS, "Cy_D/Cy_D_0001.png"])
        assert found.left.tolist() == read_pairs(path, IDS).left.tolist()
        with pytest.raises(
            cg.InputError, match="names Bo/Bo_0001, which rows 3 and 9 of the store are called"
        ):
            read_pairs(path, [*IDS, "Bo/Bo_0001.png"])

    def test_refuses_to_leave_out_a_pair(self, tmp_path: Path) -> None:
        with pytest.raises(
            cg.InputError, match=r"1 of its 6 images have no embedding.*Bo/Bo_0003; a protocol"
        ):
            read_pairs(
                write_lfw(tmp_path / "pairs.txt"), [one for one in IDS if "Bo_0003" not in one]
            )


class TestCsv:
    def write(self, path: Path, *lines: str, top: str = "left,right,same") -> Path:
        path.write_text("\n".join([top, *lines]))
        return path

    def test_has_ids_and_the_truth(self, tmp_path: Path) -> None:
        path = self.write(tmp_path / "p.csv", "a,b,1", "b,c,0", "d,c,TRUE", "a,d,false")
        pairs = read_pairs(path, ["d", "c", "b", "a"])
        assert pairs.left.tolist() == [3, 2, 0, 3]
        assert pairs.right.tolist() == [2, 1, 1, 0]
        assert pairs.same.tolist() == [True, False, True, False]
        assert pairs.fold is None
        # a is b, d is c
        assert pairs.subject[3] == pairs.subject[2] != pairs.subject[1] == pairs.subject[0]

    def test_has_folds_of_its_own_or_ten_contiguous_ones(self, tmp_path: Path) -> None:
        top = "fold,left,right,same"
        own = self.write(tmp_path / "p.csv", "2,a,b,1", "10,a,c,0", "2,b,c,0", top=top)
        pairs = read_pairs(own, "abc")
        assert pairs.fold is not None
        assert pairs.fold.tolist() == [2, 10, 2]
        many = self.write(tmp_path / "q.csv", *(["a,b,1", "a,c,0"] * 11))
        fold = read_pairs(many, "abc").fold
        assert fold is not None
        assert np.bincount(fold).tolist() == [3, 3, 2, 2, 2, 2, 2, 2, 2, 2]

    def test_may_begin_with_a_byte_order_mark(self, tmp_path: Path) -> None:
        path = tmp_path / "p.csv"
        path.write_text("left,right,same\na,b,1\na,c,0", encoding="utf-8-sig")
        assert read_pairs(path, "abc").left.tolist() == [0, 0]

    def test_takes_integer_ids(self, tmp_path: Path) -> None:
        path = self.write(tmp_path / "p.csv", "7,8,1", "7,9,0")
        assert read_pairs(path, [9, 8, 7]).left.tolist() == [2, 2]

    @pytest.mark.parametrize(
        ("top", "lines", "message"),
        [
            ("left,right", ["a,b"], "has the columns left, right; expected left, right, same"),
            ("left,right,same", [], "names no pairs"),
            ("left,right,same", ["a,b,2"], r"line 2 is \['a', 'b', '2'\]; expected two ids"),
            ("left,right,same", ["a,b,1", "a,,0"], "line 3 is"),
            ("left,right,same", ["a,b,1", "a"], "line 3 is"),
            ("left,right,same", ["a,b,1", "b,a,1"], "pairs of one kind only"),
            ("left,right,same,fold", ["a,b,1,7", "b,c,0,7"], "has one fold"),
            ("left,right,same,fold", ["a,b,1,1", "b,c,0,"], "line 3 has the fold ''; expected a"),
            ("left,right,same,fold", ["a,b,1,1", "b,c,0"], "line 3 has the fold ''; expected a"),
            ("left,right,same,fold", ["a,b,1,1.5"], "line 2 has the fold '1.5'; expected a whole"),
            ("left,right,same", ["a,b,1", "c,c,1", "a,c,0"], "pairs c with itself"),
            ("left,right,same", ["a,b,1", "a,z,0"], "1 of its 3 images have no embedding.* is z"),
        ],
    )
    def test_that_is_none_is_refused(
        self, tmp_path: Path, top: str, lines: list[str], message: str
    ) -> None:
        with pytest.raises(cg.InputError, match=message):
            read_pairs(self.write(tmp_path / "p.csv", *lines, top=top), "abc")

    def test_other_files_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(cg.InputError, match="not a list of pairs that is known"):
            read_pairs(tmp_path / "p.dat", "abc")
        with pytest.raises(cg.InputError, match="cannot be read as a CSV file"):
            read_pairs(tmp_path / "p.csv", "abc")


class TestAllPairs:
    @given(st.lists(st.sampled_from("abc"), min_size=3, max_size=20), st.data())
    def test_are_those_of_different_usable_images_once(
        self, labels: list[str], data: st.DataObject
    ) -> None:
        usable = np.array(
            data.draw(st.lists(st.booleans(), min_size=len(labels), max_size=len(labels)))
        )
        rows = np.flatnonzero(usable)
        expected = {(i, j): labels[i] == labels[j] for i in rows for j in rows if i < j}
        if len(set(expected.values())) < 2:
            with pytest.raises(cg.InputError, match="labels: no"):
                all_pairs(labels, usable)
            return
        pairs = all_pairs(labels, usable)
        found = zip(pairs.left.tolist(), pairs.right.tolist(), pairs.same.tolist(), strict=True)
        assert {(i, j): same for i, j, same in found} == expected
        assert len(pairs.left) == len(expected)

    def test_of_too_many_images_are_refused_before_memory_is_taken(self) -> None:
        with pytest.raises(cg.InputError, match="499,999,500,000 pairs, at most 20,000,000"):
            all_pairs(np.arange(1_000_000) % 7)
