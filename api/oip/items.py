"""The tensors of a request → what the Runner takes: a picture an item, or all rows as one."""

from collections.abc import Sequence

import numpy as np

from api.oip.messages import Check, check_names
from api.oip.signature import ANY, IMAGE, PIXELS, ROWS, TensorSpec, inputs_of
from api.oip.tensors import Declared, Tensor
from errors import InvalidInput
from models.card import Card, ImageCard, RowCard
from serving.pipeline import Picture, Pixels, Ready, Values


def checker(card: Card, queue_size: int) -> Check:
    """What refuses the tensors that a model does not take, by what they are declared to be.

    Args:
        card: names the inputs.
        queue_size: more items than that could never wait together.
    """
    return lambda tensors: _check(tensors, card, queue_size)


def _check(tensors: Sequence[Declared], card: Card, queue_size: int) -> None:
    """See `checker`.

    Raises:
        InvalidInput: an input is unknown, missing or there twice; another datatype or shape; none or too many items.
    """
    names = [each.name for each in tensors]
    specs = {each.name: each for each in inputs_of(card)}
    columns = [] if isinstance(card, ImageCard) else [each.name for each in card.input.features]
    check_names(names, "inputs")
    if set(names) & set(columns) and ROWS not in names:
        wrong = [f"{name} is missing" for name in columns if name not in names]
        wrong += [f"{name!r:.80} is unknown" for name in names if name not in columns]
        if wrong:
            raise InvalidInput(
                f"{'; '.join(wrong[:20])}. Expected: {', '.join(columns)}; or `{ROWS}` with all of them."
            )
    elif len(names) != 1 or names[0] not in specs or names[0] in columns:
        ways = ", ".join(name for name in specs if name not in columns)
        sent = ", ".join(names)
        raise InvalidInput(f"Send {'' if columns else 'one of '}{ways} as the only input, not {sent:.200}.")
    for name, datatype, shape in tensors:
        spec = specs[name]
        allowed = ("FP32", "FP64") if columns else (spec.datatype,)
        if datatype not in allowed:
            raise InvalidInput(f"{name}: datatype must be {' or '.join(allowed)}, not {datatype}.")
        of_one = len(spec.shape) == 1 and shape[1:] == (1,)
        fits = len(shape) == len(spec.shape) and all(
            wanted in (ANY, size) for size, wanted in zip(shape, spec.shape, strict=True)
        )
        if not fits and not of_one:
            raise InvalidInput(f"{name}: shape must be {_shape(spec)}, not {list(shape)}.")
        most = most_items(card, queue_size)
        if not 1 <= shape[0] <= most:
            raise InvalidInput(f"{card.name} takes 1 to {most:,} items in one request, not {shape[0]:,}.")
    if len({each.shape[0] for each in tensors}) > 1:
        shapes = ", ".join(f"{each.name} {list(each.shape)}" for each in tensors)
        raise InvalidInput(f"Columns must all have the same number of rows; they are {shapes:.400}.")


def most_items(card: Card, queue_size: int) -> int:
    """How many pictures or rows one request may have; pictures wait one by one, rows together."""
    return min(card.limits.max_items, queue_size) if isinstance(card, ImageCard) else card.limits.max_items


def pictures_in(tensor: Tensor) -> list[Picture]:
    """The items of a tensor that `checker` let pass; pixels and tensors are views of one buffer."""
    if tensor.name == IMAGE:
        return list(tensor.data.ravel())
    if tensor.name == PIXELS:
        return [Pixels(np.ascontiguousarray(each)) for each in tensor.data]
    return [Ready(each.astype(np.float32, copy=False)) for each in tensor.data]


def rows_in(tensors: Sequence[Tensor], card: RowCard) -> Values:
    """The rows of tensors that `checker` let pass: of `rows`, or put together from a column a feature."""
    columns = {each.name: each.data for each in tensors}
    if ROWS in columns:
        return Values(columns[ROWS].astype(np.float64))
    return Values(np.stack([columns[each.name].ravel() for each in card.input.features], axis=1).astype(np.float64))


def _shape(spec: TensorSpec) -> str:
    """A shape as the docs write it."""
    letters = iter("NHW")
    sizes = ", ".join(next(letters) if size == ANY else str(size) for size in spec.shape)
    return f"[{sizes}]" + (" or [N, 1]" if len(spec.shape) == 1 else "")
