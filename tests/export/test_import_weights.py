"""An operator's own checkpoint of kidney-stone, imported by the command line with the real exporter and network."""

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from backends.onnx import OnnxBackend
from cli.main import main
from models import store
from models.architectures.efficientnet import EfficientNetB4Head
from models.package import verify
from models.served_versions import served_tags
from tests.conftest import ROOT


@pytest.mark.slow
def test_a_checkpoint_trained_elsewhere_is_exported_imported_and_served(home: Path, tmp_path: Path) -> None:
    torch.manual_seed(11)
    network = EfficientNetB4Head(2).eval()
    torch.save(network.state_dict(), tmp_path / "mine.pth")
    result = CliRunner().invoke(main, ["models", "import", "kidney-stone", "--weights", str(tmp_path / "mine.pth")])
    assert result.exit_code == 0, result.output
    assert "ASSUMED: the head's activation is gelu" in result.output
    assumed = "ASSUMED, since there is no --card: pictures are turned upright by EXIF, stretched to 224 x 224 pixels"
    assert f"{assumed} by opencv's linear; CLAHE of clip limit 2 on lab; channels rgb, pixels 0-1" in result.output
    stored = store.find("kidney-stone")
    verify(stored)
    assert dict(served_tags()) == {"kidney-stone": stored.version}
    assert str(ROOT).encode() not in stored.graph.read_bytes()
    assert stored.graph.stat().st_size < 1e6 and (stored.path / "weights.safetensors").stat().st_size < 75e6
    assert stored.report() == {}  # the shipped report is of the shipped weights
    assert CliRunner().invoke(main, ["models", "import", "kidney-stone"]).exit_code == 0
    assert len(store.installed()) == 2 and store.find("kidney-stone").version != stored.version

    image = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network(image).numpy()
    assert np.allclose(OnnxBackend(stored.graph, threads=2).run(image.numpy()).logits, expected, atol=1e-4)
