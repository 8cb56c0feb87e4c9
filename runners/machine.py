"""What a measurement was made on: two runs can only be compared where this is the same."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import cv2
import onnxruntime as ort

from runners.plan import cores


def conditions() -> str:
    """Date, machine and versions of a measurement."""
    machine = f"{platform.system()} {platform.machine()}, {cores()} cores, {processor()}"
    versions = f"Python {platform.python_version()}, ONNX Runtime {ort.__version__}, OpenCV {cv2.__version__}"
    return f"{datetime.now(UTC).date()}, {machine}\n{versions}"


def machine_of(device: str, available: int) -> str:
    """What a tuned plan depends on besides the model, in one line: device, cores, processor, runtime.

    Args:
        device: as `serving.backend.device_of` names it.
        available: cores of this process.
    """
    runtime = f"ONNX Runtime {ort.__version__}" if device == "cpu" else f"PyTorch {version('torch')}"
    return f"{_named(device)}, {available} × {processor()}, {runtime}"


def processor() -> str:
    """The processor's name, its architecture where it has none."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if platform.system() == "Darwin":
        asked = subprocess.run(["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True)
        facts["model name"] = asked.stdout.strip()
    arm = " ".join(facts[name] for name in ("CPU implementer", "CPU part") if name in facts)
    return facts.get("model name") or f"{platform.machine()} {arm}".strip()


def _named(device: str) -> str:
    if not device.startswith("cuda"):
        return device
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})"
