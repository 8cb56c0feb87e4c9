"""The pipelines of predictions by themselves: one payload to what is batched, a batch to one result an item."""

import numpy as np
import numpy.typing as npt
import pytest

from backends.base import Batch, Outputs, check_outputs
from errors import InvalidInput, TooLarge
from loadtests.fuzz.hostile import jpeg_of_scans
from models.card import ImageCard, RowCard, parse_card, read_card
from preprocessing.decode import decode
from preprocessing.prepare import Keep, PreparedPicture, prepare
from preprocessing.spec import ImageInput, ImageLimits
from preprocessing.transform import transform
from serving.pipeline import (
    HEAVY_BYTES,
    LARGEST_MAGNITUDE,
    DecodedImage,
    EarlyExitPipeline,
    ImagePipeline,
    TransformedImage,
)
from serving.row_pipeline import RowPipeline, RowValues
from tests.conftest import ROOT, encode
from tests.tiny import CARD, bright_square


class FakeBackend:
    """Gives for each item as many outputs as are asked for: the sum of the item, plus the column.

    Attributes:
        batches: the shape of every batch that was run.
    """

    def __init__(self, columns: int, parts: list[str] | None = None) -> None:
        self._columns, self._parts = columns, parts
        self.batches = list[tuple[int, ...]]()

    def run(self, batch: Batch) -> Outputs:
        self.batches.append(batch.shape)
        sums = batch.reshape(len(batch), -1).sum(axis=1, keepdims=True)
        logits = np.asarray(sums + np.arange(self._columns), np.float32)
        return Outputs(logits, self._parts[: len(batch)] if self._parts else None)  # type: ignore[arg-type]


def image_card() -> ImageCard:
    card = parse_card(CARD.format(name="tiny"), "card")
    assert isinstance(card, ImageCard)
    return card


def row_card(name: str) -> RowCard:
    card = read_card(ROOT / "models" / name / "card.toml")
    assert isinstance(card, RowCard)
    return card


def image_pipeline(backend: FakeBackend) -> ImagePipeline:
    return ImagePipeline(image_card(), backend)  # type: ignore[arg-type]


def row_pipeline(name: str, backend: FakeBackend) -> RowPipeline:
    return RowPipeline(row_card(name), backend)  # type: ignore[arg-type]


def test_a_picture_is_the_same_tensor_in_each_of_its_three_forms() -> None:
    pipeline, pixels = image_pipeline(FakeBackend(2)), bright_square()
    card = image_card()
    expected = transform(decode(encode(pixels), card.limits), card.input)
    for payload in (encode(pixels), DecodedImage(pixels), TransformedImage(expected.tensor)):
        prepared = pipeline.preprocess(payload)
        assert np.array_equal(prepared.tensor, expected.tensor)
        assert prepared.sharpness == (None if isinstance(payload, TransformedImage) else expected.sharpness)


def test_pixels_over_the_cards_limit_are_too_large_before_they_are_transformed() -> None:
    pixels = np.broadcast_to(np.uint8(0), (10_000, 10_000, 3))
    with pytest.raises(TooLarge):
        image_pipeline(FakeBackend(2)).preprocess(DecodedImage(pixels))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.001 * LARGEST_MAGNITUDE])
def test_a_tensor_with_values_that_no_picture_has_is_refused(value: float) -> None:
    tensor = np.zeros((3, 16, 16), np.float32)
    tensor[1, 2, 3] = value
    with pytest.raises(InvalidInput, match="not finite, or beyond ±1000"):
        image_pipeline(FakeBackend(2)).preprocess(TransformedImage(tensor))


def test_a_tensor_of_another_shape_is_told_the_right_one() -> None:
    with pytest.raises(InvalidInput, match=r"shape \[3, 16, 17\]; tiny takes \[3, 16, 16\]"):
        image_pipeline(FakeBackend(2)).preprocess(TransformedImage(np.zeros((3, 16, 17), np.float32)))


def test_a_batch_of_pictures_gives_one_result_each_in_order() -> None:
    backend = FakeBackend(2)
    pipeline = image_pipeline(backend)
    batch = [pipeline.preprocess(TransformedImage(np.full((3, 16, 16), level, np.float32))) for level in (0, 1, 2)]
    results = pipeline.infer(batch)
    assert backend.batches == [(3, 3, 16, 16)]
    assert [result.logits.tolist() for result in results] == [[768 * level, 768 * level + 1] for level in (0, 1, 2)]
    assert [result.answered_by for result in results] == [None] * 3
    assert [pipeline.count_inferences(item) for item in batch] == [1, 1, 1]


