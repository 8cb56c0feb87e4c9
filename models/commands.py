"""`vitrine models …`: what is in the store, and what goes in and out of it."""

import tempfile
from pathlib import Path

import click
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

    console, lock = Console(), store.read_lock()
    table = Table("model", "version", "state", "architecture", "AUC", title="Models", title_justify="left")
    installed = store.installed()
    for stored in installed:
        state = "served" if lock.get(stored.card.name) == stored.version else "installed"
        auc = stored.report().get("metrics", {}).get("auc", "")
        table.add_row(stored.card.name, stored.version, state, stored.card.architecture, str(auc))
    for name, card in registry.bundled().items():
        if isinstance(card, CardError):
            table.add_row(name, "", "card not valid", "", "")
        elif name not in {stored.card.name for stored in installed}:
            table.add_row(name, "", "not installed", card.architecture, "")
            table.caption = f"Install with: {registry.how_to_import(name)}"
    console.print(table)


@models.command()
@click.argument("name")
def show(name: str) -> None:
    """Show a model's card, version, files and measured quality. NAME may be name:version."""
    from models import store

    stored = _find(name)
    console = Console()
    card = Table(title=f"{stored.card.title} ({stored.tag})", show_header=False, title_justify="left")
    for key, value in stored.card.model_dump().items():
        card.add_row(
            key, "\n".join(f"{k} = {v}" for k, v in value.items()) if isinstance(value, dict) else _plain(value)
        )
    console.print(card)
    if metrics := stored.report().get("metrics"):
        quality = Table("figure", "value", "95 % interval", title="Measured quality", title_justify="left")
        for key, value in metrics.items():
            if not key.endswith("_ci95"):
                low_high = metrics.get(f"{key}_ci95")
                quality.add_row(key, str(value), f"{low_high[0]} to {low_high[1]}" if low_high else "")
        console.print(quality)
    files = Table("file", "bytes", "sha256", title=str(stored.path), title_justify="left")
    for name_, digest in stored.manifest().items():
        files.add_row(name_, f"{(stored.path / name_).stat().st_size:,}", digest[:16] + "…")
    console.print(files)
    console.print(f"Served version: {store.read_lock().get(stored.card.name, 'none')}")


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
                stored, fresh = store.import_package(_export(package, weights, Path(folder)))
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
    return "\n".join(map(str, value)) if isinstance(value, tuple) else str(value)
