"""Procedural pictures of CIFAR-10's ten classes: simple silhouettes, each drawn from its seed alone.

The photographs of CIFAR-10 do not come with this repository. These drawings are the golden inputs of the package, and
what its training is tested with.
"""

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from preprocessing.spec import UInt8Image

GOLDEN = 20_000_000
"""First seed of the golden pictures."""

Points = npt.NDArray[np.float64]
Colour = tuple[float, float, float]
"""Red, green and blue, in [0, 255]."""

_SHIFT = 4  # fractional bits of the vertices that OpenCV gets


class Sketch:
    """An object that is being drawn into a picture, in coordinates of its own.

    x points to the right and y down; the object reaches from -1 to 1 in both. Its pose is drawn from the stream: angle,
    size, stretch, place, and whether it is mirrored.

    Args:
        image: the picture to draw into, RGB, shape (side, side, 3), uint8.
        rng: the picture's random stream.
        body: the object's main colour.
        max_angle: how far it may be turned either way, in radians.
    """

    def __init__(self, image: UInt8Image, rng: np.random.Generator, body: Colour, max_angle: float) -> None:
        side = image.shape[0]
        self.image, self.rng, self.body = image, rng, body
        self.dark, self.light = (_mixed(body, end, rng.uniform(0.5, 0.75)) for end in (0.0, 255.0))
        angle, scale = rng.uniform(-max_angle, max_angle), side / 2 * rng.uniform(0.68, 0.92)
        cos, sin = np.cos(angle), np.sin(angle)
        mirror = np.diag([rng.choice([-1.0, 1.0]) * rng.uniform(0.88, 1.12), 1.0])
        self.matrix = scale * (np.array([[cos, -sin], [sin, cos]]) @ mirror)
        self.shift = side / 2 + rng.uniform(-0.09, 0.09, 2) * side

    def fill(self, points: list[tuple[float, float]] | Points, colour: Colour) -> None:
        """Fill a polygon, shape (n, 2)."""
        cv2.fillPoly(self.image, [self._pixels(points)], colour, cv2.LINE_AA, _SHIFT)

    def line(self, points: list[tuple[float, float]], colour: Colour, width: float) -> None:
        """Draw a line through points; its width is in the same unit as they are."""
        pixels = max(1, round(width * float(np.sqrt(abs(np.linalg.det(self.matrix))))))
        cv2.polylines(self.image, [self._pixels(points)], False, colour, pixels, cv2.LINE_AA, _SHIFT)

    def oval(self, x: float, y: float, rx: float, ry: float, colour: Colour, tilt: float = 0.0) -> None:
        """Fill an ellipse with centre (x, y) and half-axes (rx, ry), tilted by an angle in radians."""
        theta = np.linspace(0.0, 2 * np.pi, 32, endpoint=False)
        across, down = rx * np.cos(theta), ry * np.sin(theta)
        cos, sin = np.cos(tilt), np.sin(tilt)
        self.fill(np.stack([x + across * cos - down * sin, y + across * sin + down * cos], axis=1), colour)

    def _pixels(self, points: list[tuple[float, float]] | Points) -> npt.NDArray[np.int32]:
        placed = np.asarray(points, np.float64) @ self.matrix.T + self.shift
        return np.asarray(np.round(placed * (1 << _SHIFT)), np.int32)


def _airplane(sketch: Sketch) -> None:
    sweep = sketch.rng.uniform(0.1, 0.45)
    for side in (-1, 1):
        sketch.fill([(0.25, 0), (-0.15, 0), (-0.15 - sweep, 0.9 * side), (0.02 - sweep, 0.9 * side)], sketch.dark)
        sketch.fill([(-0.65, 0), (-0.85, 0), (-0.98, 0.36 * side), (-0.84, 0.36 * side)], sketch.dark)
    sketch.oval(0, 0, 0.95, 0.13, sketch.body)
    sketch.oval(0.75, 0, 0.09, 0.07, sketch.light)


