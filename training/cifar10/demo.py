"""Procedural pictures of CIFAR-10's ten classes, and demonstration weights trained on them: `--help` says more.

CIFAR-10 does not come with this repository. These pictures stand in for it, so that the package can be built, served
and tested: simple silhouettes, each drawn from its seed alone. A network trained on them knows nothing of photographs.
"""

from collections.abc import Callable
from pathlib import Path

import click
import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from models.architectures.pyramidnet import PyramidNet
from models.card import read_image_card
from models.registry import package_of
from preprocessing.spec import UInt8Image
from preprocessing.transform import transform
from training.cifar10.train import save, use_threads

DATA = "procedural pictures, not CIFAR-10"
CARD_FILE = package_of("cifar10") / "card.toml"
CARD = read_image_card(CARD_FILE)
TRAIN, TEST, GOLDEN = 0, 10_000_000, 20_000_000
"""First seed of each split. The splits share no seed, so no picture is in two of them."""
HELD_OUT, BATCH, RATE = 500, 32, 2e-3

Points = npt.NDArray[np.float64]
Colour = tuple[float, float, float]
_SHIFT = 4  # fractional bits of the vertices handed to OpenCV


class Sketch:
    """A picture under construction: x to the right and y down, both from -1 to 1 over the drawn thing."""

    def __init__(self, image: UInt8Image, rng: np.random.Generator, body: Colour, turn: float) -> None:
        """Choose the pose: a turn of up to `turn` radians either way, mirrored or not, size, stretch and place."""
        side = image.shape[0]
        self.image, self.rng, self.body = image, rng, body
        self.dark, self.light = (_towards(body, end, rng.uniform(0.5, 0.75)) for end in (0.0, 255.0))
        angle, scale = rng.uniform(-turn, turn), side / 2 * rng.uniform(0.68, 0.92)
        cos, sin = np.cos(angle), np.sin(angle)
        mirror = np.diag([rng.choice([-1.0, 1.0]) * rng.uniform(0.88, 1.12), 1.0])
        self.matrix = scale * (np.array([[cos, -sin], [sin, cos]]) @ mirror)
        self.shift = side / 2 + rng.uniform(-0.09, 0.09, 2) * side

    def fill(self, points: list[tuple[float, float]] | Points, colour: Colour) -> None:
        """Fill a polygon, shape (n, 2)."""
        cv2.fillPoly(self.image, [self._pixels(points)], colour, cv2.LINE_AA, _SHIFT)

    def line(self, points: list[tuple[float, float]], colour: Colour, width: float) -> None:
        """Draw through points, as wide as that in the same unit."""
        pixels = max(1, round(width * float(np.sqrt(abs(np.linalg.det(self.matrix))))))
        cv2.polylines(self.image, [self._pixels(points)], False, colour, pixels, cv2.LINE_AA, _SHIFT)

    def oval(self, x: float, y: float, rx: float, ry: float, colour: Colour, tilt: float = 0.0) -> None:
        """Fill an ellipse about (x, y), tilted by so many radians."""
        turn = np.linspace(0.0, 2 * np.pi, 32, endpoint=False)
        across, down = rx * np.cos(turn), ry * np.sin(turn)
        cos, sin = np.cos(tilt), np.sin(tilt)
        self.fill(np.stack([x + across * cos - down * sin, y + across * sin + down * cos], axis=1), colour)

    def _pixels(self, points: list[tuple[float, float]] | Points) -> npt.NDArray[np.int32]:
        placed = np.asarray(points, np.float64) @ self.matrix.T + self.shift
        return np.asarray(np.round(placed * (1 << _SHIFT)), np.int32)


def _airplane(at: Sketch) -> None:
    sweep = at.rng.uniform(0.1, 0.45)
    for side in (-1, 1):
        at.fill([(0.25, 0), (-0.15, 0), (-0.15 - sweep, 0.9 * side), (0.02 - sweep, 0.9 * side)], at.dark)
        at.fill([(-0.65, 0), (-0.85, 0), (-0.98, 0.36 * side), (-0.84, 0.36 * side)], at.dark)
    at.oval(0, 0, 0.95, 0.13, at.body)
    at.oval(0.75, 0, 0.09, 0.07, at.light)


def _automobile(at: Sketch) -> None:
    roof = at.rng.uniform(-0.42, -0.3)
    at.fill([(-0.55, 0.02), (-0.32, roof), (0.28, roof), (0.56, 0.02)], at.body)
    at.fill([(-0.42, 0), (-0.26, roof + 0.08), (-0.03, roof + 0.08), (-0.03, 0)], at.light)
    at.fill([(0.05, 0), (0.05, roof + 0.08), (0.23, roof + 0.08), (0.4, 0)], at.light)
    at.fill([(-0.95, 0.36), (-0.95, 0.08), (-0.8, 0), (0.75, 0), (0.95, 0.12), (0.95, 0.36)], at.body)
    _wheels(at, (-0.55, 0.55), 0.36, 0.22)


