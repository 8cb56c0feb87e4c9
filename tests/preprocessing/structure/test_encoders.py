"""What real encoders write, with all of their options, is far from every limit and decodes as Pillow decodes it."""

import io
import itertools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from preprocessing.decode import check_structure, decode
from preprocessing.spec import ImageLimits, UInt8Image
from tests.conftest import encode
from tests.preprocessing.test_decode import smooth

LIMITS = ImageLimits()
PIXELS = smooth(93, 121)
PICTURE = Image.fromarray(PIXELS)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
EVERY_COEFFICIENT = "0,1,2: 0-0, 0, 0;\n" + "".join(
    f"{component}: {first}-{min(63, first + 1)}, 0, 0;\n" for component in range(3) for first in range(1, 64, 2)
)
"""A script of 97 scans; jpegtran itself takes at most 100."""


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "maker"
    return exif


def by_pillow() -> Iterator[tuple[str, bytes]]:
    for mode, progressive, optimise, subsampling, restart in itertools.product(
        ("L", "RGB", "CMYK"), (False, True), (False, True), (0, 2), (0, 3)
    ):
        options: dict[str, Any] = {"progressive": progressive, "optimize": optimise, "subsampling": subsampling}
        options |= {"restart_marker_blocks": restart} if restart else {}
        yield f"JPEG {mode} {options}", encode(PICTURE.convert(mode), "JPEG", quality=90, **options)
    metadata: dict[str, Any] = {"exif": oriented(6), "xmp": XMP, "icc_profile": PROFILE, "comment": b"text"}
    for kind, (name, value) in itertools.product(("JPEG", "PNG", "WEBP", "TIFF"), metadata.items()):
        yield f"{kind} with {name}", encode(PICTURE, kind, **{name: value})
        yield f"{kind} with all", encode(PICTURE, kind, **metadata)
    for mode, level in itertools.product(("1", "L", "LA", "P", "RGB", "RGBA"), (0, 9)):
        yield f"PNG {mode} {level}", encode(PICTURE.convert(mode), "PNG", compress_level=level)
    for kind, mode in itertools.product(("BMP", "GIF"), ("1", "L", "P", "RGB")):
        yield f"{kind} {mode}", encode(PICTURE.convert(mode), kind)
    for compression, big in itertools.product(
        ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "lzma", "zstd"), (False, True)
    ):
        yield f"TIFF {compression} {big}", encode(PICTURE, "TIFF", compression=compression, big_tiff=big)
    for compression in ("tiff_ccitt", "group3", "group4"):
        yield f"TIFF {compression}", encode(PICTURE.convert("1"), "TIFF", compression=compression)
    for lossless, method in itertools.product((False, True), (0, 4, 6)):
        yield f"WEBP {lossless} {method}", encode(PICTURE.convert("RGBA"), "WEBP", lossless=lossless, method=method)
    yield "WEBP of one frame", encode(PICTURE, "WEBP", save_all=True)
    for interlace in (0, 1):
        yield f"GIF {interlace}", encode(PICTURE.quantize(64), "GIF", interlace=interlace, transparency=3, comment=b"x")


