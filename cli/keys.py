"""`vitrine keys …`: who may use the service."""

import contextlib
import re
from pathlib import Path

import click

from api.keys import NAME, RELOAD_INTERVAL_S, add_key, read_keys, remove_key
from cli.serve import HOME
from settings import load_settings


def _keys_file(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path:
    """Return the file of `--file`, else that of the settings as `vitrine serve` reads them."""
    if value is not None:
        return value.absolute()
    with contextlib.chdir(HOME):
        path = load_settings().api_keys_file
    if path is None:
        raise click.UsageError("Name the file: --file keys.toml, or VITRINE_API_KEYS_FILE=keys.toml.")
    return path


def _valid_name(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if not re.fullmatch(NAME, value):
        raise click.BadParameter("up to 64 letters, digits, dots, hyphens and underscores.")
    return value


_file_option = click.option(
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_keys_file,
    help="Instead of VITRINE_API_KEYS_FILE.",
)
_name_argument = click.argument("name", callback=_valid_name)


@click.group(name="keys")
def keys() -> None:
    """Add, list and remove the keys that the API asks for."""


@keys.command()
@_name_argument
@click.option("--admin", is_flag=True, help="It may load and unload models, too.")
@_file_option
def add(name: str, admin: bool, file: Path) -> None:
    """Make a key and print it, this once; NAME says whose it is in the log."""
    click.echo(add_key(file, name, admin=admin))
    advice = "This is the only time that the key is shown. A server that runs takes it within seconds; start one with"
    click.echo(f"{advice} VITRINE_API_KEYS_FILE={file}", err=True)


@keys.command(name="list")
@_file_option
def list_(file: Path) -> None:
    """List the keys by name, with the day each was made."""
    for key in read_keys(file):
        click.echo(f"{key.created}  {key.name}{'  (admin)' if key.admin else ''}")


@keys.command()
@_name_argument
@_file_option
def remove(name: str, file: Path) -> None:
    """Take a key back."""
    remove_key(file, name)
    click.echo(f"Removed {name}; a server that runs refuses it within {RELOAD_INTERVAL_S:.0f} seconds.", err=True)