def _truck(at: Sketch) -> None:
    top = at.rng.uniform(-0.72, -0.6)
    at.fill([(-0.98, 0.35), (-0.98, top), (0.32, top), (0.32, 0.35)], at.light)
    at.line([(-0.33, top), (-0.33, 0.35)], at.dark, 0.04)
    at.fill([(0.38, 0.4), (0.38, -0.36), (0.72, -0.36), (0.95, 0), (0.95, 0.4)], at.body)
    at.fill([(0.52, -0.02), (0.52, -0.26), (0.68, -0.26), (0.82, -0.02)], at.dark)
    at.fill([(-0.98, 0.48), (-0.98, 0.34), (0.95, 0.34), (0.95, 0.48)], at.dark)
    _wheels(at, (-0.7, -0.3, 0.65), 0.5, 0.19)


def _wheels(at: Sketch, centres: tuple[float, ...], y: float, radius: float) -> None:
    for x in centres:
        at.oval(x, y, radius, radius, (18, 18, 20))
        at.oval(x, y, radius * 0.45, radius * 0.45, (170, 170, 175))


def _bird(at: Sketch) -> None:
    for x in (-0.08, 0.1):
        at.line([(x, 0.35), (x + 0.03, 0.88)], (215, 140, 40), 0.05)
    at.fill([(-0.35, 0.05), (-1.0, -0.12), (-0.95, 0.2), (-0.3, 0.3)], at.dark)
    at.oval(0, 0.12, 0.52, 0.33, at.body, -0.3)
    at.oval(0.5, -0.35, 0.25, 0.23, at.body)
    at.fill([(0.68, -0.45), (1.0, -0.32), (0.68, -0.24)], (235, 150, 30))
    at.oval(-0.08, 0.08, 0.34, at.rng.uniform(0.14, 0.22), at.dark, 0.35)
    at.oval(0.55, -0.4, 0.05, 0.05, (10, 10, 10))


def _cat(at: Sketch) -> None:
    height = at.rng.uniform(0.85, 1.0)
    for side in (-1, 1):
        at.fill([(0.66 * side, 0), (0.62 * side, -height), (0.1 * side, -0.42)], at.body)
        at.fill([(0.53 * side, -0.28), (0.54 * side, 0.18 - height), (0.27 * side, -0.42)], at.dark)
    at.oval(0, 0.1, 0.7, 0.6, at.body)
    for side in (-1, 1):
        at.oval(0.28 * side, 0, 0.15, 0.12, (190, 205, 70))
        at.oval(0.28 * side, 0, 0.04, 0.11, (10, 10, 10))
        for lift in (-0.06, 0.06):
            at.line([(0.15 * side, 0.33 + lift), (0.95 * side, 0.33 + 3 * lift)], at.light, 0.03)
    at.fill([(-0.08, 0.22), (0.08, 0.22), (0, 0.33)], (205, 105, 115))


def _dog(at: Sketch) -> None:
    droop = at.rng.uniform(0.38, 0.52)
    at.oval(0, -0.1, 0.56, 0.58, at.body)
    for side in (-1, 1):
        at.oval(0.62 * side, 0.02, 0.2, droop, at.dark, -0.2 * side)
        at.oval(0.22 * side, -0.2, 0.08, 0.08, (12, 10, 10))
    at.oval(0, 0.32, 0.36, 0.4, at.light)
    at.oval(0, 0.16, 0.15, 0.11, (12, 10, 10))
    at.fill([(-0.1, 0.48), (0.1, 0.48), (0.08, 0.8), (-0.08, 0.8)], (225, 95, 110))


def _deer(at: Sketch) -> None:
    _legs(at, (-0.5, -0.36, 0.12, 0.25), 0.07)
    at.oval(-0.12, 0.2, 0.5, 0.22, at.body)
    at.fill([(0.14, 0.2), (0.36, 0.24), (0.56, -0.24), (0.4, -0.3)], at.body)
    at.oval(0.58, -0.28, 0.22, 0.11, at.body, 0.3)
    at.oval(-0.62, 0.12, 0.08, 0.1, at.light)
    reach = at.rng.uniform(0.85, 1.0)
    for base, lean in ((0.42, -0.32), (0.52, 0.22)):
        tip, middle = (base + lean, -reach), (base + lean * 0.6, -0.36 - 0.3 * reach)
        at.line([(base, -0.34), middle, tip], at.dark, 0.07)
        at.line([middle, (middle[0] - 0.2, middle[1] - 0.14)], at.dark, 0.06)
        at.line([middle, (middle[0] + 0.2, middle[1] - 0.14)], at.dark, 0.06)


