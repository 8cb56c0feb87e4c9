"""What training loops share: the number of threads, and one step of the optimiser."""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from runners.cores import available_cores


def use_threads(threads: int | None) -> None:
    """Let PyTorch compute with this many threads on the CPU; None stands for one on each core of this process."""
    torch.set_num_threads(threads or available_cores())


def take_step(
    loss: Tensor, optimiser: Optimizer, schedule: LRScheduler | None = None, *, max_norm: float | None = None
) -> None:
    """Move the parameters of an optimiser one step down the gradient of a loss.

    Args:
        loss: a scalar that depends on the parameters.
        optimiser: holds the parameters.
        schedule: sets the learning rate of the next step, if it varies with every step.
        max_norm: the gradient is scaled down to this norm if it is longer.
    """
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if max_norm is not None:
        nn.utils.clip_grad_norm_([value for group in optimiser.param_groups for value in group["params"]], max_norm)
    optimiser.step()
    if schedule is not None:
        schedule.step()
