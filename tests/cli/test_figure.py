import io
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from PIL import Image

from cli.figure import FILL, GAP, HEIGHT, PANEL, TRACK, Words, figure
from cli.main import main
from tests.conftest import ROOT, SHIPPED


def test_a_figure_shows_both_pictures_and_a_bar_as_long_as_its_probability() -> None:
    image, overlaid = np.full((HEIGHT, 200, 3), 40, np.uint8), np.full((HEIGHT, 200, 3), 90, np.uint8)
    drawn = figure(image, overlaid, Words("yes", {"yes": 0.75, "no": 0.25}, ["a line " * 30]))
    assert drawn.shape == (HEIGHT + 2 * GAP, 400 + PANEL + 4 * GAP, 3)
    assert np.array_equal(drawn[GAP : GAP + HEIGHT, GAP : GAP + 200], image)
    assert np.array_equal(drawn[GAP : GAP + HEIGHT, 2 * GAP + 200 : 2 * GAP + 400], overlaid)
    filled, rest = ((drawn == colour).all(axis=2).sum(axis=1) for colour in (FILL, TRACK))
    lengths = [int(length) for length in filled[(filled > PANEL / 5) & (rest > 0)]]
    assert {round(length / PANEL, 2) for length in lengths} == {0.75, 0.25}


def test_the_command_draws_the_readmes_picture(tmp_path: Path) -> None:
    golden, out = SHIPPED / "goldens" / "01-coronal-stone.png", tmp_path / "new" / "out.png"
    ran = CliRunner().invoke(main, ["explain", "picture", "kidney-stone", str(golden), "-o", str(out)])
    assert ran.exit_code == 0, ran.output
    assert ran.output.startswith("stone, 0.9")
    drawn, shown = (
        Image.open(io.BytesIO(path.read_bytes())) for path in (out, ROOT / "docs/kidney-stone-prediction.png")
    )
    assert drawn.size == shown.size
    width = GAP * 3 + HEIGHT * 2  # both pictures, without the words: those are drawn by Pillow's own font
    off = np.abs(np.asarray(drawn, int) - np.asarray(shown, int))[:, :width]
    assert off.mean() < 1.0, "other weights? Draw docs/kidney-stone-prediction.png anew, as docs/explanations.md says"


def test_a_model_without_explanations_says_so() -> None:
    golden = str(SHIPPED / "goldens" / "01-coronal-stone.png")
    ran = CliRunner().invoke(main, ["explain", "picture", "churn", golden])
    assert ran.exit_code == 1 and "no explain graph" in ran.output
