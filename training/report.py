"""`report.json`: what was measured of a model, under which conditions."""

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from models.package import REPORT


def conditions(command: str) -> dict[str, Any]:
    """The command, date, machine and versions behind figures."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, {cores} cores",
        "versions": {name: version(name) for name in ("numpy", "onnxruntime", "opencv-python-headless", "torch")},
    }


def write_report(package: Path, metrics: dict[str, Any], measured: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Write a package's report; gives what was written."""
    written = {"metrics": metrics, **more, "conditions": measured}
    (package / REPORT).write_text(json.dumps(written, indent=2) + "\n", "utf-8")
    return written
