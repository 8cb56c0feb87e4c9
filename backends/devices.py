"""Which device predictions run on. PyTorch, 600 MB, is imported only where it may find one."""

import logging
import os
import re
import sys

from errors import DeviceMissing

logger = logging.getLogger("vitrine.backends")

_NVIDIA = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg")


def parse(text: str) -> str:
    """A device as `choose` takes it: `auto`, `cpu`, `torch-cpu`, `mps` or `cuda:0`; plain `cuda` is `cuda:0`.

    Raises:
        ValueError: none of these; the message lists them.
    """
    wanted = text.strip().lower()
    if wanted in ("auto", "cpu", "torch-cpu", "mps"):
        return wanted
    if match := re.fullmatch(r"cuda(?::([0-9]{1,3}))?", wanted):
        return f"cuda:{int(match[1] or 0)}"
    raise ValueError(f"{text!r} is no device. Allowed: auto, cpu, torch-cpu, mps, cuda, cuda:0, cuda:1, …")


def choose(wanted: str) -> str:
    """The device to run on.

    Args:
        wanted: see `parse`; `auto` is CUDA, else MPS, else `cpu`.

    Returns:
        `cuda:0` (or another index), `mps` or `torch-cpu`, all PyTorch; or `cpu`, which is ONNX Runtime.

    Raises:
        DeviceMissing: PyTorch, or the device, is not there; the message says what to do.
        ValueError: see `parse`.
    """
    device = parse(wanted)
    if device == "cpu" or (device == "auto" and not _likely()):
        return "cpu"
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: one of its libraries does not load
        if device == "auto":
            logger.warning("Predictions run on the CPU: PyTorch, for anything faster, cannot be imported (%s).", error)
            return "cpu"
        raise DeviceMissing(
            f"VITRINE_DEVICE={wanted} needs PyTorch, and it cannot be imported here ({error}). "
            "Install Vitrine's `torch` extra, or set VITRINE_DEVICE=cpu."
        ) from error
    found = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        found.append("mps")
    if device == "auto":
        if not found:
            logger.warning("Predictions run on the CPU: PyTorch %s finds no accelerator.", torch.__version__)
        return found[0] if found else "cpu"
    if device not in (*found, "torch-cpu"):
        there = ", ".join(found) or "neither CUDA nor MPS"
        raise DeviceMissing(
            f"VITRINE_DEVICE={wanted}: PyTorch {torch.__version__} finds {there} here. "
            f"Set VITRINE_DEVICE={found[0] if found else 'cpu'}, or check the driver and what the container is given."
        )
    return device


def _likely() -> bool:
    """Whether there may be CUDA (a device node of NVIDIA's driver, or WSL's) or MPS (macOS)."""
    return sys.platform == "darwin" or any(map(os.path.exists, _NVIDIA))
