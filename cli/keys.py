"""`vitrine keys …`: who may use the service."""

import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from api.keys import NAME, RELOAD_INTERVAL_S, add_key, read_keys, remove_key, restrict_key
from api.restrictions import ACTIONS, MODEL_NAME, MOST_A_MINUTE, MOST_BYTES, Restrictions
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


def _valid_models(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    for name in value:
        if not re.fullmatch(MODEL_NAME, name):
            raise click.BadParameter(f"{name!r} is no name of a model, such as kidney-stone.")
    return value


def _restriction_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say what a key may do, and how much of it."""
    a_minute, bytes_ = click.IntRange(1, MOST_A_MINUTE), click.IntRange(1, MOST_BYTES)
    for option in (
        click.option("--bytes-per-day", type=bytes_, help="How many bytes it may send a day."),
        click.option("--items-per-minute", type=a_minute, help="How many pictures or rows it may send a minute."),
        click.option("--requests-per-minute", type=a_minute, help="How many requests it may send a minute."),
        click.option(
            "--action", "actions", type=click.Choice(ACTIONS), multiple=True, help="The only thing that it may do."
        ),
        click.option(
            "--model",
            "models",
            multiple=True,
            callback=_valid_models,
            help="The only model that it may use; repeat it.",
        ),
    ):
        command = option(command)
    return command


def _restrictions(options: dict[str, Any]) -> Restrictions:
    return Restrictions(**{name: value for name, value in options.items() if value not in (None, ())})


_file_option = click.option(
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_keys_file,
    help="Instead of VITRINE_API_KEYS_FILE.",
)
_name_argument = click.argument("name", callback=_valid_name)


@click.group(name="keys")
def keys() -> None:
    """Add, restrict, list and remove the keys that the API asks for."""


@keys.command()
@_name_argument
@click.option("--admin", is_flag=True, help="It may load and unload models, too.")
@_restriction_options
@_file_option
def add(name: str, admin: bool, file: Path, **options: Any) -> None:
    """Make a key and print it, this once; NAME says whose it is in the log."""
    click.echo(add_key(file, name, admin=admin, restrictions=_restrictions(options)))
    advice = "This is the only time that the key is shown. A server that runs takes it within seconds; start one with"
    click.echo(f"{advice} VITRINE_API_KEYS_FILE={file}", err=True)


@keys.command(name="list")
@_file_option
def list_(file: Path) -> None:
    """List the keys by name, with the day each was made."""
    for key in read_keys(file):
        limits = "".join(f"  {name}={_shown(value)}" for name, value in key.restrictions().items())
        click.echo(f"{key.created}  {key.name}{'  (admin)' if key.admin else ''}{limits}")


@keys.command()
@_name_argument
@_restriction_options
@_file_option
def restrict(name: str, file: Path, **options: Any) -> None:
    """Set what a key may do, in place of all that was set before; without options, it is not restricted."""
    restrict_key(file, name, _restrictions(options))
    click.echo(f"A server that runs takes it within {RELOAD_INTERVAL_S:.0f} seconds.", err=True)


@keys.command()
@_name_argument
@_file_option
def remove(name: str, file: Path) -> None:
    """Take a key back."""
    remove_key(file, name)
    click.echo(f"Removed {name}; a server that runs refuses it within {RELOAD_INTERVAL_S:.0f} seconds.", err=True)


def _shown(value: tuple[str, ...] | int) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)
