"""Requests and responses of the Open Inference Protocol, and how HTTP carries them: JSON, then binary tensors."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from api.json_values import check_value_count
from api.oip.tensors import BYTES, Tensor, TensorHeader, from_binary, from_list, read_header, to_binary, to_list
from errors import InvalidInput
from preprocessing.rows import is_unicode
from runners.runner import Answer

JSON_LENGTH_HEADER = "Inference-Header-Content-Length"
MAX_NAME, MAX_ID = 200, 1000
"""The most characters that a tensor's name and a request's id may have."""
MAX_TENSORS, MAX_PARAMETERS = 128, 64
"""The most tensors of one request, and the most parameters of one request or tensor."""
HeaderCheck = Callable[[Sequence[TensorHeader]], None]
"""Raises InvalidInput for tensors that a model does not take, before any of their values is looked at."""
Parameters = Mapping[str, str | int | float | bool]


class RequestedOutput(NamedTuple):
    """One output that a request asks for.

    Attributes:
        name: the output's name.
        classes: above 0, that many of the most probable classes are to come in place of the numbers.
        binary: whether HTTP sends it as bytes behind the JSON.
    """

    name: str
    classes: int = 0
    binary: bool = False


@dataclass(frozen=True)
class InferRequest:
    """One inference request.

    Attributes:
        inputs: the tensors, in order.
        outputs: the outputs that are asked for; empty asks for those that a model gives by default.
        id: the client's own name for the request.
        parameters: what the client asks of the inference.
        binary: whether HTTP sends outputs as bytes where an output does not say so itself.
    """

    inputs: Sequence[Tensor]
    outputs: Sequence[RequestedOutput] = ()
    id: str = ""
    parameters: Parameters = field(default_factory=dict)
    binary: bool = False


@dataclass(frozen=True)
class InferResponse:
    """The response to one inference request.

    Attributes:
        model: the model's name.
        version: the model's version.
        outputs: the tensors, in the order in which they were asked for.
        parameters: warnings and other notes.
        answers: the Runner's answers that the outputs come from, for their times.
    """

    model: str
    version: str
    outputs: Sequence[Tensor]
    parameters: Parameters = field(default_factory=dict)
    answers: Sequence[Answer[Any]] = ()


def read_request(body: bytes, json_length: int, check: HeaderCheck) -> InferRequest:
    """Read a request as HTTP carries it: `json_length` bytes of JSON, then the binary tensors in order.

    Raises:
        InvalidInput: something is missing, left over or of the wrong type; the message names it.
    """
    check_value_count(body, json_length)
    try:
        document = _object(json.loads(body[:json_length]), "The request")
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"The request is not JSON ({error}).") from error
    parameters = read_parameters(document.get("parameters"), "parameters")
    inputs = _read_inputs(_list(document.get("inputs"), "inputs"), memoryview(body)[json_length:], check)
    binary = _flag(parameters, "binary_data_output", default=False)
    outputs = [
        _read_output(entry, f"outputs[{index}]", binary)
        for index, entry in enumerate(_list(document.get("outputs") or [], "outputs", least=0))
    ]
    request_id = document.get("id") or ""
    if not isinstance(request_id, str) or len(request_id) > MAX_ID or not is_unicode(request_id):
        raise InvalidInput(f"id must be a text of at most {MAX_ID:,} characters, not {_abridged(request_id)}.")
    return InferRequest(inputs, outputs, request_id, parameters, binary)


def write_response(response: InferResponse, request: InferRequest) -> tuple[bytes, int | None]:
    """Write a response as HTTP carries it.

    Returns:
        The body, and the length of the JSON before its binary tensors; None if there are none.
    """
    is_binary = {output.name: output.binary for output in request.outputs}
    outputs, binary_parts = list[dict[str, Any]](), list[bytes]()
    for tensor in response.outputs:
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.data.shape)}
        if is_binary.get(tensor.name, request.binary):
            binary_parts.append(to_binary(tensor))
            entry["parameters"] = {"binary_data_size": len(binary_parts[-1])}
        else:
            entry["data"] = to_list(tensor)
        outputs.append(entry)
    document: dict[str, Any] = {"model_name": response.model, "model_version": response.version}
    if request.id:
        document["id"] = request.id
    if response.parameters:
        document["parameters"] = dict(response.parameters)
    document["outputs"] = outputs
    text = json.dumps(document, allow_nan=False).encode()
    return b"".join([text, *binary_parts]), len(text) if binary_parts else None


def read_parameters(value: object, owner: str) -> dict[str, str | int | float | bool]:
    """Return the parameters of a request or tensor, without those that are null.

    Raises:
        InvalidInput: they are no JSON object of texts, numbers and truth values, or too many; it names their `owner`.
    """
    entries = _object({} if value is None else value, owner)
    check_count(entries, owner, MAX_PARAMETERS)
    parameters = {name: entry for name, entry in entries.items() if entry is not None}
    for name, entry in parameters.items():
        if not isinstance(entry, str | int | float | bool):
            raise InvalidInput(f"{owner}: {name!r:.40} must be a text, a number, true or false.")
    return parameters


def check_count(items: Sized, name: str, most: int) -> None:
    """Raise InvalidInput if there are more items than `most`, which is more than anyone needs."""
    if len(items) > most:
        raise InvalidInput(f"{name}: {len(items):,} are too many; at most {most}.")


def check_unique(names: Sequence[str], place: str) -> None:
    """Raise InvalidInput if a name stands twice in its place, which is `inputs` or `outputs`."""
    for name, count in Counter(names).items():
        if count > 1:
            raise InvalidInput(f"{place}: {name!r:.80} stands more than once.")


def class_count(parameters: Parameters, output: str) -> int:
    """Return how many classes the parameter `classification` of an output asks for, 0 without it.

    Raises:
        InvalidInput: it is no whole number from 0 on.
    """
    count = parameters.get("classification", 0)
    if type(count) is not int or count < 0:
        raise InvalidInput(f"{output}: classification must be a whole number, 0 or more, not {count!r}.")
    return count


def read_json_length(value: str | None, available: int) -> int:
    """Return how many bytes of a body are JSON: all of them, unless the header `JSON_LENGTH_HEADER` has a value.

    0 means that the body is one bare tensor.

    Raises:
        InvalidInput: the value is no number, or more than the `available` bytes.
    """
    if value is None:
        return available
    text = value.strip()
    if not text.isascii() or not text.isdigit() or len(text) > 12 or int(text) > available:
        raise InvalidInput(f"{JSON_LENGTH_HEADER}: {text!r:.40} is no length within a body of {available:,} bytes.")
    return int(text)


def _read_inputs(entries: list[Any], binary: memoryview, check: HeaderCheck) -> list[Tensor]:
    """Return the tensors of a request, whose binary ones are taken in order from what follows the JSON."""
    inputs = [_object(entry, f"inputs[{index}]") for index, entry in enumerate(entries)]
    headers = [
        read_header(_name(entry, f"inputs[{index}]"), entry.get("datatype"), entry.get("shape"))
        for index, entry in enumerate(inputs)
    ]
    check(headers)
    tensors = list[Tensor]()
    for entry, header in zip(inputs, headers, strict=True):
        tensor, size = _read_input(entry, header, binary)
        tensors.append(tensor)
        binary = binary[size:]
    if binary:
        raise InvalidInput(f"{len(binary):,} bytes are left over behind the binary tensors.")
    return tensors


def _read_input(entry: dict[str, Any], header: TensorHeader, binary: memoryview) -> tuple[Tensor, int]:
    """Return an input, and how many of the binary bytes it took."""
    name, datatype, _ = header
    parameters = read_parameters(entry.get("parameters"), name)
    size = parameters.get("binary_data_size")
    if size is None:
        if datatype == BYTES and parameters.get("content_type") != "base64":
            raise InvalidInput(
                f'{name}: BYTES in JSON are base64, and {{"content_type": "base64"}} in parameters says so.'
            )
        return Tensor(name, datatype, from_list(header, entry.get("data"))), 0
    if entry.get("data") is not None:
        raise InvalidInput(f"{name}: has both data and binary_data_size; send one.")
    if type(size) is not int or not 0 <= size <= len(binary):
        raise InvalidInput(
            f"{name}: binary_data_size {size!r:.40} is not within the {len(binary):,} bytes that are left."
        )
    return Tensor(name, datatype, from_binary(header, binary[:size])), size


def _read_output(entry: object, place: str, binary: bool) -> RequestedOutput:
    output = _object(entry, place)
    name = _name(output, place)
    parameters = read_parameters(output.get("parameters"), name)
    return RequestedOutput(name, class_count(parameters, name), _flag(parameters, "binary_data", default=binary))


def _flag(parameters: Parameters, name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidInput(f"{name} must be true or false, not {value!r:.40}.")
    return value


def _object(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{name} must be a JSON object, not {type(value).__name__}.")
    return value


def _list(value: object, name: str, least: int = 1) -> list[Any]:
    if not isinstance(value, list) or len(value) < least:
        raise InvalidInput(f"{name} must be a list" + (" of one tensor or more." if least else "."))
    check_count(value, name, MAX_TENSORS)
    return value


def _name(entry: dict[str, Any], place: str) -> str:
    name = entry.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not is_unicode(name):
        raise InvalidInput(f"{place} has no name, or none that can be: {_abridged(name)}.")
    return name


def _abridged(value: object) -> str:
    return f"{value[:40]!r}" if isinstance(value, str) else f"{value!r:.40}"
