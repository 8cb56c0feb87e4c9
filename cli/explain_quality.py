"""`vitrine explain quality`: measure a model's explanations, on pictures of its training or on those of a folder."""

import importlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from cli.explained_model import backend_of, samples_option
from cli.stores import open_store
from cli.tables import new_table, print_table
from errors import StoreError
from explain.rise import RISE
from export.explanation_quality import Case
from models import registry
from models.card import ImageCard, read_image_card
from models.package import EXPLAIN, EXPLANATIONS, GRAPH, WEIGHTS

if TYPE_CHECKING:
    from explain.base import Int64Array
    from export.explanation_report import ExplainedModel


@click.command(name="quality")
@click.argument("name")
@click.option(
    "--data",
    "folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A folder of pictures, for an installed model; see below.",
)
@click.option("--target", default=None, help="The label to explain; the card's positive label, else what is predicted.")
@click.option("--count", type=click.IntRange(1), default=500, show_default=True, help="Pictures, at most.")
@click.option(
    "--curves-on", type=click.IntRange(1), default=40, show_default=True, help="Of these, for insertion and deletion."
)
@click.option(
    "--compare-on", type=click.IntRange(1), default=160, show_default=True, help="Of these, for other layers, methods."
)
@click.option(
    "--random-on", type=click.IntRange(1), default=40, show_default=True, help="Of these, for random weights."
)
@click.option(
    "--heads", type=click.IntRange(1), default=8, show_default=True, help="Random heads; each counts with its opposite."
)
@click.option(
    "--method", type=click.Choice([RISE]), help="Measure rise in place of the card's method; of an installed model."
)
@samples_option
@click.option("--plot-to", default=None, type=click.Path(path_type=Path), help="docs/NAME-explanations.png by default.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write all figures there.")
def quality_command(
    name: str,
    folder: Path | None,
    target: str | None,
    count: int,
    curves_on: int,
    compare_on: int,
    random_on: int,
    heads: int,
    method: str | None,
    samples: int,
    plot_to: Path | None,
    json_file: Path | None,
) -> None:
    """Measure the explanations of the model NAME.

    Without --data NAME is a bundled model whose training has pictures with a known truth (kidney-stone): the pointing
    game, energy, insertion and deletion, other layers and random weights. All of it is written beside the card.

    \b
    With --data NAME is any installed model of pictures. The folder has pictures, and may have a file boxes.csv:
      picture,x,y,width,height
      ward/one.png,120,64,18,22
    in pixels, from the upper left corner; one line for each box, the picture's path within the folder.

    With boxes there is all of the above. Without them there are insertion, deletion, and how far the heatmaps change
    with random weights. A model that came as a graph has no PyTorch weights to replace: of it there are no figures
    with random weights, nor of other layers. Nor are there any of rise, which explains a model without a gradient and
    takes hundreds of predictions a picture: --count and --samples keep it short.
    """  # noqa: D301 - click reads the character
    try:
        from export.explanation_report import measure
        from export.randomised_maps import Counts
        from training.report import conditions
    except ImportError as error:
        raise click.ClickException(
            f"This needs PyTorch and the development tools ({error.name} is missing): use .venv-dev/bin/vitrine."
        ) from error
    counts = Counts(compare_on, random_on, heads)
    if folder is not None:
        model = _installed_model(name, by_masks=method == RISE, samples=samples)
        cases = _folder_cases(folder, model.card, count)
    elif method is not None:
        raise click.ClickException("--method goes with --data FOLDER.")
    else:
        package = explained_package(name)
        model = _bundled_model(package)
        cases = list(explained_cases(package, model.card, count))
    targets = _targets(model, cases, target)
    data = f"pictures of {folder.name}" if folder else "synthetic phantoms"
    report = measure(model, cases, targets, curves_on, counts, data=data)
    command = f"vitrine explain quality {name}" + (f" --data {folder.name}" if folder else "") + f" --count {count}"
    sections = {
        "layer": model.explain.layer if model.explain else None,
        "method": model.method,
        **({} if model.explain else {"samples": samples}),
        **report.figures,
        "conditions": conditions(command),
    }
    if folder is None:
        json_file = json_file or package / EXPLANATIONS
        _plot(report, cases, model.card, plot_to or Path("docs") / f"{name}-explanations.png")
    _print(sections)
    if model.explain is None:
        click.echo("No weights were randomised: rise would take hundreds of predictions for each of them.")
    elif model.network is None:
        click.echo(f"{name} has no PyTorch weights that could be replaced by random ones: nothing was randomised.")
    if json_file is not None:
        json_file.write_text(json.dumps(sections, indent=1) + "\n", "utf-8")
        click.echo(f"Written: {json_file}")


