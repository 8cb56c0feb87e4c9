"""What `vitrine tune` found, beside the model in the store, and what serving makes of it.

`tuning.json` maps a machine (`runners.machine.machine_of`) to what was measured there. It is no part of the model's
version, nor of what `verify` checks: a server without it, or on another machine, serves the same from its own plan.
"""

import logging
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, field_validator

from models.package import TUNING, StoredModel
from runners.machine import machine_of
from runners.plan import CpuPlan

logger = logging.getLogger("vitrine.models")


class Tuned(BaseModel):
    """One machine's result.

    plan: what a Runner gets there. rate: requests a second that it answers within the limit, arriving at random.
    default_rate: what the plan that was not tuned does, in the same run; 0 if it never kept the limit.
    saturation: requests a second with more waiting than it can take. alone_p50_ms: of one request at a time.
    """

    model_config = ConfigDict(frozen=True)

    date: str
    slo_p99_ms: float
    rate: float
    default_rate: float
    saturation: float
    alone_p50_ms: float
    plan: CpuPlan

    @field_validator("plan")
    @classmethod
    def _can_run(cls, plan: CpuPlan) -> CpuPlan:
        counts = (plan.lanes, plan.max_batch, *plan.widths)
        if not (plan.widths and min(counts) >= 1 and max(counts) <= 4096):
            raise ValueError("lanes, widths and max_batch are numbers from 1 to 4096")
        if not (0 <= plan.linger_ms <= 1000 and 0 <= plan.decoders <= 4096):
            raise ValueError("linger_ms is a number from 0 to 1000, decoders from 0 to 4096")
        return plan


_FILE = TypeAdapter(dict[str, Tuned])


def tuned_plan(stored: StoredModel, device: str, available: int) -> CpuPlan | None:
    """The plan that was tuned for this model on this machine, None if there is none; the log says why."""
    path, name = stored.path / TUNING, stored.card.name
    again = f"`vitrine tune {name}` measures it here."
    try:
        found = _read(path)
    except (OSError, ValueError) as error:
        logger.warning("%s: %s cannot be read and is ignored (%s). %s", stored.tag, path, _short(error), again)
        return None
    if not found:
        return None
    here = machine_of(device, available)
    if here in found and not _fits(found[here].plan, available):
        logger.warning(
            "%s: %s asks for more than %d cores can take and is ignored. %s", stored.tag, path, available, again
        )
        return None
    if here in found:
        logger.info("%s runs as tuned on %s: %s", stored.tag, found[here].date, found[here].plan)
        return found[here].plan
    logger.info("%s: was tuned for %s, but this is %s. %s", stored.tag, "; ".join(found), here, again)
    return None


def remember(stored: StoredModel, machine: str, tuned: Tuned) -> Path:
    """Write what was found on a machine beside the model, in one step; what other machines found stays."""
    path = stored.path / TUNING
    try:
        others = _read(path)
    except ValueError:  # damaged: nothing to keep
        others = {}
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_bytes(_FILE.dump_json(others | {machine: tuned}, indent=1) + b"\n")
    part.replace(path)
    return path


def forget(stored: StoredModel) -> bool:
    """Delete what was found, on every machine; False if there was nothing."""
    path = stored.path / TUNING
    there = path.exists()
    path.unlink(missing_ok=True)
    return there


def _fits(plan: CpuPlan, available: int) -> bool:
    """Whether a plan is one that a search could have found; a session costs the weights' memory again."""
    threads = max(plan.lanes, *plan.widths)
    return threads <= max(8, 4 * available) and len(plan.widths) <= 4 and plan.decoders <= max(8, 4 * available)


def _read(path: Path) -> dict[str, Tuned]:
    return _FILE.validate_json(path.read_bytes()) if path.exists() else {}


def _short(error: OSError | ValueError) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}".lstrip(": ")
    return str(error)
