"""A package compared with what the original gave for the same examples, before it is installed.

This is what parity cannot tell: parity compares a graph with the network that it was made of, given the same tensors,
so that another resize or channel order goes unnoticed.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from backends.base import Logits
from errors import InvalidInput, StoreError
from export.card_text import with_assumptions
from export.original.answers import Answers, Kind, read_answers
from export.original.changes import card_lines
from export.original.comparison import Difference, compare
from export.original.doubts import find_doubts
from export.original.examples import Example, names_of, read_example_inputs
from export.original.fields import fields_of
from export.original.files import match, read_expected
from export.original.search import Network, Search, SearchResult, Trial
from models.assumed import Assumable
from models.card import Card, is_detector, is_regressor, read_card
from models.package import PARITY
from postprocessing.classification import softmax

TOLERANCE = 1e-3
"""The largest difference between the original's answer and ours; see `export.original.comparison.Difference`."""
TWICE = "The original takes softmax twice: its answers are those of softmax over probabilities. No card can say that."


@dataclass(frozen=True)
class OriginalReport:
    """How a package compares with the original.

    Attributes:
        file: the name of the file with the original's answers.
        kind: what they are: probabilities, logits, labels, scores or values.
        examples: number of examples.
        largest_difference: between the original's answer and ours.
        label_flips: examples that get another label here, by no more than the tolerance.
        tolerance: the largest difference that passes.
    """

    file: str
    kind: Kind
    examples: int
    largest_difference: float
    label_flips: int
    tolerance: float

    def __str__(self) -> str:
        flips = "" if self.kind == "values" else f", {self.label_flips} labels differ"
        return (
            f"As the original ({self.file}, {self.kind}): largest difference {self.largest_difference:.1e} on "
            f"{self.examples} examples{flips}"
        )


def check_answers(
    package: Path,
    examples: Path | None,
    expected: Path,
    notify: Callable[[str], None],
    *,
    kind: Kind | None = None,
    tolerance: float = TOLERANCE,
) -> OriginalReport:
    """Compare a package with what the original gave, and write the result into its parity report.

    What the card only assumed is confirmed by it and leaves its `assumed`, unless labels are all that was compared, or
    another usual value would agree with these examples as well.

    Args:
        package: the folder of the package, complete with its parity report.
        examples: a folder of pictures, or a file of rows; None for the package's goldens.
        expected: what the original gave for them, JSON or CSV, as `export.original.files` reads it.
        notify: is told which examples are left out, and that causes are looked for.
        kind: what the file holds; None to tell it from the values.
        tolerance: the largest difference that passes.

    Raises:
        StoreError: a file cannot be read, the two do not fit, or the package answers otherwise than the original. Then
            the message names the farthest example and the lines of the card that would make them agree.
    """
    card = read_card(package / "card.toml")
    inputs, answers = _read(card, package, examples, expected, kind, notify)
    network = Network(package, card, inputs)
    try:
        outputs = network.outputs(card, range(len(inputs)))
    except InvalidInput as error:
        raise StoreError(f"{card.name}: its card refuses an example ({error}). Nothing was installed.") from error
    difference = compare(outputs, answers, card, tolerance)
    if difference.apart:
        reason = TWICE
        if not _is_softmax_twice(outputs, answers, card, tolerance):
            notify("It does not answer as the original did. Trying what usually causes that …")
            reason = cause(Search(network, card, answers, tolerance).run(outputs, difference), len(inputs))
        raise StoreError(f"{refusal(card, expected.name, answers, difference)}\n{reason}")
    flips = sum(here != there for here, there in zip(difference.here, difference.there, strict=True))
    report = OriginalReport(expected.name, answers.kind, len(inputs), difference.largest, flips, difference.tolerance)
    _note(package, report)
    if answers.kind != "labels":
        doubts = find_doubts(network, card, answers, tolerance)
        if doubts:
            notify(_still_assumed(doubts))
        card_file = package / "card.toml"
        card_file.write_text(with_assumptions(card_file.read_text("utf-8"), list(doubts)), "utf-8")
    return report


