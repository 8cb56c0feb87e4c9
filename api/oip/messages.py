"""Requests and answers of the Open Inference Protocol, and how HTTP carries them: JSON, binary tensors behind it."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from api.oip.tensors import BYTES, Declared, Tensor, declared, from_binary, from_list, to_binary, to_list
from errors import InvalidInput
from preprocessing.rows import is_unicode

HEADER = "Inference-Header-Content-Length"
MAX_NAME, MAX_ID = 200, 1000
"""Characters of a tensor's name, and of a request's id."""
MAX_TENSORS, MAX_PARAMETERS = 128, 64
"""Of one request, and of one tensor or request."""
MAX_JSON_VALUES = 1_000_000
"""More in JSON would hold every other request up while they are read."""
Check = Callable[[Sequence[Declared]], None]
"""Raises InvalidInput for what a model does not take, before the values of any tensor are looked at."""
Parameters = Mapping[str, str | int | float | bool]


class Wanted(NamedTuple):
    """One output that is asked for; `classes` > 0 asks for that many of the most probable instead of the numbers."""

    name: str
    classes: int = 0
    binary: bool = False


@dataclass(frozen=True)
class InferRequest:
    """What is to be inferred; no `outputs` means the usual ones, `binary` what form they take over HTTP."""

    inputs: Sequence[Tensor]
    outputs: Sequence[Wanted] = ()
    id: str = ""
    parameters: Parameters = field(default_factory=dict)
    binary: bool = False


@dataclass(frozen=True)
class InferAnswer:
    """What came of it."""

    model: str
    version: str
    outputs: Sequence[Tensor]
    parameters: Parameters = field(default_factory=dict)


def read_request(body: bytes, json_length: int, check: Check) -> InferRequest:
    """A request as HTTP carries it: `json_length` bytes of JSON, and then the binary tensors in order.

    Raises:
        InvalidInput: something is missing, left over, or of the wrong type; the message names it.
    """
    values = body.count(b",", 0, json_length) + body.count(b"{", 0, json_length)
    if values > MAX_JSON_VALUES or body.count(b"[", 0, json_length) > MAX_JSON_VALUES:
        raise InvalidInput(f"The JSON has more than {MAX_JSON_VALUES:,} values. Send large tensors as binary ones.")
    try:
        document = json.loads(body[:json_length])
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"The request is not JSON ({error}).") from error
    request = _object(document, "The request")
    parameters = read_parameters(request.get("parameters"), "parameters")
    inputs = [_object(each, f"inputs[{at}]") for at, each in enumerate(_list(request.get("inputs"), "inputs"))]
    known = [
        declared(_name(each, f"inputs[{at}]"), each.get("datatype"), each.get("shape"))
        for at, each in enumerate(inputs)
    ]
    check(known)
    tensors, rest = list[Tensor](), memoryview(body)[json_length:]
    for each, said in zip(inputs, known, strict=True):
        tensor, used = _input(each, said, rest)
        tensors.append(tensor)
        rest = rest[used:]
    if rest:
        raise InvalidInput(f"{len(rest):,} bytes are left over behind the binary tensors.")
    binary = _flag(parameters, "binary_data_output", default=False)
    wanted = _list(request.get("outputs") or [], "outputs", 0)
    outputs = [_output(each, place, binary) for place, each in enumerate(wanted)]
    named = request.get("id") or ""
    if not isinstance(named, str) or len(named) > MAX_ID or not is_unicode(named):
        raise InvalidInput(f"id must be a text of at most {MAX_ID:,} characters, not {_shown(named)}.")
    return InferRequest(tensors, outputs, named, parameters, binary)


def write_answer(answer: InferAnswer, request: InferRequest) -> tuple[bytes, int | None]:
    """An answer as HTTP carries it, and the length of the JSON before its binary tensors; None if there are none."""
    binary = {each.name: each.binary for each in request.outputs}
    outputs, behind = list[dict[str, Any]](), list[bytes]()
    for tensor in answer.outputs:
        said: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.data.shape)}
        if binary.get(tensor.name, request.binary):
            behind.append(to_binary(tensor))
            said["parameters"] = {"binary_data_size": len(behind[-1])}
        else:
            said["data"] = to_list(tensor)
        outputs.append(said)
    document: dict[str, Any] = {"model_name": answer.model, "model_version": answer.version}
    if request.id:
        document["id"] = request.id
    if answer.parameters:
        document["parameters"] = dict(answer.parameters)
    document["outputs"] = outputs
    written = json.dumps(document, allow_nan=False).encode()
    return b"".join([written, *behind]), len(written) if behind else None


def read_parameters(found: object, what: str) -> dict[str, str | int | float | bool]:
    """An object of texts, numbers and truth values; InvalidInput says what else it is."""
    given = _object({} if found is None else found, what)
    check_few(given, what, MAX_PARAMETERS)
    parameters = {name: value for name, value in given.items() if value is not None}
    for name, value in parameters.items():
        if not isinstance(value, str | int | float | bool):
            raise InvalidInput(f"{what}: {name!r:.40} must be a text, a number, true or false.")
    return parameters


def check_few(found: Sized, what: str, most: int) -> None:
    """Raise InvalidInput for more than anyone would send."""
    if len(found) > most:
        raise InvalidInput(f"{what}: {len(found):,} are too many; at most {most}.")


def check_names(names: Sequence[str], what: str) -> None:
    """Raise InvalidInput if a name stands twice."""
    for name, times in Counter(names).items():
        if times > 1:
            raise InvalidInput(f"{what}: {name!r:.80} stands more than once.")


def classes_of(parameters: Parameters, name: str) -> int:
    """How many classes an output's `classification` asks for; 0 without."""
    count = parameters.get("classification", 0)
    if type(count) is not int or count < 0:
        raise InvalidInput(f"{name}: classification must be a whole number, 0 or more, not {count!r}.")
    return count


