"""From Hounsfield units to the picture that a viewer exports: sharpness, noise, window, burnt-in marks and JPEG."""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from training.kidney_stone.canvas import Float32Array, UInt8Array

Kernel = Literal["soft", "sharp"]


@dataclass(frozen=True)
class Window:
    """A viewer's window and the curve of its export.

    Attributes:
        lower: density in HU that becomes black.
        upper: density in HU that becomes white.
        gamma: exponent of the curve between them.
        black: grey level of black, in [0, 255].
        white: grey level of white, in [0, 255].
    """

    lower: float
    upper: float
    gamma: float
    black: float
    white: float

    def apply(self, hu: Float32Array) -> Float32Array:
        """Map densities in HU, of any shape, to grey levels in [black, white], float32."""
        unit = np.clip((hu - self.lower) / (self.upper - self.lower), 0.0, 1.0)
        if self.gamma != 1.0:
            unit = cv2.pow(unit.astype(np.float32), self.gamma)
        return np.asarray(self.black + (self.white - self.black) * unit, dtype=np.float32)

    @property
    def grey_per_hu(self) -> float:
        """Mean slope of the curve, in grey levels for each HU."""
        return (self.white - self.black) / (self.upper - self.lower)


@dataclass(frozen=True)
class Scanner:
    """Properties of the scanner and of the export of one picture.

    Attributes:
        kernel: reconstruction kernel.
        psf_px: standard deviation of the point-spread function, in pixels.
        noise_hu: standard deviation of the noise, in HU.
        noise_px: correlation length of the noise, in pixels.
        streaks: whether photon-starvation streaks run across the slice.
        window: window and export curve.
        jpeg_quality: 35-95, or 0 for a lossless export.
        tint: factors of the red, green and blue channel.
        marks: whether text and a scale bar are burnt in.
    """

    kernel: Kernel
    psf_px: float
    noise_hu: float
    noise_px: float
    streaks: bool
    window: Window
    jpeg_quality: int
    tint: tuple[float, float, float]
    marks: bool


def sample_scanner(rng: np.random.Generator, *, brightest_tissue_hu: float, wide: bool = False) -> Scanner:
    """Draw a scanner.

    The window leaves at least a quarter of its range above the kidneys, so that stones stay visible.

    Args:
        rng: the scene's random stream.
        brightest_tissue_hu: density of the kidneys' brightest tissue.
        wide: draw a window of 500 to 1,500 HU.
    """
    kernel: Kernel = "sharp" if rng.random() < 0.4 else "soft"
    window = _sample_window(rng, brightest_tissue_hu, wide=wide)
    noise_hu = float(np.exp(rng.uniform(np.log(5), np.log(35))))
    noise_hu = min(noise_hu, 18.0 / window.grey_per_hu)
    tint = (1.0, 1.0, 1.0)
    if rng.random() < 0.12:
        tint = (float(rng.uniform(0.88, 1.0)), float(rng.uniform(0.92, 1.0)), float(rng.uniform(0.88, 1.0)))
    return Scanner(
        kernel=kernel,
        psf_px=float(rng.uniform(0.55, 0.9) if kernel == "sharp" else rng.uniform(0.8, 1.4)),
        noise_hu=noise_hu,
        noise_px=float(rng.uniform(0.35, 0.7) if kernel == "sharp" else rng.uniform(0.8, 1.8)),
        streaks=bool(rng.random() < 0.06),
        window=window,
        jpeg_quality=int(rng.integers(35, 96)) if rng.random() < 0.75 else 0,
        tint=tint,
        marks=bool(rng.random() < 0.3),
    )


def _sample_window(rng: np.random.Generator, brightest_tissue_hu: float, *, wide: bool) -> Window:
    draw = rng.uniform(0.82, 1.0) if wide else rng.random()
    if draw < 0.7:
        width, level = rng.uniform(300, 500), rng.uniform(30, 60)
    elif draw < 0.82:
        width, level = rng.uniform(180, 300), rng.uniform(30, 60)
    elif draw < 0.94:
        width, level = rng.uniform(500, 900), rng.uniform(20, 120)
    else:
        width, level = rng.uniform(900, 1500), rng.uniform(150, 350)
    lower, upper = level - width / 2, level + width / 2
    upper = max(upper, brightest_tissue_hu + 0.25 * width)
    plain = rng.random() < 0.5
    gamma = 1.0 if plain else float(np.exp(rng.normal(0, 0.14)))
    black = 0.0 if plain else float(rng.uniform(0, 25))
    white = 255.0 if rng.random() < 0.6 else float(rng.uniform(215, 255))
    return Window(float(lower), float(upper), gamma, black, white)


