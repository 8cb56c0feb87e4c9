"""The two regimes: what is asked in each, and the right answers."""

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
from loadtests.server import ROOT

COMPUTE, OVERHEAD = "compute-bound", "overhead-bound"


@dataclass(frozen=True)
class Regime:
    """One model and the pictures that are sent to it.

    Attributes:
        name: `COMPUTE` or `OVERHEAD`.
        model: the name on its card.
        package: the folder with its card and graph.
        batch: the largest batch of the peers that batch.
        pictures: encoded; each is sent as often as another.
        expected: what `loadtests.compare.work` answers to each of them in a process of its own.
    """

    name: str
    model: str
    package: Path
    batch: int
    pictures: tuple[bytes, ...]
    expected: tuple[dict[str, Any], ...]


BATCH = {COMPUTE: 1, OVERHEAD: 32}
"""The largest batches: a convolutional net gains nothing from them on a CPU, but hand-overs cost a cheap model time."""


def prepare(names: Sequence[str], store: Path, executor: Executor) -> list[Regime]:
    """Install both models in the comparison's store, and compute the right answers to each regime's pictures.

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
        COMPUTE: ("kidney-stone", ROOT / "models" / "kidney_stone"),
        OVERHEAD: (cheapest.NAME, cheapest_package),
    }
    regimes = []
    for name in names:
        model, package = packages[name]
        pictures = tuple(bench.phantoms() if name == COMPUTE else cheapest.pictures())
        expected = executor.submit(answers, package, pictures).result()
        regimes.append(Regime(name, model, package, BATCH[name], pictures, expected))
    return regimes
