"""What a summary counts, part by part: rows, labels, errors, a histogram."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bulk.rows import Output
from models.card import Card, is_detector, is_regressor

BINS = 20
MOST_REASONS = 50
"""So many kinds of errors are told apart."""


def histogram_of(card: Card) -> str:
    """Return what the histogram shows: the probability of a label, a confidence, or a regressor's first value."""
    if is_regressor(card):
        return card.outputs[0].name
    if card.positive_label is not None and not is_detector(card):
        return f"P({card.positive_label})"
    return "confidence"


def tally(rows: Sequence[Output], card: Card) -> dict[str, Any]:
    """Return the counts of one part, as JSON has them; `added` adds those of several."""
    bins, labels, reasons, warnings = [0] * BINS, Counter[str](), Counter[str](), Counter[str]()
    values = list[float]()
    for row in rows:
        if row.get("error"):
            reasons[_reason(row["error"])] += 1
            continue
        for warning in row["warnings"] or ():
            warnings[warning] += 1
        if is_regressor(card):
            values.append(row["values"][card.outputs[0].name])
            continue
        labels[row["label"]] += 1
        value = row["confidence"]
        if card.positive_label is not None and not is_detector(card):
            value = row["probabilities"].get(card.positive_label, 0.0)
        bins[min(int(value * BINS), BINS - 1)] += 1
    alike = Counter[str]()
    for warning, count in warnings.items():
        alike[re.sub(r"\d[\d.,]*", "…", warning)] += count
    return {
        "rows": len(rows),
        "errors": reasons.total(),
        "labels": labels,
        "reasons": dict(reasons.most_common(MOST_REASONS)),
        "warnings": dict(alike.most_common(MOST_REASONS)),
        "bins": bins,
        "values": [len(values), sum(values), min(values, default=None), max(values, default=None)],
    }


def added(tallies: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the counts of several parts together."""
    rows = errors = 0
    labels, reasons, warnings, bins = Counter[str](), Counter[str](), Counter[str](), [0] * BINS
    count, total, extremes = 0, 0.0, list[float]()
    for part in tallies:
        rows, errors = rows + part["rows"], errors + part["errors"]
        labels.update(part["labels"])
        reasons.update(part["reasons"])
        warnings.update(part["warnings"])
        bins = [one + other for one, other in zip(bins, part["bins"], strict=True)]
        count, total = count + part["values"][0], total + part["values"][1]
        extremes = [value for value in (*extremes, *part["values"][2:]) if value is not None]
        extremes = [min(extremes), max(extremes)] if extremes else []
    return {
        "rows": rows,
        "answered": rows - errors,
        "errors": errors,
        "labels": dict(labels.most_common()),
        "reasons": dict(reasons.most_common(MOST_REASONS)),
        "warnings": dict(warnings.most_common(MOST_REASONS)),
        "bins": bins,
        "values": {"mean": total / count, "lowest": extremes[0], "highest": extremes[1]} if count else None,
    }


def _reason(error: str) -> str:
    """Return an error without the numbers and the names in it, so that equal reasons are counted together."""
    return re.sub(r"'[^']*'|\d[\d.,]*", "…", error)[:200]
