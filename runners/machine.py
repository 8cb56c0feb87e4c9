"""The machine and the versions that a measurement depends on: two runs compare only where these are the same."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import cv2
import onnxruntime as ort

from runners.cores import available_cores


def conditions() -> str:
    """Return the date, the machine and the versions of a measurement, in two lines."""
    machine = f"{platform.system()} {platform.machine()}, {available_cores()} cores, {processor()}"
    versions = f"Python {platform.python_version()}, ONNX Runtime {ort.__version__}, OpenCV {cv2.__version__}"
    return f"{datetime.now(UTC).date()}, {machine}\n{versions}"


def machine_of(device: str, available: int) -> str:
    """Return what a tuned plan depends on besides the model, in one line: device, cores, processor, runtime.

    Args:
        device: where the model runs, such as `cpu`, `cuda:1` or `torch-cpu`.
        available: cores of this process.
    """
    runtime = f"ONNX Runtime {ort.__version__}" if device == "cpu" else f"PyTorch {version('torch')}"
    return f"{_device_name(device)}, {available} × {processor()}, {runtime}"


def processor() -> str:
    """Return the processor's name, or its architecture if it has no name."""
    if platform.system() == "Darwin":
        sysctl = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(sysctl, capture_output=True, text=True).stdout.strip() or platform.machine()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    arm = " ".join(fields[name] for name in ("CPU implementer", "CPU part") if name in fields)
    return fields.get("model name") or f"{platform.machine()} {arm}".strip()


def _device_name(device: str) -> str:
    if not device.startswith("cuda"):
        return device
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})"
