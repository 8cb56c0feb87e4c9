"""`vitrine explain`: draw an explained prediction, or measure explanations on pictures with a known truth."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from cli.figure import Caption, draw_figure
from explain.base import PREDICTED
from explain.onnx import OnnxExplainer
from explain.overlay import overlay, png
from export.explanation_quality import Case
from models import registry
from models.card import ImageCard, read_image_card
from models.package import EXPLAIN, EXPLANATIONS
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
    package = _explained_package(name)
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


@explain.command(name="quality")
@click.argument("name")
@click.option("--count", default=500, show_default=True, help="Pictures with a known target.")
@click.option("--curves-on", default=40, show_default=True, help="Of these, for insertion and deletion.")
@click.option("--compare-on", default=160, show_default=True, help="Of these, for other layers and methods.")
@click.option("--random-on", default=40, show_default=True, help="Of these, for random weights.")
@click.option("--heads", default=8, show_default=True, help="Random heads; each counts with its opposite.")
@click.option("--plot-to", default=None, type=click.Path(path_type=Path), help="docs/NAME-explanations.png by default.")
def quality_command(
    name: str, count: int, curves_on: int, compare_on: int, random_on: int, heads: int, plot_to: Path | None
) -> None:
    """Pointing game, energy, insertion and deletion, other layers and random weights; writes it all beside the card."""
    try:
        from tqdm import tqdm

        from cli.explanation_plot import plot
        from export.explanation_report import measure
        from export.randomised_maps import Counts
        from training.report import conditions
    except ImportError as error:
        raise click.ClickException(
            f"This needs PyTorch and the development tools ({error.name} is missing): use .venv-dev/bin/vitrine."
        ) from error
    package = _explained_package(name)
    card = read_image_card(package / "card.toml")
    if card.explain is None or card.positive_label is None:
        raise click.ClickException(f"The card of {name} names no layer to explain, or no label to look for.")
    cases = list(tqdm(explained_cases(package, card, count), total=count, desc="draw"))
    target = card.labels.index(card.positive_label)
    report = measure(card, card.explain, target, package, cases, curves_on, Counts(compare_on, random_on, heads))
    sections = {
        "layer": card.explain.layer,
        "method": card.explain.method,
        **report.figures,
        "conditions": conditions(f"vitrine explain quality {name} --count {count}"),
    }
    (package / EXPLANATIONS).write_text(json.dumps(sections, indent=1) + "\n", "utf-8")
    plot_to = plot_to or Path("docs") / f"{name}-explanations.png"
    title = f"{card.name}: {card.explain.method} (cyan: the true place, 5 px around it)"
    plot(cases, report, title, card.positive_label, plot_to)
    _print(sections)
    click.echo(f"Written: {package / EXPLANATIONS} and {plot_to}")


def _explained_package(name: str) -> Path:
    """Return the folder of a bundled model that has an explain graph."""
    package = registry.package_folder(name)
    if not (package / EXPLAIN).exists():
        raise click.ClickException(f"{name} has no explain graph in {package}.")
    return package


def explained_cases(package: Path, card: ImageCard, count: int) -> Iterator[Case]:
    """Return the pictures with a known truth that belong to the training of a bundled model.

    Raises:
        ClickException: its training has none.
    """
    module = f"training.{package.name}.data"
    try:
        cases: Iterator[Case] = importlib.import_module(module).explained_cases(card.input, count)
    except (ImportError, AttributeError) as error:
        raise click.ClickException(f"{card.name} has no pictures with a known target in {module}.") from error
    return cases


def _print(sections: dict[str, Any]) -> None:
    table = Table("layer", "method", "pointing game", "random head", "energy within 15 px")
    for row in sections["compared"]:
        table.add_row(*(str(value) for value in row.values()))
    Console(highlight=False).print(table)
    click.echo(json.dumps({name: value for name, value in sections.items() if name != "compared"}, indent=1))
