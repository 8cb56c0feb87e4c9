"""Which other files an ONNX graph keeps its weights in, read without the `onnx` package, which serving does without.

Follows the wire format of protocol buffers (https://protobuf.dev/programming-guides/encoding) through the few messages
of onnx.proto in which a tensor can stand.
"""

from collections.abc import Iterator
from pathlib import Path

_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
"""By message: the fields to follow, and what they hold."""
_KEY, _VALUE = 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def external_files(graph: Path) -> list[str]:
    """The `location` of every tensor's external data, as the graph has it, sorted; empty where all weights are inside.

    What is no protocol buffer has none; whoever loads it says what is wrong with it.
    """
    try:
        return sorted(set(_locations(memoryview(graph.read_bytes()), "model")))
    except (IndexError, ValueError):
        return []


def _locations(message: memoryview, kind: str) -> Iterator[str]:
    for number, value in _fields(message):
        holds = _INSIDE[kind].get(number)
        if holds == "entry":
            entry = {key: bytes(text) for key, text in _fields(value)}
            if entry.get(_KEY) == b"location":
                yield entry.get(_VALUE, b"").decode("utf-8", "backslashreplace")
        elif holds is not None:
            yield from _locations(value, holds)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of the fields that have a length; numbers are passed over.

    Raises:
        IndexError: the message ends within a field.
        ValueError: a wire type that protocol buffers do not have.
    """
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == _BYTES:
            length, at = _varint(message, at)
            if at + length > len(message):
                raise IndexError("the message ends within a field")
            yield number, message[at : at + length]
            at += length
        elif wire == _VARINT:
            _, at = _varint(message, at)
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire}")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