def explained_package(name: str) -> Path:
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
        raise click.ClickException(
            f"{card.name} has no pictures with a known target in {module}; name a folder of pictures by --data."
        ) from error
    return cases


def _bundled_model(package: Path) -> "ExplainedModel":
    from backends.onnx import OnnxBackend
    from explain.onnx import OnnxExplainer
    from export.explanation_report import ExplainedModel
    from models.checkpoint import load_network, read_checkpoint
    from runners.cores import available_cores

    card, threads = read_image_card(package / "card.toml"), available_cores()
    if card.explain is None:
        raise click.ClickException(f"The card of {card.name} names no layer to explain.")
    network = load_network(card, read_checkpoint(package / WEIGHTS).weights)
    explainer, backend = OnnxExplainer(package / EXPLAIN, threads), OnnxBackend(package / GRAPH, threads)
    return ExplainedModel(card, card.explain, explainer, backend, network)


def _installed_model(name: str, *, by_masks: bool, samples: int) -> "ExplainedModel":
    """Return an installed model with what explains it; one of the architecture `onnx` has no network.

    Args:
        name: the model's name, or `name:version`.
        by_masks: whether RISE explains it even if it has a gradient.
        samples: how many masks RISE draws.
    """
    from export.explanation_report import ExplainedModel
    from export.masked_explainer import MaskedExplainer
    from models.checkpoint import load_network, read_checkpoint
    from serving.explainable import no_gradient_reason
    from serving.gradcam.worker import load_explainer

    try:
        stored = open_store().find(name)
        card = stored.card
        if not isinstance(card, ImageCard):
            raise StoreError(f"{stored.tag} has no heatmaps: it takes no pictures.")
        backend = backend_of(stored)
        if by_masks or no_gradient_reason(card, stored):
            return ExplainedModel(card, None, MaskedExplainer(card, backend, samples), backend, None)
        network = None
        if card.architecture != "onnx" and (stored.path / WEIGHTS).exists():
            network = load_network(card, read_checkpoint(stored.path / WEIGHTS).weights)
        return ExplainedModel(card, card.explain, load_explainer(stored, "cpu"), backend, network)
    except StoreError as error:
        raise click.ClickException(str(error)) from error


def _folder_cases(folder: Path, card: ImageCard, count: int) -> list[Case]:
    from export.boxed_pictures import read_cases

    try:
        return read_cases(folder, card, count)
    except StoreError as error:
        raise click.ClickException(str(error)) from error


def _targets(model: "ExplainedModel", cases: Sequence[Case], target: str | None) -> "Int64Array":
    """Return the class that each case is explained for."""
    card = model.card
    label = target if target is not None else card.positive_label
    if label is None:
        logits = [model.backend.run(case.tensor[None]).logits[0] for case in cases]
        return np.asarray(np.argmax(logits, axis=1), np.int64)
    if label in card.labels:
        return np.full(len(cases), card.labels.index(label), np.int64)
    raise click.ClickException(f"--target: {card.name} has no label {label!r}; it has {', '.join(card.labels)}.")


def _plot(report: Any, cases: Sequence[Case], card: ImageCard, path: Path) -> None:
    from cli.explanation_plot import plot

    assert card.explain is not None
    title = f"{card.name}: {card.explain.method} (cyan: the true place, 5 px around it)"
    plot(cases, report, title, card.positive_label or "the class", path)
    click.echo(f"Written: {path}")


def _print(sections: dict[str, Any]) -> None:
    if rows := sections.get("compared"):
        table = new_table(
            "Layers and methods", "layer", "method", "pointing game", "random head", "energy within 15 px"
        )
        for row in rows:
            table.add_row(*(str(value) for value in row.values()))
        print_table(table)
    click.echo(json.dumps({name: value for name, value in sections.items() if name != "compared"}, indent=1))
