"""Pictures that were found to stop a server, in small versions: each is refused by what it is made of."""

import io
import sys
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from errors import InvalidImage, TooLarge
from loadtests.fuzz import hostile
from loadtests.fuzz.files import as_png, png_chunk
from preprocessing.decode import check_structure, decode
from preprocessing.prepare import is_slow
from preprocessing.spec import ImageLimits
from tests.conftest import encode

LIMITS = ImageLimits()
GREY = np.full((16, 16), 90, np.uint8)


@pytest.mark.parametrize(
    ("data", "limit"),
    [
        pytest.param(hostile.jpeg_of_scans(64, 48, 100), "100 scans", id="a JPEG of 101 scans"),
        pytest.param(hostile.jpeg_of_segments(1_000), "1,000 segments", id="a JPEG of 1,000 comments"),
        pytest.param(hostile.png_of_texts(1_100), "1,000 chunks", id="a PNG of 1,100 empty texts"),
        pytest.param(hostile.gif_of_comments(1_100), "1,0\\d\\d blocks", id="a GIF of 1,100 blocks of one byte"),
    ],
)
def test_what_no_program_writes_is_refused_with_the_limit_and_what_to_do(data: bytes, limit: str) -> None:
    with pytest.raises(InvalidImage, match=limit) as caught:
        decode(data, LIMITS)
    assert "Save the picture again" in str(caught.value)


@pytest.mark.parametrize("marker", [0x02, 0xBF, 0xC0, 0xC8, 0xF0])
def test_scans_of_a_jpeg_cannot_hide_in_a_segment_that_no_decoder_knows(marker: int) -> None:
    with pytest.raises(InvalidImage, match=f"marker 0x{marker:02x} comes after a scan"):
        decode(hostile.jpeg_of_hidden_scans(400, 400, 300, marker), LIMITS)


def test_a_webp_has_its_size_from_its_first_chunk_alone() -> None:
    with pytest.raises(InvalidImage, match="extended header is not its first chunk"):
        decode(hostile.webp_of_late_header(400, 300), LIMITS)


def test_a_png_has_one_header_which_is_its_first_chunk() -> None:
    data = hostile.png_of_two_headers(400, 300)
    with pytest.raises(InvalidImage, match="its header is not its first chunk alone"):
        decode(data, LIMITS)
    with pytest.raises(InvalidImage, match="its header is not its first chunk alone"):
        decode(data[:8] + png_chunk(b"tEXt", b"") + data[8:], LIMITS)


def test_no_pixel_is_decoded_where_the_decoder_has_another_size_than_the_one_that_was_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for kind in ("PNG", "JPEG"):
        data = encode(np.zeros((300, 400, 3), np.uint8), kind)
        other = check_structure(data, LIMITS)._replace(width=16, height=16)
        monkeypatch.setattr("preprocessing.decode.read_structure", lambda _, other=other: other)
        with pytest.raises(InvalidImage, match="it says 16 x 16 pixels, and its decoder 400 x 300"):
            decode(data, LIMITS)
        monkeypatch.undo()


def test_a_small_tiff_with_one_tile_of_thousands_of_pixels_is_refused_as_what_its_tile_is() -> None:
    with pytest.raises(TooLarge, match="4,096 x 4,096 pixels, 16,777,216 in all, for a picture of 100 x 100"):
        decode(hostile.tiff_of_tile(100, 100, 4096), LIMITS)


@pytest.mark.parametrize("tag", [256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 322, 323, 324, 325, 338, 339])
@pytest.mark.parametrize("kind", [2, 6, 7, 8, 9])
def test_a_layout_tag_of_a_tiff_that_is_no_whole_number_without_a_sign_is_refused(tag: int, kind: int) -> None:
    with pytest.raises(InvalidImage, match=f"tag {tag} holds no whole numbers without a sign"):
        decode(hostile.tiff_of_values(16, tag, 1, kind), LIMITS)


@pytest.mark.parametrize(
    ("tag", "values", "others"),
    [(273, 17 + 1, {}), (279, 17 + 1, {}), (324, 4 + 17, {"tag_322": 8, "tag_323": 8}), (273, 4 + 17, {"tag_278": 4})],
)
def test_a_tiff_that_lists_more_strips_or_tiles_than_it_has_is_refused(
    tag: int, values: int, others: dict[str, int]
) -> None:
    with pytest.raises(InvalidImage, match=f"tag {tag} lists {values} strips or tiles"):
        decode(hostile.tiff_of_values(16, tag, values, **others), LIMITS)


def test_a_raw_tiff_of_tens_of_thousands_of_tiles_is_slow_and_more_are_refused() -> None:
    assert is_slow(hostile.tiff_of_values(500, 324, 62_500, tag_322=2, tag_323=2), LIMITS)
    with pytest.raises(InvalidImage, match="more than 65,536 values of tag 324"):
        decode(hostile.tiff_of_values(500, 324, 250_000, tag_322=1, tag_323=1), LIMITS)


