"""ONNX Runtime on the CPU."""

from pathlib import Path

import numpy as np
import onnxruntime as ort

from backends.base import Batch, Logits


class OnnxBackend:
    """One ONNX graph with one input and `logits` (or the only output), run by a session of `threads` threads.

    Args:
        graph: the .onnx file; external weights lie beside it.
        threads: threads a run uses, the caller's own among them.
        spinning: whether idle threads of the session busy-wait; pays only where a lone session owns the machine.

    A graph whose batch axis is fixed at 1 is run item by item.
    """

    device = "cpu"

    def __init__(self, graph: Path, threads: int = 1, *, spinning: bool = False) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # An arena keeps its largest batch for good: B4 after one batch of 16 held 568 MB, without it 306, as fast.
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
        self._session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        first = self._session.get_inputs()[0]
        self._input: str = first.name
        self._batches = not isinstance(first.shape[0], int)
        outputs = [output.name for output in self._session.get_outputs()]
        self._output: str = "logits" if "logits" in outputs else outputs[0]

    def run(self, batch: Batch) -> Logits:
        """Infer one batch; see `backends.base.Backend`."""
        if self._batches or len(batch) == 1:
            return self._run(batch)
        return np.concatenate([self._run(batch[index : index + 1]) for index in range(len(batch))])

    def _run(self, batch: Batch) -> Logits:
        return np.asarray(self._session.run([self._output], {self._input: batch})[0], np.float32)

    def close(self) -> None:
        """Release the session and its memory."""
        del self._session