def _automobile(sketch: Sketch) -> None:
    roof = sketch.rng.uniform(-0.42, -0.3)
    sketch.fill([(-0.55, 0.02), (-0.32, roof), (0.28, roof), (0.56, 0.02)], sketch.body)
    sketch.fill([(-0.42, 0), (-0.26, roof + 0.08), (-0.03, roof + 0.08), (-0.03, 0)], sketch.light)
    sketch.fill([(0.05, 0), (0.05, roof + 0.08), (0.23, roof + 0.08), (0.4, 0)], sketch.light)
    sketch.fill([(-0.95, 0.36), (-0.95, 0.08), (-0.8, 0), (0.75, 0), (0.95, 0.12), (0.95, 0.36)], sketch.body)
    _wheels(sketch, (-0.55, 0.55), 0.36, 0.22)


def _truck(sketch: Sketch) -> None:
    top = sketch.rng.uniform(-0.72, -0.6)
    sketch.fill([(-0.98, 0.35), (-0.98, top), (0.32, top), (0.32, 0.35)], sketch.light)
    sketch.line([(-0.33, top), (-0.33, 0.35)], sketch.dark, 0.04)
    sketch.fill([(0.38, 0.4), (0.38, -0.36), (0.72, -0.36), (0.95, 0), (0.95, 0.4)], sketch.body)
    sketch.fill([(0.52, -0.02), (0.52, -0.26), (0.68, -0.26), (0.82, -0.02)], sketch.dark)
    sketch.fill([(-0.98, 0.48), (-0.98, 0.34), (0.95, 0.34), (0.95, 0.48)], sketch.dark)
    _wheels(sketch, (-0.7, -0.3, 0.65), 0.5, 0.19)


def _wheels(sketch: Sketch, centres: tuple[float, ...], y: float, radius: float) -> None:
    for x in centres:
        sketch.oval(x, y, radius, radius, (18, 18, 20))
        sketch.oval(x, y, radius * 0.45, radius * 0.45, (170, 170, 175))


def _bird(sketch: Sketch) -> None:
    for x in (-0.08, 0.1):
        sketch.line([(x, 0.35), (x + 0.03, 0.88)], (215, 140, 40), 0.05)
    sketch.fill([(-0.35, 0.05), (-1.0, -0.12), (-0.95, 0.2), (-0.3, 0.3)], sketch.dark)
    sketch.oval(0, 0.12, 0.52, 0.33, sketch.body, -0.3)
    sketch.oval(0.5, -0.35, 0.25, 0.23, sketch.body)
    sketch.fill([(0.68, -0.45), (1.0, -0.32), (0.68, -0.24)], (235, 150, 30))
    sketch.oval(-0.08, 0.08, 0.34, sketch.rng.uniform(0.14, 0.22), sketch.dark, 0.35)
    sketch.oval(0.55, -0.4, 0.05, 0.05, (10, 10, 10))


def _cat(sketch: Sketch) -> None:
    height = sketch.rng.uniform(0.85, 1.0)
    for side in (-1, 1):
        sketch.fill([(0.66 * side, 0), (0.62 * side, -height), (0.1 * side, -0.42)], sketch.body)
        sketch.fill([(0.53 * side, -0.28), (0.54 * side, 0.18 - height), (0.27 * side, -0.42)], sketch.dark)
    sketch.oval(0, 0.1, 0.7, 0.6, sketch.body)
    for side in (-1, 1):
        sketch.oval(0.28 * side, 0, 0.15, 0.12, (190, 205, 70))
        sketch.oval(0.28 * side, 0, 0.04, 0.11, (10, 10, 10))
        for lift in (-0.06, 0.06):
            sketch.line([(0.15 * side, 0.33 + lift), (0.95 * side, 0.33 + 3 * lift)], sketch.light, 0.03)
    sketch.fill([(-0.08, 0.22), (0.08, 0.22), (0, 0.33)], (205, 105, 115))


