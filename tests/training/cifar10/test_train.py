"""Training on 40 drawings in the layout of CIFAR-10."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from models.architectures.pyramidnet import Block, PyramidNet
from training.cifar10 import train as cifar10
from training.loop import take_step


def run(data: Path, out: Path, epochs: int, *more: str) -> Result:
    threads = torch.get_num_threads()
    options = f"--batch 4 --held-out 32 --threads 1 --device cpu --rate 0.01 --epochs {epochs}".split()
    try:
        return CliRunner().invoke(cifar10.train, ["--data", str(data), "--out", str(out), *options, *more])
    finally:
        torch.set_num_threads(threads)


def test_a_training_that_was_interrupted_ends_with_the_weights_of_one_that_was_not(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(data, tmp_path / "whole", 2)
    assert whole.exit_code == 0, whole.output
    state = torch.load(tmp_path / "whole" / "best_model.pth", weights_only=True)
    assert set(state) == {"model_state_dict", "epoch", "best_val_acc"}
    assert state["epoch"] == 2 and type(state["best_val_acc"]) is float
    PyramidNet().load_state_dict(state["model_state_dict"])

    calls = list[int]()

    def fail_at_fourth_call(*arguments: object) -> None:
        calls.append(1)
        if len(calls) == 4:  # the second step of the second epoch
            raise KeyboardInterrupt
        take_step(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr("training.cifar10.train.take_step", fail_at_fourth_call)
        assert run(data, tmp_path / "broken", 2).exit_code != 0
    resumed = run(data, tmp_path / "broken", 2)
    assert resumed.exit_code == 0, resumed.output
    assert "going on after 2 steps" in resumed.output
    first, second = (
        torch.load(tmp_path / name / "best_model.pth", weights_only=True)["model_state_dict"]
        for name in ("whole", "broken")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_cycle_goes_on_from_the_weights_of_the_first(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)  # a training without these weights begins with those of seed 0
    trained = PyramidNet(10)
    torch.save(trained.state_dict(), tmp_path / "trained.pth")
    result = run(data, tmp_path / "next", 1, "--rate", "0", "--start-from", str(tmp_path / "trained.pth"))
    assert result.exit_code == 0, result.output
    state = torch.load(tmp_path / "next" / "best_model.pth", weights_only=True)["model_state_dict"]
    assert torch.equal(state["layer3.0.conv2.weight"], trained.state_dict()["layer3.0.conv2.weight"])


def test_pictures_and_depth_grow_and_the_rate_rises_and_falls() -> None:
    assert [cifar10.side_at(progress) for progress in (0.0, 0.84, 0.85, 0.99)] == [24, 24, 32, 32]
    assert [cifar10.side_at(progress, goes_on=True) for progress in (0.0, 0.49, 0.5, 0.99)] == [24, 24, 32, 32]
    assert [cifar10.is_shallow_at(progress) for progress in (0.0, 0.59, 0.6, 0.99)] == [True, True, False, False]
    assert not cifar10.is_shallow_at(0.0, goes_on=True)
    rates = [cifar10.rate_at(progress, 0.2) for progress in (0.0, 0.06, 0.12, 0.56, 1.0)]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.1, 0.0])


def test_at_first_every_block_gives_what_it_gets() -> None:
    block = cifar10.initial_network().layer1[1]
    assert isinstance(block, Block)
    features = torch.randn(2, block.bn1.num_features, 8, 8)
    outputs = block(features)
    assert torch.equal(outputs[:, : features.shape[1]], features) and not outputs[:, features.shape[1] :].any()


def test_the_shallow_network_is_the_whole_one_whose_other_blocks_have_not_begun() -> None:
    network = cifar10.initial_network().eval()
    began = [block for group in (network.layer1, network.layer2, network.layer3) for block in group[::3]]
    for block in began:
        assert isinstance(block, Block)
        torch.nn.init.normal_(block.bn3.weight)
    images = torch.randn(2, 3, 32, 32)
    logits = cifar10.Shallow(network)(images)
    assert torch.equal(logits, network(images)) and logits.std() > 0
    logits.sum().backward()
    learning = {name.rpartition(".bn3")[0] for name, value in network.named_parameters() if value.grad is not None}
    assert learning - {""} == {f"layer{group}.{block}" for group in (1, 2, 3) for block in range(0, 18, 3)}


def test_norms_and_biases_do_not_decay() -> None:
    network = cifar10.initial_network()
    decaying, rest = cifar10.optimiser_of(network).param_groups
    assert decaying["weight_decay"] == 5e-4 and rest["weight_decay"] == 0.0
    kinds = {
        name.rpartition(".")[0].rpartition(".")[2][:2] for name, value in network.named_parameters() if value.ndim > 1
    }
    assert kinds == {"co", "fc"}
    assert len(decaying["params"]) + len(rest["params"]) == len(list(network.parameters()))
