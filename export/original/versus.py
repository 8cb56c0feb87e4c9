"""An installed model and a running service, asked for the same examples: their differences, errors and times."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.base import Logits
from errors import InvalidInput, StoreError
from export.original.answers import Answers, Kind, read_answers, unusable_reason
from export.original.comparison import Difference, compare
from export.original.examples import Example
from export.original.fields import FieldName, Fields, fields_of
from export.original.service import Reply, Service
from models.card import Card, is_regressor
from models.package import StoredModel
from runners.cores import CoreShare, available_cores
from serving.loading import load_backend
from serving.pipeline import make_pipeline
from serving.row_pipeline import RowOutputs
from serving.self_check import golden_payload

QUANTILES = (0.5, 0.95, 0.99)
EXCERPT = 400
"""So many characters of an answer are shown where nothing can be read from it."""


class InProcess:
    """An installed model in this process, without a server: what a lone request is computed by, on the CPU.

    Args:
        stored: the model.
    """

    def __init__(self, stored: StoredModel) -> None:
        self._card = stored.card
        self._backend, _ = load_backend(stored, "cpu", CoreShare(available_cores()))
        self._pipeline: Any = make_pipeline(stored.card, self._backend)

    def ask(self, example: Example) -> Reply:
        """Return the network's outputs for one example, shape (K,) float32, or why the card refuses it."""
        started = time.perf_counter()
        try:
            payload = golden_payload(self._card, example.data)
            (result,) = self._pipeline.infer([self._pipeline.preprocess(payload)])
            if isinstance(result, RowOutputs) and result.problems:
                raise result.problems[0]
        except InvalidInput as error:
            return Reply(None, time.perf_counter() - started, str(error))
        outputs = result.outputs[0] if isinstance(result, RowOutputs) else result.logits
        return Reply(np.asarray(outputs, np.float32), time.perf_counter() - started)

    def close(self) -> None:
        """Free the model's memory."""
        self._backend.close()


@dataclass(frozen=True)
class Versus:
    """How an installed model and a service answered the same examples.

    Attributes:
        examples: all of them.
        there: the replies of the service, in their order.
        here: the replies of the installed model, likewise.
        compared: the names of those that both answered.
        outputs: of the installed model for these, shape (N, K) float32.
        answers: of the service for these; None where there are none.
        difference: of these; None where there are none.
    """

    examples: tuple[str, ...]
    there: tuple[Reply, ...]
    here: tuple[Reply, ...]
    compared: tuple[str, ...]
    outputs: Logits | None
    answers: Answers | None
    difference: Difference | None

    @property
    def errors(self) -> list[tuple[str, str, str]]:
        """Name, error there and error here of the examples that one of the two did not answer."""
        replies = zip(self.examples, self.there, self.here, strict=True)
        return [
            (name, there.error, here.error) for name, there, here in replies if bool(there.error) != bool(here.error)
        ]

    @property
    def refused_by_both(self) -> int:
        """How many examples neither answered."""
        return sum(bool(there.error and here.error) for there, here in zip(self.there, self.here, strict=True))

    @property
    def agree(self) -> bool:
        """Whether both answer all of the examples alike, or refuse them both, and there is an answer at all."""
        return self.difference is not None and not self.difference.apart and not self.errors

    def median_ms(self) -> tuple[float, float]:
        """Return the median time of an answer there and here, in milliseconds; 0.0 where there is none."""
        times = [[reply.seconds for reply in replies if not reply.error] for replies in (self.there, self.here)]
        there, here = (1e3 * statistics.median(seconds) if seconds else 0.0 for seconds in times)
        return there, here

    def summary(self, card: Card) -> dict[str, Any]:
        """Return all figures as JSON holds them."""
        there_ms, here_ms = self.median_ms()
        report: dict[str, Any] = {"agree": self.agree, "examples": len(self.examples), "compared": len(self.compared)}
        if self.difference is not None and self.answers is not None:
            distance, flips = self.difference.distance, self.difference.flips
            quantiles = {f"p{share * 100:g}": float(np.quantile(distance, share)) for share in QUANTILES}
            report |= {
                "kind": self.answers.kind,
                "tolerance": self.difference.tolerance,
                "difference": {"max": self.difference.largest, "mean": float(distance.mean()), **quantiles},
                "label_flips": [self.flip(card, place) for place in flips],
                "each": dict(zip(self.compared, distance.tolist(), strict=True)),
            }
        report["errors"] = [{"example": name, "there": there, "here": here} for name, there, here in self.errors]
        report["refused_by_both"] = self.refused_by_both
        ratio = there_ms / here_ms if here_ms and there_ms else None
        return report | {"median_ms": {"there": there_ms, "here": here_ms, "there_over_here": ratio}}

    def flip(self, card: Card, place: int) -> dict[str, Any]:
        """Return the name, the two labels and the distance of one of the compared examples."""
        difference = self.difference
        if difference is None or is_regressor(card):
            return {}
        labels = {"there": card.labels[difference.there[place]], "here": card.labels[difference.here[place]]}
        return {"example": self.compared[place], **labels, "difference": float(difference.distance[place])}


