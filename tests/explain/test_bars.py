"""The plot of attributions: bars on the right side of the middle, as long as their numbers, the strongest on top."""

import numpy as np
import numpy.typing as npt

from explain.bars import DOWN, LINE, MOST_BARS, UP, BarText, draw_bars
from explain.shapley import Attributions


def runs(picture: npt.NDArray[np.uint8], colour: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """Top, left and right of each bar of a colour, from the top down."""
    is_colour = (picture == colour).all(axis=2)
    tops = [y for y in range(1, len(picture)) if is_colour[y].sum() > 3 and is_colour[y - 1].sum() <= 3]
    return [(y, int(is_colour[y].argmax()), int(len(is_colour[y]) - is_colour[y, ::-1].argmax())) for y in tops]


def plot(values: list[float], errors: list[float] | None = None) -> npt.NDArray[np.uint8]:
    attributions = Attributions(np.array(values), 0.5, 0.5 + sum(values), None if errors is None else np.array(errors))
    return draw_bars(attributions, BarText("Title", [f"feature {place}" for place in range(len(values))], "note"))


def test_bars_go_up_to_the_right_and_down_to_the_left_as_far_as_they_count() -> None:
    picture = plot([0.1, -0.4, 0.2])
    ((first, left, middle),) = runs(picture, DOWN)
    (second, start, right), (third, _, least) = runs(picture, UP)
    assert first < second < third and second - first == LINE
    assert abs(start - middle) <= 2  # they meet in the middle
    assert abs((middle - left) / (right - start) - 2) < 0.05 and abs((right - start) / (least - start) - 2) < 0.1


def test_an_error_is_a_line_over_its_bar() -> None:
    plain, with_error = plot([0.4, 0.1]), plot([0.4, 0.1], [0.2, 0.0])
    assert plain.shape == with_error.shape and (plain != with_error).any()
    (_, _, end), *_ = runs(with_error, UP)
    (_, _, end_without), *_ = runs(plain, UP)
    assert end < end_without  # there is room for the error beyond the bar


def test_many_features_share_the_last_bar() -> None:
    few, many = plot([0.1] * MOST_BARS), plot([0.1] * MOST_BARS + [1e-4] * 280)
    assert few.shape == many.shape
    assert len(runs(few, UP)) == len(runs(many, UP)) == MOST_BARS


def test_names_of_any_length_and_values_of_nothing_are_drawn() -> None:
    attributions = Attributions(np.zeros(2), 0.0, 0.0, None)
    picture = draw_bars(attributions, BarText("t" * 5000, ["n" * 5000, "größe\n= 3 °C"], ""))
    assert picture.dtype == np.uint8 and not runs(picture, UP) and not runs(picture, DOWN)
