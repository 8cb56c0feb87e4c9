"""The graph of the variant that may stop early; see `models.architectures.early_exit`. Needs PyTorch."""

from pathlib import Path

import onnx
import torch

from errors import NotCompilable, StoreError
from export.graph import trace_to_onnx, use_external_weights
from models.architectures.early_exit import EarlyExitNetwork, ExitHead
from models.card import Card, ImageCard
from models.checkpoint import Weights, load_network, read_checkpoint
from models.package import EXIT, WEIGHTS


def early_exit_graph(card: Card, package: Path) -> onnx.ModelProto:
    """Return the graph of a package with its early exit; it takes one picture a run.

    The graph refers to the weights in the package.

    Raises:
        StoreError: the card names no exit, or the weights of its head are missing or do not fit.
    """
    if not isinstance(card, ImageCard) or card.early_exit is None:
        raise StoreError(f"The card of {card.name} names no early exit.")
    if not (package / EXIT).exists():
        raise StoreError(f"{card.name}: the weights of its early exit, {EXIT}, are missing.")
    image = torch.zeros(1, *card.input.shape)
    try:
        network = load_network(card, read_checkpoint(package / WEIGHTS).weights)
        module = EarlyExitNetwork(network, load_head(read_checkpoint(package / EXIT).weights), card)
        if (classes := module.exit(module.trunk(image)).shape[1]) != len(card.labels):
            raise RuntimeError(f"its head has {classes} outputs for {len(card.labels)} labels")
    except (NotCompilable, RuntimeError, IndexError) as error:
        raise StoreError(f"{card.name}: the early exit does not fit its network ({error}).") from error
    graph = trace_to_onnx(module, {"image": image}, ["logits", "early"], fixed_batch=True)
    use_external_weights(graph, package / WEIGHTS, package / EXIT)
    return graph


def load_head(weights: Weights) -> ExitHead:
    """Return the head with these weights, whose names begin with `exit.`, as fp32 in evaluation mode.

    Raises:
        RuntimeError: names or shapes do not fit.
    """
    state = {name.removeprefix("exit."): tensor.float() for name, tensor in weights.items()}
    features, classes = len(state.get("norm.weight", ())), len(state.get("logits.bias", ()))
    width = len(state.get("map.weight", [[]])[0])
    head = ExitHead(features, classes, width)
    head.load_state_dict(state)
    return head.eval()
