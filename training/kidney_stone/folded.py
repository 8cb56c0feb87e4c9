"""EfficientNet's blocks with their frozen batch norms folded into the convolutions, which trains them faster.

A frozen norm only scales and shifts each channel, so its scale can be multiplied into the weights of the convolution
before it: the same function of the same parameters, with the same gradients, and two passes less over the largest maps.
Pointwise convolutions may be computed in bfloat16, which is several times faster where a CPU has AMX. Depthwise ones
stay in float32, since PyTorch takes longer for the gradient of one in bfloat16.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def run_stage(stage: Any, features: Tensor, pointwise: torch.dtype) -> Tensor:
    """Apply one stage of timm's EfficientNet, whose batch norms are in evaluation mode.

    Args:
        stage: blocks to be applied one after the other.
        features: shape (N, C, h, w), float32.
        pointwise: what pointwise convolutions are computed in.

    Returns:
        The stage's output, float32.
    """
    for block in stage:
        features = _run_block(block, features, pointwise)
    return features


def _run_block(block: Any, features: Tensor, pointwise: torch.dtype) -> Tensor:
    widens = hasattr(block, "conv_pwl")
    inner = _convolve(block.conv_pw, block.bn1, features, pointwise, activate=True) if widens else features
    inner = _convolve(block.conv_dw, block.bn2 if widens else block.bn1, inner, torch.float32, activate=True)
    last, norm = (block.conv_pwl, block.bn3) if widens else (block.conv_pw, block.bn2)
    output = _convolve(last, norm, block.se(inner), pointwise)
    return output + features if block.has_skip else output


def _convolve(conv: Any, norm: Any, features: Tensor, dtype: torch.dtype, *, activate: bool = False) -> Tensor:
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    weight, shift = conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
    operands = (features.to(dtype), weight.to(dtype), shift.to(dtype))
    output = F.conv2d(*operands, conv.stride, conv.padding, conv.dilation, conv.groups).float()
    return F.silu(output) if activate else output
