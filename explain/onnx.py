"""An explainer that runs the compiled explain graph in ONNX Runtime on the CPU."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from backends.arena import shrinking_run_options, use_shared_arena
from explain.base import NO_CONTRAST, ExplainerOutputs, Float32Array, Int64Array


class OnnxExplainer:
    """Runs one explain graph: from `image`, `target` and `contrast` to `logits` and one map for each method.

    A graph whose batch axis is fixed at 1 is run item by item.

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
        use_shared_arena(options)
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self.takes_contrasts = any(given.name == "contrast" for given in self._session.get_inputs())
        self._batch_is_dynamic = not isinstance(self._session.get_inputs()[0].shape[0], int)

    def run(
        self, batch: Float32Array, targets: Int64Array, methods: frozenset[str], contrasts: Int64Array | None = None
    ) -> ExplainerOutputs:
        """Explain one batch, as `explain.base.Explainer.run` describes."""
        names = sorted(methods)
        inputs: dict[str, npt.NDArray[Any]] = {"image": batch, "target": targets}
        if self.takes_contrasts:
            inputs["contrast"] = np.full_like(targets, NO_CONTRAST) if contrasts is None else contrasts
        size = max(len(batch), 1) if self._batch_is_dynamic else 1
        parts = [
            self._session.run(
                ["logits", *names],
                {name: values[start : start + size] for name, values in inputs.items()},
                shrinking_run_options() if size > 1 else None,  # or the arena would keep what a batch of 4 took, 70 MB
            )
            for start in range(0, len(batch), size)
        ]
        logits, *maps = (np.concatenate(part) for part in zip(*parts, strict=True))
        return ExplainerOutputs(np.asarray(logits), dict(zip(names, map(np.asarray, maps), strict=True)))

    def close(self) -> None:
        """Release the session and its memory."""
        del self._session