def _horse(at: Sketch) -> None:
    _legs(at, (-0.58, -0.4, 0.2, 0.36), 0.13)
    at.line([(-0.62, 0), (-0.85, 0.15), (-0.88, 0.62)], at.dark, 0.15)
    at.oval(-0.1, 0.1, 0.6, 0.29, at.body)
    at.fill([(0.1, 0.1), (0.46, 0.18), (0.74, -0.55), (0.42, -0.72)], at.body)
    at.oval(0.72, -0.52, 0.33, 0.15, at.body, 0.6)
    at.line([(0.08, -0.12), (0.26, -0.42), (0.42, -0.78)], at.dark, at.rng.uniform(0.14, 0.2))
    at.fill([(0.44, -0.68), (0.5, -0.94), (0.6, -0.66)], at.body)


def _legs(at: Sketch, hips: tuple[float, ...], width: float) -> None:
    for number, x in enumerate(hips):
        step = at.rng.uniform(-0.1, 0.1)
        at.line([(x, 0.2), (x + step, 0.92)], at.dark if number % 2 else at.body, width)


def _frog(at: Sketch) -> None:
    for side in (-1, 1):
        at.oval(0.68 * side, 0.34, 0.28, 0.4, at.dark, 0.45 * side)
        at.oval(0.62 * side, 0.74, 0.34, 0.1, at.dark)
    at.oval(0, 0.22, 0.66, at.rng.uniform(0.44, 0.54), at.body)
    at.oval(0, 0.46, 0.42, 0.22, at.light)
    for side in (-1, 1):
        at.oval(0.36 * side, -0.32, 0.23, 0.23, at.body)
        at.oval(0.36 * side, -0.34, 0.15, 0.15, (240, 230, 150))
        at.oval(0.36 * side, -0.34, 0.07, 0.07, (10, 10, 10))
    at.line([(-0.45, 0.1), (-0.2, 0.2), (0.2, 0.2), (0.45, 0.1)], (25, 30, 20), 0.05)


def _ship(at: Sketch) -> None:
    at.fill([(-0.42, 0.12), (-0.42, -0.2), (0.4, -0.2), (0.4, 0.12)], at.light)
    at.fill([(-0.25, -0.2), (-0.25, -0.42), (0.2, -0.42), (0.2, -0.2)], at.light)
    at.fill([(-0.12, -0.42), (-0.12, -0.82), (0.08, -0.82), (0.08, -0.42)], at.dark)
    at.line([(0.5, 0.1), (0.5, at.rng.uniform(-0.9, -0.6))], at.dark, 0.05)
    at.fill([(-0.98, 0.1), (0.98, 0.1), (0.72, 0.56), (-0.78, 0.56)], at.body)
    at.line([(-0.94, 0.2), (0.92, 0.2)], at.light, 0.05)


_DRAWN: tuple[tuple[Callable[[Sketch], None], float], ...] = (
    (_airplane, 0.7),
    (_automobile, 0.15),
    (_bird, 0.2),
    (_cat, 0.25),
    (_deer, 0.12),
    (_dog, 0.25),
    (_frog, 0.2),
    (_horse, 0.12),
    (_ship, 0.1),
    (_truck, 0.1),
)
"""How each label is drawn, and how far it may be turned [rad]."""


def draw(seed: int, side: int | None = None) -> tuple[UInt8Image, int]:
    """Draw one picture.

    Args:
        seed: fixes everything; its last digit is the label, so that ten seeds in a row are ten classes.
        side: height and width in pixels; 32 to 96, drawn too, by default.

    Returns:
        RGB, shape (H, W, 3), uint8, and the index in `CARD.labels`.
    """
    rng, label = np.random.default_rng(seed), seed % len(CARD.labels)
    chosen = int(rng.integers(32, 97))  # drawn either way: what follows does not depend on `side`
    image, body = _background(rng, side or chosen)
    paint, turn = _DRAWN[label]
    paint(Sketch(image, rng, body, turn))
    noise = np.random.default_rng([seed, 1]).normal(0.0, rng.uniform(1.0, 9.0), image.shape)
    return np.clip(image * rng.uniform(0.75, 1.1) + noise, 0, 255).astype(np.uint8), label


