"""What is counted of one model's answers: the labels that it gave, how sure it was, and how long explanations took."""

import threading
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from models.card import Card
from runners.metrics import EXPLAIN_SECONDS, Amount, Distribution, written_regularly


class ModelMeters:
    """Counts the answers of one version of a model, on the event loop.

    Args:
        card: names the labels; there is a series for each that was answered, and for nothing else.
        version: the model's; empty where nothing is installed, which answers nothing.

    Attributes:
        passed_check: whether the goldens came out as they should; None before they were replayed.
    """

    def __init__(self, card: Card, version: str) -> None:
        self._series = card.name, version
        self._labels = card.labels
        self._counts, self._confidences = [0] * len(card.labels), [0.0] * len(card.labels)
        self._written = dict[int, tuple[Amount, Amount]]()
        self._explained = dict[str, Distribution]()
        self.passed_check: bool | None = None
        self._writing = threading.Lock()  # a version is closed by another thread than the event loop's
        written_regularly(self)

    def answered(self, class_id: int, confidence: float) -> None:
        """Count one picture or row that was answered with a label."""
        self._counts[class_id] += 1
        self._confidences[class_id] += confidence

    def answered_rows(self, class_ids: npt.NDArray[Any], confidences: npt.NDArray[np.float64]) -> None:
        """Count rows that were answered with labels.

        Args:
            class_ids: shape (N,), integers or booleans.
            confidences: shape (N,), or (N, K) with that of every label.
        """
        count = len(class_ids)
        if count == 1:  # NumPy's functions for many take longer than the rest of the request
            class_id = int(class_ids.item(0))
            self.answered(class_id, confidences.item(class_id) if confidences.ndim > 1 else confidences.item(0))
            return
        if confidences.ndim > 1:
            confidences = confidences[np.arange(count), class_ids]
        class_ids = class_ids.astype(np.int64, copy=False)
        counts = np.bincount(class_ids, minlength=len(self._counts))
        sums = np.bincount(class_ids, confidences, len(self._counts))
        for class_id in counts.nonzero()[0].tolist():
            self._counts[class_id] += int(counts[class_id])
            self._confidences[class_id] += float(sums[class_id])

    def explained(self, method: str, started: float) -> None:
        """Count an explanation by a method, which began when `time.monotonic()` was `started`."""
        if method not in self._explained:
            self._explained[method] = Distribution(EXPLAIN_SECONDS, "explain", *self._series, method)
        self._explained[method].add(time.monotonic() - started)

    def write(self) -> None:
        """Write to the metrics what was counted since the last time."""
        with self._writing:
            self._write()

    def _write(self) -> None:
        for class_id, count in enumerate(self._counts):
            if count:
                if class_id not in self._written:
                    series = *self._series, self._labels[class_id]
                    self._written[class_id] = Amount("predictions", *series), Amount("confidence", *series)
                for amount, value in zip(self._written[class_id], (count, self._confidences[class_id]), strict=True):
                    amount.write(value)
        for distribution in [*self._explained.values()]:
            distribution.write()
