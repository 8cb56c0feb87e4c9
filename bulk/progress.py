"""How far a run is: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 30.0


class Shown:
    """Shows rows done, rows with errors and rows a second on the standard error, until the block ends."""

    def __init__(self) -> None:
        self._began, self._last, self._task = time.monotonic(), time.monotonic(), TaskID(0)
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("Scoring", total=None)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int, errors: int, before: int) -> None:
        """Show how many rows of how many are done, how many of them are errors, and how many were there before."""
        now = time.monotonic()
        rate = (done - before) / max(now - self._began, 1e-9)
        text = f"{rate:,.0f} rows/s, {errors:,} errors"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, description=text)
        elif now - self._last > LINE_EVERY_S:
            self._last = now
            click.echo(f"{done:,} of {total:,} rows, {text}", err=True)
