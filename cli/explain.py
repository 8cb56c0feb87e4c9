"""`vitrine explain`: draw an explained prediction, or measure explanations on pictures with a known truth."""

from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from cli.explain_quality import quality_command
from cli.explained_model import backend_of, model_to_explain, samples_option
from cli.figure import Caption, draw_figure
from explain.base import METHOD_NAMES, PREDICTED, Float32Array
from explain.overlay import overlay, png
from explain.rise import RISE
from export.masked_explainer import MaskedExplainer
from models.card import ImageCard
from models.package import StoredModel
from postprocessing.classification import Classification, classify
from preprocessing.prepare import prepare
from preprocessing.spec import Float32Tensor
from serving.explainable import no_gradient_reason
from serving.gradcam.heat import picture_heatmap
from serving.gradcam.worker import load_explainer


class Explained(NamedTuple):
    """A prediction, the map of its label, and how that was made, for the caption."""

    prediction: Classification
    values: Float32Array
    caption: str


@click.group(name="explain")
def explain() -> None:
    """Draw an explained prediction, or measure explanations against a known truth."""


@explain.command(name="picture")
@click.argument("name")
@click.argument("image", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--output", "-o", default=Path("explained.png"), show_default=True, type=click.Path(path_type=Path))
@click.option(
    "--method", type=click.Choice([*METHOD_NAMES, RISE]), help="The card's by default; rise where there is no gradient."
)
@samples_option
def picture_command(name: str, image: Path, output: Path, method: str | None, samples: int) -> None:
    """Predict IMAGE with the model NAME, and draw it beside its heatmap, label and probabilities.

    NAME is an installed model, or a bundled one as it ships.
    """
    stored, card = model_to_explain(name)
    prepared = prepare(image.read_bytes(), card.limits, card.input, keep="original")
    pixels = prepared.pixels
    assert pixels is not None
    reason = no_gradient_reason(card, stored)
    if reason and method not in (None, RISE):
        raise click.ClickException(
            f"--method {method} takes a gradient, and there is none: {reason}. rise does without."
        )
    if reason or method == RISE or card.explain is None:
        explained = _by_masks(stored, card, prepared.tensor, samples)
    else:
        explained = _by_gradient(stored, card, prepared.tensor, method or card.explain.method, card.explain.layer)
    prediction = explained.prediction
    heat = picture_heatmap(explained.values, (pixels.shape[0], pixels.shape[1]), card.input)
    probabilities = {entry.label: entry.probability for entry in prediction.top}
    caption = Caption(prediction.label, probabilities, [f"{card.name}: {explained.caption}", *card.warnings])
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(png(draw_figure(pixels, overlay(pixels, heat, 0.6), caption)))
    click.echo(f"{prediction.label}, {prediction.confidence:.4f}. Written: {output}")


def _by_gradient(stored: StoredModel, card: ImageCard, tensor: Float32Tensor, method: str, layer: str) -> Explained:
    explainer, methods = load_explainer(stored, "cpu"), frozenset({method})
    prediction = classify(explainer.run(tensor[None], np.array([PREDICTED]), methods).logits[0], card, top_k=3)
    outputs = explainer.run(tensor[None], np.array([prediction.class_id], np.int64), methods)
    return Explained(prediction, outputs.maps[method][0], f"{method} at {layer}")


def _by_masks(stored: StoredModel, card: ImageCard, tensor: Float32Tensor, samples: int) -> Explained:
    backend = backend_of(stored)
    prediction = classify(backend.run(tensor[None]).logits[0], card, top_k=3)
    click.echo(f"Predicting it behind {samples:,} masks …", err=True)
    (rise_map,) = MaskedExplainer(card, backend, samples).explain(tensor, [prediction.class_id])
    peak = f"peak {rise_map.values.max():.3g}, standard error {rise_map.standard_error:.2g}"
    return Explained(prediction, rise_map.values, f"{RISE}, {samples:,} masks, {peak}")


explain.add_command(quality_command)
