"""The work that every server of the comparison does for a request: an encoded picture → label and probabilities.

This module imports `preprocessing` and nothing else of this repository, so that it runs in any peer's environment.
"""

import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from preprocessing.prepare import PreparedPicture, prepare
from preprocessing.spec import ImageInput, ImageLimits

Answer = dict[str, Any]
"""`label`, `probabilities` by label, and `sharpness` (None where the card does not ask for it)."""


class Work:
    """One loaded model; several threads may call it at once.

    Args:
        package: the folder with `card.toml` and `predict.onnx`.
        threads: threads of one run, ONNX Runtime's and OpenCV's. All other options keep ONNX Runtime's defaults.
    """

    def __init__(self, package: Path, threads: int) -> None:
        card = tomllib.loads((package / "card.toml").read_text("utf-8"))
        self._input = ImageInput.model_validate(card["input"])
        self._limits = ImageLimits.model_validate(card.get("limits", {}))
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

    def __call__(self, data: bytes) -> Answer:
        """Answer one encoded picture."""
        return self.batch([data])[0]

    def batch(self, pictures: Sequence[bytes]) -> list[Answer]:
        """Answer several encoded pictures in one run."""
        items = [prepare(data, self._limits, self._input) for data in pictures]
        logits = self._session.run(["logits"], {self._name: np.stack([item.tensor for item in items])})[0]
        return [self._answer(row, item) for row, item in zip(logits, items, strict=True)]

    def _answer(self, logits: npt.NDArray[np.float32], item: PreparedPicture) -> Answer:
        scaled = logits.astype(np.float64) / self._temperature
        shifted = np.exp(scaled - scaled.max())
        probabilities = dict(zip(self._labels, (shifted / shifted.sum()).tolist(), strict=True))
        label = max(probabilities, key=lambda name: probabilities[name])
        if self._positive is not None:
            negative = next(name for name in self._labels if name != self._positive)
            label = self._positive if probabilities[self._positive] >= self._threshold else negative
        return {
            "label": label,
            "probabilities": probabilities,
            "sharpness": item.sharpness,
        }


def from_environment() -> Work:
    """Return the work that `COMPARE_PACKAGE` and `COMPARE_THREADS` name."""
    return Work(Path(os.environ["COMPARE_PACKAGE"]), int(os.environ["COMPARE_THREADS"]))


def setting(name: str) -> int:
    """Return the number that `loadtests.compare.servers` has put into the environment as `COMPARE_NAME`."""
    return int(os.environ[f"COMPARE_{name}"])
