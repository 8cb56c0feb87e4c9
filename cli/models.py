"""`vitrine models …`: what is in the store, and what goes in and out of it."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import click

from cli.labelled_data import labelled_data_source
from cli.prune import prune
from cli.stores import open_store
from cli.tables import new_table, print_quality, print_table, print_values
from errors import CardError, StoreError
from export import importers
from export.card_text import card_for_own_weights
from export.parity import ParityReport
from export.rows.importing import package_from_model
from models import registry
from models.card import read_card
from models.package import EARLY_EXIT_VARIANT, StoredModel, VariantName
from models.package import verify as verify_files
from runners.tuned import read_tuned


@click.group(name="models")
def models() -> None:
    """List, import, verify and remove models."""


models.add_command(prune)


@models.command(name="list")
def list_() -> None:
    """List the bundled models and every installed version."""
    store = open_store()
    lock, installed = store.read_lock(), store.installed()
    installed_names = {stored.card.name for stored in installed}
    installed_tags = {(stored.card.name, stored.version) for stored in installed}
    table = new_table("Models", "model", "version", "state", "architecture", "variant", "AUC")
    for stored in installed:
        state = "served" if lock.get(stored.card.name) == stored.version else "installed"
        card = stored.card
        table.add_row(card.name, stored.version, state, card.architecture, stored.variant, _auc(stored))
    notes = []
    for name, version in lock.items():
        if (name, version) not in installed_tags:
            table.add_row(name, version, "damaged", "", "", "")
            notes.append(f"Repair {name} with: {registry.import_command(name)}")
    for name, bundled in ({} if store.is_own else registry.bundled_cards()).items():
        if isinstance(bundled, CardError):
            table.add_row(name, "", "card not valid", "", "", "")
            notes.append(str(bundled))
        elif name not in lock and name not in installed_names:
            table.add_row(name, "", "not installed", bundled.architecture, "", "")
            notes.append(f"Install {name} with: {registry.import_command(name)}")
    print_table(table)
    for note in notes:
        click.echo(note, err=True)


@models.command()
@click.argument("name")
def show(name: str) -> None:
    """Show a model's measured quality, card, version and files. NAME may be name:version."""
    store = open_store()
    stored = store.find(name)
    if metrics := stored.report().get("metrics"):
        print_quality(metrics, f"Measured quality of {stored.tag}")
    print_values(f"{stored.card.title} ({stored.tag})", stored.card.model_dump())
    explanations = stored.explanations()
    explanations.pop("compared", None)
    print_values("Measured explanations", explanations)
    parity = stored.parity()
    variant = parity.pop("variant", {})
    print_values("Parity check", parity)
    print_values("Variant", variant)
    for machine, tuned in read_tuned(stored.path).items():
        print_values("Tuned", {"machine": machine} | tuned.model_dump(mode="json"))
    files = new_table(str(stored.path), "file", "bytes", "sha256")
    for file, digest in stored.manifest().items():
        path = stored.path / file
        files.add_row(file, f"{path.stat().st_size:,}" if path.exists() else "missing", digest[:16] + "…")
    print_table(files)
    click.echo(f"Served version: {store.read_lock().get(stored.card.name, 'none')}")


@dataclass(frozen=True)
class OwnModel:
    """An operator's own model; at most one of the first four is given.

    Attributes:
        model: a model of rows, as scikit-learn, XGBoost or LightGBM wrote it. It needs no bundled card.
        weights: a checkpoint of the card's architecture.
        graph: an ONNX graph.
        timm_name: what timm calls a model in its hub.
        card_file: the operator's own card; None for the bundled one.
        labels: the file of the labels of a graph, or of a model of rows.
        examples: rows that become the goldens of a model of rows.
        outputs: what the values of a regressor are called, each as `name` or `name=unit`.
        trust_pickle: whether the file of a model of rows may be a pickle.
    """

    model: Path | None
    weights: Path | None
    graph: Path | None
    timm_name: str | None
    card_file: Path | None
    labels: Path | None
    examples: Path | None
    outputs: tuple[str, ...]
    trust_pickle: bool

    def is_given(self) -> bool:
        """Return whether there is a model of the operator's own."""
        return self.count() > 0

    def count(self) -> int:
        """Return how many models are given."""
        return sum(source is not None for source in (self.model, self.weights, self.graph, self.timm_name))


FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@models.command(name="import")
@click.argument("name")
@click.option("--model", type=FILE, help="Your model of rows, of scikit-learn, XGBoost or LightGBM.")
@click.option("--examples", type=FILE, help="Its examples, which become goldens: CSV with a header, or JSON.")
@click.option("--output", "outputs", multiple=True, help="Of a regressor: what its value is called, NAME or NAME=UNIT.")
@click.option("--trust-pickle", is_flag=True, help="Read a pickle, which runs any code in it.")
@click.option("--weights", type=FILE, help="Your checkpoint of the card's architecture, .pth or .safetensors.")
@click.option("--card", "card_file", type=FILE, help="Your own card of that name, such as one without CLAHE.")
@click.option("--onnx", "graph", type=FILE, help="Your graph as it is, for a card whose architecture is `onnx`.")
@click.option("--timm", "timm_name", help="A model that timm fetches from its hub, likewise.")
@click.option("--labels", type=FILE, help="Its labels in the order of the outputs, one a line or a JSON list.")
@click.option(
    "--variant",
    type=click.Choice(["fp32", *get_args(VariantName)]),
    default="fp32",
    show_default=True,
    help="Make it of lower precision, or let it stop early, unless AUC or a golden suffers.",
)
def import_(name: str, variant: Literal["fp32"] | VariantName, **options: Any) -> None:
    """Install a model: a bundled one as it ships, or with your own weights or graph, or your own model of rows.

    Your own are compared with what made them before anything is installed: PyTorch, or the graph unoptimised; a variant
    with the plain graph.
    """
    store = open_store()
    own = OwnModel(**options)
    _check_options(name, own, variant)
    with tempfile.TemporaryDirectory() as folder:
        package = registry.package_folder(name)
        try:
            if own.model is not None:
                package = _make_rows_package(name, own, own.model, Path(folder) / "own")
            elif own.is_given():
                package = _make_own_package(package, own, Path(folder) / "own")
            if variant != "fp32":
                package = _make_variant(package, variant, Path(folder) / variant)
        except ImportError as error:
            raise StoreError(
                f"This needs the `torch` extra ({error.name} is missing here). Use the environment of `make test`: "
                f".venv-dev/bin/vitrine models import {name} …"
            ) from error
        stored, is_new = store.import_package(package, own_weights=own.is_given() or variant != "fp32")
    click.echo(f"{'Imported' if is_new else 'Already there:'} {stored.tag}")


def _check_options(name: str, own: OwnModel, variant: str) -> None:
    """Raise unless the bundled model is there, where one is needed, and the options fit one another."""
    if own.count() > 1:
        raise click.ClickException("--model, --weights, --onnx and --timm are four ways in: give one.")
    if own.model is not None:
        if own.card_file is not None or variant != "fp32":
            raise click.ClickException("--card and --variant do not go with --model, which brings its own card.")
        return
    if own.examples is not None or own.outputs or own.trust_pickle:
        raise click.ClickException("--examples, --output and --trust-pickle go with --model.")
    cards = registry.bundled_cards()
    card = cards.get(name)
    if card is None:
        raise click.ClickException(f"There is no bundled model {name!r}. Known: {', '.join(cards)}.")
    if isinstance(card, CardError):
        raise card
    if own.is_given():
        if variant == EARLY_EXIT_VARIANT:
            raise click.ClickException(
                "early-exit goes with the weights that ship: its head was trained on what they see."
            )
    elif not registry.has_weights(name):
        raise click.ClickException(f"{name} ships without weights. Bring yours: {registry.import_command(name)}")
    elif own.card_file or own.labels:
        raise click.ClickException("--card and --labels go with your own weights or graph.")


