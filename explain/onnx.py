"""An explainer that runs the compiled explain graph in ONNX Runtime on the CPU."""

from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime as ort

from explain.base import ExplainerOutputs, Float32Array, Int64Array


class OnnxExplainer:
    """Runs one explain graph, with inputs `image` and `target`, and outputs `logits` and one map for each method.

    Args:
        graph: the .onnx file; its external weights lie beside it.
        threads: how many threads a run uses, including the caller's own.
    """

    runtime: Literal["onnx"] = "onnx"
    device = "cpu"
    runs_in_parallel = True

    def __init__(self, graph: Path, threads: int = 1) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])

    def run(self, batch: Float32Array, targets: Int64Array, methods: frozenset[str]) -> ExplainerOutputs:
        """Explain one batch, as `explain.base.Explainer.run` describes."""
        names = sorted(methods)
        logits, *maps = self._session.run(["logits", *names], {"image": batch, "target": targets})
        return ExplainerOutputs(np.asarray(logits), dict(zip(names, map(np.asarray, maps), strict=True)))

    def close(self) -> None:
        """Release the session and its memory."""
        del self._session
