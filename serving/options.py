"""What an operator sets for every Runner."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from runners.cores import available_cores
from runners.plan import Plan


@dataclass(frozen=True)
class RunnerOptions:
    """Settings of Runners; what is None is left to the tuned plan where there is one, else to the machine's own plan.

    The cores are divided by `workers`, the processes that serve the same models. Where every lane always has work,
    `narrow` saves the memory of the sessions that a lone item would run on.
    """

    queue_ms: float = 2000.0
    queue_size: int = 16_384
    timeout_ms: int = 30_000
    max_batch: int | None = None
    linger_ms: float | None = None
    device: str = "auto"
    gather: bool = True
    workers: int = 1
    narrow: bool = False

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "RunnerOptions":
        """Pick the fields of a Runner out of all settings."""
        return cls(**{option.name: settings[option.name] for option in fields(cls) if option.name != "narrow"})

    def cores(self) -> int:
        """Return the number of cores of one worker."""
        return max(1, available_cores() // self.workers)

    def override(self, plan: Plan) -> Plan:
        """Return the plan with what the operator set in place of its own values."""
        settings: dict[str, Any] = {"max_batch": self.max_batch, "linger_ms": self.linger_ms}
        settings |= {"widths": (1,)} if self.narrow else {}
        return replace(plan, **{name: value for name, value in settings.items() if value is not None})
