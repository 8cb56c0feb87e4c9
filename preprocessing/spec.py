"""What all sections of a card have in common, and those about pictures, which `decode` and `transform` follow."""

import math
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

UInt8Image = npt.NDArray[np.uint8]
"""RGB picture, shape (H, W, 3), uint8 in [0, 255]."""

Float32Tensor = npt.NDArray[np.float32]
"""One transformed item without its batch axis, float32; for images `ImageInput.shape`, mostly (3, h, w)."""

KERNELS: dict[str, tuple[str, ...]] = {
    "opencv": ("nearest", "linear", "cubic", "area", "lanczos4"),
    "pillow": ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"),
}
"""The resize kernels of each library. The same name means different filters: Pillow's widen with the scale."""


class Frozen(BaseModel):
    """The base of every section of a card: it is immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Size = tuple[PositiveInt, PositiveInt]
"""Height and width, in pixels."""
Byte = Annotated[int, Field(ge=0, le=255)]


class Clahe(Frozen):
    """Contrast-limited adaptive histogram equalisation (Zuiderveld 1994).

    Attributes:
        clip_limit: how many times the mean of a tile's histogram a bin may hold, as OpenCV counts; 0 limits nothing.
        tiles: number of tiles across and down.
        colour_space: what is equalised: `lab`, the lightness of CIELAB, or `yuv`, the Y of YUV.
    """

    clip_limit: NonNegativeFloat = 2.0
    tiles: tuple[PositiveInt, PositiveInt] = (8, 8)
    colour_space: Literal["lab", "yuv"] = "lab"


class ImageInput(Frozen):
    """How a decoded picture is transformed into the model's input.

    The picture is resized, then cut around its middle to `size`, or padded around it where it is smaller.

    Attributes:
        kind: distinguishes this section from that of rows.
        orientation: whether a photograph is turned upright as EXIF or XMP says (`apply`), or taken as it is stored
            (`ignore`).
        size: height and width of the input, in pixels.
        resize: `stretch` resizes to `box` whatever the ratio of the sides; `short_side` keeps the ratio and covers the
            box, so that its short side is as long as a square box's; `letterbox` keeps the ratio and fits into the box;
            `none` does not resize.
        resize_to: height and width of the box, or one number for both; None stands for `size`.
        crop_pct: another way to give the box, which is `size` divided by it, rounded down (timm's word).
        fill: red, green and blue, 0 to 255, of what is padded.
        library: the library that resizes.
        kernel: the library's resize kernel, out of `KERNELS`; library and kernel are part of the model.
        channels: which channels the network gets, in which order; `grey` is one channel.
        scale: the range of the pixels before the mean is subtracted.
        mean: mean of each channel, in the order of `channels` and on that scale.
        std: standard deviation of each channel, likewise.
        layout: the order of the network's axes: `nchw` has the channels before the height, `nhwc` behind the width.
        clahe: the equalisation, if there is one.
        blur_below: the variance of the Laplacian (of the grey picture, 0-255 scale) below which an answer carries a
            blur warning; None if sharpness is not measured.
        blur_at: the size at which it is measured: that of the resized picture (`input`), or the upload's own.
    """

    kind: Literal["image"] = "image"
    orientation: Literal["apply", "ignore"] = "apply"
    size: Size
    resize: Literal["stretch", "short_side", "letterbox", "none"] = "stretch"
    resize_to: Size | None = None
    crop_pct: Annotated[float, Field(gt=0, le=1)] | None = None
    fill: tuple[Byte, Byte, Byte] = (0, 0, 0)
    library: Literal["opencv", "pillow"]
    kernel: str
    channels: Literal["rgb", "bgr", "grey"] = "rgb"
    scale: Literal["0-1", "0-255"] = "0-1"
    mean: tuple[float, ...]
    std: tuple[PositiveFloat, ...]
    layout: Literal["nchw", "nhwc"] = "nchw"
    clahe: Clahe | None = None
    blur_below: PositiveFloat | None = None
    blur_at: Literal["input", "upload"] = "input"

    @property
    def box(self) -> tuple[int, int]:
        """Height and width of the box that pictures are resized to, cover or fit into."""
        if self.crop_pct is not None:
            height, width = (math.floor(side / self.crop_pct) for side in self.size)
            return height, width
        return self.resize_to or self.size

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of a transformed picture: (channels, h, w), or (h, w, channels) where the layout is `nhwc`."""
        channels, (height, width) = len(self.mean), self.size
        return (channels, height, width) if self.layout == "nchw" else (height, width, channels)

    @field_validator("resize_to", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _keys_fit_one_another(self) -> Self:
        if self.kernel not in KERNELS[self.library]:
            allowed = ", ".join(KERNELS[self.library])
            raise ValueError(f"kernel {self.kernel!r} is not one of {self.library}'s kernels: {allowed}")
        if self.resize_to is not None and self.crop_pct is not None:
            raise ValueError("resize_to and crop_pct both say how large a picture is before it is cut: give one")
        if self.resize == "none" and (self.resize_to is not None or self.crop_pct is not None):
            raise ValueError('resize_to and crop_pct have no meaning where resize is "none"')
        channels = 1 if self.channels == "grey" else 3
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != channels:
                raise ValueError(f"{name}: channels {self.channels!r} needs {channels} of them, not {len(values)}")
        return self


class ImageLimits(Frozen):
    """The limits beyond which a request with images is refused before any work is spent on it.

    Attributes:
        max_bytes: of an encoded image.
        max_pixels: of a decoded image.
        min_side: the shortest side that is allowed, in pixels.
        max_side: the longest side that is allowed, in pixels; None if only `max_pixels` limits it.
        max_items: images in a batch.
    """

    max_bytes: PositiveInt = 32 * 2**20
    max_pixels: PositiveInt = 50_000_000
    min_side: Annotated[int, Field(ge=1)] = 8
    max_side: PositiveInt | None = None
    max_items: PositiveInt = 64
