"""Content encodings of the bodies of requests and responses: gzip and deflate."""

import zlib

from errors import InvalidInput, TooLarge

WORTH_COMPRESSING = 1024
"""A response of fewer bytes is sent as it is."""
WINDOW_BITS = {"gzip": 31, "deflate": 15}
"""What zlib calls the two encodings that are known here, the preferred one first."""


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """Return the body of a request as it was before its Content-Encoding.

    Raises:
        InvalidInput: the encoding is neither gzip nor deflate, or the body is damaged.
        TooLarge: more than `limit` bytes come out.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in WINDOW_BITS:
        raise InvalidInput(f"Content-Encoding {encoding!r:.40} is not known here; send gzip, deflate or neither.")
    decompressor = zlib.decompressobj(WINDOW_BITS[encoding])
    try:
        data = decompressor.decompress(body, limit + 1)
    except zlib.error as error:
        raise InvalidInput(f"The body is not {encoding} ({error}).") from error
    if len(data) > limit:
        raise TooLarge(f"The body unpacks to more than {limit:,} bytes, the limit here. Send less at a time.")
    if not decompressor.eof or decompressor.unused_data:
        raise InvalidInput(f"The body is not one whole {encoding} stream.")
    return data


def compress(body: bytes, encoding: str) -> bytes:
    """Return the body of a response in an encoding that `accepted_encoding` returned."""
    compressor = zlib.compressobj(1, zlib.DEFLATED, WINDOW_BITS[encoding])
    return compressor.compress(body) + compressor.flush()


def accepted_encoding(accept_encoding: str, size: int) -> str | None:
    """Return the encoding to compress a response of `size` bytes with.

    Returns:
        gzip or deflate, if the client's Accept-Encoding names it with a weight above 0; None if it names neither, or
        the response is too short to gain by it.
    """
    if size < WORTH_COMPRESSING:
        return None
    parts = (part.partition(";") for part in accept_encoding.split(","))
    weights = {encoding.strip().lower(): weight.strip() for encoding, _, weight in parts}
    refused = ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return next((encoding for encoding in WINDOW_BITS if weights.get(encoding, "q=0") not in refused), None)
