"""ONNX Runtime on the CPU."""

from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from backends.base import Backend, Batch, Early, Logits

LARGE = 4 * 2**20
"""Bytes of a batch whose run gives its memory back: of B4 after one batch of 16 the arena would keep 300 MB."""
_SAME_AS_REQUESTED = 1


class OnnxBackend:
    """One ONNX graph with one input and `logits` (or the only output).

    Args:
        graph: the .onnx file; external weights lie beside it.
        threads: threads a run uses, the caller's own among them.
        exits: whether its output `early` says if an early exit gave the logits; any other graph's may mean anything.

    A graph whose batch axis is fixed at 1 is run item by item.
    """

    device = "cpu"

    def __init__(self, graph: Path, threads: int = 1, *, exits: bool = False) -> None:
        self._graph = graph
        session = _session(graph, threads)
        self._sessions = {threads: session}
        self._cores: Callable[[], int] = lambda: threads
        first = session.get_inputs()[0]
        self._input: str = first.name
        self._batches = not isinstance(first.shape[0], int)
        outputs = [output.name for output in session.get_outputs()]
        self._outputs: list[str] = ["logits" if "logits" in outputs else outputs[0]]
        self.exits = exits
        self._outputs += ["early"] if exits else []

    def widen(self, widths: Collection[int], cores: Callable[[], int]) -> None:
        """Keep a session of each width instead; a run takes the narrowest that keeps its cores busy.

        Each costs the weights' memory again: ONNX Runtime lays them out anew for every session, whatever is shared.

        Args:
            widths: threads of each session.
            cores: how many cores a run may use just now.
        """
        self._sessions = {width: self._sessions.get(width) or _session(self._graph, width) for width in widths}
        self._cores = cores

    def run(self, batch: Batch) -> Logits:
        """Infer one batch; see `backends.base.Backend`."""
        return np.asarray(self._run(batch)[0], np.float32)

    def run_marked(self, batch: Batch) -> tuple[Logits, Early]:
        """Infer one batch of a graph with an early exit; also says of which items that gave the logits."""
        logits, early = self._run(batch)
        return np.asarray(logits, np.float32), np.full(len(batch), early)

    def _run(self, batch: Batch) -> list[npt.NDArray[Any]]:
        """What the graph gives for a batch, each of `_outputs`."""
        session = self._sessions[fitting(self._sessions, self._cores())]
        if not self._batches and len(batch) > 1:
            rows = [session.run(self._outputs, {self._input: batch[place : place + 1]}) for place in range(len(batch))]
            return [np.concatenate([np.atleast_1d(one) for one in output]) for output in zip(*rows, strict=True)]
        options = _giving_back() if len(batch) > 1 and batch.nbytes > LARGE else None
        outputs: list[npt.NDArray[Any]] = session.run(self._outputs, {self._input: batch}, options)
        return outputs

    def close(self) -> None:
        """Release the sessions and their memory."""
        self._sessions.clear()


def marked(backend: Backend, batch: Batch) -> tuple[Logits, Early | None]:
    """Infer one batch on any backend; also, of a graph with an early exit, of which items that gave the logits."""
    if isinstance(backend, OnnxBackend) and backend.exits:
        return backend.run_marked(batch)
    return backend.run(batch), None


def fitting(widths: Collection[int], cores: int) -> int:
    """Of some numbers of threads the fewest that keep so many cores busy, else the most.

    Two runs that share a session of 4 threads on 4 cores take 29 ms each, on one of 2 threads 37, on one each of 1
    thread 52 (B4): a session's threads go where there is work.
    """
    return min((width for width in widths if width >= cores), default=max(widths))


def _session(graph: Path, width: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = width
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Without an arena every run takes its memory from the system anew: 3,500 page faults and 73 ms for B4, with it none
    # and 63. One for all sessions, which grows by what is asked for, costs less memory than one each.
    _share_arena()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.enable_mem_pattern = False
    # Threads that wait between operators by spinning bring B4 from 24 ms to 17 on 4 cores; after the run they sleep.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


@cache
def _share_arena() -> None:
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg({"arena_extend_strategy": _SAME_AS_REQUESTED}))


def _giving_back() -> ort.RunOptions:
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options
