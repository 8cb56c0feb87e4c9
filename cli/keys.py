"""`vitrine keys …`: who may use the service."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import click

from api.keys import LOOK_EVERY_S, NAME, add_key, read_keys, remove_key
from errors import KeysError
from settings import SettingsError, load_settings

HOME = Path(__file__).resolve().parent.parent


def _path(context: click.Context, parameter: click.Parameter, given: Path | None) -> Path:
    """The file that was named here, else by the settings as `vitrine serve` reads them."""
    if given is not None:
        return given.absolute()
    try:
        with contextlib.chdir(HOME):
            found = load_settings().api_keys_file
    except SettingsError as error:
        raise click.ClickException(str(error)) from error
    if found is None:
        raise click.UsageError("Name the file: --file keys.toml, or VITRINE_API_KEYS_FILE=keys.toml.")
    return found


def _name(context: click.Context, parameter: click.Parameter, given: str) -> str:
    if not re.fullmatch(NAME, given):
        raise click.BadParameter("up to 64 letters, digits, dots, hyphens and underscores.")
    return given


_file = click.option(
    "--file", type=click.Path(dir_okay=False, path_type=Path), callback=_path, help="Instead of VITRINE_API_KEYS_FILE."
)
_named = click.argument("name", callback=_name)


@click.group(name="keys")
def keys() -> None:
    """Add, list and remove the keys that the API asks for."""


@keys.command()
@_named
@_file
def add(name: str, file: Path) -> None:
    """Make a key and print it, this once; NAME says whose it is in the log."""
    with _told():
        click.echo(add_key(file, name))
    advice = "This is the only time that the key is shown. A server that runs takes it within seconds; start one with"
    click.echo(f"{advice} VITRINE_API_KEYS_FILE={file}", err=True)


@keys.command(name="list")
@_file
def list_(file: Path) -> None:
    """List the keys by name, with the day each was made."""
    with _told():
        for each in read_keys(file):
            click.echo(f"{each.created}  {each.name}")


@keys.command()
@_named
@_file
def remove(name: str, file: Path) -> None:
    """Take a key back."""
    with _told():
        remove_key(file, name)
    click.echo(f"Removed {name}; a server that runs refuses it within {LOOK_EVERY_S:.0f} seconds.", err=True)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """A KeysError is one line and exit code 1."""
    try:
        yield
    except KeysError as error:
        raise click.ClickException(str(error)) from error
