"""`vitrine models prune`: delete the versions that nothing serves."""

import click

from cli.stores import open_store
from settings import load_settings


@click.command()
@click.option("--keep", type=click.IntRange(min=0), default=1, show_default=True, help="So many more of each model.")
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and delete nothing.")
def prune(keep: int, dry_run: bool) -> None:
    """Delete the versions that nothing serves.

    The version in service stays, what a Bento packs, and what VITRINE_MODELS names. So does the newest other version of
    each model: a server whose newest version failed its self-check still serves the one before. Look at GET /health
    before you keep none.
    """
    from models.served_versions import versions_in_bentos

    store, requested = open_store(), load_settings().chosen_models
    kept = [] if store.is_own else versions_in_bentos(store.models.parent / "bentos")
    for folder in store.version_folders():
        name, version = folder.parent.name, folder.name
        if any(name == chosen and beginning and version.startswith(beginning) for chosen, beginning in requested):
            kept.append((name, version))
    pruned = store.prune(keep, kept, dry_run=dry_run)
    for tag in pruned:
        click.echo(f"{'Would remove' if dry_run else 'Removed'} {tag}")
    if not pruned:
        click.echo("There is no version to delete.")
