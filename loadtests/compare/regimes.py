"""The regimes: what is asked in each, and the right answers."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests import bench
from loadtests.compare import cheapest
from loadtests.compare.raw import answers
from loadtests.figures import random_rows
from loadtests.server import ROOT
from models.card import as_row_card, read_card
from models.registry import package_folder

COMPUTE, OVERHEAD, ROWS = REGIMES = "compute-bound", "overhead-bound", "rows"


@dataclass(frozen=True)
class Regime:
    """One model and the payloads that are sent to it.

    Attributes:
        name: one of `REGIMES`.
        model: the name on its card.
        package: the folder with its card and graph.
        batch: the largest batch of the peers that batch.
        payloads: pictures as JPEG, or rows as JSON; each is sent as often as another.
        expected: what `loadtests.compare.work` answers to each of them in a process of its own.
    """

    name: str
    model: str
    package: Path
    batch: int
    payloads: tuple[bytes, ...]
    expected: tuple[dict[str, Any], ...]


BATCH = {COMPUTE: 1, OVERHEAD: 32, ROWS: 32}
"""The largest batches: a convolutional net gains nothing from them on a CPU, but hand-overs cost a cheap model time."""


def prepare(names: Sequence[str], store: Path, executor: Executor) -> list[Regime]:
    """Install the models in the comparison's store, and compute the right answers to each regime's payloads.

    Args:
        names: of the regimes.
        store: the folder of the store.
        executor: computes the answers, in processes of their own.

    Raises:
        RuntimeError: the models could not be installed.
    """
    cheapest_package = store.with_name("cheapest")
    environment = os.environ | {"BENTOML_HOME": str(store), "BENTOML_DO_NOT_TRACK": "True"}
    store.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "loadtests.compare.cheapest", str(cheapest_package)]
    installed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if installed.returncode:
        raise RuntimeError(f"the models could not be installed: {installed.stderr[-2000:]}")
    packages = {
        COMPUTE: ("kidney-stone", package_folder("kidney-stone")),
        OVERHEAD: (cheapest.NAME, cheapest_package),
        ROWS: ("churn", package_folder("churn")),
    }
    payloads = {COMPUTE: bench.phantoms, OVERHEAD: cheapest.pictures, ROWS: customers}
    regimes = []
    for name in names:
        (model, package), sent = packages[name], tuple(payloads[name]())
        expected = executor.submit(answers, package, sent).result()
        regimes.append(Regime(name, model, package, BATCH[name], sent, expected))
    return regimes


def customers(count: int = 16) -> list[bytes]:
    """Return rows of the churn model as JSON."""
    card = as_row_card(read_card(package_folder("churn") / "card.toml"))
    return [json.dumps(row).encode() for row in random_rows(card, count)]
