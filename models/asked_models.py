"""The models that an operator asked for by name, and what to say where one of them is not there."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_NAMED = 20


@dataclass(frozen=True)
class AskedModels:
    """What has to be served before a server is ready.

    Attributes:
        chosen: name and beginning of a version (empty: whichever is in service) of each model of VITRINE_MODELS.
        known: the names of all models that could be served.
    """

    chosen: Sequence[tuple[str, str]] = ()
    known: frozenset[str] = frozenset()

    def absences(
        self, served: Mapping[str, Mapping[str, Any]], reasons: Mapping[str, str], excused: Collection[str] = ()
    ) -> list[str]:
        """Return a sentence for each chosen model that is not served.

        Args:
            served: the versions that are served by the name of their model.
            reasons: why a model is not there, and what to do about it, by the names of those of which that is known.
            excused: the names of models that may be absent.
        """
        absences = list[str]()
        for name, beginning in self.chosen:
            versions = served.get(name, {})
            if name in excused:
                continue
            if beginning and not any(version.startswith(beginning) for version in versions):
                there = ", ".join(versions) or "none"
                absences.append(
                    f"VITRINE_MODELS asks for {name}:{beginning}, which is not served. Versions that are: {there}. "
                    f"{self.advice(name) or 'Install that version, then start the server anew.'}"
                )
            elif not versions:
                reason = reasons.get(name) or self.advice(name) or "It is not installed."
                absences.append(f"VITRINE_MODELS asks for {name}, which is not served. {reason}")
        return absences

    def default_absence(self, default: str) -> str:
        """Return why there is no default model, and what to do about it."""
        names = [name for name, _ in self.chosen]
        if names and default not in names:
            return (
                f"The default model is {default}, which VITRINE_MODELS leaves out. "
                f"Set VITRINE_DEFAULT_MODEL={(nearest(default, names) or names)[0]}."
            )
        return f"VITRINE_DEFAULT_MODEL={default}: {self.advice(default) or 'it is not installed.'}"

    def advice(self, name: str) -> str:
        """Return which models are known, and which of them has the nearest name; empty for a known one."""
        return "" if name in self.known else f"There is no such model. {known_names(name, self.known)}"


def known_names(name: str, known: Collection[str]) -> str:
    """Return a sentence with the known names, and one with the nearest to a name that is not known."""
    some = sorted(known)
    listed = ", ".join(some[:MOST_NAMED]) + (", …" if len(some) > MOST_NAMED else "")
    near = nearest(name, some)
    return f"Known models: {listed or 'none'}." + (f" Did you mean {near[0]}?" if near else "")


def nearest(name: str, known: Collection[str]) -> list[str]:
    """Return the known name that is most like a name, if any is like it."""
    return difflib.get_close_matches(name, known, 1)
