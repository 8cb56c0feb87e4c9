"""The ONNX Runtime backend, on the CPU."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from backends.arena import shrinking_run_options, use_shared_arena
from backends.base import EARLY_EXIT, WHOLE_NETWORK, AnsweredBy, Batch, Outputs

LARGE_BATCH_BYTES = 4 * 2**20
"""A run of a larger batch gives its memory back: after one batch of 16 of B4 the arena would keep 300 MB."""


class OnnxBackend:
    """One ONNX graph with one input, and `logits` among its outputs or a single output of any name.

    A graph whose batch axis is fixed at 1 is run item by item.

    Args:
        graph: the .onnx file; external weights lie beside it.
        threads: threads that a run uses, the caller's own among them.
    """

    runtime: Literal["onnx"] = "onnx"
    device = "cpu"

    def __init__(self, graph: Path, threads: int = 1) -> None:
        self._graph = graph
        session = _session(graph, threads)
        self._sessions = {threads: session}
        self._available_cores: Callable[[], int] = lambda: threads
        first = session.get_inputs()[0]
        self._input: str = first.name
        self._batch_is_dynamic = not isinstance(first.shape[0], int)
        names = [output.name for output in session.get_outputs()]
        self._outputs: list[str] = ["logits" if "logits" in names else names[0]]

    def widen(self, widths: Collection[int], available_cores: Callable[[], int]) -> None:
        """Keep one session for each width instead; a run takes the narrowest that keeps its cores busy.

        Each session costs the memory of the weights again: ONNX Runtime lays them out anew for every session, whatever
        is shared.

        Args:
            widths: the number of threads of each session.
            available_cores: returns how many cores a run may use at that moment.
        """
        self._sessions = {width: self._sessions.get(width) or _session(self._graph, width) for width in widths}
        self._available_cores = available_cores

    def run(self, batch: Batch) -> Outputs:
        """Infer one batch of shape (N, …)."""
        return Outputs(np.asarray(self._run(batch)[0], np.float32))

    def _run(self, batch: Batch) -> list[npt.NDArray[Any]]:
        """Return the arrays that the graph gives for a batch, one for each name in `_outputs`."""
        session = self._sessions[narrowest_width(self._sessions, self._available_cores())]
        if not self._batch_is_dynamic and len(batch) > 1:
            rows = [session.run(self._outputs, {self._input: batch[place : place + 1]}) for place in range(len(batch))]
            return [np.concatenate([np.atleast_1d(part) for part in output]) for output in zip(*rows, strict=True)]
        options = shrinking_run_options() if len(batch) > 1 and batch.nbytes > LARGE_BATCH_BYTES else None
        outputs: list[npt.NDArray[Any]] = session.run(self._outputs, {self._input: batch}, options)
        return outputs

    def close(self) -> None:
        """Release the sessions and their memory."""
        self._sessions.clear()


class EarlyExitBackend(OnnxBackend):
    """An ONNX graph whose second output, `early`, says whether an early exit gave the logits."""

    def __init__(self, graph: Path, threads: int = 1) -> None:
        super().__init__(graph, threads)
        self._outputs.append("early")

    def run(self, batch: Batch) -> Outputs:
        """Infer one batch and say for each item which part of the network answered."""
        logits, early = self._run(batch)
        exited = np.full(len(batch), early)
        answered_by: list[AnsweredBy] = [EARLY_EXIT if is_early else WHOLE_NETWORK for is_early in exited]
        return Outputs(np.asarray(logits, np.float32), answered_by)


def narrowest_width(widths: Collection[int], cores: int) -> int:
    """Return the smallest number of threads that keeps this many cores busy, or the largest if none does.

    Two runs that share a session of 4 threads on 4 cores take 29 ms each, on one of 2 threads 37, on one each of 1
    thread 52 (B4): a session's threads go where there is work.
    """
    return min((width for width in widths if width >= cores), default=max(widths))


def _session(graph: Path, width: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = width
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    use_shared_arena(options)
    # Threads that wait between operators by spinning bring B4 from 24 ms to 17 on 4 cores; after the run they sleep.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