def by_opencv() -> Iterator[tuple[str, bytes]]:
    deep = PIXELS.astype(np.uint16) * 257
    for name, pixels, extension, *options in (
        ("progressive JPEG", PIXELS, ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        ("JPEG with restarts", PIXELS, ".jpg", cv2.IMWRITE_JPEG_RST_INTERVAL, 1),
        ("PNG of run lengths", PIXELS, ".png", cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
        ("PNG of 16 bits", deep[..., 0], ".png"),
        ("TIFF", PIXELS, ".tiff"),
        ("TIFF of 16 bits", deep[..., 0], ".tiff"),
        ("WebP", PIXELS, ".webp", cv2.IMWRITE_WEBP_QUALITY, 101),
        ("BMP", PIXELS, ".bmp"),
    ):
        written, data = cv2.imencode(str(extension), np.asarray(pixels), [int(str(option)) for option in options])
        assert written
        yield f"{name} of OpenCV", data.tobytes()


def by_pillow_as_stored(data: bytes) -> UInt8Image:
    with Image.open(io.BytesIO(data)) as picture:
        upright = ImageOps.exif_transpose(picture)
        if upright.mode.startswith("I"):
            grey = np.round(np.asarray(upright).astype(float) / 257).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        if upright.mode in ("LA", "PA", "RGBA"):
            upright = upright.convert("RGBA")
        return np.asarray(upright.convert("RGB"))


@pytest.mark.parametrize(("name", "data"), [pytest.param(*file, id=file[0]) for file in [*by_pillow(), *by_opencv()]])
def test_every_encoders_file_decodes_as_pillow_decodes_it(name: str, data: bytes) -> None:
    # The versions of libjpeg in Pillow and OpenCV may round differently.
    largest = 1 if data.startswith(b"\xff\xd8") else 0
    assert np.abs(decode(data, LIMITS).astype(int) - by_pillow_as_stored(data).astype(int)).max() <= largest


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_picture_of_many_megapixels_is_far_from_every_limit(kind: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (1500, 2000, 3)).astype(np.uint8)
    data = encode(noise, kind, **({"progressive": True} if kind == "JPEG" else {"lossless": True, "method": 0}))
    assert check_structure(data, LIMITS).width == 2000


COMMANDS = {
    "jpegtran with a scan for every two coefficients": (
        "jpegtran",
        "-scans",
        "{script}",
        "-outfile",
        "{out}",
        "{jpeg}",
    ),
    "jpegtran, arithmetic": ("jpegtran", "-arithmetic", "-outfile", "{out}", "{jpeg}"),
    "jpegtran, progressive and arithmetic": ("jpegtran", "-arithmetic", "-progressive", "-outfile", "{out}", "{jpeg}"),
    "tiffcp, small tiles": ("tiffcp", "-t", "-w", "32", "-l", "32", "-c", "zip", "{tiff}", "{out}"),
    "tiffcp, one tile beyond the picture": ("tiffcp", "-t", "-w", "1024", "-l", "1024", "-c", "lzw", "{tiff}", "{out}"),
    "tiffcp, a strip a row and plane": ("tiffcp", "-p", "separate", "-r", "1", "-c", "zip", "{tiff}", "{out}"),
    "tiffcp, raw small tiles": ("tiffcp", "-t", "-w", "32", "-l", "16", "-c", "none", "{tiff}", "{out}"),
    "tiffcp, a raw strip a row and plane": ("tiffcp", "-p", "separate", "-r", "1", "-c", "none", "{tiff}", "{out}"),
    "tiffcp, big-endian": ("tiffcp", "-B", "{tiff}", "{out}"),
    "cwebp": ("cwebp", "-quiet", "-m", "6", "-segments", "4", "-metadata", "all", "{jpeg}", "-o", "{out}"),
    "cwebp, nearly lossless": ("cwebp", "-quiet", "-near_lossless", "40", "{jpeg}", "-o", "{out}"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_files_of_the_formats_own_tools_decode_as_pillow_decodes_them(name: str, tmp_path: Path) -> None:
    command = COMMANDS[name]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    paths = {
        "script": tmp_path / "script",
        "out": tmp_path / "out",
        "jpeg": tmp_path / "jpeg",
        "tiff": tmp_path / "tiff",
    }
    paths["script"].write_text(EVERY_COEFFICIENT)
    paths["jpeg"].write_bytes(encode(PICTURE, "JPEG", quality=90, exif=oriented(6)))
    paths["tiff"].write_bytes(encode(PICTURE, "TIFF"))
    subprocess.run([part.format(**paths) for part in command], check=True, capture_output=True)
    data = paths["out"].read_bytes()
    largest = 1 if data.startswith(b"\xff\xd8") else 0
    assert np.abs(decode(data, LIMITS).astype(int) - by_pillow_as_stored(data).astype(int)).max() <= largest