def blur(hu: Float32Array, sigma_px: float) -> Float32Array:
    """Apply the point-spread function, a Gaussian whose standard deviation is `sigma_px` pixels."""
    return np.asarray(cv2.GaussianBlur(hu, (0, 0), sigma_px), dtype=np.float32)


def texture(rng: np.random.Generator, shape: tuple[int, int]) -> Float32Array:
    """Draw the low-frequency inhomogeneity of tissue and beam, in HU, shape (H, W)."""
    cells = int(rng.integers(12, 60))
    height, width = shape
    fine = cv2.resize(rng.standard_normal((cells, cells), dtype=np.float32), (width, height))
    coarse = cv2.resize(rng.standard_normal((4, 4), dtype=np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(fine * np.float32(rng.uniform(2, 10)) + coarse * np.float32(rng.uniform(0, 5)), dtype=np.float32)


def noise(rng: np.random.Generator, shape: tuple[int, int], scanner: Scanner) -> Float32Array:
    """Draw a scanner's noise in HU, shape (H, W): coarse with a soft kernel, fine with a sharp one."""
    height, width = shape
    grain = blur(rng.standard_normal(shape, dtype=np.float32), scanner.noise_px)
    if scanner.kernel == "sharp":
        grain = grain - blur(grain, 3 * scanner.noise_px + 1.0) * np.float32(0.8)
    grain *= np.float32(scanner.noise_hu / (float(grain[::4, ::4].std()) + 1e-6))
    gain = cv2.resize(rng.uniform(0.7, 1.25, (4, 4)).astype(np.float32), (width, height))
    grain *= gain
    if scanner.streaks:
        grain += _streaks(rng, shape)
    return np.asarray(grain, dtype=np.float32)


def _streaks(rng: np.random.Generator, shape: tuple[int, int]) -> Float32Array:
    height, width = shape
    rows = blur(rng.standard_normal((height, 1), dtype=np.float32), 1.0) * np.float32(rng.uniform(8, 22))
    rotation = cv2.getRotationMatrix2D((width / 2, height / 2), float(rng.normal(0, 15)), 1.0)
    streaks = cv2.warpAffine(np.repeat(rows, width, axis=1), rotation, (width, height), borderMode=cv2.BORDER_REFLECT)
    return np.asarray(streaks, dtype=np.float32)


def export(rng: np.random.Generator, grey: Float32Array, scanner: Scanner) -> UInt8Array:
    """Turn grey levels (H, W) into the picture as exported, with marks, tint and JPEG: RGB, shape (H, W, 3), uint8."""
    picture = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    if scanner.marks:
        _burn_marks(rng, picture)
    if scanner.tint == (1.0, 1.0, 1.0):
        return np.asarray(cv2.cvtColor(_jpeg(picture, scanner.jpeg_quality), cv2.COLOR_GRAY2RGB), dtype=np.uint8)
    colour = np.stack([np.rint(picture * gain).astype(np.uint8) for gain in scanner.tint], axis=2)
    return _jpeg(colour, scanner.jpeg_quality)


def _jpeg(picture: UInt8Array, quality: int) -> UInt8Array:
    if quality == 0:
        return picture
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_UNCHANGED), dtype=np.uint8)


def _burn_marks(rng: np.random.Generator, picture: UInt8Array) -> None:
    """Burn letters, digits and a scale bar into a picture near its edges, as viewers do."""
    height, width = picture.shape
    grey = (int(rng.integers(140, 256)),)
    scale = float(rng.uniform(0.3, 0.6))
    corners = [(5, 14), (5, height - 8), (int(width * 0.72), 14), (int(width * 0.72), height - 8)]
    letters = "ABCDEFGHLPRSI0123456789:/.- "
    for corner in corners:
        for line in range(int(rng.integers(0, 3))):
            word = "".join(rng.choice(list(letters), int(rng.integers(1, 11))))
            down = int(line * 34 * scale) * (1 if corner[1] < height / 2 else -1)
            cv2.putText(picture, word, (corner[0], corner[1] + down), cv2.FONT_HERSHEY_SIMPLEX, scale, grey, 1)
    if rng.random() < 0.4:
        x, top = width - 12, int(height * 0.3)
        cv2.line(picture, (x, top), (x, int(height * 0.7)), grey, 1)
        for y in np.linspace(top, height * 0.7, 11):
            cv2.line(picture, (x - 4, int(y)), (x, int(y)), grey, 1)
