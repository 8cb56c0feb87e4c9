"""`vitrine models …`: what is in the store, and what goes in and out of it."""

import tempfile
from pathlib import Path
from typing import Any, Literal, get_args

import click

from cli.add import add
from cli.compare import compare
from cli.cost import measure_and_warn, print_cost
from cli.diff import diff
from cli.expected import Expected, expected_options
from cli.model_list import list_
from cli.prune import prune
from cli.stores import open_store, place_of
from cli.tables import new_table, print_quality, print_table, print_values
from cli.variants import make_variant_package
from errors import CardError, StoreError
from explain.rise import DEFAULT_SAMPLES, RISE
from export import importers
from export.adding import print_parity
from export.card_text import card_for_own_weights
from export.input_text import input_text
from export.sources.names import check_other_store
from models import registry
from models.card import ImageCard, RowCard, read_card
from models.cost import read_cost
from models.goldens import golden_inputs
from models.package import EARLY_EXIT_VARIANT, StoredModel, VariantName
from models.package import verify as verify_files
from runners.tuned import read_tuned
from serving.attributions import row_methods
from serving.explainable import no_gradient_reason, not_explainable_reason


@click.group(name="models")
def models() -> None:
    """List, add, import, compare, verify and remove models."""


for command in (list_, add, compare, diff, prune):
    models.add_command(command)


@models.command()
@click.argument("name")
def show(name: str) -> None:
    """Show a model's measured quality, card, version and files. NAME may be name:version."""
    store = open_store()
    stored = store.find(name)
    if metrics := stored.report().get("metrics"):
        print_quality(metrics, f"Measured quality of {stored.tag}")
    print_values(f"{stored.card.title} ({stored.tag})", stored.card.model_dump())
    print_values("Explanations", _explanations(stored))
    if cost := read_cost(stored.path):
        print_cost(cost)
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


def _explanations(stored: StoredModel) -> dict[str, Any]:
    """Return how a model is explained and what was measured of it, or why it is not."""
    if reason := not_explainable_reason(stored.card, stored):
        return {"unavailable": reason}
    if isinstance(stored.card, ImageCard) and (reason := no_gradient_reason(stored.card, stored)):
        return {"way": RISE, "cost": f"{DEFAULT_SAMPLES} predictions", "no gradient": reason}
    if isinstance(stored.card, RowCard):
        return {"way": row_methods(stored.card)[0]}
    explanations = stored.explanations()
    explanations.pop("compared", None)
    return {"way": stored.explained_by} | explanations


FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
PATH = click.Path(path_type=Path, exists=True)


@models.command(name="import")
@click.argument("name")
@click.option("--examples", type=PATH, help="Pictures or rows to compare on with --expected; by default the goldens.")
@click.option("--weights", type=FILE, help="Your checkpoint of the card's architecture, .pth or .safetensors.")
@click.option("--card", "card_file", type=FILE, help="Your own card of that name, such as one without CLAHE.")
@click.option(
    "--variant",
    type=click.Choice(["fp32", *get_args(VariantName)]),
    default="fp32",
    show_default=True,
    help="Make it of lower precision, or let it stop early, unless AUC or a golden suffers.",
)
@expected_options
def import_(
    name: str,
    weights: Path | None,
    card_file: Path | None,
    examples: Path | None,
    variant: Literal["fp32"] | VariantName,
    expected: Expected,
) -> None:
    """Install a bundled model as it ships, or with your own weights. `vitrine models add` brings any other model.

    Your own weights are compared with PyTorch before anything is installed, a variant with the plain graph. With
    --expected they are compared with what the original gave for --examples, too.
    """
    store = open_store()
    _check_options(name, weights, card_file, variant)
    if expected.file is not None and weights is None:
        raise click.ClickException("--expected goes with your own weights.")
    if examples is not None and expected.file is None:
        raise click.ClickException("--examples goes with --expected FILE.")
    with tempfile.TemporaryDirectory() as folder:
        package = registry.package_folder(name)
        try:
            if weights is not None:
                package = _make_own_package(package, weights, card_file, Path(folder) / "own")
                expected.check(package, examples)
            if variant != "fp32":
                package = make_variant_package(package, variant, Path(folder) / variant, expected, examples)
        except ImportError as error:
            raise StoreError(
                f"This needs the `torch` extra ({error.name} is missing here). Use the environment of `make test`: "
                f".venv-dev/bin/vitrine models import {name} …"
            ) from error
        check_other_store(name, package, store)
        stored, is_new = store.import_package(package, own_weights=weights is not None or variant != "fp32")
    click.echo(f"{'Imported' if is_new else 'Already there:'} {stored.tag}{place_of(store)}")
    measure_and_warn(stored)


