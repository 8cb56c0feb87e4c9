"""The PyTorch backend against a plain forward; on every device that is here."""

import copy
import gc
import logging
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from backends.base import Backend
from backends.torch import Precision, TorchBackend
from tests.explain.nets import SIZE, SmallNet

Floats = npt.NDArray[np.float32]

DEVICES = [
    "cpu",
    *(["cuda:0"] if torch.cuda.is_available() else []),
    *(["mps"] if torch.backends.mps.is_available() else []),
]


class Rows(nn.Module):
    """(N, 2) → (N, 2), each row doubled; more rows than `limit` do not fit."""

    def __init__(self, limit: int, error: Exception) -> None:
        super().__init__()
        self.limit, self.error = limit, error
        self.seen: list[int] = []

    def forward(self, rows: Tensor) -> Tensor:
        self.seen.append(len(rows))
        if len(rows) > self.limit:
            raise self.error
        return rows * 2


class Hungry(nn.Module):
    """Asks the device for a pebibyte where there is more than one row."""

    def forward(self, rows: Tensor) -> Tensor:
        if len(rows) > 1:
            torch.empty(2**50, dtype=torch.uint8, device=rows.device)
        return rows * 2


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 3))


def images(count: int) -> Floats:
    return np.random.default_rng(0).normal(size=(count, 3, *SIZE)).astype(np.float32)


def rows(count: int) -> Floats:
    return np.arange(count * 2, dtype=np.float32).reshape(count, 2)


def plainly(network: nn.Module, batch: Floats) -> Floats:
    """What a copy of the network gives on the CPU, in fp32 and the default memory format."""
    with torch.no_grad():
        return np.asarray(copy.deepcopy(network).eval()(torch.from_numpy(batch)).numpy(), np.float32)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("items", [1, 3, 8])
def test_logits_are_those_of_a_plain_forward(device: str, items: int) -> None:
    tolerance = 1e-6 if device == "cpu" else 1e-2  # CUDA convolves in TF32
    table = np.random.default_rng(0).normal(size=(items, 7)).astype(np.float32)
    nets: list[tuple[nn.Module, Floats]] = [(SmallNet(), images(items)), (mlp(), table)]
    for network, batch in nets:
        expected = plainly(network, batch)
        backend: Backend = TorchBackend(network, device)
        logits = backend.run(batch).logits
        assert logits.shape == (items, 3) and logits.dtype == np.float32
        assert np.allclose(logits, expected, atol=tolerance)
        backend.close()


@pytest.mark.parametrize("device", DEVICES)
def test_several_threads_get_their_own_rows(device: str) -> None:
    network, batch = SmallNet(), images(32)
    expected = plainly(network, batch)
    backend = TorchBackend(network, device)
    with ThreadPoolExecutor(8) as pool:
        answers = [outputs.logits for outputs in pool.map(backend.run, np.split(batch, 32))]
    assert np.allclose(np.concatenate(answers), expected, atol=1e-6 if device == "cpu" else 1e-2)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_lower_precision_is_close_and_comes_back_as_float32(device: str, precision: Precision) -> None:
    network, batch = SmallNet(), images(4)
    expected = plainly(network, batch)
    logits = TorchBackend(network, device, precision).run(batch).logits
    assert logits.dtype == np.float32
    assert np.allclose(logits, expected, atol=0.05) and not np.allclose(logits, expected, atol=1e-6)


