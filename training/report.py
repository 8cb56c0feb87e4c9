"""The report of a model, `report.json`: what was measured, and under which conditions."""

import json
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from models.package import REPORT
from runners.cores import available_cores


def conditions(command: str) -> dict[str, Any]:
    """Return the command, date, machine and library versions of a measurement."""
    return {
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, {available_cores()} cores",
        "versions": {name: version(name) for name in ("numpy", "onnxruntime", "opencv-python-headless", "torch")},
    }


def write_report(package: Path, metrics: dict[str, Any], command: str, **sections: Any) -> dict[str, Any]:
    """Write the report into a package's folder, with the conditions of this process.

    Args:
        package: the folder.
        metrics: name → value, as the card lists them.
        command: the command that measured them.
        sections: further sections by name.

    Returns:
        The report as written.
    """
    report = {"metrics": metrics, **sections, "conditions": conditions(command)}
    (package / REPORT).write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    return report
