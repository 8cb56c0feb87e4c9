"""Bodies of every kind: read as the protocol says, or refused by name."""

import contextlib
import gzip
import json
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from api.oip.http import accepted_coding, decompressed
from api.oip.messages import InferRequest, json_length_of, read_request
from api.oip.tensors import Declared
from errors import InvalidInput, TooLarge

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def document(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "x", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}} | changes
    return {"inputs": [{key: value for key, value in tensor.items() if value != "absent"}]}


def sent(said: object, behind: bytes = b"") -> tuple[bytes, str]:
    head = json.dumps(said).encode()
    return head + behind, str(len(head))


def everything(tensors: Sequence[Declared]) -> None:
    """A model that takes whatever is declared."""


def read(body: bytes, header: str | None) -> InferRequest:
    return read_request(body, json_length_of(header, len(body)), everything)


TWO = struct.pack("<ff", 1.5, -2.0)


def test_binary_tensors_are_taken_in_order() -> None:
    other = {"name": "y", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 7}}
    body, length = sent({"id": "7", "inputs": [*document()["inputs"], other]}, TWO + b"\x03\0\0\0abc")
    request = read(body, length)
    assert request.id == "7"
    assert request.inputs[0].data.tolist() == [1.5, -2.0]
    assert request.inputs[1].data.tolist() == [b"abc"]


@pytest.mark.parametrize(
    ("body", "length", "said"),
    [
        (*sent(document(), TWO + b"z"), "1 bytes are left over"),
        (*sent(document(), TWO[:-1]), "binary_data_size 8 is not within the 7 bytes"),
        (*sent(document(parameters={"binary_data_size": -1}), TWO), "binary_data_size -1 is not within"),
        (*sent(document(parameters={"binary_data_size": True}), TWO), "binary_data_size True is not within"),
        (*sent(document(parameters={"binary_data_size": 4}), TWO), "8 bytes, but 4 were sent"),
        (*sent(document(data=[1, 2]), TWO), "both data and binary_data_size"),
        (*sent(document(parameters="absent")), "data must be a list"),
        (*sent(document(datatype="FP128"), TWO), "is not one of BOOL"),
        (*sent(document(datatype=["FP32"]), TWO), "is not one of BOOL"),
        (*sent(document(name="absent"), TWO), r"inputs\[0\] has no name"),
        (*sent(document(datatype="BYTES", parameters={}, data=["a", "b"])), "BYTES in JSON are base64"),
        (*sent({"inputs": []}), "inputs must be a list of one tensor or more"),
        (*sent({"inputs": {}}), "inputs must be a list"),
        (*sent({}), "inputs must be a list"),
        (*sent([]), "must be a JSON object, not list"),
        (*sent({**document(), "id": 7}, TWO), "id must be a text"),
        (*sent({**document(), "outputs": [{"name": "y", "parameters": {"classification": -1}}]}, TWO), "whole number"),
        (*sent({**document(), "outputs": [{"name": "y", "parameters": {"binary_data": 1}}]}, TWO), "true or false"),
        (*sent({**document(), "parameters": {"a": [1]}}, TWO), "must be a text, a number, true or false"),
        (b"{}", "3", "no length within a body of 2 bytes"),
        (b"{}", "-1", "no length within"),
        (b"{}", "²", "no length within"),
        (b"{}", "9" * 5000, "no length within"),
        (*sent(document(name="\ud800"), TWO), "none that can be"),
        (*sent(document(name="n" * 201), TWO), "none that can be"),
        (*sent({**document(), "id": "\ud800"}, TWO), "id must be a text"),
        (*sent({**document(), "id": "i" * 1001}, TWO), "id must be a text of at most 1,000"),
        (*sent({**document(), "parameters": dict.fromkeys(map(str, range(65)), 1)}, TWO), "65 are too many"),
        (*sent({**document(), "outputs": [{"name": "y"}] * 129}, TWO), "129 are too many"),
        (b"[" + b"[]," * 1_000_001, None, "more than 1,000,000 values"),
        (b"\xff\xfe", None, "not JSON"),
        (b"[" * 200_000, None, "not JSON"),
    ],
)
def test_what_does_not_add_up_is_refused_by_name(body: bytes, length: str | None, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        read(body, length)


@given(JSON, st.binary(max_size=20), st.integers(-3, 3))
@example({"inputs": [{"name": "x", "datatype": "FP32", "shape": [0], "data": []}]}, b"", 0)
def test_any_json_is_read_or_refused(said: object, behind: bytes, off: int) -> None:
    body, length = sent(said, behind)
    for header in (None, length, str(int(length) + off)):
        with contextlib.suppress(InvalidInput):
            read(body, header)


@given(st.dictionaries(st.sampled_from(["name", "datatype", "shape", "parameters", "data"]), JSON), st.binary())
def test_any_tensor_is_read_or_refused(changes: dict[str, Any], behind: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        read(*sent(document(**changes), behind))


def test_what_is_null_is_not_there() -> None:
    said = document() | {"id": None, "outputs": None, "parameters": {"timeout": None}}
    request = read(*sent(said, TWO))
    assert (request.id, list(request.outputs), dict(request.parameters)) == ("", [], {})


def test_a_tensor_is_refused_before_its_values_are_looked_at() -> None:
    def nothing(tensors: Sequence[Declared]) -> None:
        raise InvalidInput(f"refused {tensors[0].name}")

    body, length = sent(document(datatype="BYTES", parameters={"binary_data_size": 10**9}))
    with pytest.raises(InvalidInput, match="refused x"):
        read_request(body, int(length), nothing)


def test_a_bomb_is_stopped_before_it_unpacks() -> None:
    bomb = gzip.compress(bytes(50_000_000))
    with pytest.raises(TooLarge, match="unpacks to more than 1,000"):
        decompressed(bomb, "gzip", 1000)
    assert decompressed(zlib.compress(b"a" * 1000), "deflate", 1000) == b"a" * 1000
    assert decompressed(gzip.compress(b"a"), " GZIP ", 1000) == b"a"


@pytest.mark.parametrize(
    ("body", "coding", "said"),
    [(b"abc", "gzip", "not gzip"), (b"", "deflate", "not one whole"), (b"a", "br", "'br' is not known")],
)
def test_damaged_compression_is_refused(body: bytes, coding: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        decompressed(body, coding, 1000)


@pytest.mark.parametrize(
    ("accepted", "size", "coding"),
    [
        ("gzip, deflate, br", 5000, "gzip"),
        ("deflate", 5000, "deflate"),
        ("gzip;q=0, deflate;q=0.5", 5000, "deflate"),
        ("identity", 5000, None),
        ("", 5000, None),
        ("gzip", 100, None),
    ],
)
def test_an_answer_is_compressed_as_the_client_accepts(accepted: str, size: int, coding: str | None) -> None:
    assert accepted_coding(accepted, size) == coding