def test_images_reach_the_network_channels_last_in_evaluation_mode_and_frozen() -> None:
    class Looks(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            assert input.is_contiguous(memory_format=torch.channels_last) and torch.is_inference_mode_enabled()
            assert not self.training and not self.weight.requires_grad
            assert self.weight.is_contiguous(memory_format=torch.channels_last)
            return super().forward(input).mean((2, 3))

    assert TorchBackend(Looks(3, 2, 3), "cpu").run(images(2)).logits.shape == (2, 2)


def test_views_that_are_not_contiguous_or_not_writable_give_the_same_logits() -> None:
    backend, batch = TorchBackend(SmallNet(), "cpu"), images(8)
    expected = backend.run(np.ascontiguousarray(batch[::-2, :, ::-1])).logits
    assert np.array_equal(backend.run(batch[::-2, :, ::-1]).logits, expected)
    frozen = np.ascontiguousarray(batch[::-2, :, ::-1])
    frozen.flags.writeable = False
    assert np.array_equal(backend.run(frozen).logits, expected)


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("MPS backend out of memory (MPS allocated: 5.56 GB, max allowed: 6.80 GB)."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_a_batch_that_does_not_fit_is_halved_and_the_size_remembered(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    failed: list[int] = []
    network = Rows(limit=2, error=error)
    backend = TorchBackend(network, "cpu", max_batch=8, on_out_of_memory=failed.append)
    with caplog.at_level(logging.WARNING, "vitrine.backends"):
        assert np.array_equal(backend.run(rows(7)).logits, rows(7) * 2)
    assert (failed, backend.largest) == ([7, 4], 2)
    assert [record.message for record in caplog.records] == [
        "cpu: out of memory at a batch of 7",
        "cpu: out of memory at a batch of 4",
    ]
    network.seen.clear()
    assert np.array_equal(backend.run(rows(5)).logits, rows(5) * 2)
    assert network.seen == [2, 2, 1] and failed == [7, 4]


def test_memory_that_really_runs_out_is_told_from_other_errors() -> None:
    failed: list[int] = []
    backend = TorchBackend(Hungry(), "cpu", on_out_of_memory=failed.append)
    assert np.array_equal(backend.run(rows(4)).logits, rows(4) * 2)
    assert failed == [4, 2]


def test_a_failed_run_lets_go_of_its_memory_before_the_next_try() -> None:
    class Fills(nn.Module):
        held: weakref.ref[Tensor] | None = None

        def forward(self, rows: Tensor) -> Tensor:
            assert self.held is None or self.held() is None
            doubled = rows * 2
            self.held = weakref.ref(doubled)
            if len(rows) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return doubled

    assert np.array_equal(TorchBackend(Fills(), "cpu").run(rows(4)[:1]).logits, rows(1) * 2)
    assert np.array_equal(TorchBackend(Fills(), "cpu").run(rows(4)).logits, rows(4) * 2)


def test_a_single_item_that_does_not_fit_raises_and_the_next_try_is_a_full_batch() -> None:
    network = Rows(limit=0, error=OUT_OF_MEMORY[0])
    failed: list[int] = []
    backend = TorchBackend(network, "cpu", max_batch=4, on_out_of_memory=failed.append)
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        backend.run(rows(4))
    assert (failed, backend.largest) == ([4, 2, 1], 4)
    network.limit = 4  # whoever else used the device has left it
    assert np.array_equal(backend.run(rows(4)).logits, rows(4) * 2)
    assert network.seen[-1] == 4


def test_any_other_error_comes_through_at_once() -> None:
    network = Rows(limit=1, error=RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    backend = TorchBackend(network, "cpu")
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        backend.run(rows(4))
    assert network.seen == [4]
    assert len(backend.run(rows(1)).logits) == 1, "the device is free again"


def test_a_batch_larger_than_allowed_is_cut() -> None:
    network = Rows(limit=99, error=RuntimeError())
    assert np.array_equal(TorchBackend(network, "cpu", max_batch=3).run(rows(7)).logits, rows(7) * 2)
    assert network.seen == [3, 3, 1]


@pytest.mark.parametrize(("limit", "seen"), [(99, [1, 2, 4, 6]), (3, [1, 2, 4, 2, 2, 2])])
def test_warm_up_runs_the_sizes_that_fit(limit: int, seen: list[int]) -> None:
    network = Rows(limit, OUT_OF_MEMORY[0])
    TorchBackend(network, "cpu", max_batch=6).warm_up((2,))
    assert network.seen == seen


@pytest.mark.parametrize("device", DEVICES)
def test_close_frees_the_network(device: str) -> None:
    network = SmallNet()
    dead = weakref.ref(network)
    backend = TorchBackend(network, device)
    backend.run(images(1))
    del network
    assert dead() is not None
    backend.close()
    gc.collect()
    assert dead() is None
