"""gRPC's messages of the Open Inference Protocol ↔ ours."""

from typing import Any

from google.protobuf.message import Message
from tritonclient.grpc import service_pb2

from api.oip.message import InferAnswer, InferRequest, Parameters, Wanted, classes_of
from api.oip.tensors import BYTES, Array, Tensor, as_bytes, check_shape, from_binary, from_list, to_binary
from errors import InvalidInput


def read_request(request: Any) -> InferRequest:
    """A ModelInferRequest as HTTP's twin.

    Raises:
        InvalidInput: as `api.oip.message.read_request`.
    """
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise InvalidInput(f"There are {len(request.inputs)} inputs, but {len(raw)} raw_input_contents.")
    inputs = list[Tensor]()
    for place, each in enumerate(request.inputs):
        shape = check_shape(each.name, each.datatype, list(each.shape))
        if raw and each.HasField("contents"):
            raise InvalidInput(f"{each.name}: has contents beside raw_input_contents; send one of the two.")
        data = from_binary(each.name, each.datatype, shape, raw[place]) if raw else _contents(each, shape)
        inputs.append(Tensor(each.name, each.datatype, data))
    outputs = [Wanted(each.name, classes_of(_parameters(each.parameters), each.name)) for each in request.outputs]
    return InferRequest(inputs, outputs, request.id, _parameters(request.parameters))


def write_answer(answer: InferAnswer, request_id: str) -> Message:
    """A ModelInferResponse; every tensor in raw_output_contents."""
    response = service_pb2.ModelInferResponse(model_name=answer.model, model_version=answer.version, id=request_id)
    for name, value in answer.parameters.items():
        response.parameters[name].string_param = str(value)
    for tensor in answer.outputs:
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.data.shape)
        response.raw_output_contents.append(to_binary(tensor))
    return response


def _contents(tensor: Any, shape: tuple[int, ...]) -> Array:
    """What lies in the typed field of an input; BYTES without their lengths."""
    name, datatype, contents = tensor.name, tensor.datatype, tensor.contents
    if datatype == BYTES:
        return as_bytes(name, shape, list(contents.bytes_contents))
    small = {"INT8": "int", "INT16": "int", "INT32": "int", "UINT8": "uint", "UINT16": "uint", "UINT32": "uint"}
    field = f"{small.get(datatype, datatype.lower())}_contents"
    if not hasattr(contents, field):
        raise InvalidInput(f"{name}: {datatype} comes in raw_input_contents only.")
    return from_list(name, datatype, shape, list(getattr(contents, field)))


def _parameters(found: Any) -> Parameters:
    chosen = ((name, value.WhichOneof("parameter_choice")) for name, value in found.items())
    return {name: getattr(found[name], choice) for name, choice in chosen if choice}
