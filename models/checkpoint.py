"""Checkpoints trained elsewhere: read without running code, fitted to a card's network. Needs PyTorch."""

import difflib
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from errors import StoreError
from models.architectures import build
from models.card import Card, RowCard

Weights = dict[str, Tensor]

NESTED = ("model_state_dict", "state_dict")
"""Where training scripts put the weights when they save more than those."""
WRAPPERS = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every name."""
LISTED = 20
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Checkpoint(NamedTuple):
    """weights: by name. facts: what else was in the file and is text or a number, such as `epoch`."""

    weights: Weights
    facts: dict[str, str | int | float]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a .safetensors file, or what torch.save made of a state_dict or of a dict with `model_state_dict` in it.

    Raises:
        StoreError: not such a file; a pickle that would run code is never loaded.
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
    facts = {str(name): value for name, value in outer.items() if _is_fact(value)}
    return Checkpoint(_unwrapped(inner), facts)


def _is_fact(value: object) -> bool:
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _unwrapped(weights: Weights) -> Weights:
    for wrapper in (*WRAPPERS, *WRAPPERS):  # either may be inside the other
        if all(name.startswith(wrapper) for name in weights):
            weights = {name.removeprefix(wrapper): tensor for name, tensor in weights.items()}
    return weights


def load_network(card: Card, weights: Weights) -> nn.Module:
    """The card's network with these weights, fp32, in evaluation mode.

    Raises:
        StoreError: names or shapes do not match; the message lists them, with the nearest name beside a stranger.
    """
    network = build(card)
    wanted = network.state_dict()
    unknown = [name for name in weights if name not in wanted]
    problems = [f"missing: {name}{_near(name, unknown)}" for name in wanted if name not in weights]
    problems += [f"unknown: {name}{_near(name, list(wanted))}" for name in unknown]
    problems += [
        f"{name}: shape {tuple(weights[name].shape)}, expected {tuple(wanted[name].shape)}"
        for name in wanted
        if name in weights and weights[name].shape != wanted[name].shape
    ]
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems[:LISTED])
        more = f"\n  … and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
        raise StoreError(f"The weights do not fit {card.architecture}:\n{listed}{more}")
    for name, tensor in weights.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise StoreError(f"{name}: is a {tensor.layout} tensor on {tensor.device}; save plain ones from the CPU.")
        if wanted[name].is_floating_point() and tensor.dtype not in FLOATS:
            raise StoreError(f"{name}: holds {tensor.dtype}; weights must be one of {', '.join(map(str, FLOATS))}.")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise StoreError(f"{name}: holds values that are not finite.")
    network.load_state_dict({name: tensor.to(wanted[name].dtype) for name, tensor in weights.items()})
    return network.eval().requires_grad_(False)


def check_facts(card: Card, facts: dict[str, str | int | float]) -> None:
    """Compare the dimensions that a checkpoint says of itself with the card's.

    Raises:
        StoreError: one differs.
    """
    if isinstance(card, RowCard):
        features, detector = len(card.input.features), card.task == "anomaly-detection"
        outputs = features if detector else len(card.labels)
        wanted = {"input_dim": features, "hidden_dim": card.hidden[0], "output_dim": outputs}
        for name, value in wanted.items():
            if name in facts and facts[name] != value:
                raise StoreError(f"The checkpoint says {name} = {facts[name]}, the card of {card.name} {value}.")


def _near(name: str, others: list[str]) -> str:
    found = difflib.get_close_matches(name, others, 1, 0.8)
    return f" (nearest: {found[0]})" if found else ""


def rounded(weights: Weights) -> Weights:
    """Float tensors of two and more dimensions as fp16, everything else as it is (floats as fp32).

    Raises:
        StoreError: a value is not finite, or too large for fp16.
    """

    def one(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return tensor.to(torch.float16 if tensor.ndim >= 2 else torch.float32).contiguous()

    kept = {name: one(tensor) for name, tensor in weights.items()}
    for name, tensor in kept.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise StoreError(f"{name}: holds values that are not finite once rounded (fp16 ends at 65,504).")
    return kept
