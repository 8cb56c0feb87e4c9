"""Training on 40 drawings in the layout of CIFAR-10."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from models.architectures.pyramidnet import Block, PyramidNet
from training.cifar10 import train as cifar10


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

    step = cifar10.Optimiser.step

    def fail_at_fourth_call(*arguments: object) -> None:
        calls.append(1)
        if len(calls) == 4:  # the second step of the second epoch
            raise KeyboardInterrupt
        step(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(cifar10.Optimiser, "step", fail_at_fourth_call)
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
    weight, earlier = state["layer3.0.conv2.weight"], trained.state_dict()["layer3.0.conv2.weight"]
    assert torch.allclose(weight / weight.norm(), earlier / earlier.norm(), atol=1e-6)
    assert torch.equal(state["layer3.0.bn3.weight"], trained.state_dict()["layer3.0.bn3.weight"])


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


def test_filters_move_equally_in_all_directions_and_keep_their_length() -> None:
    """Muon's update is the gradient with its singular values set to one; then the filters get back their length."""
    network = cifar10.initial_network().to(memory_format=torch.channels_last)
    optimiser, rate = cifar10.Optimiser(network), 0.1
    block = network.layer1[0]
    assert isinstance(block, Block)
    torch.manual_seed(0)
    torch.nn.init.ones_(block.bn3.weight)  # or the block would not learn yet
    before = block.conv1.weight.detach().clone()
    images = torch.randn(8, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    optimiser.step(torch.nn.functional.cross_entropy(network(images), torch.arange(8)), rate)
    assert block.conv1.weight.grad is not None
    left, _, right = torch.linalg.svd(block.conv1.weight.grad.flatten(1), full_matrices=False)
    expected = before.flatten(1) - cifar10.FILTERS_RATE * rate * left @ right
    expected *= len(before) ** 0.5 / expected.norm()
    after = block.conv1.weight.detach()
    assert after.norm() == pytest.approx(len(after) ** 0.5, rel=1e-5)
    moved, should = (value.flatten() - before.flatten() for value in (after, expected))
    # Five steps of Newton and Schulz bring singular values near one, not onto it.
    assert torch.nn.functional.cosine_similarity(moved, should, dim=0) > 0.95
    assert moved.norm() == pytest.approx(float(should.norm()), rel=0.3)


def test_norms_and_the_last_layer_are_trained_by_sgd_and_filters_that_got_no_gradient_stay() -> None:
    network = cifar10.initial_network().to(memory_format=torch.channels_last)
    optimiser = cifar10.Optimiser(network)
    left_out, taken = network.layer1[1], network.layer1[0]
    assert isinstance(left_out, Block) and isinstance(taken, Block)
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    images = torch.randn(8, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    loss = torch.nn.functional.cross_entropy(cifar10.Shallow(network)(images), torch.arange(8))
    optimiser.step(loss, 0.1)
    changed = {name for name, value in network.named_parameters() if not torch.equal(value, before[name])}
    assert "fc_out.weight" in changed and "bn_out.bias" in changed and "conv1.weight" in changed
    assert not any(name.startswith("layer1.1.") for name in changed)
    bias = network.fc_out.bias
    assert bias.grad is not None  # at the first step Nesterov's momentum adds its 0.9 to the gradient
    assert torch.allclose(bias, before["fc_out.bias"] - 0.1 * 1.9 * bias.grad, atol=1e-6)


def test_filters_that_could_only_be_copied_are_refused() -> None:
    network = torch.nn.Conv2d(3, 4, 3)
    with pytest.raises(RuntimeError, match="view"):
        cifar10.Optimiser(network)
    cifar10.Optimiser(network.to(memory_format=torch.channels_last))
