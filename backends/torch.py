"""PyTorch on CUDA, MPS or the CPU. Needs PyTorch."""

import logging
import threading
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import nn

from backends.base import Batch, Logits, Outputs

logger = logging.getLogger("vitrine.backends")

Precision = Literal["fp32", "fp16", "bf16"]

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class TorchBackend:
    """One network on one device; runs of several threads take turns on it.

    A batch that the device's memory does not hold is halved until it does. `largest` keeps the size that went through,
    and later batches are cut to it up front, so that each size fails once.

    Args:
        network: batch → logits (N, K). It is moved to the device, put into evaluation mode and frozen, in place.
        device: PyTorch's name: `cuda:0`, `mps`, `cpu`.
        precision: of matrix products and convolutions, by autocast; weights and logits stay fp32. Under `fp32`, CUDA's
            convolutions are still TF32 unless the process sets `torch.backends.cudnn.conv.fp32_precision = "ieee"`.
        max_batch: items in one pass through the network; a larger batch is cut.
        on_out_of_memory: told the size of each batch that did not fit.
    """

    runtime: Literal["torch"] = "torch"

    def __init__(
        self,
        network: nn.Module,
        device: str,
        precision: Precision = "fp32",
        max_batch: int = 32,
        on_out_of_memory: Callable[[int], None] | None = None,
    ) -> None:
        self.device = device
        self.largest = max_batch
        self._target = torch.device(device)
        # Up to PyTorch 2.11 some operators on MPS are silently wrong on views of channels-last tensors:
        # https://github.com/pytorch/pytorch/issues/180984 and https://github.com/pytorch/pytorch/issues/174345
        self._layout = torch.contiguous_format if self._target.type == "mps" else torch.channels_last
        self._network = network.to(self._target).to(memory_format=self._layout).eval().requires_grad_(False)
        self.precision = precision
        self._on_out_of_memory = on_out_of_memory
        self._one_at_a_time = threading.Lock()

    def run(self, batch: Batch) -> Outputs:
        """Infer one batch of shape (N, …).

        Raises:
            RuntimeError: PyTorch failed, or had no memory for a single item.
        """
        with self._one_at_a_time:
            rows: list[Logits] = []
            done, size = 0, self.largest
            while done < len(batch):
                part = batch[done : done + size]
                logits = self._attempt(part)
                if logits is None:
                    size = (len(part) + 1) // 2
                    continue
                self.largest = size
                rows.append(logits)
                done += len(part)
            return Outputs(rows[0] if len(rows) == 1 else np.concatenate(rows))

    def warm_up(self, shape: tuple[int, ...]) -> None:
        """Run batches of 1, 2, 4, … and of the largest size, so that kernels and memory are there for the first client.

        Args:
            shape: of one item, e.g. (3, h, w).
        """
        size = 1
        while size < self.largest:
            self.run(np.zeros((size, *shape), np.float32))
            size *= 2
        self.run(np.zeros((self.largest, *shape), np.float32))

    def close(self) -> None:
        """Let go of the network and give the device's memory back."""
        del self._network
        self._empty_cache()

    def _attempt(self, batch: Batch) -> Logits | None:
        """The logits, or None where memory ran out."""
        try:
            return self._forward(batch)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            logger.warning("%s: out of memory at a batch of %d", self.device, len(batch))
            if self._on_out_of_memory:
                self._on_out_of_memory(len(batch))
            if len(batch) == 1:
                raise
        # Here the error is gone, and with it the frames that held the failed run's tensors:
        # https://docs.pytorch.org/docs/stable/notes/faq.html#my-out-of-memory-exception-handler-can-t-allocate-memory
        self._empty_cache()
        return None

    def _forward(self, batch: Batch) -> Logits:
        items = torch.from_numpy(np.require(batch, np.float32, ["C", "W"]))
        if self._target.type == "cuda":
            # PyTorch caches pinned blocks and hands one out again only once its copy is through.
            items = items.pin_memory().to(self._target, non_blocking=True)
        else:
            items = items.to(self._target)
        if items.ndim == 4:
            items = items.contiguous(memory_format=self._layout)
        lower = self.precision != "fp32"
        with torch.inference_mode(), torch.autocast(self._target.type, _DTYPES[self.precision], enabled=lower):
            logits = self._network(items)
        return np.asarray(logits.float().cpu().numpy(), np.float32)

    def _empty_cache(self) -> None:
        if self._target.type == "cuda":
            torch.cuda.empty_cache()
        elif self._target.type == "mps":
            torch.mps.empty_cache()


def _is_out_of_memory(error: RuntimeError) -> bool:
    """CUDA's allocator has a type for it; cuBLAS, cuDNN, MPS and the CPU's allocator only say so."""
    message = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or any(
        text in message for text in ("out of memory", "status_alloc_failed", "can't allocate memory")
    )
