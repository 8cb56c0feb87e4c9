"""`vitrine explain …`: one explained prediction as a picture; how good explanations are, which needs PyTorch."""

import importlib
import json
import platform
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cv2
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from cli.figure import Words, figure
from explain.base import METHOD_NAMES, PREDICTED, Explainer, Float32Array
from explain.onnx import OnnxExplainer
from explain.overlay import heatmap, overlay, png
from export import explanation_quality as quality

if TYPE_CHECKING:
    from torch import nn

    from models.card import ImageCard

TOLERANCE_PX = 15
ALL = frozenset(METHOD_NAMES)
BATCH = 8


@click.group(name="explain")
def explain() -> None:
    """Draw an explained prediction, or measure explanations against a known truth."""


@explain.command(name="picture")
@click.argument("name")
@click.argument("image", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--output", "-o", default=Path("explained.png"), show_default=True, type=click.Path(path_type=Path))
def picture_(name: str, image: Path, output: Path) -> None:
    """Predict IMAGE with the shipped model NAME, and draw it beside its heatmap, label and probabilities."""
    from errors import VitrineError
    from models import registry
    from models.card import read_image_card
    from models.package import EXPLAIN
    from postprocessing.interpret import interpret
    from preprocessing.decode import decode
    from preprocessing.transform import transform

    package = registry.package_of(name)
    if not (package / EXPLAIN).exists():
        raise click.ClickException(f"{name} has no explain graph in {package}.")
    try:
        card = read_image_card(package / "card.toml")
        pixels = decode(image.read_bytes(), card.limits)
    except VitrineError as error:
        raise click.ClickException(str(error)) from error
    if card.explain is None:
        raise click.ClickException(f"{name}: its card names no layer.")
    method = card.explain.method
    batch = transform(pixels, card.input).tensor[None]
    explainer, wanted = OnnxExplainer(package / EXPLAIN), frozenset({method})
    said = interpret(explainer.run(batch, np.array([PREDICTED]), wanted).logits[0], card, top_k=3)
    target = np.array([said.class_id], np.int64)
    cam = explainer.run(batch, target, wanted).maps[method][0]
    heat = heatmap(cam, (pixels.shape[0], pixels.shape[1]))
    shown = {each.label: each.probability for each in said.top}
    lines = [f"{name}: {method} at {card.explain.layer}", *card.warnings]
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(png(figure(pixels, overlay(pixels, heat, 0.6), Words(said.label, shown, lines))))
    click.echo(f"{said.label}, {said.confidence:.4f}. Written: {output}")


@explain.command(name="quality")
@click.argument("name")
@click.option("--count", default=500, show_default=True, help="Pictures with a known target.")
@click.option("--curves-on", default=60, show_default=True, help="Of these, for insertion and deletion.")
@click.option("--compare-on", default=160, show_default=True, help="Of these, for other layers and random weights.")
@click.option("--plot-to", default=None, type=click.Path(path_type=Path), help="docs/NAME-explanations.png by default.")
def quality_(name: str, count: int, curves_on: int, compare_on: int, plot_to: Path | None) -> None:
    """Pointing game, energy, insertion and deletion, other layers and random weights; writes it all beside the card."""
    try:
        import torch

        from models import registry
        from models.card import read_image_card
        from models.checkpoint import load_network, read_checkpoint
        from models.package import EXPLAIN, EXPLANATIONS, WEIGHTS
    except ImportError as error:
        raise click.ClickException(
            f"This needs PyTorch ({error.name} is missing): use .venv-dev/bin/vitrine."
        ) from error
    package = registry.package_of(name)
    if not (package / EXPLAIN).exists():
        raise click.ClickException(f"{name} has no explain graph in {package}.")
    card = read_image_card(package / "card.toml")
    if card.explain is None or card.positive_label is None:
        raise click.ClickException(f"{name}: its card names no layer, or no label to look for.")
    target = card.labels.index(card.positive_label)
    try:
        draw = importlib.import_module(f"models.{package.name}.data").explained_cases
    except (ImportError, AttributeError):
        raise click.ClickException(f"{name} has no pictures with a known target (models/{package.name}/data.py).")
    cases: list[quality.Case] = list(_progress(draw(card.input, count), count, "draw"))

    explainer = OnnxExplainer(package / EXPLAIN, torch.get_num_threads())
    heats = _heats(explainer, cases, target, "explain")
    figures = _figures(cases, heats, card.explain.method)
    network = load_network(card, read_checkpoint(package / WEIGHTS).weights)
    curves = _curves(network, cases[:curves_on], heats[card.explain.method][:curves_on], target)
    figures |= {f"{kind}_auc": round(quality.area(curve), 4) for kind, curve in curves.items()}
    figures["randomised"] = _randomised(card, network, cases[:compare_on], heats[card.explain.method], target)
    figures["compared"] = _compared(network, cases[:compare_on], target)
    figures["conditions"] = {
        "command": f"vitrine explain quality {name} --count {count}",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {"torch": torch.__version__.split("+")[0], "opencv": cv2.__version__},
    }
    written = {"layer": card.explain.layer, "method": card.explain.method, **figures}
    (package / EXPLANATIONS).write_text(json.dumps(written, indent=1) + "\n", "utf-8")
    plot_to = plot_to or Path("docs") / f"{name}-explanations.png"
    _plot(cases, heats[card.explain.method], figures, curves, card, plot_to)
    _print(figures)
    click.echo(f"Written: {package / EXPLANATIONS} and {plot_to}")


def _progress(items: Iterator[Any], count: int, what: str) -> Iterator[Any]:
    from tqdm import tqdm

    yield from tqdm(items, total=count, desc=what)


def _heats(explainer: Explainer, cases: Sequence[quality.Case], target: int, what: str) -> dict[str, Float32Array]:
    """Heatmaps at the input's size, by method."""
    size = cases[0].mask.shape
    rows: dict[str, list[Float32Array]] = {method: [] for method in METHOD_NAMES}
    for first in _progress(iter(range(0, len(cases), BATCH)), -(-len(cases) // BATCH), what):
        tensors = np.stack([case.tensor for case in cases[first : first + BATCH]])
        maps = explainer.run(tensors, np.full(len(tensors), target, np.int64), ALL).maps
        for method in METHOD_NAMES:
            rows[method] += [heatmap(cam, (size[0], size[1])) for cam in maps[method]]
    return {method: np.stack(each) for method, each in rows.items()}


def _pointing(cases: Sequence[quality.Case], heats: Float32Array) -> int:
    return sum(
        quality.hit(quality.peak(heat), case.mask, TOLERANCE_PX) for case, heat in zip(cases, heats, strict=False)
    )


def _energy(cases: Sequence[quality.Case], heats: Float32Array, around_px: int = 0) -> float:
    masks = [quality.grown(case.mask, around_px) if around_px else case.mask for case in cases]
    return float(np.mean([quality.energy(heat, mask) for heat, mask in zip(heats, masks, strict=False)]))


def _figures(cases: Sequence[quality.Case], heats: dict[str, Float32Array], method: str) -> dict[str, Any]:
    hits, count = _pointing(cases, heats[method]), len(cases)
    blind = {
        "centre": [quality.centre(case.mask.shape) for case in cases],
        "brightest_blob": [quality.brightest_blob(case.grey) for case in cases],
    }
    return {
        "n": count,
        "tolerance_px": TOLERANCE_PX,
        "pointing_game": round(hits / count, 4),
        "pointing_game_ci95": [round(each, 4) for each in quality.wilson(hits, count)],
        "energy": round(_energy(cases, heats[method]), 4),
        "energy_within_tolerance": round(_energy(cases, heats[method], TOLERANCE_PX), 4),
        "uniform_energy": round(float(np.mean([case.mask.mean() for case in cases])), 4),
        "baselines": {
            name: round(
                float(
                    np.mean([quality.hit(at, case.mask, TOLERANCE_PX) for at, case in zip(points, cases, strict=True)])
                ),
                4,
            )
            for name, points in blind.items()
        },
        "data": "synthetic phantoms",
    }


def _curves(
    network: "nn.Module", cases: Sequence[quality.Case], heats: Float32Array, target: int
) -> dict[str, npt.NDArray[np.float64]]:
    """Mean insertion and deletion curves."""
    import torch

    def score(batch: Float32Array) -> npt.NDArray[np.float64]:
        with torch.inference_mode():
            chances = network(torch.from_numpy(batch)).double().softmax(1)[:, target]
        return np.asarray(chances.numpy())

    pairs = [
        quality.insertion_deletion(score, case.tensor, heat, 20)
        for case, heat in zip(_progress(iter(cases), len(cases), "insert, delete"), heats, strict=True)
    ]
    inserted, deleted = (np.mean([pair[side] for pair in pairs], axis=0) for side in (0, 1))
    return {"insertion": inserted, "deletion": deleted}


def _randomised(
    card: "ImageCard", network: "nn.Module", cases: Sequence[quality.Case], heats: Float32Array, target: int
) -> dict[str, Any]:
    """The parameter-randomisation check (Adebayo et al. 2018): with random weights, a map must change and miss."""
    import torch
    from scipy.stats import spearmanr

    from explain.autograd import AutogradExplainer
    from models.architectures import build

    if card.explain is None:
        raise ValueError("the card names no layer")
    layer, method = card.explain.layer, card.explain.method
    torch.manual_seed(0)
    fresh = build(card).state_dict()
    trained = network.state_dict()
    found: dict[str, Any] = {"trained": {"pointing_game": round(_pointing(cases, heats) / len(cases), 4)}}
    stages = [name for name, _ in network.stages()]  # type: ignore[operator]
    after = tuple(f"{name}." for name in stages[stages.index(layer) + 1 :])
    last = [name for name in fresh if name.startswith(f"{stages[-1]}.")]
    tail = [name for name in fresh if name.startswith(after)]
    for what, names in (("head", last), ("after_layer", tail), ("all", list(fresh))):
        broken = build(card)
        broken.load_state_dict({**trained, **{name: fresh[name] for name in names}})
        random = _heats(AutogradExplainer(broken, layer), cases, target, f"random {what}")[method]
        alike = [spearmanr(a, b).statistic for a, b in zip(_coarse(heats), _coarse(random), strict=False)]
        found[what] = {
            "pointing_game": round(_pointing(cases, random) / len(cases), 4),
            "rank_correlation": round(float(np.nanmean(alike)), 4),
        }
    return found


def _coarse(heats: Float32Array) -> list[Float32Array]:
    return [np.asarray(cv2.resize(heat, (14, 14), interpolation=cv2.INTER_AREA)).ravel() for heat in heats]


def _compared(network: "nn.Module", cases: Sequence[quality.Case], target: int) -> list[dict[str, Any]]:
    """Pointing game and energy of other layers, methods, and products of two layers' heatmaps."""
    from explain.autograd import AutogradExplainer

    layers = [f"backbone.blocks.{number}" for number in (2, 3, 4, 5, 6)]
    rows, found = [], dict[tuple[str, str], Float32Array]()
    for layer in layers:
        for method, heats in _heats(AutogradExplainer(network, layer), cases, target, layer).items():
            found[layer, method] = heats
    for method in ("layercam", "hirescam"):
        for fine, coarse in ((layers[2], layers[4]), (layers[1], layers[2]), (layers[2], layers[3])):
            found[f"{fine} x {coarse}", method] = found[fine, method] * found[coarse, method]
    for (layer, method), heats in found.items():
        hits = _pointing(cases, heats)
        rows.append(
            {
                "layer": layer,
                "method": method,
                "pointing_game": round(hits / len(cases), 4),
                "energy_within_tolerance": round(_energy(cases, heats, TOLERANCE_PX), 4),
            }
        )
    return sorted(rows, key=lambda row: -row["pointing_game"])


def _print(figures: dict[str, Any]) -> None:
    console = Console(highlight=False)
    table = Table("layer", "method", "pointing game", "energy within 15 px")
    for row in figures["compared"]:
        table.add_row(*(str(value) for value in row.values()))
    console.print(table)
    click.echo(json.dumps({key: value for key, value in figures.items() if key != "compared"}, indent=1))


def _plot(
    cases: Sequence[quality.Case],
    heats: Float32Array,
    figures: dict[str, Any],
    curves: dict[str, npt.NDArray[np.float64]],
    card: "ImageCard",
    path: Path,
) -> None:
    """Pointing game beside its baselines, the curves, and six pictures with their heatmaps and true outlines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(12, 7), layout="constrained")
    grid = figure.add_gridspec(2, 6, height_ratios=[1.4, 1])
    left, right = figure.add_subplot(grid[0, :3]), figure.add_subplot(grid[0, 3:])
    random = figures["randomised"]
    bars = {
        "model": figures["pointing_game"],
        "random head": random["head"]["pointing_game"],
        "random after the layer": random["after_layer"]["pointing_game"],
        "random weights": random["all"]["pointing_game"],
        **{name.replace("_", " "): share for name, share in figures["baselines"].items()},
    }
    left.barh(list(bars)[::-1], list(bars.values())[::-1], color="#0b6e99")
    left.set(xlim=(0, 1), xlabel=f"pointing game, {TOLERANCE_PX} px", title=f"{figures['n']} synthetic phantoms")
    for kind, curve in curves.items():
        right.plot(np.linspace(0, 1, len(curve)), curve, label=f"{kind}, area {quality.area(curve):.3f}")
    right.set(xlabel="share of pixels, hottest first", ylabel=f"P({card.positive_label})", ylim=(0, 1))
    right.legend()
    for column, index in enumerate(np.linspace(0, len(cases) - 1, 6).astype(int)):
        axes = figure.add_subplot(grid[1, column])
        picture = cv2.cvtColor(cases[index].grey.astype(np.uint8), cv2.COLOR_GRAY2RGB)
        axes.imshow(overlay(np.asarray(picture, np.uint8), heats[index], 0.6))
        axes.contour(quality.grown(cases[index].mask, 5), [0.5], colors="cyan", linewidths=0.8)
        axes.set_axis_off()
    figure.suptitle(
        f"{card.name}: {card.explain.method if card.explain else ''} (cyan: the true place, 5 px around it)"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90, metadata={"Software": None})
    plt.close(figure)
