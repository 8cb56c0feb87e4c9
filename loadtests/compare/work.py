"""The work that every server of the comparison does for a request: a picture or a row → label and probabilities.

This module imports `preprocessing` and nothing else of this repository, so that it runs in any peer's environment.
"""

import json
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from preprocessing.prepare import prepare
from preprocessing.row_spec import RowInput
from preprocessing.rows import check_rows
from preprocessing.spec import Float32Tensor, ImageInput, ImageLimits

Payload = bytes | Mapping[str, Any]
"""An encoded picture, or a row: as JSON, or parsed already where a server does that itself."""
Answer = dict[str, Any]
"""`label`, `probabilities` by label, and of a picture `sharpness` (None where the card does not ask for it)."""


class Prepared(NamedTuple):
    """Payloads as the network takes them, shape (N, …), float32, and what else each answer holds."""

    tensors: Float32Tensor
    extras: Sequence[Answer]


class Work:
    """One loaded model; several threads may call it at once.

    Args:
        package: the folder with `card.toml` and `predict.onnx`.
        threads: threads of one run, ONNX Runtime's and OpenCV's. All other options keep ONNX Runtime's defaults.
    """

    def __init__(self, package: Path, threads: int) -> None:
        card = tomllib.loads((package / "card.toml").read_text("utf-8"))
        self._prepare: Callable[[Sequence[Any]], Prepared]
        if card["input"]["kind"] == "row":
            self._prepare = partial(_prepare_rows, RowInput.model_validate(card["input"]))
        else:
            limits = ImageLimits.model_validate(card.get("limits", {}))
            self._prepare = partial(_prepare_pictures, ImageInput.model_validate(card["input"]), limits)
        self._labels: list[str] = card["labels"]
        self._temperature: float = card.get("temperature", 1.0)
        self._positive: str | None = card.get("positive_label")
        self._threshold: float = card.get("threshold", 0.5)
        cv2.setNumThreads(threads)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = ort.InferenceSession(str(package / "predict.onnx"), options, ["CPUExecutionProvider"])
        self._name: str = self._session.get_inputs()[0].name

    def __call__(self, payload: Payload) -> Answer:
        """Answer one payload."""
        return self.batch([payload])[0]

    def batch(self, payloads: Sequence[Payload]) -> list[Answer]:
        """Answer several payloads in one run.

        Raises:
            VitrineError: one of them cannot be used.
        """
        tensors, extras = self._prepare(payloads)
        logits = self._session.run(["logits"], {self._name: tensors})[0]
        return [self._answer(row) | extra for row, extra in zip(logits, extras, strict=True)]

    def _answer(self, logits: npt.NDArray[np.float32]) -> Answer:
        scaled = logits.astype(np.float64) / self._temperature
        shifted = np.exp(scaled - scaled.max())
        probabilities = dict(zip(self._labels, (shifted / shifted.sum()).tolist(), strict=True))
        label = max(probabilities, key=lambda name: probabilities[name])
        if self._positive is not None:
            negative = next(name for name in self._labels if name != self._positive)
            label = self._positive if probabilities[self._positive] >= self._threshold else negative
        return {"label": label, "probabilities": probabilities}


def _prepare_pictures(spec: ImageInput, limits: ImageLimits, pictures: Sequence[bytes]) -> Prepared:
    items = [prepare(data, limits, spec) for data in pictures]
    return Prepared(np.stack([item.tensor for item in items]), [{"sharpness": item.sharpness} for item in items])


def _prepare_rows(spec: RowInput, rows: Sequence[Payload]) -> Prepared:
    checked = check_rows([row if isinstance(row, Mapping) else json.loads(row) for row in rows], spec)
    if checked.problems:
        raise next(iter(checked.problems.values()))
    return Prepared(checked.tensor, [{}] * len(rows))


def from_environment() -> Work:
    """Return the work that `COMPARE_PACKAGE` and `COMPARE_THREADS` name."""
    return Work(Path(os.environ["COMPARE_PACKAGE"]), int(os.environ["COMPARE_THREADS"]))


def setting(name: str) -> int:
    """Return the number that `loadtests.compare.servers` has put into the environment as `COMPARE_NAME`."""
    return int(os.environ[f"COMPARE_{name}"])
