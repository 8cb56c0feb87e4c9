"""The example of docs/models.md: a timm architecture with random weights, from export and import to five labels."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from tests.conftest import ROOT
from tests.docs.pages import BLOCKS
from tests.live.server import environment, serving

DEER = ROOT / "models" / "cifar10" / "goldens" / "04-deer.png"


@pytest.mark.slow
def test_the_example_of_a_graph_of_timms_ends_in_five_labels(tmp_path: Path) -> None:
    blocks = [block.text for block in BLOCKS if "tests/live/test_imagenet.py" in (block.reason or "")]
    export, command, request = blocks
    assert "pretrained=True" in export
    home, clone = tmp_path / "bentoml", tmp_path / "clone"
    (clone / ".venv").mkdir(parents=True)
    (clone / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    (clone / "models").symlink_to(ROOT / "models")
    seeded = "import torch\ntorch.manual_seed(6)\n" + export.replace("pretrained=True", "pretrained=False")
    for words in ([sys.executable, "-c", seeded], ["bash", "-ec", command]):
        ran = subprocess.run(words, cwd=clone, env=environment(home), capture_output=True, text=True, timeout=300)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    with serving(home, tmp_path / "server.log", VITRINE_MODELS="imagenet", VITRINE_DEFAULT_MODEL="imagenet") as server:
        server.wait_ready()
        words = ["bash", "-ec", request.replace("http://127.0.0.1:3000", server.url)]
        answer = json.loads(subprocess.run(words, cwd=clone, check=True, capture_output=True, timeout=60).stdout)

    torch.manual_seed(6)
    network = timm.create_model("mobilenetv3_small_050", pretrained=False).eval()
    image = Image.open(DEER).convert("RGB").resize((256, 256), Image.Resampling.BICUBIC).crop((16, 16, 240, 240))
    pixels = (np.asarray(image, np.float64) / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    with torch.inference_mode():
        probabilities = network(torch.from_numpy(pixels.transpose(2, 0, 1)[None]).float()).softmax(1)[0]
    best = probabilities.topk(5)
    labels = (clone / "imagenet.txt").read_text().splitlines()
    assert [entry["probability"] for entry in answer["top"]] == pytest.approx(best.values.tolist(), abs=1e-4)
    expected = [labels[index] for index in best.indices.tolist()]
    assert [entry["label"].partition(" (")[0] for entry in answer["top"]] == [
        label.partition(" (")[0] for label in expected
    ]
