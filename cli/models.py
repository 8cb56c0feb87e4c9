"""`vitrine models …`: what is in the store, and what goes in and out of it."""

import sys
import tempfile
from pathlib import Path
from typing import Literal, get_args

import click
from rich import box
from rich.console import Console
from rich.table import Table

from errors import CardError, StoreError
from export import importers as bring
from export.parity import Parity
from models import registry
from models.card import read_card
from models.package import EARLY_EXIT, Kind, StoredModel
from models.package import verify as verify_files


@click.group(name="models")
def models() -> None:
    """List, import, verify and remove models."""


@models.command(name="list")
def list_() -> None:
    """List the bundled models and every installed version."""
    from models import store

    lock, installed = store.read_lock(), store.installed()
    table = _table("Models", "model", "version", "state", "architecture", "variant", "AUC")
    for stored in installed:
        state = "served" if lock.get(stored.card.name) == stored.version else "installed"
        table.add_row(
            stored.card.name, stored.version, state, stored.card.architecture, stored.variant, _auc_of(stored)
        )
    notes = []
    for name, version in lock.items():
        if (name, version) not in {(stored.card.name, stored.version) for stored in installed}:
            table.add_row(name, version, "damaged", "", "", "")
            notes.append(f"Repair {name} with: {registry.how_to_import(name)}")
    for name, card in registry.bundled().items():
        if isinstance(card, CardError):
            table.add_row(name, "", "card not valid", "", "", "")
            notes.append(str(card))
        elif name not in lock and name not in {stored.card.name for stored in installed}:
            table.add_row(name, "", "not installed", card.architecture, "", "")
            notes.append(f"Install {name} with: {registry.how_to_import(name)}")
    _print(table)
    for note in notes:
        click.echo(note, err=True)


@models.command()
@click.argument("name")
def show(name: str) -> None:
    """Show a model's card, version, files and measured quality. NAME may be name:version."""
    from models import store

    stored = _find(name)
    card = _table(f"{stored.card.title} ({stored.tag})")
    for key, value in stored.card.model_dump().items():
        card.add_row(key, _plain(value))
    _print(card)
    if metrics := stored.report().get("metrics"):
        quality = _table("Measured quality", "figure", "value", "95 % interval")
        for key, value in metrics.items():
            if not key.endswith("_ci95"):
                low_high = metrics.get(f"{key}_ci95")
                quality.add_row(key, str(value), f"{low_high[0]} to {low_high[1]}" if low_high else "")
        _print(quality)
    if explanations := stored.explanations():
        pointing = _table("Measured explanations")
        for key, value in explanations.items():
            if key != "compared":
                pointing.add_row(key, _plain(value))
        _print(pointing)
    if parity := stored.parity():
        for title, found in (("Parity gate", parity), ("Variant", parity.pop("variant", {}))):
            gate = _table(title)
            for key, value in found.items():
                gate.add_row(key, _plain(value))
            if found:
                _print(gate)
    for machine, found in stored.tuning().items():
        tuning = _table("Tuned")
        tuning.add_row("machine", machine)
        for key, value in found.items():
            tuning.add_row(key, _plain(value))
        _print(tuning)
    files = _table(str(stored.path), "file", "bytes", "sha256")
    try:
        for name_, digest in stored.manifest().items():
            path = stored.path / name_
            files.add_row(name_, f"{path.stat().st_size:,}" if path.exists() else "missing", digest[:16] + "…")
    except StoreError as error:
        raise click.ClickException(str(error)) from error
    _print(files)
    click.echo(f"Served version: {store.read_lock().get(stored.card.name, 'none')}")


FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@models.command(name="import")
@click.argument("name")
@click.option("--weights", type=FILE, help="Your checkpoint of the card's architecture, .pth or .safetensors.")
@click.option("--card", "card_file", type=FILE, help="Your own card of that name, such as one without CLAHE.")
@click.option("--onnx", "graph", type=FILE, help="Your graph as it is, for a card whose architecture is `onnx`.")
@click.option("--timm", "timm_name", help="A model that timm fetches from its hub, likewise.")
@click.option("--labels", type=FILE, help="Its labels in the order of the outputs, one a line or a JSON list.")
@click.option(
    "--variant",
    type=click.Choice(["fp32", *get_args(Kind)]),
    default="fp32",
    show_default=True,
    help="Make it of lower precision, or let it stop early, unless AUC or a golden suffers.",
)
def import_(
    name: str,
    weights: Path | None,
    card_file: Path | None,
    graph: Path | None,
    timm_name: str | None,
    labels: Path | None,
    variant: Literal["fp32"] | Kind,
) -> None:
    """Install a bundled model: as it ships, or with your own weights or graph.

    Your own are compared with what made them before anything is installed: PyTorch, or the graph unoptimised; a variant
    with the plain graph.
    """
    from models import store

    card = registry.bundled().get(name)
    if card is None:
        raise click.ClickException(f"There is no bundled model {name!r}. Known: {', '.join(registry.bundled())}.")
    if isinstance(card, CardError):
        raise click.ClickException(str(card))
    package = registry.package_of(name)
    own = [each for each in (weights, graph, timm_name) if each is not None]
    if len(own) > 1:
        raise click.ClickException("--weights, --onnx and --timm are three ways in: give one.")
    if not own and not registry.has_weights(name):
        raise click.ClickException(f"{name} ships without weights. Bring yours: {registry.how_to_import(name)}")
    if not own and (card_file or labels):
        raise click.ClickException("--card and --labels go with your own weights or graph.")
    if own and variant == EARLY_EXIT:
        raise click.ClickException("early-exit goes with the weights that ship: its head was trained on what they see.")
    try:
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder)
            if not own:
                made = package
            else:
                found = _bring(package, made, card_file, weights, graph, timm_name, labels)
                click.echo(
                    f"Largest difference from {found.reference}: {found.largest_difference:.1e}, "
                    f"{found.label_flips} of {found.inputs} labels another"
                )
            if variant != "fp32":
                made = _varied(made, variant, Path(folder) / variant)
            stored, fresh = store.import_package(made, own_weights=bool(own) or variant != "fp32")
    except (StoreError, CardError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{'Imported' if fresh else 'Already there:'} {stored.tag}")


def _bring(
    package: Path,
    made: Path,
    card_file: Path | None,
    weights: Path | None,
    graph: Path | None,
    timm_name: str | None,
    labels: Path | None,
) -> Parity:
    """Make a package of what an operator brought."""
    name, own_card = package.name.replace("_", "-"), card_file or package / "card.toml"
    card = read_card(own_card)
    if card.name != name:
        raise CardError(f"{own_card}: the card's name is {card.name!r}, but {name!r} is to be imported")
    if (weights is not None) == (card.architecture == "onnx"):
        way = "--onnx FILE --labels FILE, or --timm NAME" if card.architecture == "onnx" else "--weights CHECKPOINT"
        raise StoreError(f"{name} is {card.architecture}: bring {way}.")
    click.echo("Comparing what would be served with its reference …")
    try:
        if weights is not None:
            if card_file is None:
                own_card = made / "card.toml"
                own_card.write_text(bring.own_card((package / "card.toml").read_text("utf-8"), weights), "utf-8")
                if card.task == "anomaly-detection":
                    click.echo(f"The threshold {card.threshold:g} is that of the bundled weights: --card brings yours.")
            return bring.from_checkpoint(own_card, weights, package, made)
        listed = bring.read_labels(labels) if labels else None
        if graph is None:
            return bring.from_timm(own_card.read_text("utf-8"), timm_name or "", listed, package, made, click.echo)
        if listed is None:
            raise StoreError("A graph does not know its labels: bring --labels FILE.")
        return bring.from_onnx(own_card.read_text("utf-8"), graph, listed, package, made, click.echo)
    except ImportError as error:
        raise _needs_more(name, error) from error


def _varied(package: Path, kind: Kind, made: Path) -> Path:
    """Make a variant of a package, and say what it comes to; gives its folder."""
    click.echo(f"Comparing {kind} with fp32 …")
    try:
        from export.variants import make

        click.echo(str(make(package, kind, made)))
    except ImportError as error:
        raise _needs_more(read_card(package / "card.toml").name, error) from error
    return made


def _needs_more(name: str, error: ImportError) -> StoreError:
    return StoreError(
        f"This needs the `torch` extra ({error.name} is missing here). Use the environment of `make test`: "
        f".venv-dev/bin/vitrine models import {name} …"
    )


@models.command()
@click.argument("name")
def verify(name: str) -> None:
    """Check the sha256 of every file of an installed model."""
    stored = _find(name)
    try:
        verify_files(stored)
    except StoreError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{stored.tag}: all {len(stored.manifest())} files as imported")


@models.command()
@click.argument("name")
def remove(name: str) -> None:
    """Delete an installed model: one version (NAME:VERSION) or all of them (NAME)."""
    from models import store

    base, _, version = name.partition(":")
    try:
        gone = store.remove(base, version or None)
    except StoreError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"Removed {', '.join(gone)}")


def _find(name: str) -> StoredModel:
    from models import store

    base, _, version = name.partition(":")
    try:
        return store.find(base, version or None)
    except StoreError as error:
        raise click.ClickException(str(error)) from error


def _auc_of(stored: StoredModel) -> str:
    """A model's AUC; a variant's beside fp32's on the same data, which is not what the model's own was measured on."""
    if auc := stored.report().get("metrics", {}).get("auc"):
        return f"{auc:.4f}"
    variant = stored.parity().get("variant", {})
    return f"{variant['auc']:.4f} (fp32 {variant['auc_fp32']:.4f})" if variant.get("auc") else ""


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key} = {part}" for key, part in value.items())
    if isinstance(value, tuple):
        return "\n".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _table(title: str, *columns: str) -> Table:
    """A table with a frame in a terminal, bare columns in a pipe."""
    frame = box.ROUNDED if sys.stdout.isatty() else None
    return Table(*columns, title=title, title_justify="left", show_header=bool(columns), box=frame)


def _print(table: Table) -> None:
    # Names and texts come from cards: no markup in them. A pipe has no width to wrap at.
    width = None if sys.stdout.isatty() else 1000
    Console(markup=False, emoji=False, highlight=False, width=width).print(table)
