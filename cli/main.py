"""The `vitrine` command: wiring only. Each room brings its own group of commands, loaded when it is asked for."""

import errno
import importlib
import os
import socket
import sys
from importlib.metadata import version
from pathlib import Path

import click

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reads it when it is imported

HERE = Path(__file__).resolve().parent.parent
GROUPS = {
    "models": ("cli.models", "models", "List, import, verify and remove models."),
    "explain": ("cli.explain", "explain", "Draw an explained prediction; measure explanations against a truth."),
    "keys": ("cli.keys", "keys", "Add, list and remove the keys that the API asks for."),
    "tune": ("cli.tune", "tune", "Find by measuring how a model runs best on this machine."),
}


class Rooms(click.Group):
    """A group whose subcommands are imported only when they are run, so that help is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Our own commands and every room's."""
        return sorted([*super().list_commands(ctx), *GROUPS])

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """A room's group, or a command of our own."""
        if name not in GROUPS:
            return super().get_command(ctx, name)
        module, attribute, _ = GROUPS[name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing the rooms."""
        own = [(name, self.commands[name].get_short_help_str(80)) for name in self.commands]
        rooms = [(name, text) for name, (_, _, text) in GROUPS.items()]
        with formatter.section("Commands"):
            formatter.write_dl(sorted(own + rooms))


@click.group(cls=Rooms, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("vitrine"))
def main() -> None:
    r"""Vitrine serves image classifiers so that every prediction can be checked.

    \b
    First steps:
      vitrine serve                         start the server on http://127.0.0.1:3000
      vitrine models list                   what is installed, and what could be
      vitrine models show kidney-stone      what a model expects, and how good it is

    Settings are environment variables VITRINE_*, or lines in a .env file; .env.example lists them.
    """


@main.command()
def serve() -> None:
    """Import the shipped models unless you brought other weights, then start the server; Ctrl-C stops it."""
    from api.auth import check_doors
    from api.keys import warnings_of as warnings_of_keys
    from errors import KeysError
    from settings import SettingsError, load_settings, warnings_of

    os.chdir(HERE)
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    try:
        settings = load_settings()
        check_doors(settings, settings.host)
    except (SettingsError, KeysError) as error:
        raise click.ClickException(str(error)) from error
    for warning in warnings_of(settings) + warnings_of_keys(settings.api_keys_file):
        click.echo(f"Warning: {warning}", err=True)
    ports = {"VITRINE_PORT": settings.port, "VITRINE_GRPC_PORT": settings.grpc_port}
    for variable, port in ports.items():
        near = (port + 1, port + 2) if 1024 <= port < 65_533 else ()
        other = next(each for each in (*near, 3002, 3003, 3004) if each not in ports.values())
        if port and (obstacle := _obstacle(settings.host, port, variable, other)):
            raise click.ClickException(obstacle)
    _import_shipped()
    click.echo(f"Starting on http://{settings.host}:{settings.port}/ (Ctrl-C stops it)")
    sys.stdout.flush()
    bentoml = str(Path(sys.executable).with_name("bentoml"))
    os.execv(bentoml, [bentoml, "serve", "--host", settings.host, "--port", str(settings.port)])


def _obstacle(host: str, port: int, variable: str, other: int) -> str | None:
    """Why nothing can listen there, and the cure; None where all is well."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return f"Port {port} is taken: stop what listens there, or choose another with {variable}={other}."
            if error.errno == errno.EACCES:
                return f"You may not listen on port {port}: choose another with {variable}={other}."
            return f"VITRINE_HOST={host} is no address of this machine ({error.strerror})."
    return None


def _import_shipped() -> None:
    from errors import VitrineError
    from models import registry, store

    for name in registry.bundled():
        if registry.has_weights(name) and store.shipped_is_wanted(name):
            before = dict(store.served_tags()).get(name)
            try:
                stored, _ = store.import_package(registry.package_of(name))
            except VitrineError as error:
                click.echo(f"Warning: {name} was not imported: {error}", err=True)
            else:
                if stored.version != before:
                    click.echo(f"Imported {stored.tag}" + (f", in place of {before}" if before else ""))


if __name__ == "__main__":
    main()
