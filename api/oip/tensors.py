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
MAX_RANK, MAX_VALUES = 8, 2**40
"""Of a shape; what is really there is counted beside it."""


class Tensor(NamedTuple):
    """One named tensor of a request or an answer."""

    name: str
    datatype: str
    data: Array


class Declared(NamedTuple):
    """What a client says a tensor is, before any of its values is looked at."""

    name: str
    datatype: str
    shape: tuple[int, ...]


def declared(name: str, datatype: object, shape: object) -> Declared:
    """Check a tensor's datatype and shape.

    Raises:
        InvalidInput: an unknown datatype, or no list of whole numbers that are 0 or more and not beyond all measure.
    """
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise InvalidInput(f"{name}: datatype {datatype!r:.80} is not one of {', '.join(DATATYPES)}.")
    sizes = tuple(shape) if isinstance(shape, list) and len(shape) <= MAX_RANK else ()
    if (
        not sizes
        or any(type(size) is not int or not 0 <= size <= MAX_VALUES for size in sizes)
        or math.prod(size or 1 for size in sizes) > MAX_VALUES
    ):
        raise InvalidInput(
            f"{name}: shape must be a list of 1 to {MAX_RANK} whole numbers, 0 or more, not {shape!r:.80}."
        )
    return Declared(name, datatype, sizes)


def from_binary(said: Declared, data: bytes | memoryview) -> Array:
    """A tensor from its bytes; an element of BYTES has its length before it, four bytes.

    Raises:
        InvalidInput: the bytes are not as many as datatype and shape ask for.
    """
    name, datatype, shape = said
    count = math.prod(shape)
    if datatype == BYTES:
        return as_bytes(name, shape, _elements(name, data, count))
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


def from_list(said: Declared, values: object) -> Array:
    """A tensor from JSON, flat or nested as its shape; BYTES are base64 there.

    Raises:
        InvalidInput: another number of values, or a value of another type or out of its range.
    """
    name, datatype, shape = said
    if not isinstance(values, list):
        raise InvalidInput(f"{name}: data must be a list; of a binary tensor, binary_data_size must say its bytes.")
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


def from_field(said: Declared, values: Sequence[Any]) -> Array:
    """A tensor from one of gRPC's typed fields, whose numbers are of a kind already; elements of BYTES as they are.

    Raises:
        InvalidInput: another number of values, or one out of the range of a smaller type.
    """
    name, datatype, shape = said
    if len(values) != math.prod(shape):
        raise InvalidInput(f"{name}: shape {list(shape)} says {math.prod(shape):,} values, {len(values):,} came.")
    if datatype == BYTES:
        return as_bytes(name, shape, list(values))
    try:
        return np.fromiter(values, DTYPES[datatype], len(values)).reshape(shape)
    except OverflowError as error:
        raise InvalidInput(f"{name}: a value is out of the range of {datatype}.") from error


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


def _elements(name: str, data: bytes | memoryview, count: int) -> list[bytes]:
    """The elements of a BYTES tensor; not more of them are taken out than there should be."""
    found, at = list[bytes](), 0
    while at < len(data):
        if len(found) == count:
            raise InvalidInput(f"{name}: {len(data) - at:,} bytes are left over behind the {count:,} elements.")
        end = at + 4
        length = int.from_bytes(data[at:end], "little")
        if end > len(data) or end + length > len(data):
            raise InvalidInput(
                f"{name}: element {len(found)} is cut short. Each BYTES element is its length, four bytes "
                "little-endian, and then its bytes."
            )
        found.append(bytes(data[end : end + length]))
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
        return base64.b64decode(text.encode("ascii").translate(None, b" \t\r\n"), validate=True)
    except ValueError as error:
        raise InvalidInput(f"{name}[{place}] is not base64 ({error}).") from error
