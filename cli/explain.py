"""`vitrine explain`: draw an explained prediction, or measure explanations on pictures with a known truth."""

from pathlib import Path

import click
import numpy as np

from cli.explain_quality import explained_package, quality_command
from cli.figure import Caption, draw_figure
from explain.base import PREDICTED
from explain.onnx import OnnxExplainer
from explain.overlay import overlay, png
from models.card import read_image_card
from models.package import EXPLAIN
from postprocessing.classification import classify
from preprocessing.prepare import prepare
from serving.gradcam.heat import picture_heatmap


@click.group(name="explain")
def explain() -> None:
    """Draw an explained prediction, or measure explanations against a known truth."""


@explain.command(name="picture")
@click.argument("name")
@click.argument("image", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--output", "-o", default=Path("explained.png"), show_default=True, type=click.Path(path_type=Path))
def picture_command(name: str, image: Path, output: Path) -> None:
    """Predict IMAGE with the shipped model NAME, and draw it beside its heatmap, label and probabilities."""
    package = explained_package(name)
    card = read_image_card(package / "card.toml")
    prepared = prepare(image.read_bytes(), card.limits, card.input, keep="original")
    if card.explain is None or prepared.pixels is None:
        raise click.ClickException(f"The card of {name} names no layer to explain.")
    pixels, batch, methods = prepared.pixels, prepared.tensor[None], frozenset({card.explain.method})
    explainer = OnnxExplainer(package / EXPLAIN)
    prediction = classify(explainer.run(batch, np.array([PREDICTED]), methods).logits[0], card, top_k=3)
    outputs = explainer.run(batch, np.array([prediction.class_id], np.int64), methods)
    heat = picture_heatmap(outputs.maps[card.explain.method][0], (pixels.shape[0], pixels.shape[1]), card.input)
    probabilities = {entry.label: entry.probability for entry in prediction.top}
    lines = [f"{name}: {card.explain.method} at {card.explain.layer}", *card.warnings]
    caption = Caption(prediction.label, probabilities, lines)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(png(draw_figure(pixels, overlay(pixels, heat, 0.6), caption)))
    click.echo(f"{prediction.label}, {prediction.confidence:.4f}. Written: {output}")


explain.add_command(quality_command)
