"""Checkpoints of a training: dictionaries of tensors and numbers, of which each file is written whole or not at all."""

from pathlib import Path
from typing import Any

import torch

from atomic_write import atomic_write


def save(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint; an interruption leaves the last one."""
    with atomic_write(path) as file:
        torch.save(state, file)


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """Read a checkpoint onto a device, or return None if there is none yet; code in the file is never run."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state
