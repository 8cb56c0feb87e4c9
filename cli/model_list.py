"""`vitrine models list`: the bundled models and what is in the store."""

import click

from cli.stores import open_store
from cli.tables import new_table, print_table
from errors import CardError
from models import registry
from models.package import StoredModel


@click.command(name="list")
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


def _auc(stored: StoredModel) -> str:
    """Return a model's AUC as text.

    A variant's stands beside fp32's on the same data, which are other data than the model's own report is about.
    """
    if auc := stored.report().get("metrics", {}).get("auc"):
        return f"{auc:.4f}"
    variant = stored.parity().get("variant", {})
    return f"{variant['auc']:.4f} (fp32 {variant['auc_fp32']:.4f})" if variant.get("auc") else ""
