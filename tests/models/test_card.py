"""Cards: closed sets, no unknown keys, and messages that list what is allowed."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from errors import CardError
from models.card import parse_card, read_card, read_image_card
from models.registry import bundled_cards
from tests.conftest import SHIPPED
from tests.tiny import CARD

TEXT = CARD.format(name="tiny")


def test_the_shipped_card_says_what_the_model_is() -> None:
    card = read_image_card(SHIPPED / "card.toml")
    assert card.labels == ("no_stone", "stone") and card.threshold == 0.1029 and card.parameters == 18_471_242
    assert card.input.size == (224, 224) and card.input.clahe is not None
    assert any("not a medical device" in warning for warning in card.warnings)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('task = "image-classification"', 'taks = "image-classification"', r"taks: unknown key; allowed here: .*task"),
        ("max_items = 4", "max_itmes = 4", r"limits.max_itmes: unknown key; allowed here: .*max_items"),
        ("size = [16, 16]", "size = [16, 16]\nsizes = 1", r"input.sizes: unknown key; allowed here: .*kernel"),
        ('architecture = "efficientnet-b4-head"', 'architecture = "resnet"', r"architecture: .*'efficientnet-b4-head'"),
        ('library = "opencv"', 'library = "skimage"', r"library: .*'opencv' or 'pillow'"),
        ('kernel = "linear"', 'kernel = "bicubic"', r"opencv's kernels: nearest, linear, cubic, area, lanczos4"),
        ('positive_label = "bright"', 'positive_label = "white"', r"not one of the labels: dark, bright"),
        ("threshold = 0.5", "", r"positive_label and threshold go together"),
        ("threshold = 0.5", "threshold = 1.5", r"threshold 1\.5 is no probability"),
        ('labels = ["dark", "bright"]', 'labels = ["bright", "bright"]', r"each label may stand only once"),
        ('name = "tiny"', 'name = "Tiny Model"', r"name: "),
        ("std = [0.5, 0.5, 0.5]", "std = [0.5, 0, 0.5]", r"std"),
        ("parameters = 6", "parameters = ", r"not valid TOML"),
        ("parameters = 6", "temperature = 0", r"temperature: .*greater than 0"),
        ("parameters = 6", 'head_activation = "tanh"', r"head_activation: .*'gelu', 'relu' or 'silu'"),
        ('"efficientnet-b4-head"', '"onnx"\nhead_activation = "relu"', r"head_activation: onnx has no head"),
        ("blur_below = 1.0", 'clahe = { colour_space = "hsv" }', r"clahe.colour_space: .*'lab' or 'yuv'"),
        ("size = [16, 16]", 'size = [16, 16]\nresize = "crop"', r"input.resize: .*'short_side', 'letterbox' or 'none'"),
        ("size = [16, 16]", 'size = [16, 16]\nlayout = "nhwc"', r"efficientnet-b4-head takes three channels"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_the_file_and_what_is_allowed(old: str, new: str, message: str) -> None:
    with pytest.raises(CardError, match=rf"(?s)^here/card\.toml: .*{message}"):
        parse_card(TEXT.replace(old, new), "here/card.toml")


def test_a_card_cannot_be_changed() -> None:
    card = parse_card(TEXT, "card")
    with pytest.raises(ValidationError):
        card.threshold = 0.9  # type: ignore[misc]


def test_a_missing_card_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"card\.toml"):
        read_card(tmp_path / "card.toml")


def test_a_broken_card_is_listed_and_leaves_the_others_alone(tmp_path: Path) -> None:
    for folder, text in (("tiny", TEXT), ("broken", "title = 1"), ("other_name", TEXT)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "card.toml").write_text(text)
    cards = bundled_cards(tmp_path)
    assert not isinstance(cards["tiny"], CardError)
    assert isinstance(cards["broken"], CardError)
    assert "its folder asks for 'other-name'" in str(cards["other-name"])
