"""The input and limits sections of a card, which `decode`, `transform` and `check_rows` follow."""

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


class Log1p(Frozen):
    """A step that replaces x by ln(1 + x)."""

    kind: Literal["log1p"]


class Clip(Frozen):
    """A step that replaces x by the nearest value in [low, high]."""

    kind: Literal["clip"]
    low: float
    high: float

    @model_validator(mode="after")
    def _range_holds(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        return self


class Standardise(Frozen):
    """A step that replaces x by (x - mean) / std."""

    kind: Literal["standardise"]
    mean: float
    std: PositiveFloat


Step = Annotated[Log1p | Clip | Standardise, Field(discriminator="kind")]
Key = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)]


class Feature(Frozen):
    """One number of a row.

    Attributes:
        name: its key in the row.
        unit: its unit, for messages and documentation.
        description: for documentation.
        low: the lowest value that is accepted.
        high: the highest value that is accepted.
        example: a value for documentation.
        steps: what is applied to the value, in this order.
    """

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
            raise ValueError(f"log1p needs values above -1, but low is {self.low:g}")
        return self


class Identifier(Frozen):
    """A value that says which row this is. It is checked and repeated in the answer; the network never gets it.

    Attributes:
        name: its key in the row.
        kind: `text` has 1 to `max_length` characters; `past-time` is a time that is not in the future: ISO 8601, UTC if
            it names no zone, or seconds or milliseconds since 1970.
        description: for documentation.
        max_length: of a text, in characters.
        example: a value for documentation.
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
"""Fields of requests and answers, whose names no feature or identifier may have."""


class RowInput(Frozen):
    """How a row of named values is transformed into the model's input.

    Attributes:
        kind: distinguishes this section from that of images.
        features: the numbers that the network gets, in this order.
        identifiers: the values that only identify a row.
        unknown_fields: whether a row may hold other values too, which are ignored.
    """

    kind: Literal["row"]
    features: Annotated[tuple[Feature, ...], Field(min_length=1)]
    identifiers: tuple[Identifier, ...] = ()
    unknown_fields: Literal["refuse", "ignore"] = "refuse"

    @property
    def entries(self) -> tuple[Feature | Identifier, ...]:
        """Everything that a row holds: its features, then its identifiers."""
        return (*self.features, *self.identifiers)

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [entry.name for entry in self.entries]
        if len(set(names)) != len(names):
            raise ValueError("features and identifiers: each name may stand only once")
        if taken := RESERVED.intersection(names):
            raise ValueError(f"{', '.join(sorted(taken))}: names of fields of requests or answers; choose another")
        return self


class RowLimits(Frozen):
    """The limits beyond which a request with rows is refused before any work is spent on it.

    Attributes:
        max_bytes: of a request.
        max_items: rows in a request.
    """

    max_bytes: PositiveInt = 2 * 2**20
    max_items: PositiveInt = 1000
