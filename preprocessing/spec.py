"""What a card says of its input: the data that `decode` and `transform` follow."""

from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

UInt8Image = npt.NDArray[np.uint8]
"""RGB picture, shape (H, W, 3), uint8 in [0, 255]."""

Float32Tensor = npt.NDArray[np.float32]
"""One transformed item without its batch axis; for images (3, h, w)."""

KERNELS: dict[str, tuple[str, ...]] = {
    "opencv": ("nearest", "linear", "cubic", "area", "lanczos4"),
    "pillow": ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"),
}
"""The resize kernels each library has. The same word is not the same filter in both: Pillow's widen with the scale."""


class Frozen(BaseModel):
    """A section of a card: immutable, and a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Clahe(Frozen):
    """Contrast-limited adaptive histogram equalisation on the lightness of CIELAB (Zuiderveld 1994)."""

    clip_limit: PositiveFloat = 2.0
    tiles: tuple[PositiveInt, PositiveInt] = (8, 8)


class ImageInput(Frozen):
    """How a decoded picture becomes the model's tensor.

    `mean` and `std` are per RGB channel, for pixels scaled to [0, 1]. `kernel` belongs to `library`: the two
    together are part of the model. `blur_below` is the variance of the Laplacian (of the resized grey picture,
    0-255 scale) under which an answer carries a blur warning; unset, sharpness is not measured.
    """

    kind: Literal["image"] = "image"
    size: tuple[PositiveInt, PositiveInt]
    library: Literal["opencv", "pillow"]
    kernel: str
    mean: tuple[float, float, float]
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    clahe: Clahe | None = None
    blur_below: PositiveFloat | None = None

    @model_validator(mode="after")
    def _kernel_belongs_to_library(self) -> Self:
        if self.kernel not in KERNELS[self.library]:
            allowed = ", ".join(KERNELS[self.library])
            raise ValueError(f"kernel {self.kernel!r} is not one of {self.library}'s kernels: {allowed}")
        return self


class ImageLimits(Frozen):
    """What is refused before any work is spent on it."""

    max_bytes: PositiveInt = 32 * 2**20
    max_pixels: PositiveInt = 50_000_000
    min_side: Annotated[int, Field(ge=1)] = 8
    max_side: PositiveInt | None = None
    max_items: PositiveInt = 64


class Log1p(Frozen):
    """ln(1 + x)."""

    kind: Literal["log1p"]


class Clip(Frozen):
    """The nearest value in [low, high]."""

    kind: Literal["clip"]
    low: float
    high: float

    @model_validator(mode="after")
    def _range_holds(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        return self


class Standardise(Frozen):
    """(x - mean) / std."""

    kind: Literal["standardise"]
    mean: float
    std: PositiveFloat


Step = Annotated[Log1p | Clip | Standardise, Field(discriminator="kind")]
Key = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)]


class Feature(Frozen):
    """One number of a row: refused outside [low, high], then taken through `steps` in order."""

    name: Key
    unit: str = ""
    description: str = ""
    low: float
    high: float
    example: float
    steps: tuple[Step, ...] = ()

    @model_validator(mode="after")
    def _range_holds(self) -> Self:
        if not self.low <= self.example <= self.high:
            raise ValueError(f"example {self.example:g} is not from low {self.low:g} to high {self.high:g}")
        if self.low <= -1 and self.steps and self.steps[0].kind == "log1p":
            raise ValueError(f"log1p wants values above -1, but low is {self.low:g}")
        return self


class Identifier(Frozen):
    """What says which row this is; checked and repeated in the answer, never seen by the network.

    `text` has 1 to `max_length` characters; a `past-time` is ISO 8601, UTC where it names no zone, not in the future.
    """

    name: Key
    kind: Literal["text", "past-time"]
    description: str = ""
    max_length: PositiveInt = 50
    example: str


RESERVED = frozenset(
    (
        *("features", "samples", "readings", "model", "version", "prediction", "predicted_class_id", "confidence"),
        *("probabilities", "top", "threshold", "warnings", "device", "inference_time_ms", "request_id", "is_anomaly"),
        *("anomaly_score", "contributions", "error"),
    )
)
"""What neither a feature nor an identifier may be called."""


class RowInput(Frozen):
    """How a row of named values becomes the model's tensor, in the order of `features`."""

    kind: Literal["row"]
    features: Annotated[tuple[Feature, ...], Field(min_length=1)]
    identifiers: tuple[Identifier, ...] = ()

    @property
    def entries(self) -> tuple[Feature | Identifier, ...]:
        """All that a row holds."""
        return (*self.features, *self.identifiers)

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [each.name for each in self.entries]
        if len(set(names)) != len(names):
            raise ValueError("features and identifiers: each name may stand only once")
        if taken := RESERVED.intersection(names):
            raise ValueError(f"{', '.join(sorted(taken))}: names of fields of requests or answers; choose another")
        return self


class RowLimits(Frozen):
    """What is refused before any work is spent on it."""

    max_bytes: PositiveInt = 2 * 2**20
    max_items: PositiveInt = 1000
