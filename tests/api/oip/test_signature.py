"""The tensors of a model over the Open Inference Protocol: of pictures of any channels and layout, and of values."""

import pytest

from api.oip.signature import TensorSpec, input_specs, signatures
from models.card import parse_card
from tests.tiny import CARD, REGRESSOR


@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        ("", (-1, 3, 16, 24)),
        ('layout = "nhwc"', (-1, 16, 24, 3)),
        ('channels = "grey"', (-1, 1, 16, 24)),
        ('channels = "grey"\nlayout = "nhwc"', (-1, 16, 24, 1)),
        ('resize = "short_side"\nresize_to = 256', (-1, 3, 16, 24)),
    ],
)
def test_a_transformed_picture_has_the_shape_that_the_graph_takes(changes: str, shape: tuple[int, ...]) -> None:
    text = CARD.format(name="tiny").replace("efficientnet-b4-head", "onnx")
    text = text.replace("size = [16, 16]", f"size = [16, 24]\n{changes}")
    if "grey" in changes:
        text = text.replace("[0.5, 0.5, 0.5]", "[0.5]")
    layout = "FORMAT_NHWC" if "nhwc" in changes else "FORMAT_NCHW"
    assert input_specs(parse_card(text, "card"))[-1] == TensorSpec("tensor", "FP32", shape, layout)


def test_a_regressor_takes_categories_as_texts_and_gives_its_values() -> None:
    rows, columns = signatures(parse_card(REGRESSOR, "card"))
    assert rows.inputs == (TensorSpec("rows", "FP32", (-1, 2)),)
    assert columns.inputs == (TensorSpec("area", "FP32", (-1,)), TensorSpec("heating", "BYTES", (-1,)))
    assert rows.output == columns.output == TensorSpec("values", "FP32", (-1, 1))
