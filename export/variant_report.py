"""The report of a variant's comparison with fp32, as it is written into the package."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from models.package import PARITY


@dataclass(frozen=True, kw_only=True)
class VariantReport:
    """What the comparison measured; `…_fp32` is of the plain graph.

    Attributes:
        variant: `fp16`, `int8` or `early-exit`.
        data: what the labelled items are.
        items: number of labelled items.
        auc: on the labelled items; None without any, as are the two rates.
        false_positive_rate: on the labelled items, at the card's threshold.
        sensitivity: on the labelled items, at the card's threshold.
        largest_difference_goldens: from their references, as of `postprocessing.comparison.difference`.
        largest_difference_random: from fp32, on random inputs.
        largest_difference_labelled: from fp32, on the labelled items.
        inputs: number of all inputs.
        label_flips: number of all inputs that fp32 and the variant give different labels; never a golden.
        milliseconds: for one item alone on one thread, the median of rounds over the goldens.
        bytes: size of the graph and the weights that it needs.
        tolerance: what the goldens are replayed within.
        answered_early: share of the labelled items, or else of the random inputs, that an early exit answers.
    """

    variant: str
    data: str
    items: int
    auc_fp32: float | None = None
    auc: float | None = None
    false_positive_rate_fp32: float | None = None
    false_positive_rate: float | None = None
    sensitivity_fp32: float | None = None
    sensitivity: float | None = None
    largest_difference_goldens: float
    largest_difference_random: float
    largest_difference_labelled: float | None
    inputs: int
    label_flips: int
    milliseconds_fp32: float
    milliseconds: float
    bytes_fp32: int
    bytes: int
    tolerance: float
    answered_early: float | None = None

    def __str__(self) -> str:
        """Return a line for the operator."""
        early = "" if self.answered_early is None else f"{self.answered_early:.1%} answered early; "
        quality = "no AUC"
        if self.auc_fp32 is not None:
            quality = (
                f"AUC {self.auc:.4f} (fp32 {self.auc_fp32:.4f}), sensitivity {self.sensitivity:.4f} "
                f"({self.sensitivity_fp32:.4f}) at a false-positive rate of {self.false_positive_rate:.4f} "
                f"({self.false_positive_rate_fp32:.4f})"
            )
        differences = {
            "goldens": self.largest_difference_goldens,
            "random inputs": self.largest_difference_random,
            f"{self.items:,} {self.data}": self.largest_difference_labelled,
        }
        listed = ", ".join(f"{largest:.1e} on {name}" for name, largest in differences.items() if largest is not None)
        return (
            f"{self.variant}: {early}{quality}; largest difference {listed}; {self.label_flips} of {self.inputs:,} "
            f"labels differ, none of a golden; {self.milliseconds:.3g} ms an item (fp32 {self.milliseconds_fp32:.3g}), "
            f"{self.bytes:,} bytes (fp32 {self.bytes_fp32:,})"
        )

    def write(self, package: Path) -> None:
        """Add the report to a package's parity report, which keeps what it says of fp32."""
        path = package / PARITY
        parity = json.loads(path.read_text("utf-8")) if path.exists() else {}
        parity |= {"served": f"{parity.get('served', 'OnnxBackend (cpu)')}, of the plain graph"}
        path.write_text(json.dumps(parity | {"variant": asdict(self)}, indent=1, allow_nan=False) + "\n", "utf-8")
