"""The tensors of a request as the core's payloads: one for each picture, or all rows as one."""

from collections.abc import Sequence

import numpy as np

from api.oip.messages import HeaderCheck, check_unique
from api.oip.names import NamedModel
from api.oip.signature import ANY, IMAGE, PIXELS, ROWS, TensorSpec, input_specs, signatures
from api.oip.tensors import Array, Tensor, TensorHeader
from errors import InvalidInput
from models.card import RowCard
from preprocessing.row_spec import OTHER_CATEGORY, Feature
from serving.pipeline import DecodedImage, ImagePayload, TransformedImage
from serving.row_pipeline import RowValues

MAX_NAMED = 20
"""The most missing and unknown features that a message names."""


def header_check(named: NamedModel) -> HeaderCheck:
    """Return the check that refuses tensors which a model does not take under its name.

    A model's own name takes the inputs of each of its signatures, another name only those of its own.

    Returns:
        A function that raises InvalidInput if an input is unknown, missing or there twice, has another datatype or
        shape than the card asks for, or holds no items, or more than could ever be answered together.
    """
    card = named.model.card
    accepted = [named.signature] if named.signature.suffix else signatures(card)
    alternatives = [[spec.name for spec in signature.inputs] for signature in accepted]

    def check(headers: Sequence[TensorHeader]) -> None:
        specs = {spec.name: spec for spec in input_specs(card)}
        _check_names([header.name for header in headers], alternatives)
        for header in headers:
            spec = specs[header.name]
            _check_form(header, spec, ("FP32", "FP64") if spec.datatype == "FP32" and isinstance(card, RowCard) else ())
            most = card.limits.max_items
            if not 1 <= header.shape[0] <= most:
                raise InvalidInput(f"{card.name} takes 1 to {most:,} items in one request, not {header.shape[0]:,}.")
        if len({header.shape[0] for header in headers}) > 1:
            shapes = ", ".join(f"{header.name} {list(header.shape)}" for header in headers)
            raise InvalidInput(f"Columns must all have the same number of rows; they are {shapes:.400}.")

    return check


def image_payloads(tensor: Tensor) -> list[ImagePayload]:
    """Return the pictures of a checked tensor; pixels and transformed pictures are views of one buffer."""
    if tensor.name == IMAGE:
        return list(tensor.data.ravel())
    if tensor.name == PIXELS:
        return [DecodedImage(np.ascontiguousarray(pixels)) for pixels in tensor.data]
    return [TransformedImage(picture.astype(np.float32, copy=False)) for picture in tensor.data]


def row_values(tensors: Sequence[Tensor], card: RowCard) -> RowValues:
    """Return the rows of checked tensors: those of `rows`, or rows put together from one tensor for each feature."""
    arrays = {tensor.name: tensor.data for tensor in tensors}
    if ROWS in arrays:
        return RowValues(arrays[ROWS].astype(np.float64))
    columns = [_numbers(arrays[feature.name].ravel(), feature) for feature in card.input.features]
    return RowValues(np.stack(columns, axis=1).astype(np.float64))


def _numbers(column: Array, feature: Feature) -> Array:
    """Return one feature's column as the core takes it: the categories of a column of texts as their places."""
    if column.dtype != object:
        return column
    other = OTHER_CATEGORY if feature.other_categories else np.inf  # which is no place, and so refused by name
    return np.array([feature.places.get(text.decode("utf-8", "replace"), other) for text in column], np.float64)


def _check_names(names: Sequence[str], alternatives: Sequence[Sequence[str]]) -> None:
    """Raise InvalidInput unless the inputs are all those of one alternative."""
    check_unique(names, "inputs")
    if any(set(names) == set(alternative) for alternative in alternatives):
        return
    single = [alternative[0] for alternative in alternatives if len(alternative) == 1]
    columns = next((alternative for alternative in alternatives if len(alternative) > 1), ())
    means_columns = bool(set(names) & set(columns)) and not set(names) & set(single)
    if columns and (means_columns or not single):
        wrong = [f"{name} is missing" for name in columns if name not in names]
        wrong += [f"{name!r:.80} is unknown" for name in names if name not in columns]
        instead = f"; or `{single[0]}` with all of them" if single else ""
        raise InvalidInput(f"{'; '.join(wrong[:MAX_NAMED])}. Expected: {', '.join(columns)}{instead}.")
    sent = ", ".join(names)
    raise InvalidInput(
        f"Send {'one of ' if len(single) > 1 else ''}{', '.join(single)} as the only input, not {sent:.200}."
    )


def _check_form(header: TensorHeader, spec: TensorSpec, datatypes: Sequence[str]) -> None:
    """Raise InvalidInput unless a tensor has one of the datatypes (by default its own) and the shape that is due."""
    name, datatype, shape = header
    allowed = datatypes or (spec.datatype,)
    if datatype not in allowed:
        raise InvalidInput(f"{name}: datatype must be {' or '.join(allowed)}, not {datatype}.")
    fits = len(shape) == len(spec.shape) and all(
        expected in (ANY, size) for size, expected in zip(shape, spec.shape, strict=True)
    )
    is_one_column = len(spec.shape) == 1 and shape[1:] == (1,)
    if not fits and not is_one_column:
        raise InvalidInput(f"{name}: shape must be {_documented_shape(spec)}, not {list(shape)}.")


def _documented_shape(spec: TensorSpec) -> str:
    """Return a shape as the documentation writes it, with letters for the sizes that may vary."""
    letters = iter("NHW")
    sizes = ", ".join(next(letters) if size == ANY else str(size) for size in spec.shape)
    return f"[{sizes}]" + (" or [N, 1]" if len(spec.shape) == 1 else "")
