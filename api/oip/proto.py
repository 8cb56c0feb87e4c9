"""gRPC's messages of the Open Inference Protocol ↔ ours."""

from typing import Any

from google.protobuf.message import Message
from tritonclient.grpc import service_pb2

from api.body import LARGE
from api.oip.message import MAX_NAME, Check, InferAnswer, InferRequest, Parameters, Wanted, classes_of
from api.oip.tensors import Declared, Tensor, declared, from_binary, from_field, to_binary
from errors import InvalidInput


def read_request(request: Any, check: Check) -> InferRequest:
    """A ModelInferRequest as HTTP's twin.

    Raises:
        InvalidInput: as `api.oip.message.read_request`.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidInput(f"There are {len(request.inputs)} inputs, but {len(raw)} raw_input_contents.")
    known = [declared(each.name[:MAX_NAME], each.datatype, list(each.shape)) for each in request.inputs]
    check(known)
    inputs = list[Tensor]()
    for place, (each, said) in enumerate(zip(request.inputs, known, strict=True)):
        if raw and each.HasField("contents"):
            raise InvalidInput(f"{said.name}: has contents beside raw_input_contents; send one of the two.")
        data = from_binary(said, raw[place]) if raw else from_field(said, _field(each, said))
        inputs.append(Tensor(said.name, said.datatype, data))
    outputs = [Wanted(each.name, classes_of(_parameters(each.parameters), each.name)) for each in request.outputs]
    return InferRequest(inputs, outputs, request.id, _parameters(request.parameters))


def is_small(request: Any) -> bool:
    """Whether reading a request takes no time that others would notice."""
    raw = request.raw_input_contents
    return bool(raw) and len(raw) < 64 and sum(map(len, raw)) < LARGE


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
    chosen = ((name, value.WhichOneof("parameter_choice")) for name, value in found.items())
    return {name: getattr(found[name], choice) for name, choice in chosen if choice}
