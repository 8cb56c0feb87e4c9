"""Requests and responses of the Open Inference Protocol as gRPC's messages."""

from typing import Any

from google.protobuf.message import DecodeError, Message
from tritonclient.grpc import service_pb2

from api.oip.messages import (
    MAX_ID,
    MAX_NAME,
    MAX_PARAMETERS,
    MAX_TENSORS,
    HeaderCheck,
    InferRequest,
    InferResponse,
    Parameters,
    RequestedOutput,
    check_count,
    class_count,
)
from api.oip.tensors import MAX_RANK, Tensor, TensorHeader, from_binary, from_field, read_header, to_binary
from errors import InvalidInput

LARGE_MESSAGE_BYTES = 32 * 1024
"""A thread reads messages of more bytes, because no other request should wait for it."""
MAX_FIELDS = 10_000
"""The most fields of a message and of the messages in it; packed numbers count as one field."""
_VARINT, _BYTES, _FIXED_SIZES = 0, 2, {1: 8, 5: 4}
"""Protobuf's wire types, of which two have a fixed size in bytes."""
_FIELD_PREFIXES = {
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint"),
}
"""The typed fields of the smaller datatypes; each other datatype has a field of its own name, or none."""


def read_message(message: Any, check: HeaderCheck) -> InferRequest:
    """Return the request that a ModelInferRequest holds.

    Raises:
        InvalidInput: something is missing, left over or of the wrong type; the message names it.
    """
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidInput(f"There are {len(message.inputs)} inputs, but {len(raw)} raw_input_contents.")
    check_count(message.inputs, "inputs", MAX_TENSORS)
    check_count(message.outputs, "outputs", MAX_TENSORS)
    headers = [
        read_header(tensor.name[:MAX_NAME], tensor.datatype, list(tensor.shape[: MAX_RANK + 1]))
        for tensor in message.inputs
    ]
    check(headers)
    inputs = list[Tensor]()
    for index, (tensor, header) in enumerate(zip(message.inputs, headers, strict=True)):
        if raw and tensor.HasField("contents"):
            raise InvalidInput(f"{header.name}: has contents beside raw_input_contents; send one of the two.")
        data = from_binary(header, raw[index]) if raw else from_field(header, _typed_field(tensor, header))
        inputs.append(Tensor(header.name, header.datatype, data))
    outputs = [
        RequestedOutput(output.name, class_count(_read_parameters(output.parameters), output.name))
        for output in message.outputs
    ]
    return InferRequest(inputs, outputs, message.id[:MAX_ID], _read_parameters(message.parameters))


def parse_message(data: bytes) -> Any:
    """Parse a ModelInferRequest.

    Raises:
        InvalidInput: the bytes are no such message, or have so many fields that parsing them would hold up every
            other request.
    """
    try:
        if len(data) > LARGE_MESSAGE_BYTES:
            _count_fields(memoryview(data), service_pb2.ModelInferRequest.DESCRIPTOR, MAX_FIELDS)
        return service_pb2.ModelInferRequest.FromString(data)
    except (DecodeError, IndexError) as error:
        raise InvalidInput("The message is no ModelInferRequest.") from error


def write_message(response: InferResponse, request_id: str) -> Message:
    """Return a ModelInferResponse with every tensor in raw_output_contents."""
    message = service_pb2.ModelInferResponse(model_name=response.model, model_version=response.version, id=request_id)
    for name, value in response.parameters.items():
        message.parameters[name].string_param = str(value)
    for tensor in response.outputs:
        message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.data.shape)
        message.raw_output_contents.append(to_binary(tensor))
    return message


def _count_fields(data: memoryview, descriptor: Any, remaining: int) -> int:
    """Count the fields of a message, and of the messages in it, without parsing their values.

    Args:
        data: the message.
        descriptor: the message's type.
        remaining: how many fields are still allowed.

    Returns:
        What is left of `remaining`.

    Source: protobuf's encoding, https://protobuf.dev/programming-guides/encoding
    """
    offset = 0
    while offset < len(data):
        remaining -= 1
        key, offset = _read_varint(data, offset)
        field, wire_type = descriptor.fields_by_number.get(key >> 3), key & 7
        if wire_type == _VARINT:
            _, offset = _read_varint(data, offset)
        elif wire_type == _BYTES:
            length, offset = _read_varint(data, offset)
            if field is not None and field.message_type is not None:
                remaining = _count_fields(data[offset : offset + length], field.message_type, remaining)
            elif field is not None and field.name == "shape":
                remaining -= length
            offset += length
        elif wire_type in _FIXED_SIZES:
            offset += _FIXED_SIZES[wire_type]
        else:
            raise InvalidInput("The message has groups, which no version of the protocol has.")
        if remaining < 0:
            raise InvalidInput(f"The message has more than {MAX_FIELDS:,} parts. Send tensors in raw_input_contents.")
    return remaining


def _read_varint(data: memoryview, offset: int) -> tuple[int, int]:
    """Return the variable-length integer at an offset, and the offset behind it."""
    value = shift = 0
    while data[offset] & 0x80:
        value |= (data[offset] & 0x7F) << shift
        offset, shift = offset + 1, shift + 7
        if shift > 63:
            raise DecodeError("a varint of more than ten bytes")
    return value | data[offset] << shift, offset + 1


def _typed_field(tensor: Any, header: TensorHeader) -> Any:
    """Return the field of an input that holds values of its datatype."""
    field = f"{_FIELD_PREFIXES.get(header.datatype, header.datatype.lower())}_contents"
    if not hasattr(tensor.contents, field):
        raise InvalidInput(f"{header.name}: {header.datatype} comes in raw_input_contents only.")
    return getattr(tensor.contents, field)


def _read_parameters(parameters: Any) -> Parameters:
    check_count(parameters, "parameters", MAX_PARAMETERS)
    choices = ((name, value.WhichOneof("parameter_choice")) for name, value in parameters.items())
    return {name: getattr(parameters[name], choice) for name, choice in choices if choice}
