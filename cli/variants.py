"""Making a variant of a package for a command."""

from pathlib import Path

import click

from cli.labelled_data import labelled_data_source
from models.card import read_card
from models.package import VariantName


def make_variant_package(package: Path, variant: VariantName, folder: Path) -> Path:
    """Write the package of a variant, print how it compares with fp32, and return its folder."""
    click.echo(f"Comparing {variant} with fp32 …")
    from export.variants import make_variant

    source = labelled_data_source(read_card(package / "card.toml"))
    click.echo(str(make_variant(package, variant, folder, source)))
    return folder