def json_length_of(header: str | None, available: int) -> int:
    """How many bytes of a body are JSON: all, unless the header says so; 0 means that it is one bare tensor.

    Raises:
        InvalidInput: no number, or more than there are.
    """
    if header is None:
        return available
    text = header.strip()
    if not text.isascii() or not text.isdigit() or len(text) > 12 or int(text) > available:
        raise InvalidInput(f"{HEADER}: {text!r:.40} is no length within a body of {available:,} bytes.")
    return int(text)


def _input(each: dict[str, Any], said: Declared, rest: memoryview) -> tuple[Tensor, int]:
    """An input, and how many of the binary bytes it took."""
    name, datatype, _ = said
    parameters = read_parameters(each.get("parameters"), name)
    size = parameters.get("binary_data_size")
    if size is None:
        if datatype == BYTES and parameters.get("content_type") != "base64":
            raise InvalidInput(
                f'{name}: BYTES in JSON are base64, and {{"content_type": "base64"}} in parameters says so.'
            )
        return Tensor(name, datatype, from_list(said, each.get("data"))), 0
    if each.get("data") is not None:
        raise InvalidInput(f"{name}: has both data and binary_data_size; send one.")
    if type(size) is not int or not 0 <= size <= len(rest):
        raise InvalidInput(
            f"{name}: binary_data_size {size!r:.40} is not within the {len(rest):,} bytes that are left."
        )
    return Tensor(name, datatype, from_binary(said, rest[:size])), size


def _output(each: object, place: int, binary: bool) -> Wanted:
    said = _object(each, f"outputs[{place}]")
    name = _name(said, f"outputs[{place}]")
    parameters = read_parameters(said.get("parameters"), name)
    return Wanted(name, classes_of(parameters, name), _flag(parameters, "binary_data", default=binary))


def _flag(parameters: Parameters, name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidInput(f"{name} must be true or false, not {value!r:.40}.")
    return value


def _object(found: object, what: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise InvalidInput(f"{what} must be a JSON object, not {type(found).__name__}.")
    return found


def _list(found: object, what: str, least: int = 1) -> list[Any]:
    if not isinstance(found, list) or len(found) < least:
        raise InvalidInput(f"{what} must be a list" + (" of one tensor or more." if least else "."))
    check_few(found, what, MAX_TENSORS)
    return found


def _shown(value: object) -> str:
    return f"{value[:40]!r}" if isinstance(value, str) else f"{value!r:.40}"


def _name(said: dict[str, Any], what: str) -> str:
    name = said.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not is_unicode(name):
        raise InvalidInput(f"{what} has no name, or none that can be: {_shown(name)}.")
    return name
