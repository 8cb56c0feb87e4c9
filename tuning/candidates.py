"""The plans that `vitrine tune` tries on a machine."""

from dataclasses import replace

from runners.plan import CpuPlan
from serving.loaded_model import RunnerOptions
from tuning.search import Space

BATCHES, LARGE_BATCHES, LINGERS_MS = (1, 4, 16, 64), (8, 32, 128), (2.0, 5.0)


def space_of(default: CpuPlan, available: int, device: str, options: RunnerOptions) -> Space:
    """What may be tried beside a default plan.

    On a CPU, how many lanes over sessions of how many threads; where one session of one thread is the plan, as for
    networks of microseconds, only lanes. An accelerator has its lanes, and is fed by more or fewer decoders.
    """
    half, twice = max(1, available // 2), 2 * available
    if device != "cpu":
        shapes = [replace(default, decoders=each) for each in (available, half, twice)]
        return Space(_different(shapes), LARGE_BATCHES, LINGERS_MS, options.over)
    if len(default.widths) == 1:
        shapes = [replace(default, lanes=each) for each in (1, half, available, twice)]
    else:
        every, lone = (available, 1), (1,)
        tried = [
            (available, every),
            (twice, every),
            (available, lone),
            (twice, lone),
            (available, (available, half, 1)),
            (available, (half, 1)),
            (half, (half,)),
            (1, (available,)),
            (2, (available,)),
        ]
        shapes = [
            replace(default, lanes=lanes, widths=tuple(sorted(set(widths), reverse=True))) for lanes, widths in tried
        ]
    return Space(_different(shapes), BATCHES, LINGERS_MS, options.over)


def _different(shapes: list[CpuPlan]) -> tuple[CpuPlan, ...]:
    return tuple(dict.fromkeys(shapes))
