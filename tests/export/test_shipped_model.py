"""The kidney-stone model that ships: its graph and its goldens give what PyTorch gives, and it is small."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch

from backends.onnx import OnnxBackend
from export.variant_comparison import golden_items
from models.card import read_card
from models.checkpoint import load_network, read_checkpoint
from models.goldens import read_goldens
from models.package import GRAPH, WEIGHTS
from postprocessing.classification import softmax
from serving.self_check import golden_batch
from tests.conftest import SHIPPED


def test_the_shipped_graph_and_goldens_are_what_pytorch_gives_with_the_shipped_weights() -> None:
    card, (goldens, tolerance) = read_card(SHIPPED / "card.toml"), read_goldens(SHIPPED)
    assert tolerance <= 1e-3
    network = load_network(card, read_checkpoint(SHIPPED / WEIGHTS).weights)
    batch = golden_batch(card, golden_items(goldens))
    with torch.inference_mode():
        expected = network(torch.from_numpy(batch)).numpy()
    references = np.stack([golden.logits for golden in goldens])
    assert np.abs(references - expected).max() < 1e-3
    assert np.abs(softmax(references) - softmax(expected)).max() <= tolerance
    backend = OnnxBackend(SHIPPED / GRAPH, threads=2)
    assert np.abs(softmax(backend.run(batch).logits) - softmax(expected)).max() <= 1e-4


def test_the_shipped_graph_folds_to_plain_convolutions(tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "folded.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(SHIPPED / GRAPH, options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(tmp_path / "folded.onnx", load_external_data=False).graph.node]
    assert "Cast" not in operators
    assert operators.count("BatchNormalization") <= 1  # the head's own, on a vector


def test_the_shipped_model_is_small() -> None:
    sizes = {path: path.stat().st_size for path in SHIPPED.rglob("*") if "__pycache__" not in path.parts}
    assert sizes[SHIPPED / GRAPH] < 1e6
    assert sum(size for path, size in sizes.items() if path.parent.name == "goldens") < 1.2e6
    assert sum(sizes.values()) < 40e6
