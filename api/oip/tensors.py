"""Tensors of the Open Inference Protocol, and their three forms: little-endian bytes, JSON lists, NumPy arrays."""

import base64
import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from errors import InvalidInput

Array = npt.NDArray[Any]
"""Of the datatype's own dtype; for BYTES of objects, each `bytes`."""

BYTES = "BYTES"
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
}
DATATYPES = (*DTYPES, BYTES)
MAX_RANK = 8


class Tensor(NamedTuple):
    """One named tensor of a request or an answer."""

    name: str
    datatype: str
    data: Array


def check_shape(name: str, datatype: object, shape: object) -> tuple[int, ...]:
    """The shape that a client gave.

    Raises:
        InvalidInput: an unknown datatype, or no list of whole numbers ≥ 0.
    """
    if datatype not in DATATYPES:
        raise InvalidInput(f"{name}: datatype {datatype!r} is not one of {', '.join(DATATYPES)}.")
    sizes = tuple(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else ()
    if not sizes or len(sizes) > MAX_RANK or any(type(size) is not int or size < 0 for size in sizes):
        raise InvalidInput(f"{name}: shape must be a list of 1 to {MAX_RANK} whole numbers, 0 or more, not {shape!r}.")
    return sizes


def from_binary(name: str, datatype: str, shape: tuple[int, ...], data: bytes) -> Array:
    """A tensor from its bytes; an element of BYTES has its length before it, four bytes.

    Raises:
        InvalidInput: the bytes are not as many as datatype and shape ask for.
    """
    count = math.prod(shape)
    if datatype == BYTES:
        return as_bytes(name, shape, _elements(name, data))
    dtype = DTYPES[datatype]
    if len(data) != count * dtype.itemsize:
        wanted = f"{datatype} of shape {list(shape)} is {count * dtype.itemsize:,} bytes"
        raise InvalidInput(f"{name}: {wanted}, but {len(data):,} were sent.")
    return np.frombuffer(data, dtype).reshape(shape)


def as_bytes(name: str, shape: tuple[int, ...], elements: Sequence[bytes]) -> Array:
    """A tensor of BYTES from its elements, in order.

    Raises:
        InvalidInput: the elements are not as many as the shape says.
    """
    if len(elements) != math.prod(shape):
        raise InvalidInput(f"{name}: shape {list(shape)} says {math.prod(shape):,} elements, {len(elements):,} came.")
    array = np.empty(len(elements), object)
    array[:] = elements
    return array.reshape(shape)


def from_list(name: str, datatype: str, shape: tuple[int, ...], values: object) -> Array:
    """A tensor from JSON, flat or nested as its shape; BYTES are base64 there.

    Args:
        name: of the tensor, for messages.
        datatype: one of `DATATYPES`.
        shape: as `check_shape` gave it.
        values: what JSON held.

    Raises:
        InvalidInput: another number of values, or a value of another type or out of its range.
    """
    if not isinstance(values, list):
        raise InvalidInput(f"{name}: data must be a list; beside binary data the request needs the header {HEADER}.")
    flat = _flat(name, shape, values)
    if len(flat) != math.prod(shape):
        raise InvalidInput(f"{name}: shape {list(shape)} says {math.prod(shape):,} values, data has {len(flat):,}.")
    numbers: set[type] = {int, float} if datatype.startswith("FP") else {int}
    others: dict[str, set[type]] = {"BOOL": {bool}, BYTES: {str}}
    allowed = others.get(datatype, numbers)
    if wrong := set(map(type, flat)) - allowed:
        named = ", ".join(sorted(each.__name__ for each in wrong))
        raise InvalidInput(f"{name}: {datatype} does not hold values of type {named}.")
    if datatype == BYTES:
        return as_bytes(name, shape, [_unbase64(name, place, each) for place, each in enumerate(flat)])
    try:
        with np.errstate(over="ignore"):  # what is no longer finite is refused with the value's own name, later
            return np.array(flat, DTYPES[datatype]).reshape(shape)
    except OverflowError as error:
        raise InvalidInput(f"{name}: a value is out of the range of {datatype}.") from error


HEADER = "Inference-Header-Content-Length"


def to_binary(tensor: Tensor) -> bytes:
    """A tensor's bytes; see `from_binary`."""
    if tensor.datatype == BYTES:
        return b"".join(struct.pack("<I", len(each)) + each for each in tensor.data.flat)
    return tensor.data.astype(DTYPES[tensor.datatype], copy=False).tobytes()


def to_list(tensor: Tensor) -> list[Any]:
    """A tensor's values for JSON, flat."""
    if tensor.datatype == BYTES:
        return [each.decode("utf-8", "replace") for each in tensor.data.flat]
    flat: list[Any] = tensor.data.ravel().tolist()
    return flat


def texts(name: str, values: Sequence[str]) -> Tensor:
    """A tensor of BYTES, shape (N,), from texts."""
    return Tensor(name, BYTES, as_bytes(name, (len(values),), [value.encode() for value in values]))


def _elements(name: str, data: bytes) -> list[bytes]:
    found, at = list[bytes](), 0
    while at < len(data):
        end = at + 4
        length = int.from_bytes(data[at:end], "little")
        if end > len(data) or end + length > len(data):
            raise InvalidInput(
                f"{name}: element {len(found)} is cut short. Each BYTES element is its length, four bytes "
                "little-endian, and then its bytes."
            )
        found.append(data[end : end + length])
        at = end + length
    return found


def _flat(name: str, shape: tuple[int, ...], values: list[Any]) -> list[Any]:
    """The values in order; nested lists have to be nested as the shape says."""
    if not values or not isinstance(values[0], list):
        return values
    level: list[Any] = [values]
    for size in shape:
        if any(not isinstance(each, list) or len(each) != size for each in level):
            raise InvalidInput(f"{name}: data is nested otherwise than shape {list(shape)} says; it may also be flat.")
        level = [value for each in level for value in each]
    return level


def _unbase64(name: str, place: int, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise InvalidInput(f"{name}[{place}] is not base64 ({error}).") from error