def _read(
    card: Card,
    package: Path,
    examples: Path | None,
    expected: Path,
    kind: Kind | None,
    notify: Callable[[str], None],
) -> tuple[list[Example], Answers]:
    """Return the examples that the original answered, and its answers in the same order."""
    inputs = read_example_inputs(card, examples, package)
    matched = match(read_expected(expected, tuple(inputs[0].values)), inputs, expected)
    if left_out := [example for place, example in enumerate(inputs) if place not in matched]:
        notify(f"{expected.name} has no answer for {len(left_out)} of the examples ({names_of(left_out)}): left out.")
    names = tuple(output.name for output in card.outputs) if is_regressor(card) else card.labels
    fields = {inputs[place].name: fields_of(matched[place], {}, names) for place in sorted(matched)}
    answers = read_answers(fields, card, kind, expected.name)
    if answers.rounding:
        notify(f"The answers in {expected.name} are rounded: {answers.rounding:g} more may be that.")
    return [inputs[place] for place in sorted(matched)], answers


def _is_softmax_twice(outputs: Logits, answers: Answers, card: Card, tolerance: float) -> bool:
    if answers.kind != "probabilities":
        return False
    return not compare(softmax(outputs).astype(np.float32), answers, card, tolerance).apart


def refusal(card: Card, origin: str, answers: Answers, difference: Difference) -> str:
    """Return how a model's answers differ from the original's, as a message says it."""
    apart, flips = difference.apart, difference.flips
    farthest = apart[0]
    unit = "" if is_detector(card) or is_regressor(card) else " in probability"
    by = f"differ by more than {difference.tolerance:.2g}{unit}"
    if answers.kind == "labels":
        by = "get another label"
    labels = f", {len(flips)} get another label" if answers.kind not in ("labels", "values") else ""
    return (
        f"{card.name} does not answer as the original did ({origin}: {answers.kind}). {len(apart)} of "
        f"{len(answers.names)} examples {by}{labels}. The farthest is {answers.names[farthest]}, by "
        f"{difference.distance[farthest]:.2g}{_labels_of(card, difference, farthest)}. Nothing was installed."
    )


def cause(result: SearchResult, examples: int) -> str:
    """Return what would make the answers agree, with the lines of the card, or what comes nearest."""
    if result.agreeing:
        best, others = result.agreeing[0], result.agreeing[1:]
        text = (
            f"The original may differ in this: {_causes(best)}. With these lines on the card all {examples} examples "
            f"agree (largest difference {best.difference.largest:.1e}):\n\n{card_lines(best.changes)}\n"
        )
        if others:
            listed = "; ".join(_causes(trial) for trial in others[:3]) + ("; …" if len(others) > 3 else "")
            text += f"\nThey would agree as well if: {listed}. More examples tell these apart."
        return text
    in_time = "" if result.complete else " in the time"
    text = f"{result.tried:,} changes of the card and pairs of them were tried{in_time}, and none makes all agree."
    if result.nearest is not None:
        text += (
            f" The nearest, on the farthest examples, is that {_causes(result.nearest)}, which leaves "
            f"{result.nearest.difference.largest:.2g}."
        )
    return text + (
        " What else it usually is: other weights than the original's, pictures that the original's client crops or "
        "scales before it sends them, an input in another order than height, width and channels, or answers of other "
        "examples."
    )


def _still_assumed(doubts: Mapping[Assumable, str]) -> str:
    listed = "; ".join(f"{key} (they would agree as well if {cause})" for key, cause in doubts.items())
    return f"Still assumed, since the examples do not tell: {listed}. Pictures of other shapes and sizes tell more."


def _causes(trial: Trial) -> str:
    return ", and ".join(change.cause for change in trial.changes)


def _labels_of(card: Card, difference: Difference, place: int) -> str:
    here, there = difference.here[place], difference.there[place]
    if is_regressor(card) or here == there:
        return ""
    return f" ({card.labels[there]} there, {card.labels[here]} here)"


def _note(package: Path, report: OriginalReport) -> None:
    """Add the result to the package's parity report."""
    path = package / PARITY
    parity = json.loads(path.read_text("utf-8")) if path.exists() else {}
    parity["original"] = asdict(report)
    path.write_text(json.dumps(parity, indent=1, allow_nan=False) + "\n", "utf-8")
