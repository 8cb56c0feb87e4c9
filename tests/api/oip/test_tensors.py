"""The three forms of a tensor, against the bytes that Triton's own client writes and reads."""

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from tritonclient.utils import deserialize_bytes_tensor, np_to_triton_dtype, serialize_byte_tensor

from api.oip.tensors import DTYPES, Tensor, bytes_array, from_binary, from_list, read_header, to_binary, to_list
from errors import InvalidInput


def array_of(datatype: str) -> st.SearchStrategy[tuple[str, Any]]:
    """Return a strategy for a datatype with an array of it, without NaN, which equals nothing."""
    elements = {"allow_nan": False} if datatype.startswith("FP") else None
    shapes = array_shapes(max_dims=4, max_side=4)
    return st.tuples(st.just(datatype), arrays(DTYPES[datatype], shapes, elements=elements))


@given(st.sampled_from(sorted(DTYPES)).flatmap(array_of))
def test_numbers_survive_both_forms(case: tuple[str, Any]) -> None:
    datatype, array = case
    assert np_to_triton_dtype(array.dtype) == datatype
    tensor = Tensor("x", datatype, array)
    assert to_binary(tensor) == array.tobytes()  # this machine is little-endian, as the protocol
    np.testing.assert_array_equal(from_binary(read_header("x", datatype, list(array.shape)), to_binary(tensor)), array)
    np.testing.assert_array_equal(from_list(read_header("x", datatype, list(array.shape)), to_list(tensor)), array)
    np.testing.assert_array_equal(from_list(read_header("x", datatype, list(array.shape)), array.tolist()), array)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=9))
def test_bytes_are_as_tritons_client_writes_and_reads_them(elements: list[bytes]) -> None:
    encoded = serialize_byte_tensor(np.array([*elements, None], object)[:-1]).item()
    decoded = from_binary(read_header("x", "BYTES", [len(elements)]), encoded)
    assert list(decoded) == elements
    assert list(deserialize_bytes_tensor(to_binary(Tensor("x", "BYTES", decoded)))) == elements


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x05\0\0\0abcd", "element 0 is cut short"),
        (b"\x01\0\0\0a\xff\xff\xff\xff", "element 1 is cut short"),
        (b"\x01\0\0\0a\x01", "element 1 is cut short"),
        (b"\x01\0\0\0a" * 3, "5 bytes are left over behind the 2 elements"),
        (b"", "says 2 elements, 0 came"),
    ],
)
def test_bytes_that_do_not_add_up_are_refused(data: bytes, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        from_binary(read_header("x", "BYTES", [2]), data)


def test_a_shape_is_never_believed() -> None:
    with pytest.raises(InvalidInput, match="4,000,000,000,000 bytes, but 8 were sent"):
        from_binary(read_header("x", "FP32", [10**12]), struct.pack("<ff", 1, 2))
    with pytest.raises(InvalidInput, match="elements, 1 came"):
        bytes_array("x", (10**12,), [b"a"])
    with pytest.raises(InvalidInput, match="left over behind the 1 elements"):
        from_binary(read_header("x", "BYTES", [1]), bytes(30_000_000))


@pytest.mark.parametrize(
    "shape", [None, [], [-1], [1.5], ["2"], [True], "12", [1] * 9, [10**4299] * 2, [0, 2**62, 2**62], [2**21, 2**20]]
)
def test_an_impossible_shape_is_refused(shape: object) -> None:
    with pytest.raises(InvalidInput, match="shape must be a list of 1 to 8 whole numbers"):
        read_header("x", "FP32", shape)


@pytest.mark.parametrize(
    ("datatype", "values", "problem"),
    [
        ("FP32", ["1", "2"], "values of type str"),
        ("FP32", [True, 1.0], "values of type bool"),
        ("FP32", [None, 1.0], "values of type NoneType"),
        ("INT32", [1.0, 2], "values of type float"),
        ("INT8", [1, 300], "out of the range of INT8"),
        ("UINT8", [-1, 3], "out of the range of UINT8"),
        ("FP64", [10**400, 1], "out of the range of FP64"),
        ("BOOL", [1, 0], "values of type int"),
        ("BYTES", ["YQ==", "?"], r"x\[1\] is not base64"),
        ("FP32", [1.0], "says 2 values, data has 1"),
        ("FP32", [[1.0], [2.0]], "values of type list"),
        ("FP32", [[1.0, [2.0]]], "not nested as"),
        ("FP32", [1.0, [2.0]], "values of type list"),
        ("FP32", {"a": 1}, "data must be a list"),
        ("FP32", None, "data must be a list"),
    ],
)
def test_json_of_another_type_or_range_is_refused(datatype: str, values: object, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        from_list(read_header("x", datatype, [2]), values)


def test_lists_nested_otherwise_than_the_shape_are_not_reinterpreted() -> None:
    with pytest.raises(InvalidInput, match=r"not nested as shape \[3, 2\]"):
        from_list(read_header("x", "FP32", [3, 2]), [[1, 2, 3], [4, 5, 6]])


def test_base64_may_be_broken_into_lines() -> None:
    assert from_list(read_header("x", "BYTES", [1]), ["YWJj\nZGVm\r\n"]).tolist() == [b"abcdef"]
    for wrong in ("YWJ", "ä", "Y*Jj"):
        with pytest.raises(InvalidInput, match="is not base64"):
            from_list(read_header("x", "BYTES", [1]), [wrong])
