"""An image file becomes its pixels, upright and of 8 bits, or a reason why it cannot."""

from __future__ import annotations

import os
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import EpsImagePlugin, Image, PngImagePlugin

from crossgram.images import decoding
from crossgram.images.decoding import MAX_PIXELS, SHRUNK, UnusableImageError, decode
from crossgram.resources import PeakMemory

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

ORIENTATION = 0x0112


def colours(height: int = 11, width: int = 7, channels: int = 3) -> NDArray[np.uint8]:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def smooth(height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """Colours that change slowly, as JPEG likes them."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 4, y * 5, 255 - x * 2 - y], axis=-1).astype(np.uint8)


def encoded(pixels: NDArray[Any] | Image.Image, kind: str, **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels_of(data: bytes | NDArray[np.uint8], channels: int = 3) -> NDArray[np.uint8]:
    """Decode and check what every decoded image is."""
    image = decode(data, channels)
    assert image.mode == {1: "L", 3: "RGB"}[channels]
    return np.asarray(image)


def png_file(width: int, height: int, depth: int, kind: int, data: bytes) -> bytes:
    """Write a PNG by hand: header, rows of a zero and the samples, end."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def grey_jpeg(width: int, height: int) -> bytes:
    """Write a JPEG of middle grey without holding its pixels.

    The mean of each block of 8 x 8 is no change from the one before, which is 00 in JPEG's own
    table, and no other frequencies follow, 1010: three bytes for four blocks.
    """
    small = encoded(np.full((8, 8), 128, np.uint8), "JPEG")
    frame, scan = small.index(b"\xff\xc0"), small.index(b"\xff\xda")
    size = struct.pack(">HH", height, width)
    head = small[: frame + 5] + size + small[frame + 9 : scan + 10]
    blocks = -(-width // 8) * -(-height // 8)
    return head + b"\x28\xa2\x8a" * -(-blocks // 4) + b"\xff\xd9"


class TestColours:
    @pytest.mark.parametrize(
        ("kind", "options"),
        [
            ("PNG", {}),
            ("BMP", {}),
            ("PPM", {}),
            ("TIFF", {}),
            ("TIFF", {"compression": "tiff_lzw"}),
            ("TIFF", {"compression": "tiff_adobe_deflate"}),
            ("WEBP", {"lossless": True}),
        ],
    )
    @pytest.mark.parametrize("shape", [(11, 7), (1, 1), (1, 9)])
    def test_of_a_lossless_file_are_what_was_written(
        self, kind: str, options: dict[str, Any], shape: tuple[int, int]
    ) -> None:
        data = encoded(colours(*shape), kind, **options)
        np.testing.assert_array_equal(pixels_of(data), colours(*shape))

    @pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
    def test_of_a_jpeg_are_nearly_what_was_written(self, options: dict[str, Any]) -> None:
        found = pixels_of(encoded(smooth(), "JPEG", quality=95, **options))
        assert np.abs(found.astype(int) - smooth()).max() <= 8

    def test_of_a_cmyk_jpeg_are_those_of_its_inks(self) -> None:
        inks = np.zeros((8, 8, 4), np.uint8)
        inks[...] = [200, 90, 0, 55]
        found = pixels_of(encoded(Image.fromarray(inks, "CMYK"), "JPEG", quality=100))
        # light that the ink and the black let through
        expected = [(255 - ink) * (255 - 55) / 255 for ink in (200, 90, 0)]
        assert np.abs(found - np.array(expected)).max() <= 3

    def test_become_grey_by_their_luma(self) -> None:
        rgb = colours()
        found = pixels_of(encoded(rgb, "PNG"), 1)
        # weights of ITU-R 601
        assert np.abs(found - rgb @ [0.299, 0.587, 0.114]).max() <= 1

    def test_of_a_grey_image_are_thrice_its_own(self) -> None:
        grey = colours(channels=1)
        for kind in ("PNG", "PPM", "TIFF", "BMP"):
            np.testing.assert_array_equal(pixels_of(encoded(grey, kind), 1), grey)
            found = pixels_of(encoded(grey, kind), 3)
            np.testing.assert_array_equal(found, np.stack([grey] * 3, axis=-1))

    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
    def test_are_kept_under_what_is_transparent(self, kind: str) -> None:
        rgba = np.dstack([colours(), np.arange(77, dtype=np.uint8).reshape(11, 7)])
        options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
        np.testing.assert_array_equal(pixels_of(encoded(rgba, kind, **options)), colours())

    def test_of_grey_with_transparency_are_the_grey(self) -> None:
        grey = colours(channels=1)
        data = encoded(Image.merge("LA", [Image.fromarray(grey), Image.new("L", (7, 11))]), "PNG")
        np.testing.assert_array_equal(pixels_of(data, 1), grey)

    @pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "BMP"])
    def test_of_a_palette_are_looked_up(self, kind: str) -> None:
        palette = colours(1, 5)[0]
        indices = np.arange(77, dtype=np.uint8).reshape(11, 7) % 5
        image = Image.fromarray(indices, "P")
        image.putpalette(palette.tobytes())
        np.testing.assert_array_equal(pixels_of(encoded(image, kind)), palette[indices])

    def test_of_a_palette_with_transparency_are_looked_up(self) -> None:
        palette = colours(1, 5)[0]
        image = Image.fromarray(np.arange(5, dtype=np.uint8)[None], "P")
        image.putpalette(palette.tobytes())
        data = encoded(image, "PNG", transparency=bytes([0, 50, 100, 150, 200]))
        np.testing.assert_array_equal(pixels_of(data), palette[None])

    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "BMP"])
    def test_of_one_bit_are_black_and_white(self, kind: str) -> None:
        bits = colours(channels=1) > 127
        np.testing.assert_array_equal(pixels_of(encoded(bits, kind), 1), bits * np.uint8(255))

    @pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
    def test_of_several_pictures_are_those_of_the_first(self, kind: str) -> None:
        first, second = (Image.new("RGB", (5, 4), shade) for shade in ("#ff0000", "#0000ff"))
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(first, kind, save_all=True, append_images=[second], **options)
        assert getattr(Image.open(BytesIO(data)), "n_frames", 1) == 2
        assert (pixels_of(data) == [255, 0, 0]).all()

    @pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1), (5, 4, 3)])
    def test_of_an_array_are_its_own(self, shape: tuple[int, ...]) -> None:
        array = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
        channels = 3 if shape[2:] == (3,) else 1
        np.testing.assert_array_equal(
            pixels_of(array, channels), array.reshape(shape[:3]).squeeze()
        )
        strided = np.repeat(array, 2, axis=1)[:, ::2]
        np.testing.assert_array_equal(pixels_of(strided, channels), pixels_of(array, channels))
        assert pixels_of(array, 4 - channels).shape == ((5, 4, 3) if channels == 1 else (5, 4))