def _check_options(name: str, weights: Path | None, card_file: Path | None, variant: str) -> None:
    """Raise unless there is such a bundled model, and the options fit it and one another."""
    cards = registry.bundled_cards()
    card = cards.get(name)
    if card is None:
        raise click.ClickException(
            f"There is no bundled model {name!r}. Known: {', '.join(cards)}. A model of your own comes with "
            "`vitrine models add`."
        )
    if isinstance(card, CardError):
        raise card
    if card.architecture == "onnx" and not registry.has_weights(name):
        raise click.ClickException(f"{name} ships as a card that any graph fills in: {registry.import_command(name)}")
    if weights is not None:
        if variant == EARLY_EXIT_VARIANT:
            raise click.ClickException(
                "early-exit goes with the weights that ship: its head was trained on what they see."
            )
    elif not registry.has_weights(name):
        raise click.ClickException(f"{name} ships without weights. Bring yours: {registry.import_command(name)}")
    elif card_file:
        raise click.ClickException("--card goes with your own weights.")


def _make_own_package(bundled: Path, weights: Path, card_file: Path | None, folder: Path) -> Path:
    """Write the package of a bundled model with other weights, print how it compares, and return its folder."""
    name, card_text = bundled.name.replace("_", "-"), card_file or bundled / "card.toml"
    card = read_card(card_text)
    if card.name != name:
        raise CardError(f"{card_file}: the card's name is {card.name!r}, but {name!r} is to be imported")
    if card.architecture == "onnx":
        raise StoreError(f"{card_file}: a graph is no checkpoint. Bring it with `vitrine models add GRAPH --card …`.")
    click.echo("Comparing what would be served with its reference …")
    folder.mkdir()
    if card_file is None:
        card_file = folder / "card.toml"
        card_file.write_text(card_for_own_weights(card_text.read_text("utf-8"), weights), "utf-8")
        click.echo(f"ASSUMED, since there is no --card: {input_text(card)}")
        if card.task == "anomaly-detection":
            click.echo(f"The threshold {card.threshold:g} is that of the bundled weights: --card brings yours.")
    goldens = golden_inputs(bundled)
    print_parity(importers.from_checkpoint(card_file, weights, goldens, folder, click.echo), click.echo)
    return folder


@models.command(name="export-card")
@click.argument("name")
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="The file to write; else it is printed."
)
def export_card(name: str, output: Path | None) -> None:
    """Print or write the card of an installed or bundled model, to be edited and brought back with --card.

    NAME may be name:version.
    """
    store = open_store()
    bundled = registry.package_folder(name) / "card.toml"
    is_installed = any(name.partition(":")[0] == stored.card.name for stored in store.installed())
    text = (bundled if bundled.exists() and not is_installed else store.find(name).path / "card.toml").read_text(
        "utf-8"
    )
    if output is None:
        click.echo(text, nl=False)
    elif output.exists():
        raise click.ClickException(f"{output} is there already: name another file, or remove it first.")
    else:
        output.write_text(text, "utf-8")
        click.echo(f"Wrote {output}")


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
