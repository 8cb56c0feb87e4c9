"""Scored parts as they come in, in any order: equal inputs share the answer of one of them, then parts are written."""

from collections.abc import Callable
from operator import itemgetter
from typing import Any

from bulk.folder import OutputFolder
from bulk.index import Parts
from bulk.rows import Output
from bulk.tally import tally
from bulk.work import Scored
from errors import BulkError
from models.package import StoredModel

OWN = ("input",)
"""The columns that are not a part of the answer, so that equal inputs do not share them."""


class Collector:
    """Writes every part of a run once.

    Where an input equals one of another part that is not written yet, its part waits for that one's rows. Nothing
    waits for ever: what a part computes is known here as soon as it comes, whatever it waits for itself.

    Args:
        folder: of the output.
        parts: that lie in it.
        stored: the model.
        digest: returns the digest of a part.
        advance: is told how many rows, and how many of them with errors, have been written.
    """

    def __init__(
        self,
        folder: OutputFolder,
        parts: Parts,
        stored: StoredModel,
        digest: Callable[[int], str],
        advance: Callable[[int, int], None],
    ) -> None:
        self._folder, self._parts, self._stored = folder, parts, stored
        self._digest, self._advance = digest, advance
        self._waiting, self._done = dict[int, Scored](), set[int]()
        self._answers = dict[int, dict[str, Output]]()
        self.computed = 0

    def add(self, scored: Scored) -> None:
        """Take one scored part, and write what can be written now; one that comes again is left out.

        Raises:
            BulkError: the folder cannot be written to, or somebody else changed a part meanwhile.
        """
        if scored.part in self._done or scored.part in self._waiting:
            return
        self.computed += scored.computed
        self._waiting[scored.part] = scored
        self._answers[scored.part] = {
            row["sha256"]: row for place, row in enumerate(scored.rows) if row["sha256"] and place not in scored.owners
        }
        for digest, picture in scored.overlays.items():
            self._folder.write_overlay(self._stored.version, digest, picture)
        scored.overlays.clear()
        complete = [part for part, waiting in self._waiting.items() if self._can_be_written(waiting)]
        for part in complete:  # all of them are filled in before any of them goes
            self._fill_in(self._waiting[part])
        for part in complete:
            self._write(self._waiting[part])
        for part in complete:
            del self._waiting[part], self._answers[part]

    def check_complete(self) -> None:
        """Return if no part waits any more; BulkError otherwise."""
        if self._waiting:
            raise BulkError(f"{len(self._waiting)} parts were not finished. Run it again with --resume.")

    def _can_be_written(self, scored: Scored) -> bool:
        return all(owner in self._answers or owner in self._done for owner in scored.owners.values())

    def _fill_in(self, scored: Scored) -> None:
        for place, owner in sorted(scored.owners.items(), key=itemgetter(1)):  # each part is read once
            row = scored.rows[place]
            answer = self._answers[owner].get(row["sha256"]) if owner in self._answers else None
            answer = answer or self._parts.answer(owner, row["sha256"], self._stored.tag)
            if answer is None:
                raise BulkError(f"{self._parts.path(owner)} was changed meanwhile. Run it again with --resume.")
            scored.rows[place] = {**answer, **{name: row[name] for name in OWN}}

    def _write(self, scored: Scored) -> None:
        counts: dict[str, Any] = tally(scored.rows, self._stored.card)
        self._folder.write_part(scored.part, self._digest(scored.part), scored.rows, counts)
        self._done.add(scored.part)
        self._advance(counts["rows"], counts["errors"])
