"""What the benchmarks share: their options, their rounds, what they send, and how medians are printed."""

import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import click
import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from models.card import RowCard

Command = TypeVar("Command", bound=Callable[..., Any])
Name = TypeVar("Name", bound=Hashable)
Figure = TypeVar("Figure")


def measurement_options(seconds: float, rounds: int) -> Callable[[Command], Command]:
    """Return the decorator that gives a command `--seconds` and `--rounds`, with these defaults."""
    length = click.option("--seconds", default=seconds, show_default=True, help="Length of one measurement.")
    times = click.option("--rounds", default=rounds, show_default=True, help="Rounds; medians are printed.")
    return lambda command: length(times(command))


def measure_in_turns(measurements: Mapping[Name, Callable[[], Figure]], rounds: int) -> dict[Name, list[Figure]]:
    """Take every measurement once in each round, so that a machine whose speed drifts moves all of them.

    Returns:
        Name → the figure of each round.
    """
    figures: dict[Name, list[Figure]] = {name: [] for name in measurements}
    for _ in tqdm(range(rounds), desc="rounds"):
        for name, measure in measurements.items():
            figures[name].append(measure())
    return figures


def encode_jpeg(image: npt.NDArray[np.uint8]) -> bytes:
    """Return an RGB image, shape (H, W, 3), as a JPEG of quality 90.

    Raises:
        RuntimeError: OpenCV could not encode it.
    """
    succeeded, buffer = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    if not succeeded:
        raise RuntimeError("OpenCV could not encode a picture as JPEG")
    return buffer.tobytes()


def random_rows(card: RowCard, count: int) -> list[dict[str, Any]]:
    """Return rows of a model whose features are numbers, each the card's example times a log-normal factor, seed 0."""
    rng, example = np.random.default_rng(0), {entry.name: entry.example for entry in card.input.entries}
    return [
        example
        | {
            feature.name: round(float(np.clip(float(feature.example) * factor, feature.low, feature.high)), 2)
            for feature, factor in zip(card.input.features, factors, strict=True)
        }
        for factors in rng.lognormal(0, 0.8, (count, len(card.input.features)))
    ]


def median_and_range(values: Sequence[float], unit: str, width: int = 0, digits: int = 1) -> str:
    """Return the median, `width` characters wide, its unit, and the least and the greatest value in brackets."""
    return f"{statistics.median(values):{width}.{digits}f}{unit} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Return the ratio of each round, so that a machine whose speed drifts moves both sides of it."""
    return [value / other for value, other in zip(values, others, strict=True)]
