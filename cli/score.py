"""`vitrine score`: the command of `python -m bulk`, with the settings that `vitrine serve` reads."""

import contextlib
from typing import Any

import click

from bulk.command import score as bulk_score
from cli.serve import HOME, keep_models_dir
from settings import load_settings


def _score(**given: Any) -> None:
    keep_models_dir()
    with contextlib.chdir(HOME):
        load_settings()  # which are kept
    assert bulk_score.callback is not None
    bulk_score.callback(**given)


score = click.Command("score", params=bulk_score.params, callback=_score, help=bulk_score.help)
