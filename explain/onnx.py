"""The compiled explain graph in ONNX Runtime on the CPU."""

from pathlib import Path

import numpy as np
import onnxruntime as ort

from explain.base import Explanation, Float32Array, Int64Array


class OnnxExplainer:
    """One explain graph: inputs `image` and `target`, outputs `logits` and a map for each method.

    Args:
        graph: the .onnx file; external weights lie beside it.
        threads: threads a run uses, the caller's own among them.
    """

    device = "cpu"

    def __init__(self, graph: Path, threads: int = 1) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])

    def run(self, batch: Float32Array, targets: Int64Array, methods: frozenset[str]) -> Explanation:
        """Explain one batch; see `explain.base.Explainer`."""
        wanted = sorted(methods)
        logits, *maps = self._session.run(["logits", *wanted], {"image": batch, "target": targets})
        return Explanation(np.asarray(logits), dict(zip(wanted, map(np.asarray, maps), strict=True)))

    def close(self) -> None:
        """Release the session and its memory."""
        del self._session
