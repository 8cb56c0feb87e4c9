"""What is the case just now with a model, as numbers that processes send each other and `/metrics` shows.

Nothing of it is kept: a process that has died is asked no more, so that it leaves no wrong gauge behind.
"""

from collections.abc import Iterable, Mapping

from serving.model_lanes import ModelLanes

LEAST = ("ready", "golden_check")
"""What holds for a model only where it holds in every process."""
LONGEST = ("expected_wait",)
"""Of what the longest of all processes counts."""


def model_gauges(is_ready: bool, passed_check: bool | None, lanes: ModelLanes | None) -> dict[str, float]:
    """Return what is the case with one version of a model in this process.

    Returns:
        `ready`, 1 or 0; `golden_check`, 1 where every golden came out within its tolerance, 0 where one did not, and
        not there before they were replayed; once it is loaded, `queue_depth` in items, `expected_wait` in seconds,
        `lanes` and `lanes_busy`.
    """
    gauges = {"ready": float(is_ready)}
    if passed_check is not None:
        gauges["golden_check"] = float(passed_check)
    return gauges | (lanes.occupancy() if lanes is not None else {})


def add_gauges(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return what is the case in several processes together: the sum, the longest wait, the least of what is 1 or 0."""
    total = dict[str, float]()
    for part in parts:
        for name, value in part.items():
            before = total.get(name)
            if before is None:
                total[name] = value
            else:
                total[name] = _together(name, before, value)
    return total


def _together(name: str, before: float, value: float) -> float:
    if name in LEAST:
        return min(before, value)
    return max(before, value) if name in LONGEST else before + value
