"""From a plan to a Runner."""

from collections.abc import Callable
from typing import Any

from runners.plan import CoreShare, CpuPlan
from runners.runner import Runner
from serving.pipeline import Line


def runner_of(
    name: str,
    line: Line[Any, Any, Any],
    run: Callable[[list[Any]], list[Any]],
    layout: CpuPlan,
    queue_size: int,
    share: CoreShare,
) -> Runner[Any, Any, Any]:
    """A model's Runner as a plan says; `run` is the line's, on a loaded backend."""
    return Runner(
        name,
        line.admit,
        run,
        lanes=layout.lanes,
        max_batch=layout.max_batch,
        queue_size=queue_size,
        linger_ms=layout.linger_ms,
        decoders=layout.decoders,
        weigh=line.weigh,
        heavy=line.heavy,
        at_work=share,
    )
