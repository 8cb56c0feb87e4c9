"""Messages as they come over the wire, against protobuf's own reading of them."""

from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from api.body import LARGE
from api.oip.protobuf import MAX_PARTS, parse
from errors import InvalidInput


def request(size: int = 8) -> service_pb2.ModelInferRequest:
    made = service_pb2.ModelInferRequest(model_name="m", id="7")
    made.inputs.add(name="image", datatype="BYTES", shape=[1])
    made.raw_input_contents.append(bytes(size))
    return made


def test_a_large_message_of_few_parts_is_read() -> None:
    sent = request(5_000_000)
    assert parse(sent.SerializeToString()) == sent
    typed = service_pb2.ModelInferRequest()
    typed.inputs.add(name="x", datatype="FP32", shape=[1, 100_000]).contents.fp32_contents.extend([0.5] * 100_000)
    assert parse(typed.SerializeToString()) == typed


def test_many_small_parts_are_refused_wherever_they_are() -> None:
    many = range(MAX_PARTS * 3)
    several = [service_pb2.ModelInferRequest(model_name="m") for _ in range(5)]
    for _ in many:
        several[0].inputs.add()
        several[1].outputs.add(name="label")
        several[2].raw_input_contents.append(b"")
    several[3].inputs.add(name="x", shape=[1] * len(many))
    several[4].inputs.add(name="x").contents.bytes_contents.extend([b""] * len(many))
    for each in several:
        each.id = "i" * LARGE
        with pytest.raises(InvalidInput, match="more than 10,000 parts"):
            parse(each.SerializeToString())


@given(st.binary(min_size=1, max_size=60), st.booleans())
def test_any_bytes_are_a_message_or_refused(data: bytes, long: bool) -> None:
    sent = request(LARGE if long else 8).SerializeToString() + data
    try:
        wanted = service_pb2.ModelInferRequest.FromString(sent)
    except DecodeError:
        with pytest.raises(InvalidInput):
            parse(sent)
        return
    found = read_or_why_not(sent)
    assert found == wanted or (long and "groups" in found)  # groups are all that protobuf reads and we do not


def read_or_why_not(data: bytes) -> Any:
    try:
        return parse(data)
    except InvalidInput as refused:
        return str(refused)
