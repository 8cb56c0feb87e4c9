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
from loadtests.compare.cheapest import payloads
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
        batch: the most requests that the peers which batch may put together.
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
"""A convolutional net gains nothing from batches on a CPU; what costs a server its time is fewer hand-overs."""


def prepare(names: Sequence[str], store: Path, by: Executor) -> list[Regime]:
    """Install both models in the comparison's store, and work out the right answers in processes of their own."""
    cheapest = store.with_name("cheapest")
    environment = os.environ | {"BENTOML_HOME": str(store), "BENTOML_DO_NOT_TRACK": "True"}
    store.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "loadtests.compare.cheapest", str(cheapest)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the models could not be installed: {done.stderr[-2000:]}")
    packages = {COMPUTE: ("kidney-stone", ROOT / "models" / "kidney_stone"), OVERHEAD: ("cheapest", cheapest)}
    made = []
    for name in names:
        model, package = packages[name]
        pictures = tuple(bench.payloads() if name == COMPUTE else payloads())
        expected = by.submit(answers, package, pictures).result()
        made.append(Regime(name, model, package, BATCH[name], pictures, expected))
    return made
