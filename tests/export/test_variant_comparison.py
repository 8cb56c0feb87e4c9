"""A variant is refused where it is worse than fp32, by backends whose outputs are known."""

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest

from backends.base import Outputs
from backends.onnx import OnnxBackend
from errors import StoreError
from export.labelled_data import LabelledBatch, LabelledData
from export.variant_comparison import ComparedModel, compare_with_fp32, golden_items
from export.variant_report import VariantReport
from models.card import read_card
from models.goldens import read_goldens
from serving.self_check import golden_batch
from tests.conftest import ROOT

CHURN = ROOT / "models" / "churn"


def test_outputs_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    card, (goldens, _) = read_card(CHURN / "card.toml"), read_goldens(CHURN)
    graph = onnx.load(CHURN / "predict.onnx")
    bias = next(tensor for tensor in graph.graph.initializer if tensor.name == "network.6.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.array([0, np.inf], np.float32), bias.name))
    onnx.save(graph, tmp_path / "broken.onnx")
    fp32 = ComparedModel(OnnxBackend(CHURN / "predict.onnx"), 1)
    assert compare_with_fp32(card, "fp16", goldens, None, fp32, fp32).largest_difference_goldens < 1e-6
    with pytest.raises(StoreError, match=r"as fp16 is refused: its outputs for goldens .* are not finite.*keep fp32"):
        compare_with_fp32(card, "fp16", goldens, None, fp32, ComparedModel(OnnxBackend(tmp_path / "broken.onnx"), 1))


class FirstValueBackend:
    """A backend whose logits follow the first value of each row: negatives are 1000 to 1099, positives 1100 to 1199.

    Attributes:
        swaps: number of the 100 positives that come out below one of the negatives.
        flips_in_batches: whether values below 900 change their sign in a batch.
    """

    runtime: Literal["onnx"] = "onnx"
    device = "cpu"

    def __init__(self, swaps: int = 0, *, flips_in_batches: bool = False) -> None:
        self.swaps, self.flips_in_batches = swaps, flips_in_batches

    def run(self, batch: np.ndarray) -> Outputs:
        score = batch[:, 0].copy()
        score[score == 1099] = 1100 + self.swaps - 0.5
        if self.flips_in_batches and len(batch) > 1:
            score = np.where(np.abs(score) < 900, -score, score)
        positive = (score - 1100) * 0.01 * (score > 900) + score * (score < 900)
        return Outputs(np.stack([np.zeros_like(score), positive], axis=1))

    def close(self) -> None: ...


def compared(variant: FirstValueBackend) -> VariantReport:
    """Compare a backend whose AUC is known by counting pairs: 1 - swaps / 10,000."""
    card, (shipped, _) = read_card(CHURN / "card.toml"), read_goldens(CHURN)
    fp32 = FirstValueBackend()
    logits = fp32.run(golden_batch(card, golden_items(shipped))).logits
    goldens = [golden._replace(logits=row) for golden, row in zip(shipped, logits, strict=True)]
    rows = np.zeros((200, 6), np.float32)
    rows[:, 0] = np.arange(1000, 1200)
    labels = (np.arange(200) >= 100).astype(np.int64)
    labelled_data = LabelledData("rows", "class_1", iter([LabelledBatch(rows, labels)]))
    return compare_with_fp32(card, "int8", goldens, labelled_data, ComparedModel(fp32, 1), ComparedModel(variant, 1))


def test_the_auc_may_fall_by_two_thousandths_and_no_more() -> None:
    assert compared(FirstValueBackend()).auc == 1.0
    assert compared(FirstValueBackend(19)).auc == pytest.approx(0.9981)
    message = r"AUC falls from 1\.0000 to 0\.9979 on 200 labelled items, by more than 0\.002"
    with pytest.raises(StoreError, match=message):
        compared(FirstValueBackend(21))


def test_a_golden_that_gets_another_label_only_in_a_batch_is_refused_too() -> None:
    with pytest.raises(StoreError, match="goldens get another label"):
        compared(FirstValueBackend(flips_in_batches=True))
