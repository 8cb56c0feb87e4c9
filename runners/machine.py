"""What a measurement was made on: two runs can only be compared where this is the same."""

import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import cv2
import onnxruntime as ort

from runners.cpu_plan import cores


def conditions() -> str:
    """Date, machine and versions of a measurement."""
    machine = f"{platform.system()} {platform.machine()}, {cores()} cores, {processor()}"
    versions = f"Python {platform.python_version()}, ONNX Runtime {ort.__version__}, OpenCV {cv2.__version__}"
    return f"{datetime.now(UTC).date()}, {machine}\n{versions}"


def machine_of(device: str, available: int) -> str:
    """What a tuned plan depends on besides the model, in one line: device, cores, processor, runtime.

    Args:
        device: as `runners.backend.device_of` names it.
        available: cores of this process.
    """
    runtime = f"ONNX Runtime {ort.__version__}" if device == "cpu" else f"PyTorch {version('torch')}"
    return f"{_named(device)}, {available} × {processor()}, {runtime}"


def processor() -> str:
    """The processor's name, its architecture where it has none."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()


def _named(device: str) -> str:
    if not device.startswith("cuda"):
        return device
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})"
