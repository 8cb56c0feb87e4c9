"""Tensors of the Open Inference Protocol in their three forms: little-endian bytes, JSON lists, NumPy arrays."""

import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from api.json_values import decode_base64
from errors import InvalidInput

Array = npt.NDArray[Any]
"""An array of the datatype's own dtype; for BYTES an array of objects, each of type `bytes`."""

BYTES = "BYTES"
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
}
DATATYPES = (*DTYPES, BYTES)
MAX_RANK, MAX_VALUES = 8, 2**40
"""The limits of a shape; the values that really come with it are counted as well."""
LENGTH_BYTES = 4
"""The length before each element of a BYTES tensor is an unsigned little-endian integer of this many bytes."""


class Tensor(NamedTuple):
    """One named tensor of a request or a response."""

    name: str
    datatype: str
    data: Array


class TensorHeader(NamedTuple):
    """A tensor as a client declares it, before any of its values is looked at."""

    name: str
    datatype: str
    shape: tuple[int, ...]


def read_header(name: str, datatype: object, shape: object) -> TensorHeader:
    """Return a tensor's header if its datatype is known and its shape is possible.

    Raises:
        InvalidInput: the datatype is unknown, or the shape is not a list of whole numbers from 0 on whose product
            stays within `MAX_VALUES`.
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
    return TensorHeader(name, datatype, sizes)


def from_binary(header: TensorHeader, data: bytes | memoryview) -> Array:
    """Return the array that bytes hold; in a BYTES tensor each element follows its length.

    Raises:
        InvalidInput: the number of bytes does not fit the datatype and the shape.
    """
    name, datatype, shape = header
    count = math.prod(shape)
    if datatype == BYTES:
        return bytes_array(name, shape, _split_elements(name, data, count))
    dtype = DTYPES[datatype]
    if len(data) != count * dtype.itemsize:
        expected = f"{datatype} of shape {list(shape)} is {count * dtype.itemsize:,} bytes"
        raise InvalidInput(f"{name}: {expected}, but {len(data):,} were sent.")
    return np.frombuffer(data, dtype).reshape(shape)


def bytes_array(name: str, shape: tuple[int, ...], elements: Sequence[bytes]) -> Array:
    """Return the array of a BYTES tensor, given its elements in order.

    Raises:
        InvalidInput: the number of elements does not fit the shape.
    """
    _check_count(name, shape, len(elements), "elements")
    array = np.empty(len(elements), object)
    array[:] = elements
    return array.reshape(shape)


def from_list(header: TensorHeader, values: object) -> Array:
    """Return the array that JSON holds as a list, flat or nested as the shape says; BYTES are base64 there.

    Raises:
        InvalidInput: the number of values does not fit the shape, or a value has another type or is out of range.
    """
    name, datatype, shape = header
    if not isinstance(values, list):
        raise InvalidInput(
            f"{name}: data must be a list; for a binary tensor, binary_data_size must give its size in bytes."
        )
    flat = _flatten(name, shape, values)
    if len(flat) != math.prod(shape):
        raise InvalidInput(f"{name}: shape {list(shape)} says {math.prod(shape):,} values, data has {len(flat):,}.")
    if wrong := set(map(type, flat)) - _json_types(datatype):
        names = ", ".join(sorted(kind.__name__ for kind in wrong))
        raise InvalidInput(f"{name}: {datatype} does not hold values of type {names}.")
    if datatype == BYTES:
        return bytes_array(name, shape, [decode_base64(text, f"{name}[{index}]") for index, text in enumerate(flat)])
    try:
        with np.errstate(over="ignore"):  # a value that became infinite is refused later, by its own name
            return np.array(flat, DTYPES[datatype]).reshape(shape)
    except OverflowError as error:
        raise InvalidInput(f"{name}: a value is out of the range of {datatype}.") from error


def from_field(header: TensorHeader, values: Sequence[Any]) -> Array:
    """Return the array that one of gRPC's typed fields holds; there the elements of BYTES need no lengths.

    Raises:
        InvalidInput: the number of values does not fit the shape, or one is out of the range of a smaller type.
    """
    name, datatype, shape = header
    _check_count(name, shape, len(values), "values")
    if datatype == BYTES:
        return bytes_array(name, shape, list(values))
    try:
        return np.fromiter(values, DTYPES[datatype], len(values)).reshape(shape)
    except OverflowError as error:
        raise InvalidInput(f"{name}: a value is out of the range of {datatype}.") from error


def to_binary(tensor: Tensor) -> bytes:
    """Return the bytes that `from_binary` reads."""
    if tensor.datatype == BYTES:
        return b"".join(struct.pack("<I", len(element)) + element for element in tensor.data.flat)
    return tensor.data.astype(DTYPES[tensor.datatype], copy=False).tobytes()


def to_list(tensor: Tensor) -> list[Any]:
    """Return the values as a flat list for JSON; BYTES are read as UTF-8."""
    if tensor.datatype == BYTES:
        return [element.decode("utf-8", "replace") for element in tensor.data.flat]
    flat: list[Any] = tensor.data.ravel().tolist()
    return flat


def text_tensor(name: str, texts: Sequence[str]) -> Tensor:
    """Return a BYTES tensor of shape (N,) with one text an element."""
    return Tensor(name, BYTES, bytes_array(name, (len(texts),), [text.encode() for text in texts]))


def _check_count(name: str, shape: tuple[int, ...], count: int, noun: str) -> None:
    if count != math.prod(shape):
        raise InvalidInput(f"{name}: shape {list(shape)} says {math.prod(shape):,} {noun}, {count:,} came.")


def _split_elements(name: str, data: bytes | memoryview, count: int) -> list[bytes]:
    """Return the elements of a BYTES tensor; bytes behind the last of `count` elements are refused unread."""
    elements, offset = list[bytes](), 0
    while offset < len(data):
        if len(elements) == count:
            raise InvalidInput(f"{name}: {len(data) - offset:,} bytes are left over behind the {count:,} elements.")
        start = offset + LENGTH_BYTES
        end = start + int.from_bytes(data[offset:start], "little")
        if start > len(data) or end > len(data):
            raise InvalidInput(
                f"{name}: element {len(elements)} is cut short. Each BYTES element is its length, four bytes "
                "little-endian, and then its bytes."
            )
        elements.append(bytes(data[start:end]))
        offset = end
    return elements


def _flatten(name: str, shape: tuple[int, ...], values: list[Any]) -> list[Any]:
    """Return the values in order; nested lists have to be nested as the shape says."""
    if not values or not isinstance(values[0], list):
        return values
    level: list[Any] = [values]
    for size in shape:
        if any(not isinstance(entry, list) or len(entry) != size for entry in level):
            raise InvalidInput(f"{name}: data is not nested as shape {list(shape)} says; it may also be flat.")
        level = [value for entry in level for value in entry]
    return level


def _json_types(datatype: str) -> set[type]:
    """Return the Python types of the JSON values that a datatype takes."""
    if datatype.startswith("FP"):
        return {int, float}
    special: dict[str, set[type]] = {"BOOL": {bool}, BYTES: {str}}
    return special.get(datatype, {int})
