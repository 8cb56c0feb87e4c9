"""Training on a CIFAR-10 of 48 pictures: the format is the real one, the pixels are noise."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torchvision.datasets import CIFAR10  # type: ignore[import-untyped]

from models.architectures.pyramidnet import PyramidNet
from training.cifar10 import train as cifar10
from training.cifar10.pictures import LABELS


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with five batches and a test batch of 8 pictures each; torchvision is told their checksums."""
    folder, rng = tmp_path / "data" / "cifar-10-batches-py", np.random.default_rng(0)
    folder.mkdir(parents=True)

    def written(name: str, content: dict[str, object]) -> str:
        data = pickle.dumps(content, protocol=2)
        (folder / name).write_bytes(data)
        return hashlib.md5(data, usedforsecurity=False).hexdigest()

    def batch(name: str) -> tuple[str, str]:
        pixels = rng.integers(0, 256, (8, 3072), dtype=np.uint8)
        labels = [int(label) for label in rng.integers(0, 10, 8)]
        return name, written(name, {"data": pixels, "labels": labels, "filenames": [], "batch_label": name})

    meta = written("batches.meta", {"label_names": list(LABELS), "num_vis": 3072, "num_cases_per_batch": 8})
    monkeypatch.setattr(CIFAR10, "train_list", [batch(f"data_batch_{number}") for number in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [batch("test_batch")])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": meta})
    return folder.parent


def run(data: Path, out: Path, epochs: int) -> Result:
    threads = torch.get_num_threads()
    options = f"--batch 4 --held-out 32 --threads 1 --device cpu --rate 0.01 --epochs {epochs}".split()
    try:
        return CliRunner().invoke(cifar10.train, ["--data", str(data), "--out", str(out), *options])
    finally:
        torch.set_num_threads(threads)


def test_an_epoch_leaves_the_best_weights_and_one_look_at_the_test_set(data: Path, tmp_path: Path) -> None:
    result = run(data, tmp_path / "out", 1)
    assert result.exit_code == 0, result.output
    assert result.output.count("Test accuracy") == 1
    state = torch.load(tmp_path / "out" / "best_model.pth", weights_only=True)
    assert set(state) == {"model_state_dict", "epoch", "best_val_acc"}
    assert type(state["epoch"]) is int and type(state["best_val_acc"]) is float
    PyramidNet().load_state_dict(state["model_state_dict"])


def test_a_training_that_was_interrupted_ends_with_the_weights_of_one_that_was_not(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(data, tmp_path / "whole", 2).exit_code == 0
    accuracy, calls = cifar10.accuracy, list[int]()

    def fail_at_second_call(*arguments: object) -> float:
        calls.append(1)
        if len(calls) == 2:  # the second epoch's validation
            raise KeyboardInterrupt
        return accuracy(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(cifar10, "accuracy", fail_at_second_call)
        assert run(data, tmp_path / "broken", 2).exit_code != 0
    resumed = run(data, tmp_path / "broken", 2)
    assert resumed.exit_code == 0, resumed.output
    assert "going on after 1 epochs" in resumed.output
    first, second = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["network"] for name in ("whole", "broken")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_no_picture_is_both_trained_on_and_held_out(data: Path) -> None:
    training, validation, test = cifar10.loaders(data, 8, 15, seed=3)
    first, second = (set(loader.dataset.indices) for loader in (training, validation))  # type: ignore[attr-defined]
    assert len(first) == 25 and len(second) == 15 and not first & second
    assert len(test.dataset) == 8  # type: ignore[arg-type]
    again = cifar10.loaders(data, 8, 15, seed=3)[1]
    assert set(again.dataset.indices) == second  # type: ignore[attr-defined]


def test_the_rate_falls_at_half_and_at_three_quarters() -> None:
    rates = [cifar10.rate_at(epoch, 300, 0.1) for epoch in (0, 149, 150, 224, 225, 299)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_without_cifar10_the_message_says_what_to_download_and_where_to_put_it(tmp_path: Path) -> None:
    result = run(tmp_path, tmp_path / "out", 1)
    assert result.exit_code == 1
    assert "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz" in result.output
    assert str(tmp_path / "cifar-10-batches-py" / "data_batch_1") in result.output
