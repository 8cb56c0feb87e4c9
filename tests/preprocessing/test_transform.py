"""Each step of `transform` equals OpenCV, Pillow or a case on paper; the whole equals a plain re-implementation."""

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from pydantic import ValidationError

from models.card import read_image_card
from preprocessing.spec import Clahe, ImageInput
from preprocessing.transform import equalise, normalise, resize, sharpness, transform
from tests.conftest import SHIPPED

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def spec(**changes: object) -> ImageInput:
    values = {"size": (24, 32), "library": "opencv", "kernel": "linear", "mean": MEAN, "std": STD}
    return ImageInput.model_validate(values | changes)


@pytest.fixture
def image() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(2).integers(0, 256, (75, 91, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("kernel", "flag"),
    [
        ("nearest", cv2.INTER_NEAREST),
        ("linear", cv2.INTER_LINEAR),
        ("cubic", cv2.INTER_CUBIC),
        ("area", cv2.INTER_AREA),
    ],
)
def test_opencv_kernels_are_opencvs(image: npt.NDArray[np.uint8], kernel: str, flag: int) -> None:
    assert np.array_equal(resize(image, spec(kernel=kernel)), cv2.resize(image, (32, 24), interpolation=flag))


@pytest.mark.parametrize("kernel", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
def test_pillow_kernels_are_pillows(image: npt.NDArray[np.uint8], kernel: str) -> None:
    reference = Image.fromarray(image).resize((32, 24), Image.Resampling[kernel.upper()])
    assert np.array_equal(resize(image, spec(library="pillow", kernel=kernel)), np.asarray(reference))


def test_the_two_libraries_linear_kernels_differ_so_the_kernel_is_part_of_the_model(
    image: npt.NDArray[np.uint8],
) -> None:
    pillow = resize(image, spec(library="pillow", kernel="bilinear"))
    assert np.abs(resize(image, spec()).astype(int) - pillow.astype(int)).mean() > 5


def test_a_kernel_of_the_other_library_is_refused_and_the_allowed_are_listed() -> None:
    with pytest.raises(ValidationError, match="bicubic' is not one of opencv's kernels: nearest, linear, cubic"):
        spec(kernel="bicubic")


def test_normalise_by_hand() -> None:
    pixel = np.array([[[0, 128, 255]]], np.uint8)
    tensor = normalise(pixel, spec())
    expected = [-0.485 / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert tensor.shape == (3, 1, 1) and tensor.dtype == np.float32 and tensor.flags.c_contiguous
    assert tensor.ravel() == pytest.approx(expected, abs=1e-6)


def test_sharpness_by_hand() -> None:
    # One white pixel in the middle of 5 x 5 black ones: the Laplacian is -4 x 255 there, 255 at its four neighbours.
    image = np.zeros((5, 5, 3), np.uint8)
    image[2, 2] = 255
    laplacian = np.array([-4 * 255, *[255] * 4, *[0] * 20], float)
    assert sharpness(image) == pytest.approx(laplacian.var())


def test_a_flat_picture_has_no_sharpness_and_a_blurred_one_less(image: npt.NDArray[np.uint8]) -> None:
    assert sharpness(np.full((9, 9, 3), 77, np.uint8)) == 0
    assert sharpness(np.asarray(cv2.GaussianBlur(image, (0, 0), 2), np.uint8)) < sharpness(image) / 10


def test_clahe_changes_the_lightness_and_leaves_the_colour() -> None:
    ramp = np.tile(np.linspace(90, 130, 64).astype(np.uint8)[:, None, None], (1, 64, 3))
    tinted = np.clip(ramp + np.array([14, 0, -9]), 0, 255).astype(np.uint8)
    before = cv2.cvtColor(tinted, cv2.COLOR_RGB2LAB).astype(int)
    after = cv2.cvtColor(equalise(tinted, Clahe()), cv2.COLOR_RGB2LAB).astype(int)
    assert np.ptp(after[..., 0]) > 1.3 * np.ptp(before[..., 0])
    assert np.abs(after[..., 1:] - before[..., 1:]).max() <= 3


@pytest.mark.parametrize("limit", [0, 0.01, 2.0, 40.0, 1000.0])
def test_clahe_on_the_y_of_yuv_is_opencvs_at_any_limit(image: npt.NDArray[np.uint8], limit: float) -> None:
    y, u, v = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2YUV))
    y = cv2.createCLAHE(limit, (4, 6)).apply(y)
    expected = cv2.cvtColor(cv2.merge([y, u, v]), cv2.COLOR_YUV2RGB)
    assert np.array_equal(equalise(image, Clahe(clip_limit=limit, tiles=(4, 6), colour_space="yuv")), expected)


def test_a_grey_picture_is_equalised_itself_on_the_y_of_yuv() -> None:
    level = np.random.default_rng(4).integers(60, 130, (24, 32)).astype(np.uint8)
    card = spec(channels="grey", mean=[0], std=[1], scale="0-255", clahe={"colour_space": "yuv", "tiles": (2, 2)})
    tensor = transform(np.dstack([level] * 3), card).tensor
    assert np.abs(tensor[0] - cv2.createCLAHE(2.0, (2, 2)).apply(level)).max() <= 1


def test_the_whole_transform_equals_a_plain_one(image: npt.NDArray[np.uint8]) -> None:
    card = read_image_card(SHIPPED / "card.toml")
    small = cv2.resize(image, (224, 224))
    lightness, a, b = cv2.split(cv2.cvtColor(small, cv2.COLOR_RGB2LAB))
    lightness = cv2.createCLAHE(2.0, (8, 8)).apply(lightness)
    equal = cv2.cvtColor(cv2.merge([lightness, a, b]), cv2.COLOR_LAB2RGB)
    expected = ((equal / 255.0 - np.array(MEAN)) / np.array(STD)).transpose(2, 0, 1)
    tensor, variance, area = transform(image, card.input)
    assert np.abs(tensor - expected).max() < 1e-5 and area == image.shape[0] * image.shape[1]
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    assert variance == pytest.approx(cv2.Laplacian(grey, cv2.CV_64F).var())


def test_sharpness_is_measured_on_the_upload_where_the_card_says_so(image: npt.NDArray[np.uint8]) -> None:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    expected = cv2.Laplacian(grey, cv2.CV_64F).var()
    assert transform(image, spec(blur_below=1.0, blur_at="upload")).sharpness == pytest.approx(expected)
    assert transform(image, spec(blur_below=1.0)).sharpness != pytest.approx(expected, rel=0.1)


def test_sharpness_is_not_measured_unless_the_card_asks(image: npt.NDArray[np.uint8]) -> None:
    assert transform(image, spec()).sharpness is None
