"""The tensors of a request → what the Runner takes: a picture an item, or all rows as one."""

from collections.abc import Sequence

import numpy as np

from api.oip.message import InferRequest
from api.oip.signature import IMAGE, PIXELS, ROWS, TENSOR, inputs_of
from api.oip.tensors import BYTES, Tensor
from errors import InvalidInput
from models.card import Card, ImageCard, RowCard
from models.line import Picture, Pixels, Ready, Values


def pictures_in(request: InferRequest, card: ImageCard) -> tuple[str, list[Picture]]:
    """The name of the input and its items, which share nothing from here on.

    Raises:
        InvalidInput: not exactly one of the card's inputs, another datatype or shape, none or too many items.
    """
    tensor = _one_of(request, card)
    data, shape = tensor.data, list(tensor.data.shape)
    _check_datatype(tensor, {IMAGE: (BYTES,), PIXELS: ("UINT8",), TENSOR: ("FP32",)}[tensor.name])
    if tensor.name == IMAGE:
        if shape[1:] not in ([], [1]):
            raise InvalidInput(f"image: shape must be [N] or [N, 1], a file an element, not {shape}.")
        items: list[Picture] = list(data.ravel())
    elif tensor.name == PIXELS:
        if len(shape) != 4 or shape[3] != 3:
            raise InvalidInput(f"pixels: shape must be [N, H, W, 3], RGB, not {shape}.")
        items = [Pixels(np.ascontiguousarray(each)) for each in data]
    else:
        if shape[1:] != [3, *card.input.size]:
            raise InvalidInput(
                f"tensor: shape must be [N, 3, {card.input.size[0]}, {card.input.size[1]}], not {shape}."
            )
        items = [Ready(each.astype(np.float32, copy=False)) for each in data]
    _check_count(len(items), card)
    return tensor.name, items


def rows_in(request: InferRequest, card: RowCard) -> Values:
    """The rows of a request: of `rows`, or put together from a column a feature.

    Raises:
        InvalidInput: a feature is missing or unknown, another datatype or shape, none or too many rows.
    """
    features = [each.name for each in card.input.features]
    columns = {each.name: each for each in request.inputs}
    for tensor in request.inputs:
        _check_datatype(tensor, ("FP32", "FP64"))
    if ROWS in columns or not columns.keys() & set(features):
        tensor = _one_of(request, card, only=ROWS)
        if tensor.data.ndim != 2 or tensor.data.shape[1] != len(features):
            raise InvalidInput(
                f"rows: shape must be [N, {len(features)}] ({', '.join(features)}), not {list(tensor.data.shape)}."
            )
        values = tensor.data
    else:
        wrong = [f"{name} is missing" for name in features if name not in columns]
        wrong += [f"{name!r:.80} is unknown" for name in columns if name not in features]
        if wrong:
            raise InvalidInput(f"{'; '.join(wrong)}. Expected: {', '.join(features)}; or `rows` with all of them.")
        lengths = {name: columns[name].data.size for name in features}
        flat = all(columns[name].data.shape in ((size,), (size, 1)) for name, size in lengths.items())
        if len(set(lengths.values())) > 1 or not flat:
            shapes = ", ".join(f"{name} {list(columns[name].data.shape)}" for name in features)
            raise InvalidInput(f"Columns must all be of the same shape, [N] or [N, 1]; they are {shapes}.")
        values = np.stack([columns[name].data.ravel() for name in features], axis=1)
    _check_count(len(values), card)
    return Values(values.astype(np.float64))


def _one_of(request: InferRequest, card: Card, only: str = "") -> Tensor:
    known = [only] if only else [each.name for each in inputs_of(card)]
    names = [each.name for each in request.inputs]
    if len(names) != 1 or names[0] not in known:
        ways = "one of " if len(known) > 1 else ""
        raise InvalidInput(f"Send {ways}{', '.join(known)} as the only input, not {', '.join(names)[:200] or 'none'}.")
    return request.inputs[0]


def _check_datatype(tensor: Tensor, allowed: Sequence[str]) -> None:
    if tensor.datatype not in allowed:
        raise InvalidInput(f"{tensor.name[:80]}: datatype must be {' or '.join(allowed)}, not {tensor.datatype}.")


def _check_count(count: int, card: ImageCard | RowCard) -> None:
    if not 1 <= count <= card.limits.max_items:
        raise InvalidInput(f"{card.name} takes 1 to {card.limits.max_items:,} items in one request, not {count:,}.")
