"""The plot of a model's quality: ROC curve and reliability diagram."""

from pathlib import Path

from matplotlib.figure import Figure
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_curve

from training import metrics

COLOUR = "#0b6e99"


def plot(labels: metrics.Labels, scores: metrics.Scores, data: str, path: Path) -> None:
    """Draw the ROC curve and the reliability diagram side by side; `data` says what the items are."""
    auc, error = metrics.auc(labels, scores), metrics.expected_calibration_error(labels, scores)
    sheet = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = sheet.subplots(1, 2)
    left.plot(*roc_curve(labels, scores)[:2], color=COLOUR)
    left.plot([0, 1], [0, 1], ":", color="grey")
    left.set(xlabel="1 - specificity", ylabel="sensitivity", title=f"ROC, AUC {auc:.4f}", aspect="equal")
    observed, mean = calibration_curve(labels, scores, n_bins=15)
    right.plot(mean, observed, "o-", color=COLOUR)
    right.plot([0, 1], [0, 1], ":", color="grey")
    right.set(xlabel="mean P(stone)", ylabel="observed rate", title=f"Calibration, ECE {error:.4f}", aspect="equal")
    sheet.suptitle(f"kidney-stone on {len(labels):,} {data}")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.savefig(path, dpi=110, metadata={"Software": None})