def compare_with_service(
    stored: StoredModel,
    service: Service,
    examples: Sequence[Example],
    paths: Mapping[FieldName, str],
    *,
    kind: Kind | None,
    tolerance: float,
    advance: Callable[[], None] = lambda: None,
) -> Versus:
    """Ask a service and an installed model for the same examples, one after the other, each alone.

    The first example is asked twice, since neither side is warm then.

    Args:
        stored: the installed model.
        service: the other.
        examples: at least one.
        paths: where the parts of its answers stand, as of `export.original.fields.fields_of`.
        kind: what its numbers are; None to tell it from their values.
        tolerance: the largest difference that agrees.
        advance: is called after each example.

    Raises:
        StoreError: nothing can be read from any of the answers; the message shows the first of them.
    """
    card, ours = stored.card, InProcess(stored)
    try:
        service.ask(examples[0])
        ours.ask(examples[0])
        replies = []
        for example in examples:
            replies.append((service.ask(example), ours.ask(example)))
            advance()
    finally:
        ours.close()
    there, fields = _read_fields([reply for reply, _ in replies], paths, card, kind)
    here = tuple(reply for _, reply in replies)
    places = [place for place in range(len(examples)) if place in fields and not here[place].error]
    compared = tuple(examples[place].name for place in places)
    names = tuple(example.name for example in examples)
    if not places:
        return Versus(names, there, here, (), None, None, None)
    outputs = np.stack([here[place].answer for place in places])
    try:
        answers = read_answers({examples[place].name: fields[place] for place in places}, card, kind, "The service")
    except StoreError as error:
        raise StoreError(f"{error} {_advice(there)}") from error
    return Versus(names, there, here, compared, outputs, answers, compare(outputs, answers, card, tolerance))


def _read_fields(
    replies: Sequence[Reply], paths: Mapping[FieldName, str], card: Card, kind: Kind | None
) -> tuple[tuple[Reply, ...], dict[int, Fields]]:
    """Return the replies, with an error in place of an answer that nothing can be read from, and the others' parts."""
    names = tuple(output.name for output in card.outputs) if is_regressor(card) else card.labels
    read, fields, first = list(replies), dict[int, Fields](), ""
    for place, reply in enumerate(replies):
        if reply.error:
            continue
        try:
            part = fields_of(reply.answer, paths, names)
            reason = unusable_reason(part, card, kind)
        except StoreError as error:
            reason = str(error)
        if reason:
            first, read[place] = first or reason, reply._replace(error=reason)
        else:
            fields[place] = part
    if first and not fields:
        raise StoreError(f"The service's answers cannot be used: {first.rstrip('.')}. {_advice(replies)}")
    return tuple(read), fields


def _advice(replies: Sequence[Reply]) -> str:
    answer = next((reply.answer for reply in replies if reply.answer is not None), None)
    return f"Say with --map FIELD=PATH where it stands. The first answer is {answer!r:.{EXCERPT}}."
