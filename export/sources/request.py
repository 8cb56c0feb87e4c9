"""What an operator asks for when a model is added."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from export.sources.kinds import Source
from export.sources.picture_card import Input


@dataclass(frozen=True)
class AddRequest:
    """A model to be added, and what its operator says of it.

    Attributes:
        source: where it comes from.
        name: what it is to be called; None to call it as its source.
        labels: the file of its labels, where it does not know them.
        examples: a folder of pictures, or a CSV or JSON file of rows; they become goldens.
        card: a card of the operator's own, which is taken as it is.
        weights: the checkpoint of a model of timm's or torchvision's.
        architecture: of a checkpoint: one that cards know, or what timm or torchvision (`torchvision:NAME`) call it.
        input: keys of a picture card's section `input` that the operator states.
        outputs: name and unit of each value of a regressor.
        trust_pickle: whether the file of a model of rows may be a pickle.
    """

    source: Source
    name: str | None = None
    labels: Path | None = None
    examples: Path | None = None
    card: Path | None = None
    weights: Path | None = None
    architecture: str | None = None
    input: Input = field(default_factory=dict)
    outputs: Sequence[tuple[str, str]] = ()
    trust_pickle: bool = False
