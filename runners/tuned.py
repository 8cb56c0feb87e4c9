"""The file `tuning.json`, which `vitrine tune` writes beside a stored model and serving reads its plan from.

The file maps a machine (`runners.machine.machine_of`) to what was measured there. It is no part of the model's version,
nor of what `models.package.verify` checks: a server without it, or on another machine, serves by the default plan.
"""

import logging
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, field_validator

from atomic_write import atomic_write
from regular_file import read_regular_file
from runners.machine import machine_of
from runners.plan import Plan

logger = logging.getLogger("vitrine.models")

TUNING = "tuning.json"


class Tuned(BaseModel):
    """What was measured on one machine.

    Attributes:
        date: the day of the measurement, as YYYY-MM-DD.
        slo_p99_ms: the latency limit that the search was given.
        rate: requests a second, arriving at random, that the plan answers within the limit.
        default_rate: the same of the default plan, measured in the same run; 0 if it never kept the limit.
        saturation: requests a second while more are waiting than the plan can take.
        alone_p50_ms: median latency of one request at a time.
        plan: what a Runner gets on that machine.
    """

    model_config = ConfigDict(frozen=True)

    date: str
    slo_p99_ms: float
    rate: float
    default_rate: float
    saturation: float
    alone_p50_ms: float
    plan: Plan

    @field_validator("plan")
    @classmethod
    def _can_run(cls, plan: Plan) -> Plan:
        counts = (plan.lanes, plan.max_batch, *plan.widths)
        if not (plan.widths and min(counts) >= 1 and max(counts) <= 4096):
            raise ValueError("lanes, widths and max_batch are numbers from 1 to 4096")
        if not (0 <= plan.linger_ms <= 1000 and 0 <= plan.decoders <= 4096):
            raise ValueError("linger_ms is a number from 0 to 1000, decoders from 0 to 4096")
        return plan


_FILE = TypeAdapter(dict[str, Tuned])


def tuned_plan(folder: Path, tag: str, device: str, available: int) -> Plan | None:
    """Return the plan that was tuned for a model on this machine, None if there is none; the log says why.

    Args:
        folder: where the model is stored.
        tag: the model's `name:version`, for the log.
        device: where the model runs, as in `machine_of`.
        available: cores of this process.
    """
    path = folder / TUNING
    advice = f"`vitrine tune {tag.partition(':')[0]}` measures it here."
    try:
        by_machine = _read(path)
    except (OSError, ValueError) as error:
        logger.warning("%s: %s cannot be read and is ignored (%s). %s", tag, path, _short(error), advice)
        return None
    if not by_machine:
        return None
    machine = machine_of(device, available)
    tuned = by_machine.get(machine)
    if tuned is None:
        logger.info("%s: was tuned for %s, but this is %s. %s", tag, "; ".join(by_machine), machine, advice)
        return None
    if not _fits(tuned.plan, available):
        logger.warning("%s: %s asks for more than %d cores can take and is ignored. %s", tag, path, available, advice)
        return None
    logger.info("%s runs as tuned on %s: %s", tag, tuned.date, tuned.plan)
    return tuned.plan


def read_tuned(folder: Path) -> dict[str, Tuned]:
    """Return what was measured for the model in a folder, by machine; empty if nothing was, or the file is damaged."""
    try:
        return _read(folder / TUNING)
    except (OSError, ValueError):
        return {}


def remember(folder: Path, machine: str, tuned: Tuned) -> Path:
    """Write what was measured on one machine beside the model, in one step; what is known of other machines stays.

    Returns:
        The file that was written.
    """
    path = folder / TUNING
    with atomic_write(path) as file:
        file.write(_FILE.dump_json(read_tuned(folder) | {machine: tuned}, indent=1) + b"\n")
    return path


def forget(folder: Path) -> bool:
    """Delete what was measured, on every machine; False if there was nothing."""
    try:
        (folder / TUNING).unlink()
    except FileNotFoundError:
        return False
    return True


def _fits(plan: Plan, available: int) -> bool:
    """Whether a plan is one that a search could have chosen; every width costs the weights' memory again."""
    threads = max(plan.lanes, *plan.widths)
    return threads <= max(8, 4 * available) and len(plan.widths) <= 4 and plan.decoders <= max(8, 4 * available)


def _read(path: Path) -> dict[str, Tuned]:
    return _FILE.validate_json(read_regular_file(path)) if path.exists() else {}


def _short(error: OSError | ValueError) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}".lstrip(": ")
    return str(error)
