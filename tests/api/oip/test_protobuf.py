"""gRPC's messages, against protobuf's own parser and Triton's own client."""

from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2
from tritonclient.utils import serialize_byte_tensor

from api.oip.messages import InferResponse, RequestedOutput
from api.oip.protobuf import LARGE_MESSAGE_BYTES, MAX_FIELDS, parse_message, read_message, write_message
from api.oip.tensors import Tensor, text_tensor
from errors import InvalidInput


def picture_request(size: int = 8) -> service_pb2.ModelInferRequest:
    message = service_pb2.ModelInferRequest(model_name="m", id="7")
    message.inputs.add(name="image", datatype="BYTES", shape=[1])
    message.raw_input_contents.append(bytes(size))
    return message


def test_a_large_message_of_few_parts_is_read() -> None:
    sent = picture_request(5_000_000)
    assert parse_message(sent.SerializeToString()) == sent
    typed = service_pb2.ModelInferRequest()
    typed.inputs.add(name="x", datatype="FP32", shape=[1, 100_000]).contents.fp32_contents.extend([0.5] * 100_000)
    assert parse_message(typed.SerializeToString()) == typed


def test_many_small_parts_are_refused_wherever_they_are() -> None:
    many = range(MAX_FIELDS * 3)
    messages = [service_pb2.ModelInferRequest(model_name="m") for _ in range(5)]
    for _ in many:
        messages[0].inputs.add()
        messages[1].outputs.add(name="label")
        messages[2].raw_input_contents.append(b"")
    messages[3].inputs.add(name="x", shape=[1] * len(many))
    messages[4].inputs.add(name="x").contents.bytes_contents.extend([b""] * len(many))
    for message in messages:
        message.id = "i" * LARGE_MESSAGE_BYTES
        with pytest.raises(InvalidInput, match="more than 10,000 parts"):
            parse_message(message.SerializeToString())


@given(st.binary(min_size=1, max_size=60), st.booleans())
def test_any_bytes_are_a_message_or_refused(data: bytes, long: bool) -> None:
    sent = picture_request(LARGE_MESSAGE_BYTES if long else 8).SerializeToString() + data
    try:
        expected = service_pb2.ModelInferRequest.FromString(sent)
    except DecodeError:
        with pytest.raises(InvalidInput):
            parse_message(sent)
        return
    try:
        message = parse_message(sent)
    except InvalidInput as error:
        message, refusal = None, str(error)
    assert message == expected or (long and "groups" in refusal)  # all that protobuf parses and we do not


def test_raw_tensors_outputs_and_parameters_are_read() -> None:
    message = service_pb2.ModelInferRequest(id="7")
    message.inputs.add(name="pixels", datatype="UINT8", shape=[2, 1])
    message.inputs.add(name="texts", datatype="BYTES", shape=[2])
    message.raw_input_contents.append(b"\x03\x04")
    message.raw_input_contents.append(serialize_byte_tensor(np.array([b"abc", b""], object)).item())
    message.outputs.add(name="label")
    message.outputs.add(name="logits").parameters["classification"].int64_param = 3
    message.parameters["timeout"].int64_param = 500
    message.parameters["partial"].bool_param = True
    message.parameters["threshold"].double_param = 0.25
    request = read_message(message, lambda headers: None)
    assert [(tensor.name, tensor.datatype, tensor.data.tolist()) for tensor in request.inputs] == [
        ("pixels", "UINT8", [[3], [4]]),
        ("texts", "BYTES", [b"abc", b""]),
    ]
    assert list(request.outputs) == [RequestedOutput("label"), RequestedOutput("logits", classes=3)]
    assert (request.id, dict(request.parameters)) == ("7", {"timeout": 500, "partial": True, "threshold": 0.25})


def test_typed_fields_are_read_as_raw_bytes_are() -> None:
    for datatype, field, values in (
        ("FP64", "fp64_contents", [0.5, -1.0]),
        ("INT8", "int_contents", [-3, 4]),
        ("UINT16", "uint_contents", [3, 65_535]),
        ("BOOL", "bool_contents", [True, False]),
        ("BYTES", "bytes_contents", [b"a", b""]),
    ):
        message = service_pb2.ModelInferRequest()
        contents = message.inputs.add(name="x", datatype=datatype, shape=[2]).contents
        getattr(contents, field).extend(values)
        assert read_message(message, lambda headers: None).inputs[0].data.tolist() == values


@pytest.mark.parametrize(
    ("datatype", "field", "values", "problem"),
    [
        ("INT8", "int_contents", [300, 1], "out of the range of INT8"),
        ("INT8", "int_contents", [1], "says 2 values, 1 came"),
        ("FP16", "fp32_contents", [1.0, 2.0], "FP16 comes in raw_input_contents only"),
    ],
)
def test_typed_fields_that_do_not_fit_are_refused(datatype: str, field: str, values: list[Any], problem: str) -> None:
    message = service_pb2.ModelInferRequest()
    contents = message.inputs.add(name="x", datatype=datatype, shape=[2]).contents
    getattr(contents, field).extend(values)
    with pytest.raises(InvalidInput, match=problem):
        read_message(message, lambda headers: None)


def test_contents_and_raw_bytes_do_not_come_together() -> None:
    message = picture_request()
    message.inputs[0].contents.bytes_contents.append(b"a")
    with pytest.raises(InvalidInput, match="contents beside raw_input_contents"):
        read_message(message, lambda headers: None)
    message.raw_input_contents.append(b"")
    with pytest.raises(InvalidInput, match="There are 1 inputs, but 2 raw_input_contents"):
        read_message(message, lambda headers: None)


def test_a_response_is_read_by_tritons_client() -> None:
    outputs = [Tensor("x", "FP32", np.array([[1.5, -2.0]], np.float32)), text_tensor("label", ["a", "bc"])]
    result = triton.InferResult(write_message(InferResponse("m", "v", outputs, {"warnings": "careful"}), "7"))
    assert result.as_numpy("x").tolist() == [[1.5, -2.0]]
    assert result.as_numpy("label").tolist() == [b"a", b"bc"]
    response = result.get_response()
    assert (response.model_name, response.model_version, response.id) == ("m", "v", "7")
    assert response.parameters["warnings"].string_param == "careful"