EVERY_LEVEL = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)


def pgm(values: NDArray[Any], most: int) -> bytes:
    height, width = values.shape
    return b"P5 %d %d %d\n" % (width, height, most) + values.astype(">u2").tobytes()


class TestDeepImages:
    @pytest.mark.parametrize(
        "data",
        [
            encoded(EVERY_LEVEL, "PNG"),
            encoded(EVERY_LEVEL, "TIFF"),
            encoded(EVERY_LEVEL.astype(">u2"), "TIFF"),
            encoded(EVERY_LEVEL.astype(np.int32), "TIFF"),
            pgm(EVERY_LEVEL, 65535),
        ],
        ids=["png", "tiff", "tiff of the other byte order", "tiff of 32 bits", "pgm"],
    )
    def test_of_16_bits_are_brought_to_8_within_half_a_level(self, data: bytes) -> None:
        found = pixels_of(data, 1)
        assert np.abs(found - EVERY_LEVEL / 257).max() <= 0.5
        np.testing.assert_array_equal(pixels_of(data, 3)[..., 2], found)

    def test_of_10_bits_are_brought_to_8_within_half_a_level(self) -> None:
        levels = np.arange(1024).reshape(32, 32)
        assert np.abs(pixels_of(pgm(levels, 1023), 1) - levels * 255 / 1023).max() <= 0.502

    def test_of_16_bits_in_colour_are_brought_to_8_within_a_level(self) -> None:
        levels = np.arange(0, 1 << 16, 5)[: 96 * 45].reshape(96, 15, 3)
        rows = [b"\0" + row.astype(">u2").tobytes() for row in levels]
        found = pixels_of(png_file(15, 96, 16, 2, b"".join(rows)))
        assert np.abs(found - levels / 257).max() < 1

    @pytest.mark.parametrize("value", [-1, 1 << 16, (1 << 31) - 1])
    def test_of_more_than_16_bits_are_unusable(self, value: int) -> None:
        data = encoded(np.full((3, 3), value, np.int32), "TIFF")
        with pytest.raises(UnusableImageError, match="has values beyond 16 bits"):
            decode(data, 1)

    @pytest.mark.parametrize("kind", ["TIFF", "PPM"])
    def test_of_floating_point_are_unusable(self, kind: str) -> None:
        data = encoded(np.full((3, 3), 0.5, np.float32), kind)
        with pytest.raises(UnusableImageError, match="floating-point values, whose range is not"):
            decode(data, 3)


UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: stored.swapaxes(0, 1)[:, ::-1],
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: stored.swapaxes(0, 1)[::-1],
}
"""How a stored picture is seen, by where its first row and column are (Exif 2.3, 4.6.4 A)."""


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def exif_block(*fields: tuple[int, int, int, bytes]) -> bytes:
    """Write EXIF data by hand: tag, type, count and value of each field."""
    packed = [struct.pack("<HHI4s", *field) for field in fields]
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(fields)) + b"".join(packed) + bytes(4)


class TestOrientation:
    @pytest.mark.parametrize("orientation", UPRIGHT)
    @pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
    def test_is_that_of_the_viewer(self, kind: str, orientation: int) -> None:
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(colours(), kind, exif=oriented(orientation), **options)
        np.testing.assert_array_equal(pixels_of(data), UPRIGHT[orientation](colours()))

    @pytest.mark.parametrize("orientation", UPRIGHT)
    def test_of_a_jpeg_is_that_of_the_viewer(self, orientation: int) -> None:
        plain = pixels_of(encoded(smooth(), "JPEG"))
        found = pixels_of(encoded(smooth(), "JPEG", exif=oriented(orientation)))
        np.testing.assert_array_equal(found, UPRIGHT[orientation](plain))

    @pytest.mark.parametrize("orientation", UPRIGHT)
    def test_holds_for_16_bits(self, orientation: int) -> None:
        data = encoded(EVERY_LEVEL[:3], "PNG", exif=oriented(orientation))
        plain = pixels_of(encoded(EVERY_LEVEL[:3], "PNG"), 1)
        np.testing.assert_array_equal(pixels_of(data, 1), UPRIGHT[orientation](plain))

    @pytest.mark.parametrize("orientation", [0, 9, 65535])
    def test_that_is_none_is_ignored(self, orientation: int) -> None:
        data = encoded(colours(), "PNG", exif=oriented(orientation))
        np.testing.assert_array_equal(pixels_of(data), colours())

    @pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
    @pytest.mark.parametrize("block", [b"Exif\0\0garbage, garbage", b"Exif\0\0II*\0\x08\0"])
    def test_in_damaged_exif_data_is_ignored(self, kind: str, block: bytes) -> None:
        # with its density said elsewhere, Pillow looks at the EXIF data no sooner than it is asked
        options: dict[str, Any] = {"JPEG": {"dpi": (72, 72)}, "WEBP": {"lossless": True}}
        data = encoded(colours(), kind, exif=block, **options.get(kind, {}))
        plain = encoded(colours(), kind, **options.get(kind, {}))
        assert block[6:] in data
        np.testing.assert_array_equal(pixels_of(data), pixels_of(plain))

    def test_in_damaged_text_of_a_png_is_ignored(self) -> None:
        text = PngImagePlugin.PngInfo()
        text.add_text("Raw profile type exif", "\nexif\n  8\nno digits\n")
        data = encoded(colours(), "PNG", pnginfo=text)
        np.testing.assert_array_equal(pixels_of(data), colours())

    @pytest.mark.parametrize(
        "other", [(0x011A, 2, 1, b"a\0\0\0"), (0x0100, 9, 1, b"\xff\xff\xff\xff")]
    )
    def test_beside_other_fields_that_are_damaged_is_seen(
        self, other: tuple[int, int, int, bytes]
    ) -> None:
        block = exif_block((ORIENTATION, 3, 1, b"\6\0\0\0"), other, (0x0101, 4, 1, b"\xff" * 4))
        data = encoded(colours(), "PNG", exif=block)
        np.testing.assert_array_equal(pixels_of(data), UPRIGHT[6](colours()))


