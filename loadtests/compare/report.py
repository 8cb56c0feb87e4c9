"""Writes the comparison as tables between two marks in a document, and as data."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from loadtests.compare.figures import DECIDES, Aim, Row, aims, row
from loadtests.compare.regimes import COMPUTE, OVERHEAD, ROWS
from loadtests.compare.turns import CLIENTS, RAW, Turn

MARKS = "<!-- compare:begin -->", "<!-- compare:end -->"
ABOUT = {
    COMPUTE: "kidney-stone (EfficientNet-B4, 224 px, CLAHE), phantoms as JPEG",
    OVERHEAD: "the cheapest image model (one 3×3 convolution, 32 px), pictures of 32 px as JPEG",
    ROWS: "churn (two hidden layers on six numbers), one row as JSON",
}


class Run(NamedTuple):
    """A whole run: its turns, what could not be installed and why, titles with versions, and the conditions."""

    turns: Sequence[Turn]
    missing: dict[str, str]
    titles: dict[str, str]
    conditions: str
    settings: str
    ceiling: float

    def rows(self, regime: str) -> list[Row]:
        """Return a regime's contestants: raw, then the fastest first, then those without a figure."""
        rows = [row(self.turns, regime, name) for name in self.titles]
        rates = {own.name: own.loads[DECIDES[regime]].rate for own in rows}
        return sorted(rows, key=lambda own: (own.name != RAW, math.isnan(rates[own.name]), -rates[own.name]))

    def aims(self) -> list[Aim]:
        """Return the ratios that Vitrine aims for."""
        return aims(self.turns, self.titles)

    @property
    def counts_instructions(self) -> bool:
        """Whether any load's instructions were counted."""
        return any(not math.isnan(load.instructions) for turn in self.turns for load in turn.loads.values())


def block(run: Run) -> str:
    """Return the text between the marks."""
    parts = [run.conditions, run.settings]
    if not run.counts_instructions:
        parts.append("This machine does not count instructions, so there is no column of them.")
    for regime in dict.fromkeys(turn.regime for turn in run.turns):
        parts += [f"### {regime.capitalize()}: {ABOUT[regime]}", _table(run, regime)]
    parts += ["### Aims", _aims_table(run.aims())]
    return "\n\n".join(parts)


def _table(run: Run, regime: str) -> str:
    counts = " / ".join(map(str, CLIENTS))
    heads = ["server", f"a second at {counts} clients", f"p50 ms at {counts}", f"p99 ms at {counts}"]
    heads += [f"processor ms an answer at {counts}"]
    heads += [f"thousand instructions a request at {counts}"] if run.counts_instructions else []
    heads += ["errors", "memory MiB", "start-up s", "rounds"]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for own in run.rows(regime):
        title = run.titles[own.name]
        if math.isnan(own.loads[1].rate):
            reason = run.missing.get(own.name) or own.problem or "not measured"
            reason = reason.replace("|", "/").replace("\n", " ")
            lines.append([title, f"missing: {reason}", *[""] * (len(heads) - 2)])
            continue
        loads = [own.loads[clients] for clients in CLIENTS]
        columns = [([getattr(load, name) for load in loads], 1) for name in ("rate", "p50_ms", "p99_ms")]
        columns += [([load.cpu_ms for load in loads], 2)]
        columns += [([load.instructions / 1e3 for load in loads], 1)] if run.counts_instructions else []
        figures = [" / ".join(_number(value, digits) for value in values) for values, digits in columns]
        errors = f"{own.errors:,} of {own.requests:,}" if own.requests else "–"
        rest = [_number(own.memory_mib, 0), _number(own.start_s, 1), str(own.rounds)]
        lines.append([title, *figures, errors, *rest])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _aims_table(rows: Sequence[Aim]) -> str:
    lines = ["| ratio | median (rounds) | aim | |", "| --- | ---: | ---: | --- |"]
    for aim in rows:
        value = f"{_number(aim.ratio, 2)} ({_number(aim.low, 2)} to {_number(aim.high, 2)})"
        verdict = "not measured" if math.isnan(aim.ratio) else "met" if aim.met else "missed"
        lines.append(f"| {aim.what} | {value} | {aim.sign} {aim.bound:g} | {verdict} |")
    return "\n".join(lines)


def rewrite(document: Path, text: str, marks: tuple[str, str] = MARKS) -> None:
    """Put a text between the two marks of a document, or at its end if it has none."""
    before = document.read_text("utf-8") if document.exists() else f"# {document.stem.capitalize()}\n"
    (begin, end), marked = marks, f"{marks[0]}\n{text}\n{marks[1]}"
    changed, count = re.subn(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: marked, before, flags=re.DOTALL)
    document.write_text(changed if count else f"{before.rstrip()}\n\n{marked}\n", "utf-8")


def save(run: Run, file: Path) -> None:
    """Write all figures of every turn as JSON, from which other questions can be answered."""
    turns, aims = map(asdict, run.turns), [aim._asdict() | {"met": aim.met} for aim in run.aims()]
    whole = run._asdict() | {"turns": list(turns), "aims": aims}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(_plain(whole), indent=1, ensure_ascii=False) + "\n", "utf-8")


def _plain(value: Any) -> Any:
    """Round numbers to five digits, and replace NaN, which JSON does not have, by None."""
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:,.{0 if value >= 1000 else digits}f}"
