"""The file `cost.json` of a stored model: what its explanations cost on the machine that imported it.

It is no part of the model's version, and a model that an older Vitrine imported has none.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from atomic_write import atomic_write
from regular_file import read_regular_file

COST = "cost.json"


class MethodCost(BaseModel):
    """What one explanation takes by one method.

    Attributes:
        ms: its milliseconds, those of its prediction included.
        memory_mb: by how much the peak of a process that explains is above that of one that predicts, in MiB.
        evaluations: how many predictions it takes by default, of a method that takes many.
    """

    model_config = ConfigDict(frozen=True)

    ms: float
    memory_mb: float
    evaluations: int | None = None


class Cost(BaseModel):
    """What was measured of one model, alone on one thread.

    Attributes:
        date: the day of the measurement, as YYYY-MM-DD.
        machine: device, cores, processor and runtime, as of `runners.machine.machine_of`.
        prediction_ms: the milliseconds of a prediction, decoding included.
        methods: what was measured, by the name of the method.
    """

    model_config = ConfigDict(frozen=True)

    date: str
    machine: str
    prediction_ms: float
    methods: dict[str, MethodCost]


def read_cost(folder: Path) -> Cost | None:
    """Return what was measured of the model in a folder; None if nothing was, or the file is damaged."""
    try:
        return Cost.model_validate_json(read_regular_file(folder / COST))
    except (OSError, ValidationError):
        return None


def write_cost(folder: Path, cost: Cost) -> None:
    """Write what was measured beside the model in a folder, in one step.

    Raises:
        OSError: the folder cannot be written to.
    """
    with atomic_write(folder / COST) as file:
        file.write(cost.model_dump_json(indent=1, exclude_none=True).encode() + b"\n")
