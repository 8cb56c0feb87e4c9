"""A model's package → the variant that may stop early: see `models.architectures.early_exit`. Needs PyTorch."""

from pathlib import Path

import onnx
import torch

from errors import StoreError
from explain.compile import NotCompilable
from export.onnx import point_into, traced
from models.architectures.early_exit import EarlyExit, ExitHead
from models.card import Card, ImageCard
from models.checkpoint import Weights, load_network, read_checkpoint
from models.package import EXIT, WEIGHTS


def with_exit(card: Card, package: Path) -> onnx.ModelProto:
    """The graph of a package with its early exit, which points into the package's weights; one picture a run.

    Raises:
        StoreError: the card names no exit, there are no weights for one, or they do not fit.
    """
    if not isinstance(card, ImageCard) or card.early_exit is None:
        raise StoreError(f"The card of {card.name} names no early exit.")
    if not (package / EXIT).exists():
        raise StoreError(f"{card.name}: the weights of its early exit, {EXIT}, are missing.")
    try:
        network, head = load_network(card, read_checkpoint(package / WEIGHTS).weights), read_checkpoint(package / EXIT)
        image, module = torch.zeros(1, 3, *card.input.size), EarlyExit(network, head_of(head.weights), card)
        if (classes := module.exit(module.trunk(image)).shape[1]) != len(card.labels):
            raise RuntimeError(f"its head has {classes} outputs for {len(card.labels)} labels")
    except (NotCompilable, RuntimeError, IndexError) as error:
        raise StoreError(f"{card.name}: the early exit does not fit its network ({error}).") from error
    graph = traced(module, {"image": image}, ["logits", "early"], one_by_one=True)
    point_into(graph, package / WEIGHTS, package / EXIT)
    return graph


def head_of(weights: Weights) -> ExitHead:
    """The head with these weights, named `exit.*`, fp32, in evaluation mode.

    Raises:
        RuntimeError: names or shapes do not fit.
    """
    kept = {name.removeprefix("exit."): tensor.float() for name, tensor in weights.items()}
    features, classes = len(kept.get("norm.weight", ())), len(kept.get("logits.bias", ()))
    width = len(kept.get("map.weight", [[]])[0])
    head = ExitHead(features, classes, width)
    head.load_state_dict(kept)
    return head.eval()
