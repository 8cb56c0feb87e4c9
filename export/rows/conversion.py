"""Converting a model of rows to a package. It runs in a process of its own: a pickle can run any code when it is read.

The libraries that read and convert are imported here and below only, never by the server or the command line.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from backends.onnx import OnnxBackend
from errors import InvalidInput, StoreError
from export.parity import LIMIT, ParityReport
from export.rows.card import CardText
from export.rows.comparison import Comparison
from export.rows.examples import example_values, read_examples
from export.rows.graph import serving_graph
from export.rows.model import RowModel, Values
from export.rows.samples import OTHER_TEXT, random_rows
from export.rows.sources import Kind
from models.background import USUAL_ROWS, write_background
from models.card import RowCard, as_row_card, parse_card
from models.goldens import TOLERANCE, write_goldens
from models.package import GRAPH
from preprocessing.row_spec import LARGEST_FLOAT32

RANDOM_ROWS, TRIAL_ROWS, MOST_GOLDENS = 2000, 16, 8


@dataclass(frozen=True)
class Request:
    """What is to be converted; it crosses to the process as JSON.

    Attributes:
        file: the model.
        kind: what kind of file it is.
        name: of the card.
        package: the folder to write into, which exists.
        examples: a CSV or JSON file of rows, or None.
        labels: instead of those that the model knows; none for its own.
        outputs: name and unit of each value of a regressor.
    """

    file: str
    kind: Kind
    name: str
    package: str
    examples: str | None = None
    labels: Sequence[str] = ()
    outputs: Sequence[tuple[str, str]] = ()


@dataclass
class Converter:
    """Makes the package of one request."""

    request: Request
    notes: list[str] = field(default_factory=list)

    def run(self) -> ParityReport:
        """Read, convert and compare the model, and write its package.

        Raises:
            CardError: the model's names make no valid card.
            StoreError: the file cannot be read, the model not be carried over, or the examples do not fit it.
        """
        rows_by_name = read_examples(Path(self.request.examples)) if self.request.examples else None
        model = self._read(list(rows_by_name[0]) if rows_by_name else None)
        if self.request.labels and len(self.request.labels) != len(model.labels):
            raise StoreError(f"There are {len(self.request.labels)} labels for a model of {len(model.labels)} classes.")
        if self.request.outputs and len(self.request.outputs) != model.outputs:
            raise StoreError(f"{len(self.request.outputs)} outputs are named, but the model gives {model.outputs}.")
        model.labels = self.request.labels or model.labels
        examples = None
        if rows_by_name is not None and self.request.examples:
            examples = example_values(rows_by_name, model.features, Path(self.request.examples))
        package = Path(self.request.package)
        (package / GRAPH).write_bytes(serving_graph(model).SerializeToString(deterministic=True))
        return self._compared(model, examples, package)

    def _read(self, header: Sequence[str] | None) -> RowModel:
        file = Path(self.request.file)
        if self.request.kind == "pickle":
            from export.rows.sklearn_reader import read_sklearn

            return read_sklearn(file, header, self.notes)
        from export.rows.boosters import read_lightgbm, read_xgboost

        return read_xgboost(file, self.notes) if self.request.kind == "xgboost" else read_lightgbm(file)

    def _compared(self, model: RowModel, examples: Values | None, package: Path) -> ParityReport:
        rng, backend = np.random.default_rng(0), OnnxBackend(package / GRAPH)
        text = CardText(self.request.name, Path(self.request.file).name, self.request.outputs)
        usual = examples if examples is not None else random_rows(model.features, None, TRIAL_ROWS, rng)
        missing, others = self._accepted(model, usual, text, backend)
        for place, feature in enumerate(model.features):
            feature.other_categories = place in others
        card_text = text.write(model, usual, missing, others)
        (package / "card.toml").write_text(card_text, "utf-8")
        comparison = Comparison(model, _row_card(card_text), backend)
        may_miss = [place in missing for place in range(len(model.features))]
        drawn = random_rows(model.features, examples, RANDOM_ROWS, rng, may_miss)
        drawn = drawn[(np.abs(model.predict(drawn)) <= LARGEST_FLOAT32).all(axis=1)]  # what is beyond serves nobody
        rows = drawn if examples is None else np.concatenate([examples, drawn])
        scale = comparison.scale_by(rows)
        try:
            report = comparison.report(rows)
            self._write_goldens(model, rows if examples is None else examples, comparison, package, TOLERANCE * scale)
        except InvalidInput as error:
            raise StoreError(f"The examples hold a row that would be refused: {error}") from error
        if examples is not None:
            self._write_background(model, examples, package)
        report.write(package)
        return report

    def _accepted(
        self, model: RowModel, usual: Values, text: CardText, backend: OnnxBackend
    ) -> tuple[list[int], list[int]]:
        """Return the places of the features that may be missing, and of those that take other categories."""
        every = list(range(len(model.features)))
        encoders = [place for place in every if model.features[place].other_categories]
        comparison = Comparison(model, _row_card(text.write(model, usual, every, encoders)), backend)
        complete = usual[[all(value is not None for value in row) for row in usual]][:TRIAL_ROWS]
        if not len(complete):
            complete = random_rows(model.features, usual, TRIAL_ROWS, np.random.default_rng(1))
        missing = self._alike(comparison, complete, None, every)
        return missing, self._alike(comparison, complete, OTHER_TEXT, encoders)

    def _alike(self, comparison: Comparison, rows: Values, value: str | None, places: Sequence[int]) -> list[int]:
        """Return at which places of rows a value is taken by the original, and would be answered as it answers."""
        accepted, refused = list[int](), list[str]()
        for place in places:
            trial = rows.copy()
            trial[:, place] = value
            try:
                distance = comparison.compare(trial).distance
            except Exception:  # whatever the original raises says that it does not take the value
                continue
            if (distance <= LIMIT).all():
                accepted.append(place)
            else:
                refused.append(comparison.model.features[place].name)
        if refused:
            what = "null" if value is None else "any other category than the known ones"
            self.notes.append(
                f"{', '.join(refused)}: {what} is refused. The original takes it, but its graph answers otherwise."
            )
        return accepted

    def _write_background(self, model: RowModel, examples: Values, package: Path) -> None:
        """Keep some of the examples, which the comparison has found to be rows that are accepted."""
        count, names = min(len(examples), USUAL_ROWS), [feature.name for feature in model.features]
        places = np.sort(np.random.default_rng(0).choice(len(examples), count, replace=False))
        rows = [dict(zip(names, row, strict=True)) for row in examples[places].tolist()]
        write_background(
            package, rows, f"{count} of {len(examples):,} rows of {Path(self.request.examples or '').name}"
        )

    def _write_goldens(
        self, model: RowModel, rows: Values, comparison: Comparison, package: Path, tolerance: float
    ) -> None:
        names = [feature.name for feature in model.features]
        expected, distance = comparison.compare(rows)
        chosen = np.flatnonzero((distance <= LIMIT) & comparison.is_clear(expected))[:MOST_GOLDENS]
        inputs = [
            (f"row-{number:02}.json", json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False).encode())
            for number, row in enumerate(rows[chosen].tolist(), 1)
        ]
        write_goldens(package, inputs, comparison.logits(expected[chosen]), model.name, tolerance)


def _row_card(text: str) -> RowCard:
    return as_row_card(parse_card(text, "card.toml"))
