"""The device that predictions run on. PyTorch, 600 MB, is imported only where it may find one."""

import logging
import os
import re
import sys

from errors import DeviceMissing

logger = logging.getLogger("vitrine.backends")

_NVIDIA = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg")


def parse(text: str) -> str:
    """Return a device as `choose` takes it: `auto`, `cpu`, `torch-cpu`, `mps` or `cuda:0`, which `cuda` stands for.

    Raises:
        ValueError: the text names no device; the message lists those that are allowed.
    """
    device = text.strip().lower()
    if device in ("auto", "cpu", "torch-cpu", "mps"):
        return device
    if match := re.fullmatch(r"cuda(?::([0-9]{1,3}))?", device):
        return f"cuda:{int(match[1] or 0)}"
    raise ValueError(f"{text!r} is no device. Allowed: auto, cpu, torch-cpu, mps, cuda, cuda:0, cuda:1, …")


def choose(requested: str) -> str:
    """Return the device to run on.

    Args:
        requested: a text that `parse` takes; `auto` means CUDA, else MPS, else `cpu`.

    Returns:
        `cuda:0` (or another index), `mps` or `torch-cpu`, all PyTorch; or `cpu`, which is ONNX Runtime.

    Raises:
        DeviceMissing: PyTorch, or the device, is not there; the message says what to do.
        ValueError: the text names no device.
    """
    device = parse(requested)
    if device == "cpu" or (device == "auto" and not may_have_accelerator()):
        return "cpu"
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: one of its libraries does not load
        if device == "auto":
            logger.warning("Predictions run on the CPU: PyTorch, for anything faster, cannot be imported (%s).", error)
            return "cpu"
        raise DeviceMissing(
            f"VITRINE_DEVICE={requested} needs PyTorch, and it cannot be imported here ({error}). "
            "Install Vitrine's `torch` extra, or set VITRINE_DEVICE=cpu."
        ) from error
    accelerators = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        accelerators.append("mps")
    if device == "auto":
        if not accelerators:
            logger.warning("Predictions run on the CPU: PyTorch %s finds no accelerator.", torch.__version__)
        return accelerators[0] if accelerators else "cpu"
    if device not in (*accelerators, "torch-cpu"):
        names = ", ".join(accelerators) or "neither CUDA nor MPS"
        raise DeviceMissing(
            f"VITRINE_DEVICE={requested}: PyTorch {torch.__version__} finds {names} here. "
            f"Set VITRINE_DEVICE={(*accelerators, 'cpu')[0]}, or check the driver and what the container is given."
        )
    return device


def may_have_accelerator() -> bool:
    """Return whether there may be CUDA (a device node of NVIDIA's driver, or WSL's) or MPS (macOS)."""
    return sys.platform == "darwin" or any(map(os.path.exists, _NVIDIA))
