"""`decode` returns the right pixels for every format and refuses everything else with one clear reason."""

import io
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from errors import InvalidImage, TooLarge
from preprocessing.decode import decode
from preprocessing.spec import ImageLimits
from tests.conftest import ROOT, encode

LIMITS = ImageLimits()


def smooth(height: int = 40, width: int = 56) -> npt.NDArray[np.uint8]:
    noise = np.random.default_rng(5).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 2), np.uint8)


PICTURE = smooth()


def png_of(width: int, height: int) -> bytes:
    """Return a small PNG whose header promises a grey picture of this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 100_000, 0))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP"])
def test_lossless_formats_give_back_the_pixels(kind: str) -> None:
    picture = Image.fromarray(PICTURE)
    source = picture.quantize(64) if kind == "GIF" else picture
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(decode(encode(source, kind, **options), LIMITS), np.asarray(source.convert("RGB")))


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA"])
def test_every_png_mode_becomes_rgb(mode: str) -> None:
    picture = Image.fromarray(PICTURE).convert(mode)
    decoded = decode(encode(picture), LIMITS)
    assert decoded.shape == (40, 56, 3) and decoded.dtype == np.uint8
    assert np.array_equal(decoded, np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_to_eight_by_257(kind: str) -> None:
    deep = np.arange(0, 65_536, 13, dtype=np.uint16)[:5000].reshape(50, 100)
    decoded = decode(encode(Image.fromarray(deep), kind), LIMITS)
    assert np.array_equal(decoded[..., 0], np.round(deep / 257).astype(np.uint8))
    assert np.array_equal(decoded[..., 0], decoded[..., 2])


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_decodes_as_pillow_decodes_it(mode: str) -> None:
    data = encode(Image.fromarray(PICTURE).convert(mode), "JPEG", quality=95)
    reference = Image.open(io.BytesIO(data)).convert("RGB")
    assert np.abs(decode(data, LIMITS).astype(int) - np.asarray(reference, int)).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "WEBP", "PNG"])
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    picture = Image.fromarray(PICTURE)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture, kind, exif=exif)
    reference = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.abs(decode(data, LIMITS).astype(int) - np.asarray(reference, int)).max() <= 1


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


JPEG, PNG = encode(PICTURE, "JPEG", quality=90), encode(PICTURE)
DAMAGED = PNG[: len(PNG) // 2] + bytes([PNG[len(PNG) // 2] ^ 0xFF]) + PNG[len(PNG) // 2 + 1 :]
FRAMES = {"save_all": True, "append_images": [Image.fromarray(PICTURE[::-1])]}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"just some text, saved as scan.jpg", "looks like text"),
        (b"%PDF-1.7\n\x00\xff", "PDF"),
        (b"\0" * 128 + b"DICM" + b"\0" * 64, "DICOM"),
        (b"\0\0\0\x20ftypheic" + b"\0" * 64, "HEIC"),
        (encode(PICTURE[:1, :1]), "1 x 1"),
        (_half(JPEG), "cut short"),
        (JPEG[:-40], "cut short"),
        (_half(PNG), "cut short"),
        (DAMAGED, "damaged"),
        (encode(Image.fromarray(PICTURE), "GIF", **FRAMES), "2 pictures"),
        (encode(Image.fromarray(PICTURE), "TIFF", **FRAMES), "2 pictures"),
        (encode(Image.fromarray(PICTURE), "WEBP", **FRAMES), "2 pictures"),
        (encode(Image.fromarray(PICTURE), "PNG", **FRAMES), "2 pictures"),
        (encode(Image.fromarray(np.ones((20, 20), np.float32)), "TIFF"), "floating-point"),
    ],
)
def test_what_is_no_complete_still_picture_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidImage, match=reason):
        decode(data, LIMITS)


def test_a_decompression_bomb_is_refused_by_its_header_alone() -> None:
    bomb = png_of(30_000, 30_000)
    assert len(bomb) < 120_000
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge, match="50,000,000"):
            decode(bomb, LIMITS)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_the_limits_of_a_card_are_named_in_the_message() -> None:
    with pytest.raises(TooLarge, match="at most 100 "):
        decode(PNG, ImageLimits(max_bytes=100))
    with pytest.raises(TooLarge, match="2,240"):
        decode(PNG, ImageLimits(max_pixels=2000))
    with pytest.raises(InvalidImage, match="at least 41"):
        decode(PNG, ImageLimits(min_side=41))
    with pytest.raises(InvalidImage, match="at most 55"):
        decode(PNG, ImageLimits(max_side=55))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([JPEG, PNG, encode(PICTURE, "BMP"), encode(PICTURE, "WEBP"), encode(PICTURE, "TIFF")]), st.data()
)
def test_damaged_bytes_give_a_picture_or_a_refusal_and_nothing_else(data: bytes, draw: st.DataObject) -> None:
    damaged = bytearray(data[: draw.draw(st.integers(1, len(data)))])
    for position in draw.draw(st.lists(st.integers(0, len(damaged) - 1), max_size=8)):
        damaged[position] = draw.draw(st.integers(0, 255))
    try:
        image = decode(bytes(damaged), LIMITS)
    except (InvalidImage, TooLarge):
        return
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3


@pytest.mark.parametrize("make", [lambda: JPEG, lambda: PNG])
def test_the_same_bytes_decode_alike_from_many_threads(make: Callable[[], bytes]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    reference = decode(make(), LIMITS)
    with ThreadPoolExecutor(8) as pool:
        assert all(np.array_equal(image, reference) for image in pool.map(lambda _: decode(make(), LIMITS), range(64)))


def test_preprocessing_needs_neither_bentoml_nor_fastapi_nor_settings() -> None:
    code = "import preprocessing.decode, preprocessing.transform, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"bentoml", "fastapi", "settings", "torch"} & set(loaded)