def _background(rng: np.random.Generator, side: int) -> tuple[UInt8Image, Colour]:
    """Two colours that meet at a horizon, with soft spots, and a colour for the thing that differs from both."""
    above, below = (rng.uniform(30, 225, 3) for _ in range(2))
    horizon = rng.uniform(0.2, 1.2)
    share = np.clip((np.linspace(0, 1, side) - horizon) / rng.uniform(0.02, 0.6) + 0.5, 0, 1)[:, None, None]
    coarse = rng.normal(0.0, rng.uniform(2.0, 14.0), (6, 6, 3)).astype(np.float32)
    spots = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    image = np.clip(above * (1 - share) + below * share + spots, 0, 255).astype(np.uint8)
    candidates = rng.uniform(20, 235, (12, 3))
    away = np.minimum(np.abs(candidates - above).sum(1), np.abs(candidates - below).sum(1))
    red, green, blue = candidates[int(away.argmax())]
    return np.ascontiguousarray(image), (float(red), float(green), float(blue))


def _towards(colour: Colour, end: float, share: float) -> Colour:
    red, green, blue = (value + (end - value) * share for value in colour)
    return red, green, blue


def golden_images() -> list[tuple[str, bytes]]:
    """File name and PNG bytes of one picture of each class, 64 x 64 pixels."""
    images = []
    for index, label in enumerate(CARD.labels):
        image, _ = draw(GOLDEN + index, side=64)
        encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 9])[1]
        images.append((f"{index:02d}-{label}.png", encoded.tobytes()))
    return images


def batch_of(first_seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Pictures from consecutive seeds, put through serving's transform: (N, 3, 32, 32) float32, and labels, (N,)."""
    drawn = [draw(first_seed + index) for index in range(count)]
    tensors = np.stack([transform(image, CARD.input).tensor for image, _ in drawn])
    return torch.from_numpy(tensors), torch.tensor([label for _, label in drawn])


@torch.inference_mode()
def held_out_accuracy(network: nn.Module) -> float:
    """On 500 pictures that training never sees; leaves the network in evaluation mode."""
    network.eval()
    right = 0
    for first in range(0, HELD_OUT, 100):
        image, label = batch_of(TEST + first, 100)
        right += int((network(image).argmax(1) == label).sum())
    return right / HELD_OUT


@click.command()
@click.option("--out", default=Path("runs/cifar10-demo"), type=click.Path(path_type=Path), show_default=True)
@click.option("--steps", default=300, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", default=None, type=int, help="PyTorch's threads; all cores by default.")
@click.option("--goldens", type=click.Path(path_type=Path, file_okay=False), help="Only draw golden pictures there.")
def demo(out: Path, steps: int, seed: int, threads: int | None, goldens: Path | None) -> None:
    """Train PyramidNet-110 for a few minutes on procedural pictures, not CIFAR-10: demonstration weights."""
    if goldens is not None:
        goldens.mkdir(parents=True, exist_ok=True)
        for name, data in golden_images():
            (goldens / name).write_bytes(data)
            click.echo(f"{goldens / name}  {len(data):,} bytes")
        return
    use_threads(threads)
    torch.manual_seed(seed)
    click.echo(f"These weights come from {DATA}; they know nothing of photographs.")
    out.mkdir(parents=True, exist_ok=True)
    network = PyramidNet(len(CARD.labels)).to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=0.2)
    first_seed, running = TRAIN + seed * 1_000_000, 0.0
    with tqdm(range(steps), desc="train", unit="step", dynamic_ncols=True) as bar:
        for step in bar:
            image, label = batch_of(first_seed + step * BATCH, BATCH)
            if step < steps // 2:
                image = F.avg_pool2d(image, 2)  # a step at half the side takes a quarter of the time
            loss = F.cross_entropy(network(image.contiguous(memory_format=torch.channels_last)), label)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            running += (float(loss.detach()) - running) / min(step + 1, 30)
            bar.set_postfix(loss=f"{running:.3f}")
    found = held_out_accuracy(network)
    click.echo(f"Accuracy on {HELD_OUT} held-out procedural pictures (not CIFAR-10): {found:.3f}")
    state = {"model_state_dict": network.state_dict(), "epoch": 1, "best_val_acc": found, "data": DATA}
    save(state, out / "best_model.pth")
    card = CARD_FILE.read_text("utf-8").replace("bring your own weights, trained on CIFAR-10", DATA)
    warning = f"Demonstration weights, trained on {DATA}: they know nothing of photographs."
    (out / "card.toml").write_text(card.replace("\n[input]", f'warnings = ["{warning}"]\n\n[input]', 1), "utf-8")
    click.echo(f"Weights: {out / 'best_model.pth'}, and a card that says what they are")


if __name__ == "__main__":
    demo()
