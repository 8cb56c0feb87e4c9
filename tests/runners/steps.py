"""A Runner of two plain functions, for tests of what a Runner does with them."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

from runners.admission import Work
from runners.plan import Plan
from runners.runner import Runner

Payload = TypeVar("Payload")
Prepared = TypeVar("Prepared")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Steps:
    """A pipeline of plain functions."""

    preprocess: Callable[[Any], Any]
    infer: Callable[[Sequence[Any]], Sequence[Any]]
    count_inferences: Callable[[Any], int] = lambda _: 1
    is_heavy: Callable[[Any], bool] = lambda _: True
    pixels: Callable[[Any], int] = lambda _: 0
    is_slow: Callable[[Any], bool] = lambda _: False
    preprocess_slow: Callable[[Any], Any] = lambda payload: payload
    is_evaluation: Callable[[Any], bool] = lambda _: False
    work: Callable[[Any], Work] = lambda _: Work()


def start_runner(
    name: str,
    preprocess: Callable[[Payload], Prepared],
    infer: Callable[[list[Prepared]], Sequence[Result]],
    *,
    queue_size: int = 256,
    queue_ms: float = math.inf,
    working: AbstractContextManager[object] | None = None,
    count_inferences: Callable[[Prepared], int] = lambda _: 1,
    is_heavy: Callable[[Payload], bool] = lambda _: True,
    pixels: Callable[[Prepared], int] = lambda _: 0,
    is_slow: Callable[[Payload], bool] = lambda _: False,
    preprocess_slow: Callable[[Payload], Prepared] | None = None,
    is_evaluation: Callable[[Payload], bool] = lambda _: False,
    work: Callable[[Payload], Work] = lambda _: Work(),
    **plan: Any,
) -> Runner[Payload, Prepared, Result]:
    """Start a Runner; `plan` are fields of its plan."""
    slow = preprocess_slow or preprocess
    pipeline = Steps(preprocess, infer, count_inferences, is_heavy, pixels, is_slow, slow, is_evaluation, work)  # type: ignore[arg-type]
    return Runner(name, pipeline, Plan(**plan), queue_size=queue_size, queue_ms=queue_ms, working=working)