@pytest.mark.parametrize(("tag", "most"), [(258, 64), (339, 64), (338, 64), (532, 64), (320, 250_000), (347, 65_536)])
def test_a_tag_of_a_tiff_with_more_values_than_any_program_writes_is_refused(tag: int, most: int) -> None:
    with pytest.raises(InvalidImage, match=f"more than {most:,} values of tag {tag}"):
        decode(hostile.tiff_of_values(16, tag, most + 1, 3), LIMITS)


def test_a_tiff_whose_strips_read_the_file_many_times_over_is_refused() -> None:
    data = bytearray(encode(Image.fromarray(GREY), "TIFF"))
    strip_bytes = data.index((279).to_bytes(2, "little") + (4).to_bytes(2, "little"))
    data[strip_bytes + 8 : strip_bytes + 12] = (10**6).to_bytes(4, "little")
    with pytest.raises(TooLarge, match="together 1,000,000"):
        decode(bytes(data), LIMITS)


def test_a_tiff_of_a_million_directories_is_not_counted_to_its_end() -> None:
    with pytest.raises(InvalidImage, match="holds 100 pictures"):
        decode(hostile.tiff_of_directories(200), LIMITS)


@pytest.mark.parametrize(
    "make",
    [
        lambda size: hostile.jpeg_of_scans(4000, 4000, size // 100),
        lambda size: hostile.jpeg_of_segments(size // 4),
        lambda size: hostile.png_of_texts(size // 12),
        lambda size: hostile.gif_of_comments(size // 2),
        lambda size: hostile.tiff_of_directories(size // 114),
    ],
    ids=["scans", "segments", "chunks", "blocks", "directories"],
)
def test_no_file_takes_more_than_a_step_for_ten_of_its_bytes(make: Callable[[int], bytes]) -> None:
    """Lines of Python are counted, not seconds."""
    data = make(2_000_000)
    assert _steps_to_refuse(data) < len(data) // 10


def _steps_to_refuse(data: bytes) -> int:
    steps = 0

    def count(frame: object, event: str, argument: object) -> object:
        nonlocal steps
        steps += event == "line"
        return count

    sys.settrace(count)  # type: ignore[arg-type]
    try:
        with pytest.raises(InvalidImage):
            check_structure(data, LIMITS)
    finally:
        sys.settrace(None)
    return steps


def test_a_progressive_jpeg_of_few_scans_over_many_pixels_is_slow_and_an_ordinary_one_is_not() -> None:
    assert is_slow(hostile.jpeg_of_scans(4000, 4000, 80), LIMITS)
    assert not is_slow(hostile.jpeg_of_scans(400, 400, 80), LIMITS)
    assert not is_slow(encode(Image.new("RGB", (4000, 3000)), "JPEG"), LIMITS)


def test_a_bmp_of_millions_of_runs_is_slow_and_an_ordinary_one_is_not() -> None:
    assert is_slow(hostile.bmp_of_runs(2000, 2000, 2_000_000), LIMITS)
    assert not is_slow(encode(Image.new("RGB", (1500, 1500)), "BMP"), LIMITS)


def test_a_small_bmp_whose_rows_all_end_early_is_slow() -> None:
    """Found by `make fuzz`: Python fills the rows up, pixel by pixel."""
    data = hostile.bmp_of_ended_rows(400_000, 40)
    assert len(data) < 2_000 and is_slow(data, LIMITS)
    assert np.array_equal(decode(hostile.bmp_of_ended_rows(9, 8), LIMITS)[0, :3, 0], [250, 255, 255])


def test_what_is_refused_anyway_is_not_slow() -> None:
    assert not is_slow(b"text", LIMITS) and not is_slow(hostile.jpeg_of_scans(4000, 4000, 200), LIMITS)


def test_a_colour_profile_and_texts_are_never_inflated() -> None:
    bomb = zlib.compress(bytes(20_000_000))
    chunks = [b"iCCP", b"name\0\0" + bomb], [b"zTXt", b"key\0\0" + bomb], [b"iTXt", b"key\0\1\0\0\0" + bomb]
    plain = as_png(GREY)
    data = plain[:33] + b"".join(png_chunk(*chunk) for chunk in chunks) + plain[33:]
    tracemalloc.start()
    try:
        assert np.array_equal(decode(data, LIMITS)[..., 0], GREY)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_what_a_decoder_gets_of_a_file_is_its_pixels_alone() -> None:
    exif = Image.Exif()
    exif[0x010F] = "a secret maker"
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        data = encode(Image.fromarray(GREY), kind, exif=exif)
        assert b"a secret maker" in data
        kept = check_structure(data, LIMITS).essential
        # A TIFF keeps its bytes, but no directory leads to them.
        assert b"a secret maker" not in kept or kind == "TIFF"
        if kind == "TIFF":
            with Image.open(io.BytesIO(kept)) as picture:
                assert 0x010F not in picture.getexif()


def test_the_pixels_of_a_frame_count_even_where_the_screen_is_small() -> None:
    data = bytearray(hostile.gif_of_comments(1))
    frame = data.index(b",\x00\x00\x00\x00")
    data[frame + 5 : frame + 9] = (9000).to_bytes(2, "little") * 2
    with pytest.raises(TooLarge, match="9,000 x 9,000"):
        decode(bytes(data), LIMITS)
