import cv2
import numpy as np
import pytest

from explain.overlay import grey, heatmap, overlay, png


def test_a_heatmap_peaks_where_the_map_does_at_any_size() -> None:
    cam = np.zeros((4, 6), np.float32)
    cam[1, 4] = 7.0
    heat = heatmap(cam, (200, 120))
    assert heat.shape == (200, 120)
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    # The middle of cell (1, 4): rows 50-100 of 200, columns 80-100 of 120.
    assert abs(y - 74.5) <= 1
    assert abs(x - 89.5) <= 1
    assert heat.min() >= 0
    assert heat.max() == pytest.approx(1.0, abs=0.02)


def test_a_map_of_zeros_stays_zero() -> None:
    assert not heatmap(np.zeros((7, 7), np.float32), (50, 50)).any()


def test_an_overlay_without_opacity_is_the_picture() -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    heat = np.random.default_rng(1).random((30, 40), np.float32)
    assert np.array_equal(overlay(image, heat, 0.0), image)
    assert np.array_equal(overlay(image, np.zeros_like(heat), 1.0), image)


def test_an_overlay_blends_by_alpha_times_heat() -> None:
    image = np.full((4, 4, 3), 100, np.uint8)
    heat = np.ones((4, 4), np.float32)
    colour = cv2.applyColorMap(np.array([[255]], np.uint8), cv2.COLORMAP_INFERNO)[0, 0, ::-1].astype(float)
    expected = 0.75 * 100 + 0.25 * colour
    assert np.abs(overlay(image, heat, 0.25)[0, 0] - expected).max() <= 1


def test_the_colour_map_gets_lighter_step_by_step() -> None:
    ramp = np.arange(256, dtype=np.uint8)[None]
    lightness = cv2.cvtColor(cv2.applyColorMap(ramp, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2LAB)[0, :, 0].astype(int)
    assert (np.diff(lightness) >= 0).all()
    steps = np.diff(lightness[::16])
    assert steps.min() >= 5  # no stretch of it looks flat


def test_a_png_holds_the_picture_without_loss() -> None:
    colour = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    level = grey(np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30))
    read = cv2.imdecode(np.frombuffer(png(colour), np.uint8), cv2.IMREAD_UNCHANGED)
    assert read is not None
    assert np.array_equal(read[..., ::-1], colour)
    again = cv2.imdecode(np.frombuffer(png(level), np.uint8), cv2.IMREAD_UNCHANGED)
    assert again is not None
    assert np.array_equal(again, level)
    assert level[0, 0] == 0
    assert level[-1, -1] == 255
