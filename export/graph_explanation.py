"""Heatmaps of a model that came as a graph: its explain graph, checked, beside the graph in its package."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from backends.base import Batch, Logits
from errors import CardError, NotCompilable
from explain.base import METHOD_NAMES, PREDICTED
from explain.onnx import OnnxExplainer
from explain.rise import RISE
from export.card_text import with_section
from export.operator_graph import Notify, first_line
from export.parity import LIMIT
from export.rows.sources import INSTALL
from models.card import Explain, ImageCard, read_image_card
from models.goldens import read_goldens
from models.package import EXPLAIN, EXPLANATIONS, GRAPH
from postprocessing.comparison import difference
from serving.self_check import golden_batch

if TYPE_CHECKING:
    from explain.graph.maps import ExplainGraph

METHOD: Final = "gradcam"
"""The default method: after pooling and linear layers a gradient is the same in every cell, and all methods but
Grad-CAM++ then weigh a cell by it."""
MOST_DEVIATION = 2e-2
"""How far a gradient may be from finite differences, which float32 and the bends of a ReLU keep from being exact."""


def add_explanation(package: Path, notify: Notify, *, is_own_card: bool) -> None:
    """Write the explain graph of a model that came as a graph, and its layer onto the card; or say why it has none.

    Args:
        package: the complete package; its card is of the architecture `onnx`.
        notify: is told at what layer the model is explained, or why it is not.
        is_own_card: whether the operator brought the card, which is then left as it is.

    Raises:
        CardError: the card names a layer at which this graph cannot be explained.
    """
    (package / EXPLAIN).unlink(missing_ok=True)
    card = read_image_card(package / "card.toml")
    goldens, _ = read_goldens(package)
    tensors = golden_batch(card, [(golden.name, golden.data) for golden in goldens])
    try:
        built, deviation = _checked_explain_graph(package / GRAPH, card, tensors)
        (package / EXPLAIN).write_bytes(built.model.SerializeToString(deterministic=True))
        _check_logits(package / EXPLAIN, card, tensors, np.stack([golden.logits for golden in goldens]))
        if card.explain is None and is_own_card:
            raise NotCompilable(
                f'its card names no layer. With [explain], layer = "{built.layer}" and method = "{METHOD}" it has one'
            )
    except NotCompilable as error:
        (package / EXPLAIN).unlink(missing_ok=True)
        if card.explain is not None:
            raise CardError(
                f"{card.name}: its card explains it at {card.explain.layer!r}, but {error}. Name another layer, or "
                "take [explain] off the card."
            ) from error
        _write_report(package, {"unavailable": str(error)})
        notify(f"No gradient: {error}. Its heatmaps take many predictions (method {RISE}).")
        return
    explain = card.explain or Explain(layer=built.layer, method=METHOD)
    if card.explain is None:
        text = (package / "card.toml").read_text("utf-8")
        (package / "card.toml").write_text(with_section(text, "explain", explain.model_dump()), "utf-8")
    size = "×".join(map(str, built.map_size))
    _write_report(package, {"map_size": size, "deviation_from_finite_differences": float(f"{deviation:.2g}")})
    notify(
        f"Heatmaps: {explain.method} at {explain.layer!r}, maps of {size}. The gradient is written into the graph; it "
        f"is within {deviation:.1e} of finite differences."
    )


def _check_logits(explain: Path, card: ImageCard, tensors: Batch, expected: Logits) -> None:
    """Compare the logits of an explain graph, for a batch of all goldens, with those of the graph.

    Raises:
        NotCompilable: they differ, or ONNX Runtime cannot run it.
    """
    try:
        outputs = OnnxExplainer(explain).run(tensors, np.full(len(tensors), PREDICTED), frozenset(METHOD_NAMES))
    except Exception as error:
        raise NotCompilable(f"its explain graph cannot be run ({first_line(error)})") from error
    largest = float(difference(outputs.logits, expected, card).max())
    if not largest <= LIMIT:
        raise NotCompilable(f"its explain graph gives other probabilities than itself, by {largest:.1e}")


def _checked_explain_graph(graph: Path, card: ImageCard, tensors: Batch) -> "tuple[ExplainGraph, float]":
    """Return a graph's explain graph, and how far its gradient is from finite differences.

    Args:
        graph: the .onnx file, with its weights inside.
        card: names the layer, or none.
        tensors: inputs (N, …) float32, the first two of which the gradient is checked on.

    Raises:
        NotCompilable: the onnx package is missing, the graph has no exact gradient, or the gradient is not its own.
    """
    try:
        import onnx

        from explain.graph.maps import explain_graph
        from export.gradient_check import gradient_deviation
    except ImportError as error:
        raise NotCompilable(
            f"the onnx package, which makes them, is not installed: {INSTALL}, then add the model again"
        ) from error
    model = onnx.load(graph)
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    size = 1 if batch.HasField("dim_value") else 2
    example = np.concatenate([tensors] * 2)[:size]
    try:
        built = explain_graph(model, example, card.explain.layer if card.explain else None)
        deviation = gradient_deviation(built, tensors[:2])
    except NotCompilable:
        raise
    except Exception as error:  # graphs of others may be anything; without heatmaps they are served as before
        raise NotCompilable(
            f"no gradient can be written for it ({type(error).__name__}: {first_line(error)})"
        ) from error
    if not deviation <= MOST_DEVIATION:
        raise NotCompilable(f"its gradient at {built.layer!r} differs from finite differences by {deviation:.1e}")
    return built, deviation


def _write_report(package: Path, report: dict[str, Any]) -> None:
    (package / EXPLANATIONS).write_text(json.dumps(report, indent=1) + "\n", "utf-8")