def test_an_early_exit_says_which_part_answered_and_counts_once_it_is_told_to() -> None:
    counted, backend = list[str](), FakeBackend(2, ["early_exit", "network"])
    pipeline = EarlyExitPipeline(image_card(), backend, counted.append)  # type: ignore[arg-type]
    batch = [pipeline.preprocess(DecodedImage(bright_square()))] * 2
    assert [result.answered_by for result in pipeline.infer(batch)] == ["early_exit", "network"] and not counted
    pipeline.begin_counting()
    pipeline.infer(batch)
    assert counted == ["early_exit", "network"]


def test_only_what_takes_long_to_decode_is_heavy() -> None:
    pipeline = image_pipeline(FakeBackend(2))
    assert pipeline.is_heavy(bytes(HEAVY_BYTES + 1)) and not pipeline.is_heavy(bytes(HEAVY_BYTES))
    assert pipeline.is_heavy(DecodedImage(bright_square()))
    assert not pipeline.is_heavy(TransformedImage(np.zeros((3, 16, 16), np.float32)))
    assert not row_pipeline("churn", FakeBackend(2)).is_heavy([{}] * 1000)


@pytest.mark.parametrize(
    "row",
    [
        {f"field {number}": 0 for number in range(10_000)},
        {"age": "x" * 10_000},
        {"age": [[1, 2]] * 10_000},
        {"age": {"x": 1}},
        [1, 2],
        "x" * 10_000,
    ],
)
def test_no_row_is_quick_to_check_that_is_full_of_what_no_card_asks_for(row: object) -> None:
    pipeline, usual = row_pipeline("churn", FakeBackend(2)), {"age": 30, "plan": "basic", "months": None}
    assert pipeline.is_quick([usual] * 16) and not pipeline.is_quick([usual] * 17)
    assert not pipeline.is_quick([usual, row])
    assert not pipeline.is_quick([{f"field {number}": 0 for number in range(1000)}] * 3)


def test_rows_of_several_requests_are_computed_together_and_given_back_apart() -> None:
    backend = FakeBackend(2)
    pipeline, card = row_pipeline("churn", backend), row_card("churn")
    row = {entry.name: entry.example for entry in card.input.entries}
    first = pipeline.preprocess([row, {"age": 3}, row])
    second = pipeline.preprocess(
        RowValues(np.array([[feature.example for feature in card.input.features]], np.float64))
    )
    results = pipeline.infer([first, second])
    assert backend.batches == [(3, 6)]
    assert [len(result.outputs) for result in results] == [2, 1]
    assert [set(result.problems) for result in results] == [{1}, set()]
    assert np.array_equal(results[0].outputs[0], results[1].outputs[0])
    assert [pipeline.count_inferences(item) for item in (first, second)] == [2, 1]


def test_a_request_of_wrong_rows_alone_reaches_no_backend() -> None:
    backend = FakeBackend(2)
    pipeline = row_pipeline("churn", backend)
    (result,) = pipeline.infer([pipeline.preprocess([{"age": 3}])])
    assert backend.batches == [] and len(result.outputs) == 0 and set(result.problems) == {0}


def test_a_detector_gives_one_output_for_each_feature() -> None:
    card = row_card("machine_anomaly")
    row = {entry.name: entry.example for entry in card.input.entries}
    pipeline = row_pipeline("machine_anomaly", FakeBackend(4))
    assert pipeline.infer([pipeline.preprocess([row])])[0].outputs.shape == (1, 4)
    wrong = row_pipeline("machine_anomaly", FakeBackend(2))
    with pytest.raises(RuntimeError):
        wrong.infer([wrong.preprocess([row])])


@pytest.mark.parametrize(
    "outputs", [np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32), np.full((2, 2), np.nan, np.float32)]
)
def test_outputs_of_the_wrong_shape_or_not_finite_are_an_error_of_ours(outputs: npt.NDArray[np.float32]) -> None:
    check_outputs(np.zeros((2, 2), np.float32), 2, 2)
    with pytest.raises(RuntimeError):
        check_outputs(outputs, 2, 2)


def test_a_slow_picture_is_prepared_by_what_was_given_for_it_and_others_are_not() -> None:
    asked = list[bytes]()

    def prepare_slow(data: bytes, limits: ImageLimits, spec: ImageInput, keep: Keep = "nothing") -> PreparedPicture:
        asked.append(data)
        return prepare(data, limits, spec, keep)

    slow, quick = jpeg_of_scans(2600, 2600, 80), encode(bright_square())
    pipeline = ImagePipeline(image_card(), FakeBackend(2), prepare_slow)  # type: ignore[arg-type]
    assert (
        pipeline.is_slow(slow) and not pipeline.is_slow(quick) and not pipeline.is_slow(DecodedImage(bright_square()))
    )
    assert np.array_equal(pipeline.preprocess_slow(slow).tensor, pipeline.preprocess(slow).tensor)
    assert asked == [slow]
    assert not image_pipeline(FakeBackend(2)).is_slow(slow)
