import io
from pathlib import Path

import numpy as np
import pytest
from click import ClickException
from click.testing import CliRunner, Result
from PIL import Image

from cli.explain_quality import explained_cases
from cli.figure import FILL, GAP, HEIGHT, PANEL, TRACK, Caption, draw_figure
from cli.main import main
from models import store
from models.card import read_image_card
from tests.conftest import ROOT, SHIPPED, encode
from tests.tiny import bright_square, tiny_package


def test_a_figure_shows_both_pictures_and_a_bar_as_long_as_its_probability() -> None:
    image, overlaid = np.full((HEIGHT, 200, 3), 40, np.uint8), np.full((HEIGHT, 200, 3), 90, np.uint8)
    sheet = draw_figure(image, overlaid, Caption("yes", {"yes": 0.75, "no": 0.25}, ["a line " * 30]))
    assert sheet.shape == (HEIGHT + 2 * GAP, 400 + PANEL + 4 * GAP, 3)
    assert np.array_equal(sheet[GAP : GAP + HEIGHT, GAP : GAP + 200], image)
    assert np.array_equal(sheet[GAP : GAP + HEIGHT, 2 * GAP + 200 : 2 * GAP + 400], overlaid)
    filled, rest = ((sheet == colour).all(axis=2).sum(axis=1) for colour in (FILL, TRACK))
    lengths = [int(length) for length in filled[(filled > PANEL / 5) & (rest > 0)]]
    assert {round(length / PANEL, 2) for length in lengths} == {0.75, 0.25}


def test_the_command_draws_the_readmes_picture(home: Path, tmp_path: Path) -> None:
    golden, out = SHIPPED / "goldens" / "01-coronal-stone.png", tmp_path / "new" / "out.png"
    result = CliRunner().invoke(main, ["explain", "picture", "kidney-stone", str(golden), "-o", str(out)])
    assert result.exit_code == 0, result.output
    assert result.output.startswith("stone, 0.9")
    actual, expected = (
        Image.open(io.BytesIO(path.read_bytes())) for path in (out, ROOT / "docs/kidney-stone-prediction.png")
    )
    assert actual.size == expected.size
    width = GAP * 3 + HEIGHT * 2  # both pictures, without the text, which is drawn by Pillow's own font
    difference = np.abs(np.asarray(actual, int) - np.asarray(expected, int))[:, :width]
    assert difference.mean() < 1.0, (
        "With new weights, draw docs/kidney-stone-prediction.png anew, as docs/explanations.md says."
    )


@pytest.mark.parametrize(
    ("name", "text"), [("churn", "takes no pictures"), ("imagenet", "imagenet is not installed"), ("no", "no is not")]
)
def test_what_cannot_be_drawn_is_said(home: Path, name: str, text: str) -> None:
    golden = str(SHIPPED / "goldens" / "01-coronal-stone.png")
    result = CliRunner().invoke(main, ["explain", "picture", name, golden])
    assert result.exit_code == 1 and text in result.output


def test_a_model_without_a_gradient_is_drawn_by_rise_and_any_other_if_asked(home: Path, tmp_path: Path) -> None:
    def drawn(*options: str) -> Result:
        return CliRunner().invoke(main, ["explain", "picture", "tiny", str(image), "-o", str(out), *options])

    image, out = tmp_path / "square.png", tmp_path / "out.png"
    image.write_bytes(encode(bright_square()))
    store.import_package(tiny_package(tmp_path / "without"))
    result = drawn()
    assert result.exit_code == 0 and "behind 300 masks" in result.output, result.output
    sheet = np.asarray(Image.open(out))
    left, right = (sheet[GAP : GAP + HEIGHT, start : start + HEIGHT] for start in (GAP, 2 * GAP + HEIGHT))
    changed = np.abs(left.astype(int) - right).sum(axis=2)
    # Of a picture that is answered `dark` the map is hot where it is not red.
    assert result.output.splitlines()[-1].startswith("dark, ")
    assert changed[HEIGHT // 2 :, HEIGHT // 2 :].max() > 0
    result = drawn("--method", "gradcam")
    assert result.exit_code == 1 and "takes a gradient, and there is none" in result.output
    without = out.read_bytes()
    store.import_package(tiny_package(tmp_path / "with", explained=True))
    assert "masks" not in drawn().output and out.read_bytes() != without
    assert "behind 50 masks" in drawn("--method", "rise", "--samples", "50").output


def test_the_pictures_with_a_known_truth_come_from_the_models_training() -> None:
    card = read_image_card(SHIPPED / "card.toml")
    case = next(explained_cases(SHIPPED, card, 1))
    assert case.tensor.shape == (3, *card.input.size) and case.mask.any()
    with pytest.raises(ClickException, match=r"training\.imagenet\.data"):
        explained_cases(ROOT / "models" / "imagenet", card, 1)
