"""Pictures made to cost far more than they are worth, of any size: small ones for tests, full ones for `make fuzz`."""

import struct
import zlib

import numpy as np

from loadtests.fuzz.files import as_png, as_progressive_jpeg, encode, png_chunk

_LONGEST_RUN = 2**15 - 1


def jpeg_of_scans(width: int, height: int, scans: int) -> bytes:
    """Return a grey progressive JPEG whose smallest refining scan, some 100 bytes over all pixels, is repeated."""
    plain = as_progressive_jpeg(np.zeros((height, width), np.uint8))
    blocks = -(-width // 8) * -(-height // 8)
    # The one code, 0, ends the band in this block and in 2 ** 14 + (the next 14 bits) blocks after it.
    table = b"\xff\xc4" + struct.pack(">HB16BB", 20, 0x10, 1, *[0] * 15, 0xE0)
    header = b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, plain[plain.index(b"\xff\xc2") + 10], 0, 1, 63, 0x10)
    bits = ("0" + "1" * 14) * -(-blocks // _LONGEST_RUN)
    bits += "1" * (-len(bits) % 8)
    coded = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    return plain[:-2] + (table + header + coded) * scans + b"\xff\xd9"


def jpeg_of_hidden_scans(width: int, height: int, scans: int, marker: int = 0x02) -> bytes:
    """Return a JPEG whose refining scans lie in what looks like one segment, of a marker that no decoder knows.

    The segment comes where a restart is due, so that libjpeg drops its marker alone and reads the scans.
    """
    shown = jpeg_of_scans(width, height, 1)
    hidden = jpeg_of_scans(width, height, scans)[len(jpeg_of_scans(width, height, 0)) - 2 : -2]
    every, never = (b"\xff\xdd" + struct.pack(">HH", 4, blocks) for blocks in (1, 0))
    place = shown.index(b"\xff\xda")
    first_scan = shown[place : place + 2 + int.from_bytes(shown[place + 2 : place + 4], "big")]
    segment = bytes([0xFF, marker]) + struct.pack(">H", 2 + len(never + hidden)) + never + hidden
    return shown[:place] + every + first_scan + b"\x00" + segment + b"\xff\xd9"


def jpeg_of_segments(segments: int) -> bytes:
    """Return a small JPEG with so many empty comments."""
    plain = as_progressive_jpeg(np.zeros((16, 16), np.uint8))
    return plain[:2] + b"\xff\xfe\x00\x02" * segments + plain[2:]


def png_of_texts(texts: int) -> bytes:
    """Return a small PNG with so many empty text chunks."""
    plain = as_png(np.zeros((16, 16), np.uint8))
    return plain[:33] + png_chunk(b"tEXt", b"") * texts + plain[33:]


def png_of_profile(inflated: int) -> bytes:
    """Return a small PNG with a colour profile that inflates to so many bytes."""
    plain = as_png(np.zeros((16, 16), np.uint8))
    return plain[:33] + png_chunk(b"iCCP", b"name\x00\x00" + zlib.compress(bytes(inflated))) + plain[33:]


def png_of_two_headers(width: int, height: int) -> bytes:
    """Return a grey PNG with a second header behind its pixels, of 16 x 16 pixels."""
    plain, small = as_png(np.zeros((height, width), np.uint8)), as_png(np.zeros((16, 16), np.uint8))
    return plain[:-12] + small[8:33] + plain[-12:]


def webp_of_late_header(width: int, height: int) -> bytes:
    """Return a WebP with an extended header behind its pixels, of 16 x 16 pixels."""
    chunks = encode(np.zeros((height, width, 3), np.uint8), "WEBP")[12:]
    chunks += b"VP8X" + struct.pack("<II", 10, 0) + 2 * (15).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def gif_of_comments(blocks: int) -> bytes:
    """Return a GIF of 8 x 8 pixels with a comment of so many blocks of one byte."""
    header = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0x80, 0, 0) + b"\x00\x00\x00\xff\xff\xff"
    # 64 pixels of colour 0 in codes of 3 bits: a clear code after every two keeps the codes that short.
    codes = "".join(f"{code:03b}"[::-1] for code in [4, *[0, 0, 4] * 32, 5])
    codes += "0" * (-len(codes) % 8)
    pixels = bytes(int(codes[place : place + 8][::-1], 2) for place in range(0, len(codes), 8))
    image = b"," + struct.pack("<HHHHB", 0, 0, 8, 8, 0) + b"\x02" + bytes([len(pixels)]) + pixels + b"\x00"
    return header + b"!\xfe" + b"\x01x" * blocks + b"\x00" + image + b";"


