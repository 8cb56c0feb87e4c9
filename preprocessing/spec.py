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

    model_config = ConfigDict(frozen=True, extra="forbid")


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
