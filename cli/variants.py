"""Making a variant of a package for a command."""

from pathlib import Path

import click

from cli.expected import Expected
from cli.labelled_data import labelled_data_source
from errors import StoreError
from models.card import read_card
from models.package import VariantName


def make_variant_package(
    package: Path, variant: VariantName, folder: Path, expected: Expected, examples: Path | None
) -> Path:
    """Write the package of a variant, print how it compares with fp32 and the original, and return its folder.

    Raises:
        StoreError: it answers otherwise than the original, or as `export.variants.make_variant`.
    """
    click.echo(f"Comparing {variant} with fp32 …")
    from export.variants import make_variant

    source = labelled_data_source(read_card(package / "card.toml"))
    click.echo(str(make_variant(package, variant, folder, source)))
    try:
        expected.check(folder, examples)
    except StoreError as error:
        raise StoreError(
            f"{variant} is less precise than fp32, which passed; allow more with --tolerance, or leave out --variant. "
            f"{error}"
        ) from error
    return folder
