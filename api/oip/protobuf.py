"""gRPC's messages of the Open Inference Protocol ↔ ours."""

from typing import Any

from google.protobuf.message import DecodeError, Message
from tritonclient.grpc import service_pb2

from api.body import LARGE
from api.oip.messages import (
    MAX_ID,
    MAX_NAME,
    MAX_PARAMETERS,
    MAX_TENSORS,
    Check,
    InferAnswer,
    InferRequest,
    Parameters,
    Wanted,
    check_few,
    classes_of,
)
from api.oip.tensors import MAX_RANK, Declared, Tensor, declared, from_binary, from_field, to_binary
from errors import InvalidInput

MAX_PARTS = 10_000
"""Fields of a message and of those in it, packed numbers counting as one."""
_VARINT, _BYTES, _FIXED = 0, 2, {1: 8, 5: 4}
"""Protobuf's wire types."""


def read_request(request: Any, check: Check) -> InferRequest:
    """A ModelInferRequest as HTTP's twin.

    Raises:
        InvalidInput: as `api.oip.messages.read_request`.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidInput(f"There are {len(request.inputs)} inputs, but {len(raw)} raw_input_contents.")
    check_few(request.inputs, "inputs", MAX_TENSORS)
    check_few(request.outputs, "outputs", MAX_TENSORS)
    known = [declared(each.name[:MAX_NAME], each.datatype, list(each.shape[: MAX_RANK + 1])) for each in request.inputs]
    check(known)
    inputs = list[Tensor]()
    for place, (each, said) in enumerate(zip(request.inputs, known, strict=True)):
        if raw and each.HasField("contents"):
            raise InvalidInput(f"{said.name}: has contents beside raw_input_contents; send one of the two.")
        data = from_binary(said, raw[place]) if raw else from_field(said, _field(each, said))
        inputs.append(Tensor(said.name, said.datatype, data))
    outputs = [Wanted(each.name, classes_of(_parameters(each.parameters), each.name)) for each in request.outputs]
    return InferRequest(inputs, outputs, request.id[:MAX_ID], _parameters(request.parameters))


def parse(data: bytes) -> Any:
    """A ModelInferRequest from its bytes.

    Raises:
        InvalidInput: they are none, or so many small parts that reading them would hold every other request up.
    """
    try:
        if len(data) > LARGE:
            _count(memoryview(data), service_pb2.ModelInferRequest.DESCRIPTOR, MAX_PARTS)
        return service_pb2.ModelInferRequest.FromString(data)
    except (DecodeError, IndexError) as error:
        raise InvalidInput("The message is no ModelInferRequest.") from error


def _count(data: memoryview, kind: Any, left: int) -> int:
    """Count a message's fields, and those of the messages in it, without reading them; gives what is left of `left`.

    Source: protobuf's encoding, https://protobuf.dev/programming-guides/encoding
    """
    at = 0
    while at < len(data):
        left -= 1
        key, at = _varint(data, at)
        field, wire = kind.fields_by_number.get(key >> 3), key & 7
        if wire == _VARINT:
            _, at = _varint(data, at)
        elif wire == _BYTES:
            length, at = _varint(data, at)
            if field is not None and field.message_type is not None:
                left = _count(data[at : at + length], field.message_type, left)
            elif field is not None and field.name == "shape":
                left -= length
            at += length
        elif wire in _FIXED:
            at += _FIXED[wire]
        else:
            raise InvalidInput("The message has groups, which no version of the protocol has.")
        if left < 0:
            raise InvalidInput(f"The message has more than {MAX_PARTS:,} parts. Send tensors in raw_input_contents.")
    return left


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while data[at] & 0x80:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if shift > 63:
            raise DecodeError("a varint of more than ten bytes")
    return value | data[at] << shift, at + 1


def write_answer(answer: InferAnswer, request_id: str) -> Message:
    """A ModelInferResponse; every tensor in raw_output_contents."""
    response = service_pb2.ModelInferResponse(model_name=answer.model, model_version=answer.version, id=request_id)
    for name, value in answer.parameters.items():
        response.parameters[name].string_param = str(value)
    for tensor in answer.outputs:
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.data.shape)
        response.raw_output_contents.append(to_binary(tensor))
    return response


def _field(tensor: Any, said: Declared) -> Any:
    """The typed field that an input's values lie in; BYTES have no lengths there."""
    small = {"INT8": "int", "INT16": "int", "INT32": "int", "UINT8": "uint", "UINT16": "uint", "UINT32": "uint"}
    field = f"{small.get(said.datatype, said.datatype.lower())}_contents"
    if not hasattr(tensor.contents, field):
        raise InvalidInput(f"{said.name}: {said.datatype} comes in raw_input_contents only.")
    return getattr(tensor.contents, field)


def _parameters(found: Any) -> Parameters:
    check_few(found, "parameters", MAX_PARAMETERS)
    chosen = ((name, value.WhichOneof("parameter_choice")) for name, value in found.items())
    return {name: getattr(found[name], choice) for name, choice in chosen if choice}
