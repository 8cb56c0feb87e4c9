"""The plans that `vitrine tune` tries on a machine."""

from collections.abc import Iterable
from dataclasses import replace

from runners.plan import Plan
from serving.options import RunnerOptions
from tuning.search import Space

BATCHES, LARGE_BATCHES, LINGERS_MS = (1, 4, 16, 64), (8, 32, 128), (2.0, 5.0)


def search_space(default: Plan, available: int, device: str, options: RunnerOptions) -> Space:
    """Return what may be tried beside a default plan.

    On a CPU the shapes differ in how many lanes run over sessions of how many threads; where the default is one session
    of one thread, as for networks of microseconds, only in lanes. On an accelerator they differ in the threads that
    decode for it.

    Args:
        default: the plan of a model that was not tuned.
        available: cores of this process.
        device: where the model runs.
        options: what an operator set, which every plan keeps to.
    """
    half, twice = max(1, available // 2), 2 * available
    if device != "cpu":
        shapes = (replace(default, decoders=decoders) for decoders in (available, half, twice))
        return Space(_distinct(shapes), LARGE_BATCHES, LINGERS_MS, options.override)
    if len(default.widths) == 1:
        shapes = (replace(default, lanes=lanes) for lanes in (1, half, available, twice))
    else:
        lanes_and_widths = [
            (available, {available, 1}),
            (twice, {available, 1}),
            (available, {1}),
            (twice, {1}),
            (available, {available, half, 1}),
            (available, {half, 1}),
            (half, {half}),
            (1, {available}),
            (2, {available}),
        ]
        shapes = (
            replace(default, lanes=lanes, widths=tuple(sorted(widths, reverse=True)))
            for lanes, widths in lanes_and_widths
        )
    return Space(_distinct(shapes), BATCHES, LINGERS_MS, options.override)


def _distinct(shapes: Iterable[Plan]) -> tuple[Plan, ...]:
    return tuple(dict.fromkeys(shapes))
