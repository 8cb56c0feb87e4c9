"""The `vitrine` command: the group, which imports the module of a command only when that command is run."""

import importlib
import os
from importlib.metadata import version
from typing import Any

import click

from errors import VitrineError

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reads it when it is imported

COMMANDS = {
    "explain": "Draw an explained prediction; measure explanations against a truth.",
    "keys": "Add, restrict, list and remove the keys that the API asks for.",
    "models": "List, add, import, compare, verify and remove models.",
    "score": "Score a folder, a table or a bucket with an installed model, into files.",
    "serve": "Import the shipped models, then start the server; Ctrl-C stops it.",
    "tune": "Find by measuring how a model runs best on this machine.",
}
"""Name → line of `vitrine --help`. The command is the attribute of that name in the module of that name in `cli/`."""


class LazyGroup(click.Group):
    """A group that imports a command when it is run, so that help is quick."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command, and end it with the message of whatever Vitrine raises on purpose, or the system refuses."""
        try:
            return super().invoke(ctx)
        except VitrineError as error:
            raise click.ClickException(str(error)) from error
        except BrokenPipeError:
            raise  # whoever read the output has left; click ends quietly then
        except OSError as error:
            what = f"{error.filename}: " if error.filename is not None else ""
            raise click.ClickException(f"{what}{error.strerror or error}.") from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import and return one command, None if there is none of that name."""
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"cli.{name}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("vitrine"))
def main() -> None:
    """Vitrine serves image classifiers so that every prediction can be checked.

    \b
    First steps:
      vitrine serve                         start the server on http://127.0.0.1:3000
      vitrine models list                   what is installed, and what could be
      vitrine models show kidney-stone      what a model expects, and how good it is
      vitrine models add model.onnx         serve a model of your own

    Settings are environment variables VITRINE_*, or lines in a .env file; .env.example lists them.
    """  # noqa: D301 - click reads the character


if __name__ == "__main__":
    main()
