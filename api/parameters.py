"""The query parameters of a prediction."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from starlette.datastructures import QueryParams

from errors import InvalidInput
from models.card import ModelCard, RowCard


@dataclass(frozen=True)
class Parameters:
    """What a client may ask of one prediction; None leaves it to the card or the settings."""

    top_k: int
    threshold: float | None
    timeout_ms: float | None
    include_gradcam: bool


def read_parameters(query: QueryParams, card: ModelCard) -> Parameters:
    """Read and check the query as the card allows; unknown names are ignored.

    Raises:
        InvalidInput: names the parameter, its value and what is allowed.
    """
    labels = len(card.labels)
    defaults = _defaults(labels)
    if not query:
        return defaults
    return Parameters(
        top_k=int(number(query, "top_k", 1, labels, whole=True) or defaults.top_k),
        threshold=number(query, "threshold", *threshold_range(card)),
        timeout_ms=number(query, "timeout_ms", 1, 3_600_000),
        include_gradcam=flag(query, "include_gradcam"),
    )


@cache
def _defaults(labels: int) -> Parameters:
    return Parameters(min(1 if labels <= 2 else 3, labels), None, None, include_gradcam=False)


def threshold_range(card: ModelCard) -> tuple[float, float]:
    """From where to where a threshold may lie: a probability, or a detector's score above 0."""
    return (1e-9, 1e9) if isinstance(card, RowCard) and card.task == "anomaly-detection" else (0.0, 1.0)


def one_of(query: QueryParams, name: str, allowed: Sequence[str], default: str) -> str:
    """A word of a closed set; InvalidInput lists the set."""
    word = query.get(name, default).replace(" ", "+")  # what a URL makes of a plus that was not quoted
    if word not in allowed:
        raise InvalidInput(f"{name}={word!r}: must be one of {', '.join(allowed)}.")
    return word


def number(query: QueryParams, name: str, low: float, high: float, *, whole: bool = False) -> float | None:
    """A number within limits, both included; None where it is not given."""
    text = query.get(name)
    if text is None:
        return None
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        raise InvalidInput(f"{name}={text!r}: must be {kind} from {low:g} to {high:g}.")
    return value


def flag(query: QueryParams, name: str) -> bool:
    """A switch, off by default."""
    text = query.get(name, "false").lower()
    if text not in ("true", "false", "1", "0"):
        raise InvalidInput(f"{name}={query[name]!r}: must be true or false.")
    return text in ("true", "1")
