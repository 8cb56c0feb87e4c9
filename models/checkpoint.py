"""Checkpoints from elsewhere: read without running their code, and loaded into a card's network. Needs PyTorch."""

import difflib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from errors import StoreError
from models.architectures import build
from models.card import ASSUMED_HEAD_ACTIVATION, Card, ImageCard, RowCard, is_detector

Weights = dict[str, Tensor]

NESTED = ("model_state_dict", "state_dict")
"""Keys under which training scripts put the weights when they save more than those."""
WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that DataParallel and torch.compile put before every name."""
LISTED = 20
"""How many problems a message lists."""
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

Metadata = dict[str, str | int | float]


class Checkpoint(NamedTuple):
    """What was read from a checkpoint's file.

    Attributes:
        weights: tensors by name.
        metadata: whatever else was in the file and is text or a finite number, such as `epoch`.
    """

    weights: Weights
    metadata: Metadata


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a .safetensors file, or what torch.save wrote of a state_dict or of a dict with a state_dict in it.

    Raises:
        StoreError: the file is no such checkpoint, or a pickle that would run code, which is never loaded.
    """
    try:
        loaded = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise StoreError(
            f"{path}: not a checkpoint that can be read safely ({reason}). "
            "Save `model.state_dict()` with torch.save, or with safetensors."
        ) from error
    outer: dict[str, Any] = loaded if isinstance(loaded, dict) else {}
    inner: Any = next((outer[name] for name in NESTED if isinstance(outer.get(name), dict)), loaded)
    named = isinstance(inner, dict) and inner and all(isinstance(name, str) for name in inner)
    if not named or not all(isinstance(value, Tensor) for value in inner.values()):
        raise StoreError(
            f"{path}: holds no state_dict, neither plain nor under {' or '.join(NESTED)}. "
            "Save `model.state_dict()` and import that."
        )
    metadata = {str(name): value for name, value in outer.items() if _is_text_or_finite_number(value)}
    return Checkpoint(_without_wrappers(inner), metadata)


def _is_text_or_finite_number(value: object) -> bool:
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _without_wrappers(weights: Weights) -> Weights:
    for wrapper in (*WRAPPERS, *WRAPPERS):  # either may be inside the other
        if all(name.startswith(wrapper) for name in weights):
            weights = {name.removeprefix(wrapper): tensor for name, tensor in weights.items()}
    return weights


def load_network(card: Card, weights: Weights) -> nn.Module:
    """Return the card's network with these weights, fp32, in evaluation mode.

    Raises:
        StoreError: names or shapes do not match, or a tensor is no plain finite one; the message lists the names, with
            the nearest known name beside an unknown one.
    """
    network = build(card)
    expected = network.state_dict()
    if set(weights) == set(expected):
        differing = [name for name in expected if weights[name].shape != expected[name].shape]
        _check_number_of_labels(card, weights, differing, last=next(reversed(expected)))
    check_fit(weights, expected, card.architecture)
    network.load_state_dict({name: tensor.to(expected[name].dtype) for name, tensor in weights.items()})
    return network.eval().requires_grad_(False)


def check_fit(weights: Weights, expected: Weights, network: str) -> None:
    """Return if weights have the names and shapes of a network's, and are plain finite numbers.

    Args:
        weights: of a checkpoint.
        expected: the network's own.
        network: what messages call it.

    Raises:
        StoreError: as for `load_network`.
    """
    _check_names_and_shapes(weights, expected, network)
    for name, tensor in weights.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise StoreError(f"{name}: is a {tensor.layout} tensor on {tensor.device}; save plain ones from the CPU.")
        if expected[name].is_floating_point() and tensor.dtype not in FLOATS:
            raise StoreError(f"{name}: holds {tensor.dtype}; weights must be one of {', '.join(map(str, FLOATS))}.")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise StoreError(f"{name}: holds values that are not finite.")


def _check_names_and_shapes(weights: Weights, expected: Weights, network: str) -> None:
    unknown = [name for name in weights if name not in expected]
    problems = [f"missing: {name}{_nearest(name, unknown)}" for name in expected if name not in weights]
    problems += [f"unknown: {name}{_nearest(name, list(expected))}" for name in unknown]
    differing = [name for name in expected if name in weights and weights[name].shape != expected[name].shape]
    problems += [
        f"{name}: shape {tuple(weights[name].shape)}, expected {tuple(expected[name].shape)}" for name in differing
    ]
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems[:LISTED])
        more = f"\n  … and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
        raise StoreError(f"The weights do not fit {network}:\n{listed}{more}")


def _check_number_of_labels(card: Card, weights: Weights, differing: Sequence[str], last: str) -> None:
    """Raise StoreError if nothing but the last layer, whose bias is `last`, has another shape than a classifier's."""
    layer = last.rpartition(".")[0]
    only_last = last in differing and all(name.rpartition(".")[0] == layer for name in differing)
    if only_last and weights[last].ndim == 1 and not is_detector(card):
        outputs = len(weights[last])
        raise StoreError(
            f"The weights have {outputs} outputs, and the card of {card.name} has {len(card.labels)} labels. Import "
            f"them with a card of your own (--card) that has {outputs} labels, in the order of the outputs."
        )


def _nearest(name: str, others: list[str]) -> str:
    matches = difflib.get_close_matches(name, others, 1, 0.8)
    return f" (nearest: {matches[0]})" if matches else ""


def check_dimensions(card: Card, metadata: Metadata) -> None:
    """Compare the dimensions that a checkpoint's metadata states with those of the card.

    Raises:
        StoreError: one differs.
    """
    if isinstance(card, RowCard):
        features = len(card.input.features)
        outputs = features if is_detector(card) else len(card.labels)
        dimensions = {"input_dim": features, "hidden_dim": card.hidden[0], "output_dim": outputs}
        for name, value in dimensions.items():
            if name in metadata and metadata[name] != value:
                raise StoreError(f"The checkpoint says {name} = {metadata[name]}, the card of {card.name} {value}.")


def assumes_activation(card: Card, metadata: Metadata) -> bool:
    """Return whether neither the card nor the checkpoint says which activation the head has, so that one is assumed.

    Raises:
        StoreError: the checkpoint's metadata say another than the card.
    """
    if not isinstance(card, ImageCard) or card.architecture != "efficientnet-b4-head":
        return False
    stated = next((str(metadata[name]) for name in ("head_activation", "activation") if name in metadata), "")
    stated = stated.lower().removeprefix("nn.").removesuffix("()")
    built = card.head_activation or ASSUMED_HEAD_ACTIVATION
    if stated not in ("", built):
        raise StoreError(
            f"The checkpoint says that the head's activation is {stated}, and by the card of {card.name} it is "
            f'{built}. Import it with a card of your own (--card) that has head_activation = "{stated}".'
        )
    return not stated and card.head_activation is None


def round_weights(weights: Weights) -> Weights:
    """Return float tensors of two and more dimensions as fp16, other floats as fp32, and integers as they are.

    Raises:
        StoreError: a value is not finite, or too large for fp16.
    """
    rounded = {}
    for name, tensor in weights.items():
        if tensor.is_floating_point():
            tensor = tensor.to(torch.float16 if tensor.ndim >= 2 else torch.float32).contiguous()
            if not tensor.isfinite().all():
                raise StoreError(f"{name}: holds values that are not finite once rounded (fp16 ends at 65,504).")
        rounded[name] = tensor
    return rounded