def _dog(sketch: Sketch) -> None:
    droop = sketch.rng.uniform(0.38, 0.52)
    sketch.oval(0, -0.1, 0.56, 0.58, sketch.body)
    for side in (-1, 1):
        sketch.oval(0.62 * side, 0.02, 0.2, droop, sketch.dark, -0.2 * side)
        sketch.oval(0.22 * side, -0.2, 0.08, 0.08, (12, 10, 10))
    sketch.oval(0, 0.32, 0.36, 0.4, sketch.light)
    sketch.oval(0, 0.16, 0.15, 0.11, (12, 10, 10))
    sketch.fill([(-0.1, 0.48), (0.1, 0.48), (0.08, 0.8), (-0.08, 0.8)], (225, 95, 110))


def _deer(sketch: Sketch) -> None:
    _legs(sketch, (-0.5, -0.36, 0.12, 0.25), 0.07)
    sketch.oval(-0.12, 0.2, 0.5, 0.22, sketch.body)
    sketch.fill([(0.14, 0.2), (0.36, 0.24), (0.56, -0.24), (0.4, -0.3)], sketch.body)
    sketch.oval(0.58, -0.28, 0.22, 0.11, sketch.body, 0.3)
    sketch.oval(-0.62, 0.12, 0.08, 0.1, sketch.light)
    reach = sketch.rng.uniform(0.85, 1.0)
    for base, lean in ((0.42, -0.32), (0.52, 0.22)):
        tip, middle = (base + lean, -reach), (base + lean * 0.6, -0.36 - 0.3 * reach)
        sketch.line([(base, -0.34), middle, tip], sketch.dark, 0.07)
        sketch.line([middle, (middle[0] - 0.2, middle[1] - 0.14)], sketch.dark, 0.06)
        sketch.line([middle, (middle[0] + 0.2, middle[1] - 0.14)], sketch.dark, 0.06)


def _horse(sketch: Sketch) -> None:
    _legs(sketch, (-0.58, -0.4, 0.2, 0.36), 0.13)
    sketch.line([(-0.62, 0), (-0.85, 0.15), (-0.88, 0.62)], sketch.dark, 0.15)
    sketch.oval(-0.1, 0.1, 0.6, 0.29, sketch.body)
    sketch.fill([(0.1, 0.1), (0.46, 0.18), (0.74, -0.55), (0.42, -0.72)], sketch.body)
    sketch.oval(0.72, -0.52, 0.33, 0.15, sketch.body, 0.6)
    sketch.line([(0.08, -0.12), (0.26, -0.42), (0.42, -0.78)], sketch.dark, sketch.rng.uniform(0.14, 0.2))
    sketch.fill([(0.44, -0.68), (0.5, -0.94), (0.6, -0.66)], sketch.body)


def _legs(sketch: Sketch, hips: tuple[float, ...], width: float) -> None:
    for number, x in enumerate(hips):
        step = sketch.rng.uniform(-0.1, 0.1)
        sketch.line([(x, 0.2), (x + step, 0.92)], sketch.dark if number % 2 else sketch.body, width)


def _frog(sketch: Sketch) -> None:
    for side in (-1, 1):
        sketch.oval(0.68 * side, 0.34, 0.28, 0.4, sketch.dark, 0.45 * side)
        sketch.oval(0.62 * side, 0.74, 0.34, 0.1, sketch.dark)
    sketch.oval(0, 0.22, 0.66, sketch.rng.uniform(0.44, 0.54), sketch.body)
    sketch.oval(0, 0.46, 0.42, 0.22, sketch.light)
    for side in (-1, 1):
        sketch.oval(0.36 * side, -0.32, 0.23, 0.23, sketch.body)
        sketch.oval(0.36 * side, -0.34, 0.15, 0.15, (240, 230, 150))
        sketch.oval(0.36 * side, -0.34, 0.07, 0.07, (10, 10, 10))
    sketch.line([(-0.45, 0.1), (-0.2, 0.2), (0.2, 0.2), (0.45, 0.1)], (25, 30, 20), 0.05)


