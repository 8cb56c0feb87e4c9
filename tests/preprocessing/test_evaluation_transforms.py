"""What a card can say of resizing, cropping and channels is what torchvision's and timm's own transforms do."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform
from torchvision import transforms  # type: ignore[import-untyped]
from torchvision.models import mobilenet_v3_small  # type: ignore[import-untyped]
from torchvision.transforms import InterpolationMode  # type: ignore[import-untyped]

from preprocessing.spec import ImageInput
from preprocessing.transform import transform

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = [(300, 401), (401, 300), (231, 1000), (50, 61), (256, 256), (224, 600), (97, 224)]
"""Heights and widths: landscape, upright, elongated, smaller than the input, and some of its own sides."""
Transform = Callable[[Image.Image], torch.Tensor]


def picture(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Coloured clouds with sharp edges and some noise, as a photograph has them."""
    rng = np.random.default_rng([seed, height, width])
    clouds = cv2.resize(rng.uniform(0, 255, (6, 7, 3)).astype(np.float32), (width, height))
    cv2.circle(clouds, (width // 3, height // 2), min(height, width) // 4, (240, 30, 60), -1)
    return np.asarray(np.clip(clouds + rng.normal(0, 6, clouds.shape), 0, 255), np.uint8)


def spec(**changes: Any) -> ImageInput:
    values = {"size": (224, 224), "library": "pillow", "kernel": "bilinear", "mean": MEAN, "std": STD}
    return ImageInput.model_validate(values | changes)


def of_torchvision(*steps: Any, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> Transform:
    composed: Transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(mean, std)])
    return composed


def of_timm(size: tuple[int, int], **options: Any) -> Transform:
    created: Transform = create_transform((3, *size), is_training=False, mean=MEAN, std=STD, **options)
    return created


CASES: dict[str, tuple[ImageInput, Transform]] = {
    "torchvision, resize 256 and crop 224": (
        spec(resize="short_side", resize_to=256),
        of_torchvision(transforms.Resize(256), transforms.CenterCrop(224)),
    ),
    "torchvision, bicubic, resize 232 and crop 224": (
        spec(resize="short_side", resize_to=[232, 232], kernel="bicubic"),
        of_torchvision(transforms.Resize(232, InterpolationMode.BICUBIC), transforms.CenterCrop(224)),
    ),
    "torchvision, nearest, crop 160 x 224": (
        spec(size=(160, 224), resize="short_side", resize_to=256, kernel="nearest"),
        of_torchvision(transforms.Resize(256, InterpolationMode.NEAREST), transforms.CenterCrop((160, 224))),
    ),
    "torchvision, a crop larger than the resized picture": (
        spec(resize="short_side", resize_to=200),
        of_torchvision(transforms.Resize(200), transforms.CenterCrop(224)),
    ),
    "torchvision, crop alone": (spec(resize="none"), of_torchvision(transforms.CenterCrop(224))),
    "torchvision, resize to both sides": (spec(size=(160, 224)), of_torchvision(transforms.Resize((160, 224)))),
    "timm, center": (
        spec(resize="short_side", crop_pct=0.875, kernel="bicubic"),
        of_timm((224, 224), crop_pct=0.875, interpolation="bicubic"),
    ),
    "timm, center, not square": (
        spec(size=(160, 224), resize="short_side", crop_pct=0.9),
        of_timm((160, 224), crop_pct=0.9, interpolation="bilinear"),
    ),
    "timm, squash": (
        spec(resize="stretch", crop_pct=0.95, kernel="bicubic"),
        of_timm((224, 224), crop_pct=0.95, crop_mode="squash", interpolation="bicubic"),
    ),
    "timm, border": (
        spec(resize="letterbox", crop_pct=0.9, fill=[round(255 * value) for value in MEAN]),
        of_timm((224, 224), crop_pct=0.9, crop_mode="border", interpolation="bilinear"),
    ),
    "timm, border, nothing cut": (
        spec(size=(160, 224), resize="letterbox", crop_pct=1.0, fill=[round(255 * value) for value in MEAN]),
        of_timm((160, 224), crop_pct=1.0, crop_mode="border", interpolation="bilinear"),
    ),
}


def grey_levels(tensor: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The pixels behind a normalised tensor (3, h, w), 0 to 255."""
    return np.asarray((tensor * np.reshape(STD, (3, 1, 1)) + np.reshape(MEAN, (3, 1, 1))) * 255.0)


@pytest.mark.parametrize("name", CASES)
def test_the_pixels_are_those_of_the_other_library(name: str) -> None:
    card, theirs = CASES[name]
    for size in SIZES:
        image = picture(*size)
        ours, expected = transform(image, card).tensor, theirs(Image.fromarray(image)).numpy()
        assert ours.shape == expected.shape == card.shape
        assert np.abs(grey_levels(ours) - grey_levels(expected)).max() <= 1, size


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """MobileNetV3 with random weights, whose answers differ from picture to picture."""
    torch.manual_seed(0)
    network: torch.nn.Module = mobilenet_v3_small(num_classes=10).eval().requires_grad_(False)
    logits = network(torch.stack([torch.as_tensor(transform(picture(*size), spec()).tensor) for size in SIZES]))
    last: Any = network.get_submodule("classifier.3")
    gain = 2 / (logits - logits.mean(0)).std()
    last.bias.copy_((last.bias - logits.mean(0)) * gain)
    last.weight.mul_(gain)
    return network


@pytest.mark.parametrize("name", [name for name, (card, _) in CASES.items() if card.size == (224, 224)])
def test_a_network_gives_the_probabilities_that_it_gives_through_the_other_library(
    name: str, network: torch.nn.Module
) -> None:
    card, theirs = CASES[name]
    images = [picture(*size, seed=1) for size in SIZES[:3]]
    ours, expected, stretched = (
        network(torch.stack([torch.as_tensor(prepared) for prepared in tensors])).softmax(1)
        for tensors in (
            [transform(image, card).tensor for image in images],
            [theirs(Image.fromarray(image)) for image in images],
            [transform(image, spec()).tensor for image in images],
        )
    )
    assert (ours - expected).abs().max() <= 1e-3
    assert (stretched - expected).abs().max() > 1e-2  # a card that says nothing of it serves another model


def test_grey_is_torchvisions_grey_to_one_level() -> None:
    card = spec(channels="grey", mean=[0.5], std=[0.25], resize="short_side", resize_to=256)
    steps = (transforms.Grayscale(1), transforms.Resize(256), transforms.CenterCrop(224))
    theirs = of_torchvision(*steps, mean=(0.5,), std=(0.25,))
    for size in SIZES:
        image = picture(*size)
        ours, expected = transform(image, card).tensor, theirs(Image.fromarray(image)).numpy()
        assert ours.shape == expected.shape == (1, 224, 224)
        assert np.abs(ours - expected).max() * 0.25 * 255 <= 1.001, size


def test_channels_scale_and_layout_by_hand() -> None:
    image = np.zeros((2, 3, 3), np.uint8)
    image[..., 0], image[1, 2] = 200, (10, 20, 30)
    plain = {"size": (2, 3), "mean": [1, 2, 3], "std": [2, 4, 5], "scale": "0-255"}
    pixels = transform(image, spec(**plain)).tensor
    assert pixels.shape == (3, 2, 3) and pixels.flags.c_contiguous
    assert pixels[:, 1, 2] == pytest.approx([(10 - 1) / 2, (20 - 2) / 4, (30 - 3) / 5])
    reversed_channels = transform(image, spec(**plain, channels="bgr")).tensor
    assert reversed_channels[:, 1, 2] == pytest.approx([(30 - 1) / 2, (20 - 2) / 4, (10 - 3) / 5])
    last = transform(image, spec(**plain, layout="nhwc"))
    assert last.tensor.flags.c_contiguous and np.array_equal(last.tensor, pixels.transpose(1, 2, 0))
    grey = transform(image, spec(size=(2, 3), channels="grey", mean=[0], std=[1], layout="nhwc")).tensor
    assert grey.shape == (2, 3, 1) and grey[0, 0, 0] == pytest.approx(0.299 * 200 / 255, abs=0.5 / 255)
