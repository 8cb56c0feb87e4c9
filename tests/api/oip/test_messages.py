"""Bodies of every kind are read as the protocol says, or refused by name."""

import contextlib
import json
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from api.oip.messages import (
    InferRequest,
    InferResponse,
    RequestedOutput,
    read_json_length,
    read_request,
    write_response,
)
from api.oip.tensors import Tensor, TensorHeader, text_tensor
from errors import InvalidInput

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def document(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "x", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}} | changes
    return {"inputs": [{key: value for key, value in tensor.items() if value != "absent"}]}


def output(**parameters: object) -> dict[str, Any]:
    return {"name": "y", "parameters": parameters}


def message(document: object, binary: bytes = b"") -> tuple[bytes, str]:
    """Return a body, and the length of its JSON as the header says it."""
    text = json.dumps(document).encode()
    return text + binary, str(len(text))


def accept_all(headers: Sequence[TensorHeader]) -> None:
    """Check the tensors for a model that takes any."""


def read(body: bytes, json_length: str | None) -> InferRequest:
    return read_request(body, read_json_length(json_length, len(body)), accept_all)


TWO = struct.pack("<ff", 1.5, -2.0)


def test_binary_tensors_are_taken_in_order() -> None:
    other = {"name": "y", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 7}}
    body, length = message({"id": "7", "inputs": [*document()["inputs"], other]}, TWO + b"\x03\0\0\0abc")
    request = read(body, length)
    assert request.id == "7"
    assert request.inputs[0].data.tolist() == [1.5, -2.0]
    assert request.inputs[1].data.tolist() == [b"abc"]


@pytest.mark.parametrize(
    ("body", "length", "problem"),
    [
        (*message(document(), TWO + b"z"), "1 bytes are left over"),
        (*message(document(), TWO[:-1]), "binary_data_size 8 is not within the 7 bytes"),
        (*message(document(parameters={"binary_data_size": -1}), TWO), "binary_data_size -1 is not within"),
        (*message(document(parameters={"binary_data_size": True}), TWO), "binary_data_size True is not within"),
        (*message(document(parameters={"binary_data_size": 4}), TWO), "8 bytes, but 4 were sent"),
        (*message(document(data=[1, 2]), TWO), "both data and binary_data_size"),
        (*message(document(parameters="absent")), "data must be a list"),
        (*message(document(datatype="FP128"), TWO), "is not one of BOOL"),
        (*message(document(datatype=["FP32"]), TWO), "is not one of BOOL"),
        (*message(document(name="absent"), TWO), r"inputs\[0\] has no name"),
        (*message(document(datatype="BYTES", parameters={}, data=["a", "b"])), "BYTES in JSON are base64"),
        (*message({"inputs": []}), "inputs must be a list of one tensor or more"),
        (*message({"inputs": {}}), "inputs must be a list"),
        (*message({}), "inputs must be a list"),
        (*message([]), "must be a JSON object, not list"),
        (*message({**document(), "id": 7}, TWO), "id must be a text"),
        (
            *message({**document(), "outputs": [{"name": "y", "parameters": {"classification": -1}}]}, TWO),
            "whole number",
        ),
        (*message({**document(), "outputs": [{"name": "y", "parameters": {"binary_data": 1}}]}, TWO), "true or false"),
        (*message({**document(), "parameters": {"a": [1]}}, TWO), "must be a text, a number, true or false"),
        (b"{}", "3", "no length within a body of 2 bytes"),
        (b"{}", "-1", "no length within"),
        (b"{}", "²", "no length within"),
        (b"{}", "9" * 5000, "no length within"),
        (*message(document(name="\ud800"), TWO), "none that can be"),
        (*message(document(name="n" * 201), TWO), "none that can be"),
        (*message({**document(), "id": "\ud800"}, TWO), "id must be a text"),
        (*message({**document(), "id": "i" * 1001}, TWO), "id must be a text of at most 1,000"),
        (*message({**document(), "parameters": dict.fromkeys(map(str, range(65)), 1)}, TWO), "65 are too many"),
        (*message({**document(), "outputs": [{"name": "y"}] * 129}, TWO), "129 are too many"),
        (b"[" + b"[]," * 1_000_001, None, "more than 1,000,000 values"),
        (b"\xff\xfe", None, "not JSON"),
        (b"[" * 200_000, None, "not JSON"),
    ],
)
def test_bodies_that_do_not_add_up_are_refused_by_name(body: bytes, length: str | None, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        read(body, length)


@given(JSON, st.binary(max_size=20), st.integers(-3, 3))
@example({"inputs": [{"name": "x", "datatype": "FP32", "shape": [0], "data": []}]}, b"", 0)
def test_any_json_is_read_or_refused(value: object, binary: bytes, error: int) -> None:
    body, length = message(value, binary)
    for json_length in (None, length, str(int(length) + error)):
        with contextlib.suppress(InvalidInput):
            read(body, json_length)


@given(st.dictionaries(st.sampled_from(["name", "datatype", "shape", "parameters", "data"]), JSON), st.binary())
def test_any_tensor_is_read_or_refused(changes: dict[str, Any], binary: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        read(*message(document(**changes), binary))


def test_entries_that_are_null_count_as_absent() -> None:
    nulls = document() | {"id": None, "outputs": None, "parameters": {"timeout": None}}
    request = read(*message(nulls, TWO))
    assert (request.id, list(request.outputs), dict(request.parameters)) == ("", [], {})


def test_a_tensor_is_refused_before_its_values_are_looked_at() -> None:
    def refuse(headers: Sequence[TensorHeader]) -> None:
        raise InvalidInput(f"refused {headers[0].name}")

    body, length = message(document(datatype="BYTES", parameters={"binary_data_size": 10**9}))
    with pytest.raises(InvalidInput, match="refused x"):
        read_request(body, int(length), refuse)


RESPONSE = InferResponse(
    "m",
    "v",
    [Tensor("x", "FP32", np.array([[1.5, -2.0]], np.float32)), text_tensor("label", ["a", "\u00e9"])],
    {"n": 1},
)


def test_a_response_is_json_unless_binary_outputs_are_asked_for() -> None:
    body, json_length = write_response(RESPONSE, InferRequest([], id="7"))
    assert json_length is None
    assert json.loads(body) == {
        "model_name": "m",
        "model_version": "v",
        "id": "7",
        "parameters": {"n": 1},
        "outputs": [
            {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.5, -2.0]},
            {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["a", "\u00e9"]},
        ],
    }


def test_binary_outputs_stand_behind_the_json_in_order() -> None:
    request = InferRequest([], [RequestedOutput("x"), RequestedOutput("label", binary=True)])
    body, json_length = write_response(RESPONSE, request)
    assert body[json_length:] == b"\x01\0\0\0a\x02\0\0\0\xc3\xa9"
    body, json_length = write_response(RESPONSE, InferRequest([], binary=True))
    assert body[json_length:] == TWO + b"\x01\0\0\0a\x02\0\0\0\xc3\xa9"
    sizes = [output["parameters"]["binary_data_size"] for output in json.loads(body[:json_length])["outputs"]]
    assert sizes == [8, 11]