def _make_own_package(bundled: Path, own: OwnModel, folder: Path) -> Path:
    """Write the package of an operator's own model, print how it compares, and return its folder."""
    name, card_file = bundled.name.replace("_", "-"), own.card_file or bundled / "card.toml"
    card = read_card(card_file)
    if card.name != name:
        raise CardError(f"{card_file}: the card's name is {card.name!r}, but {name!r} is to be imported")
    if (own.weights is not None) == (card.architecture == "onnx"):
        options = "--onnx FILE --labels FILE, or --timm NAME" if card.architecture == "onnx" else "--weights CHECKPOINT"
        raise StoreError(f"{name} is {card.architecture}: bring {options}.")
    click.echo("Comparing what would be served with its reference …")
    folder.mkdir()
    if own.weights is not None and own.card_file is None:
        card_text = card_for_own_weights(card_file.read_text("utf-8"), own.weights)
        card_file = folder / "card.toml"
        card_file.write_text(card_text, "utf-8")
        if card.task == "anomaly-detection":
            click.echo(f"The threshold {card.threshold:g} is that of the bundled weights: --card brings yours.")
    _print_parity(_import_into(folder, own, card_file, bundled))
    return folder


def _make_rows_package(name: str, own: OwnModel, model: Path, folder: Path) -> Path:
    """Write the package of an operator's own model of rows, print how it compares, and return its folder."""
    labels = importers.read_labels(own.labels) if own.labels else ()
    outputs = [(output, unit) for output, _, unit in (text.partition("=") for text in own.outputs)]
    report = package_from_model(
        name,
        model,
        folder,
        click.echo,
        examples=own.examples,
        labels=labels,
        outputs=outputs,
        trust_pickle=own.trust_pickle,
    )
    _print_parity(report)
    if report.near_threshold:
        click.echo(f"{report.near_threshold} rows beside that lie within float32's rounding of a tree's threshold")
    return folder


def _print_parity(report: ParityReport) -> None:
    click.echo(
        f"Largest difference from {report.reference}: {report.largest_difference:.1e}, "
        f"{report.label_flips} of {report.inputs} labels differ"
    )


def _import_into(folder: Path, own: OwnModel, card_file: Path, inputs: Path) -> ParityReport:
    if own.weights is not None:
        return importers.from_checkpoint(card_file, own.weights, inputs, folder, click.echo)
    card_text = card_file.read_text("utf-8")
    labels = importers.read_labels(own.labels) if own.labels else None
    if own.graph is None:
        return importers.from_timm(card_text, own.timm_name or "", labels, inputs, folder, click.echo)
    if labels is None:
        raise StoreError("A graph does not know its labels: bring --labels FILE.")
    return importers.from_onnx(card_text, own.graph, labels, inputs, folder, click.echo)


def _make_variant(package: Path, variant: VariantName, folder: Path) -> Path:
    """Write the package of a variant, print how it compares with fp32, and return its folder."""
    click.echo(f"Comparing {variant} with fp32 …")
    from export.variants import make_variant

    source = labelled_data_source(read_card(package / "card.toml"))
    click.echo(str(make_variant(package, variant, folder, source)))
    return folder


@models.command()
@click.argument("name")
def verify(name: str) -> None:
    """Check the sha256 of every file of an installed model."""
    store = open_store()
    stored = store.find(name)
    verify_files(stored)
    click.echo(f"{stored.tag}: all {len(stored.manifest())} files as imported")


@models.command()
@click.argument("name")
def remove(name: str) -> None:
    """Delete an installed model: one version (NAME:VERSION) or all of them (NAME)."""
    store = open_store()
    click.echo(f"Removed {', '.join(store.remove(name))}")


def _auc(stored: StoredModel) -> str:
    """Return a model's AUC as text.

    A variant's stands beside fp32's on the same data, which are other data than the model's own report is about.
    """
    if auc := stored.report().get("metrics", {}).get("auc"):
        return f"{auc:.4f}"
    variant = stored.parity().get("variant", {})
    return f"{variant['auc']:.4f} (fp32 {variant['auc_fp32']:.4f})" if variant.get("auc") else ""