def _ship(sketch: Sketch) -> None:
    sketch.fill([(-0.42, 0.12), (-0.42, -0.2), (0.4, -0.2), (0.4, 0.12)], sketch.light)
    sketch.fill([(-0.25, -0.2), (-0.25, -0.42), (0.2, -0.42), (0.2, -0.2)], sketch.light)
    sketch.fill([(-0.12, -0.42), (-0.12, -0.82), (0.08, -0.82), (0.08, -0.42)], sketch.dark)
    sketch.line([(0.5, 0.1), (0.5, sketch.rng.uniform(-0.9, -0.6))], sketch.dark, 0.05)
    sketch.fill([(-0.98, 0.1), (0.98, 0.1), (0.72, 0.56), (-0.78, 0.56)], sketch.body)
    sketch.line([(-0.94, 0.2), (0.92, 0.2)], sketch.light, 0.05)


_SKETCHES: dict[str, tuple[Callable[[Sketch], None], float]] = {
    "airplane": (_airplane, 0.7),
    "automobile": (_automobile, 0.15),
    "bird": (_bird, 0.2),
    "cat": (_cat, 0.25),
    "deer": (_deer, 0.12),
    "dog": (_dog, 0.25),
    "frog": (_frog, 0.2),
    "horse": (_horse, 0.12),
    "ship": (_ship, 0.1),
    "truck": (_truck, 0.1),
}
"""The function that draws each label, and how far it may be turned, in radians."""

LABELS = tuple(_SKETCHES)
"""The labels of CIFAR-10, in the order of the card."""


def draw(seed: int, side: int | None = None) -> tuple[UInt8Image, int]:
    """Draw one picture.

    Args:
        seed: determines the picture; its last digit is the label, so that ten consecutive seeds are ten classes.
        side: height and width in pixels; None stands for 32 to 96, which the seed determines.

    Returns:
        The picture, RGB, shape (H, W, 3), uint8, and the index of its label in `LABELS`.
    """
    rng, label = np.random.default_rng(seed), seed % len(LABELS)
    random_side = int(rng.integers(32, 97))  # always drawn, so that the rest does not depend on `side`
    image, body = _background(rng, side or random_side)
    draw_object, max_angle = _SKETCHES[LABELS[label]]
    draw_object(Sketch(image, rng, body, max_angle))
    noise = np.random.default_rng([seed, 1]).normal(0.0, rng.uniform(1.0, 9.0), image.shape)
    return np.clip(image * rng.uniform(0.75, 1.1) + noise, 0, 255).astype(np.uint8), label


def _background(rng: np.random.Generator, side: int) -> tuple[UInt8Image, Colour]:
    """Draw two colours that meet at a horizon, with soft spots; return them with an object colour far from both."""
    above, below = (rng.uniform(30, 225, 3) for _ in range(2))
    horizon = rng.uniform(0.2, 1.2)
    share = np.clip((np.linspace(0, 1, side) - horizon) / rng.uniform(0.02, 0.6) + 0.5, 0, 1)[:, None, None]
    coarse_spots = rng.normal(0.0, rng.uniform(2.0, 14.0), (6, 6, 3)).astype(np.float32)
    spots = cv2.resize(coarse_spots, (side, side), interpolation=cv2.INTER_CUBIC)
    image = np.clip(above * (1 - share) + below * share + spots, 0, 255).astype(np.uint8)
    candidates = rng.uniform(20, 235, (12, 3))
    distances = np.minimum(np.abs(candidates - above).sum(1), np.abs(candidates - below).sum(1))
    red, green, blue = candidates[int(distances.argmax())]
    return np.ascontiguousarray(image), (float(red), float(green), float(blue))


def _mixed(colour: Colour, grey: float, share: float) -> Colour:
    """Return a colour mixed with this share of a grey level."""
    red, green, blue = (value + (grey - value) * share for value in colour)
    return red, green, blue


def golden_images() -> list[tuple[str, bytes]]:
    """Return the file name and PNG bytes of one picture of each class, 64 x 64 pixels."""
    images = []
    for index, label in enumerate(LABELS):
        image, _ = draw(GOLDEN + index, side=64)
        encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 9])[1]
        images.append((f"{index:02d}-{label}.png", encoded.tobytes()))
    return images