class TestLargeImages:
    @pytest.mark.parametrize(
        ("size", "factor"),
        [
            ((8192, 8192), 1),
            ((8193, 8192), 2),
            ((16384, 16384), 2),
            # more than half of it would be: both sides are rounded up
            ((16383, 16385), 4),
            ((30000, 30000), 4),
            ((65500, 65500), 8),
        ],
    )
    def test_of_jpeg_are_decoded_smaller_in_bounded_memory(
        self, size: tuple[int, int], factor: int
    ) -> None:
        data = grey_jpeg(*size)
        memory = PeakMemory()
        image = decode(data, 1)
        # the picture as it is decoded, and once more as it is returned
        assert memory.bytes() < 3 * MAX_PIXELS
        assert image.size == tuple(-(-side // factor) for side in size)
        assert image.info[SHRUNK] == factor
        assert image.getextrema() == (128, 128)

    def test_are_refused_where_they_cannot_be_decoded_smaller(self) -> None:
        for side, reason in [
            (30_000, "has more than 67,108,864 pixels"),
            (9_000, "has 9000 x 9000 pixels, at most 67,108,864 are decoded"),
        ]:
            memory = PeakMemory()
            with pytest.raises(UnusableImageError, match=reason):
                decode(png_file(side, side, 8, 2, b""), 3)
            assert memory.bytes() < 1 << 24

    @pytest.mark.parametrize("most", [48 * 64, 24 * 32, 12 * 16, 6 * 8])
    def test_of_jpeg_show_what_they_would_whole(
        self, monkeypatch: pytest.MonkeyPatch, most: int
    ) -> None:
        data = encoded(smooth(), "JPEG", quality=95)
        whole = pixels_of(data).astype(float)
        monkeypatch.setattr(decoding, "MAX_PIXELS", most)
        image = decode(data, 3)
        factor = image.info[SHRUNK]
        assert image.width * image.height == most
        means = whole.reshape(48 // factor, factor, 64 // factor, factor, 3).mean(axis=(1, 3))
        assert np.abs(np.asarray(image) - means).max() <= 8

    def test_of_jpeg_are_turned_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(decoding, "MAX_PIXELS", 24 * 32)
        assert decode(encoded(smooth(), "JPEG", exif=oriented(6)), 3).size == (24, 32)

    def test_of_a_camera_that_adds_pictures_are_decoded_smaller(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        image = Image.fromarray(smooth())
        data = encoded(image, "MPO", save_all=True, append_images=[image])
        assert Image.open(BytesIO(data)).format == "MPO"
        monkeypatch.setattr(decoding, "MAX_PIXELS", 24 * 32)
        assert decode(data, 3).size == (32, 24)

    def test_of_jpeg_that_are_progressive_are_refused(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = encoded(smooth(), "JPEG", progressive=True)
        monkeypatch.setattr(decoding, "MAX_PIXELS", 24 * 32)
        with pytest.raises(UnusableImageError, match="has 64 x 48 pixels, at most 768 are decoded"):
            decode(data, 3)

    def test_say_nothing_of_their_own_about_what_was_done_to_them(self) -> None:
        text = PngImagePlugin.PngInfo()
        text.add_text(SHRUNK, "8")
        assert decode(encoded(colours(), "PNG", pnginfo=text), 3).info == {SHRUNK: 1}


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 10 10
%%EndComments
showpage
"""


class TestUnusable:
    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "the file is empty"),
            (b"\0", "cannot be decoded: in no image format that is known"),
            (b"text, and no picture" * 99, "in no image format that is known"),
            (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "in no image format that is known"),
            (b"\xff\xd8\xff", "cannot be decoded"),
            (b"P5 3 3 255\n", "cannot be decoded"),
            (encoded(colours(), "PNG").replace(b"IDAT", b"IDOT"), "cannot be decoded"),
        ],
    )
    def test_files_are_met_with_a_reason(self, data: bytes, reason: str) -> None:
        with pytest.raises(UnusableImageError, match=reason):
            decode(data, 3)

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "PPM", "TIFF", "GIF", "WEBP"])
    def test_files_are_those_that_are_cut(self, kind: str) -> None:
        data = encoded(colours(64, 64), kind)
        for stop in [*range(0, 40, 3), *range(40, len(data) // 2, len(data) // 19)]:
            with pytest.raises(UnusableImageError, match=r"cannot be decoded: .|is empty"):
                decode(data[:stop], 3)

    @pytest.mark.parametrize("kind", ["ICO", "TGA", "PCX", "PDF", "SGI", "ICNS", "JPEG2000", "DDS"])
    def test_formats_are_those_that_collections_do_not_take_for_images(self, kind: str) -> None:
        with pytest.raises(UnusableImageError, match="in no image format that is known"):
            decode(encoded(colours(32, 32), kind), 3)

    def test_eps_files_are_never_given_to_ghostscript(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program, mark = tmp_path / "gs", tmp_path / "was called"
        program.write_text(f"#!/bin/sh\ntouch '{mark}'\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
        (tmp_path / "face.jpg").write_bytes(EPS)
        with pytest.raises(UnusableImageError, match="in no image format that is known"):
            decode((tmp_path / "face.jpg").read_bytes(), 3)
        assert not mark.exists()
        # the same file, opened without a list of formats, does run it
        with pytest.raises(OSError), Image.open(tmp_path / "face.jpg") as image:
            image.load()
        assert mark.exists()

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "PPM", "TIFF", "GIF", "WEBP"])
    def test_is_all_that_damage_can_make_of_a_file(self, kind: str) -> None:
        data = encoded(colours(), kind)
        rng = np.random.default_rng(0)
        reasons = []
        for _ in range(100):
            damaged = bytearray(data)
            for place in rng.integers(0, len(data), rng.integers(1, 4)):
                damaged[place] = rng.integers(256)
            try:
                pixels_of(bytes(damaged))
            except UnusableImageError as error:
                reasons.append(str(error))
        assert reasons
        assert all(reasons)
