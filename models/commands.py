"""`vitrine models …`: what is in the store, and what goes in and out of it."""

import sys
import tempfile
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.table import Table

from errors import CardError, StoreError
from models import registry
from models.goldens import golden_inputs
from models.package import StoredModel
from models.package import verify as verify_files


@click.group(name="models")
def models() -> None:
    """List, import, verify and remove models."""


@models.command(name="list")
def list_() -> None:
    """List the bundled models and every installed version."""
    from models import store

    lock, installed = store.read_lock(), store.installed()
    table = _table("Models", "model", "version", "state", "architecture", "AUC")
    for stored in installed:
        state = "served" if lock.get(stored.card.name) == stored.version else "installed"
        auc = stored.report().get("metrics", {}).get("auc", "")
        table.add_row(stored.card.name, stored.version, state, stored.card.architecture, str(auc))
    notes = []
    for name, version in lock.items():
        if (name, version) not in {(stored.card.name, stored.version) for stored in installed}:
            table.add_row(name, version, "damaged", "", "")
            notes.append(f"Repair {name} with: {registry.how_to_import(name)}")
    for name, card in registry.bundled().items():
        if isinstance(card, CardError):
            table.add_row(name, "", "card not valid", "", "")
            notes.append(str(card))
        elif name not in lock and name not in {stored.card.name for stored in installed}:
            table.add_row(name, "", "not installed", card.architecture, "")
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
    files = _table(str(stored.path), "file", "bytes", "sha256")
    for name_, digest in stored.manifest().items():
        files.add_row(name_, f"{(stored.path / name_).stat().st_size:,}", digest[:16] + "…")
    _print(files)
    click.echo(f"Served version: {store.read_lock().get(stored.card.name, 'none')}")


@models.command(name="import")
@click.argument("name")
@click.option(
    "--weights", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="A .pth or .safetensors state_dict."
)
def import_(name: str, weights: Path | None) -> None:
    """Install a bundled model, with the shipped weights or your own of the same architecture."""
    from models import store

    card = registry.bundled().get(name)
    if card is None:
        raise click.ClickException(f"There is no bundled model {name!r}. Known: {', '.join(registry.bundled())}.")
    if isinstance(card, CardError):
        raise click.ClickException(str(card))
    package = registry.package_of(name)
    if weights is None and not registry.has_weights(name):
        raise click.ClickException(f"{name} ships without weights. Bring yours: {registry.how_to_import(name)}")
    try:
        if weights is None:
            stored, fresh = store.import_package(package)
        else:
            with tempfile.TemporaryDirectory() as folder:
                stored, fresh = store.import_package(_export(package, weights, Path(folder)), own_weights=True)
    except (StoreError, CardError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{'Imported' if fresh else 'Already there:'} {stored.tag}")


def _export(package: Path, weights: Path, folder: Path) -> Path:
    try:
        from models.export import export, read_checkpoint
    except ImportError as error:
        raise click.ClickException(
            f"Importing a checkpoint needs PyTorch ({error.name} is missing here). Use the environment of `make test`: "
            f".venv-dev/bin/vitrine models import {package.name.replace('_', '-')} --weights {weights}"
        ) from error
    click.echo("Exporting to ONNX and comparing with PyTorch …")
    parity = export(package / "card.toml", read_checkpoint(weights), golden_inputs(package), folder)
    click.echo(f"Largest difference from PyTorch: {parity:.1e} in probability, one by one and as a batch")
    return folder


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


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key} = {part}" for key, part in value.items())
    if isinstance(value, tuple):
        return "\n".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def _table(title: str, *columns: str) -> Table:
    """A table with a frame in a terminal, bare columns in a pipe."""
    frame = box.ROUNDED if sys.stdout.isatty() else None
    return Table(*columns, title=title, title_justify="left", show_header=bool(columns), box=frame)


def _print(table: Table) -> None:
    # Names and texts come from cards: no markup in them. A pipe has no width to wrap at.
    width = None if sys.stdout.isatty() else 1000
    Console(markup=False, emoji=False, highlight=False, width=width).print(table)
