"""One part while it is being scored: what becomes of its inputs, what waits for the model, what is read ahead."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from bulk.items import Item
from bulk.rows import Output
from errors import VitrineError


class Claimed(NamedTuple):
    """What becomes of an input: it is to be computed here, or its row is known, or a part of this run has it.

    Attributes:
        row: what is known of the same input; None where it is not.
        part: the part whose computation answers it; None where it is to be computed here.
    """

    row: Output | None = None
    part: int | None = None


HERE = Claimed()
Claim = Callable[[int, Sequence[str]], Sequence[Claimed]]
"""Says of the sha256 of inputs that a part holds what becomes of each."""


class Scored(NamedTuple):
    """One part, scored.

    Attributes:
        part: its number.
        rows: one for each item; where another part of this run answers it, all that is missing is the answer.
        owners: by the places of those rows, the number of the part that answers.
        computed: how many inputs were given to the model.
        overlays: the PNG of each overlay by the sha256 of its picture.
    """

    part: int
    rows: list[Output]
    owners: dict[int, int]
    computed: int
    overlays: dict[str, bytes]


class Waiting:
    """What was given to the model, and what becomes of its answer."""

    def __init__(
        self,
        submit: "Callable[[], Future[Any]]",
        finish: Callable[[Any], None],
        fail: Callable[[VitrineError], None],
    ) -> None:
        self._submit, self.finish, self.fail = submit, finish, fail
        self.begin()

    def begin(self) -> None:
        """Give it to the model, once more where that was done before."""
        self.future = self._submit()


class Work:
    """One slice while it is being scored."""

    def __init__(self, part: int) -> None:
        self.part, self.computed = part, 0
        self.answers, self.owners = dict[str, Output](), dict[str, int]()
        self.waiting, self.overlays = deque[Waiting](), dict[str, bytes]()
        self._items = list[tuple[str, str | None, Output]]()

    def add(self, name: str, digest: str | None, row: Output | None = None) -> None:
        """Note an item; `row` is what is known of one that could not be read."""
        self._items.append((name, digest, row or {}))

    def scored(self, tag: str) -> Scored:
        """Return the finished part."""
        rows, owners = list[Output](), dict[int, int]()
        for name, digest, row in self._items:
            if digest in self.owners:
                owners[len(rows)] = self.owners[digest]
            elif digest is not None:
                row = self.answers[digest]
            rows.append({**row, "input": name, "sha256": digest, "model": tag})
        return Scored(self.part, rows, owners, self.computed, self.overlays)


def read_ahead(chunks: Iterator[list[Item]]) -> Iterator[list[Item]]:
    """Yield chunks that a thread beside reads, one of them ahead."""
    ready: queue.Queue[list[Item] | BaseException | None] = queue.Queue(maxsize=1)
    stopped = threading.Event()

    def hand_over(value: "list[Item] | BaseException | None") -> None:
        while not stopped.is_set():
            try:
                ready.put(value, timeout=0.5)
                return
            except queue.Full:
                continue

    def read() -> None:
        try:
            for chunk in chunks:
                hand_over(chunk)
                if stopped.is_set():
                    return
            hand_over(None)
        except BaseException as error:  # of a source that is gone; raised where the chunks are used
            hand_over(error)

    threading.Thread(target=read, name="bulk-reader", daemon=True).start()
    try:
        while (chunk := ready.get()) is not None:
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk
    finally:
        stopped.set()