def bmp_of_runs(width: int, height: int, runs: int, run: bytes = b"\x01\x05") -> bytes:
    """Return a run-length coded BMP of so many runs, of one pixel each by default."""
    palette = b"".join(bytes([level, level, 255 - level, 0]) for level in range(256))
    place = 54 + len(palette)
    header = b"BM" + struct.pack("<IHHI", place + len(run) * runs, 0, 0, place)
    header += struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(run) * runs, 0, 0, 256, 0)
    return header + palette + run * runs


def slow_bmp() -> bytes:
    """Return a run-length coded BMP of 49 megapixels for which Pillow, which reads runs in Python, needs 10 s or so.

    Its first row has 15 million runs, nearly all without room; the others end after one pixel and are filled up.
    """
    side, run = 7000, b"\x01\x05"
    return bmp_of_runs(side, side, 1, run * 15_000_000 + (run + b"\x00\x00") * (side + 1))


def bmp_of_ended_rows(width: int, height: int) -> bytes:
    """Return a run-length coded BMP that ends each row after one pixel; what is left of it is filled up."""
    return bmp_of_runs(width, height, height, b"\x01\x05\x00\x00")


def tiff_of_tile(width: int, height: int, tile: int) -> bytes:
    """Return a small TIFF of one deflated grey tile, of `tile` x `tile` pixels."""
    packer, rows = zlib.compressobj(9), bytes(tile)
    pixels = b"".join(packer.compress(rows) for _ in range(tile)) + packer.flush()
    tags = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile, 323: tile, 324: 8, 325: len(pixels)}
    return _tiff(pixels, tags)


def tiff_of_values(side: int, tag: int, values: int, kind: int = 4, **others: int) -> bytes:
    """Return a raw grey TIFF, side x side, whose strips have a row and one of whose tags has so many values of 8.

    Args:
        side: in pixels.
        tag: the tag, which takes the place of an ordinary one.
        values: how many.
        kind: their type, of 1, 2 or 4 bytes, as TIFF numbers them.
        others: tags by their number behind a `tag_`, with their value.
    """
    tags = {256: side, 257: side, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: side, 279: side * side}
    tags |= {int(name.removeprefix("tag_")): value for name, value in others.items()}
    size = {1: 1, 2: 1, 3: 2, 4: 4, 6: 1, 7: 1, 8: 2, 9: 4}[kind]
    content = (8).to_bytes(size, "little") * values
    content += bytes(-len(content) % 4)
    inline = int.from_bytes(content, "little") if len(content) == 4 else 8
    pixels = content + bytes(side * side)
    return _tiff(pixels, tags | {tag: inline}, altered=(tag, kind, values))


def tiff_of_directories(directories: int) -> bytes:
    """Return a TIFF whose one picture follows itself in so many directories."""
    tags = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: 64}
    return _tiff(bytes(64), tags, directories)


def _tiff(
    pixels: bytes, tags: dict[int, int], directories: int = 1, altered: tuple[int, int, int] = (0, 4, 1)
) -> bytes:
    """Return a TIFF; `altered` is a tag with its type and number of values, where they are not one LONG."""
    kinds = {tag: altered[1:] if tag == altered[0] else (4, 1) for tag in tags}
    entries = b"".join(struct.pack("<HHII", tag, *kinds[tag], value) for tag, value in sorted(tags.items()))
    size, first = 6 + len(entries), 8 + len(pixels) + len(pixels) % 2
    places = [first + size * number for number in range(1, directories)] + [0]
    chain = b"".join(struct.pack("<H", len(tags)) + entries + struct.pack("<I", place) for place in places)
    return b"II*\x00" + struct.pack("<I", first) + pixels + bytes(len(pixels) % 2) + chain
