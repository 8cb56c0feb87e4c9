"""Imports the models of the comparison into its store, and makes the one that takes the least work there is.

Run as `python -m loadtests.compare.cheapest FOLDER`, with `BENTOML_HOME` naming the store.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from loadtests.figures import encode_jpeg
from loadtests.server import ROOT

CARD = ROOT / "loadtests" / "compare" / "cheapest.toml"
NAME, SIDE, LABELS = "cheapest", 32, 10
"""The name and the side of the pictures as on the card, and the number of labels."""


def graph(seed: int = 0) -> onnx.ModelProto:
    """Return the graph (N, 3, 32, 32) → 3×3 convolution to 8, stride 2 → ReLU → global mean → linear to 10 logits."""
    rng = np.random.default_rng(seed)
    weights: dict[str, npt.NDArray[np.float32]] = {
        "kernel": (rng.standard_normal((8, 3, 3, 3)) / 3).astype(np.float32),
        "linear": rng.standard_normal((8, LABELS)).astype(np.float32),
        "bias": rng.standard_normal(LABELS).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["maps"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["maps"], ["active"]),
        helper.make_node("GlobalAveragePool", ["active"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("Gemm", ["features", "linear", "bias"], ["logits"]),
    ]
    network = helper.make_graph(
        nodes,
        NAME,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", LABELS])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(network, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def pictures(count: int = 16) -> list[bytes]:
    """Return JPEGs of smooth random pictures of the model's own size."""
    rng = np.random.default_rng(1)
    coarse = [rng.integers(0, 256, (4, 4, 3)).astype(np.uint8) for _ in range(count)]
    return [encode_jpeg(np.asarray(cv2.resize(colours, (SIDE, SIDE)), np.uint8)[..., ::-1]) for colours in coarse]


def build(package: Path) -> None:
    """Write the model's package, as `vitrine models add` does from a user's graph."""
    from export.importers import from_onnx
    from models.goldens import golden_inputs

    package.mkdir(parents=True, exist_ok=True)
    file = package.with_suffix(".onnx")
    file.write_bytes(graph().SerializeToString(deterministic=True))
    goldens = golden_inputs(ROOT / "models" / "cifar10")
    from_onnx(CARD.read_text("utf-8"), file, goldens, package, print)


if __name__ == "__main__":
    from models.registry import package_folder
    from models.store import import_package

    build(Path(sys.argv[1]))
    for package in (package_folder("kidney-stone"), package_folder("churn"), Path(sys.argv[1])):
        print(import_package(package)[0].tag)
