"""The keys of a card that `vitrine models add` fills in with what is usual where a model's source says nothing."""

from typing import Literal

Assumable = Literal["input.size", "input.resize", "input.kernel", "input.mean", "input.std"]
