"""The comparison as tables between two marks in a document, and as data."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from loadtests.compare.figures import Aim, Row, aims, row
from loadtests.compare.regimes import COMPUTE, OVERHEAD
from loadtests.compare.turns import CLIENTS, RAW, Turn

BEGIN, END = "<!-- compare:begin -->", "<!-- compare:end -->"
DECIDES = {COMPUTE: 16, OVERHEAD: 64}
"""The number of clients whose throughput orders a regime's table."""
ABOUT = {
    COMPUTE: "kidney-stone (EfficientNet-B4, 224 px, CLAHE), phantoms as JPEG",
    OVERHEAD: "the cheapest image model (one 3×3 convolution, 32 px), pictures of 32 px as JPEG",
}


class Run(NamedTuple):
    """All of one run: its turns, what could not be installed and why, titles with versions, and the conditions."""

    turns: Sequence[Turn]
    missing: dict[str, str]
    titles: dict[str, str]
    conditions: str
    settings: str
    ceiling: float

    def rows(self, regime: str) -> list[Row]:
        """A regime's contestants: raw, then the fastest first, then those without a figure."""
        made = [row(self.turns, regime, name) for name in self.titles]
        return sorted(made, key=lambda each: (each.name != RAW, -_or_zero(each.rate[DECIDES[regime]])))

    def aims(self) -> list[Aim]:
        """The ratios that are aimed for."""
        return aims(self.turns, self.titles)


def block(run: Run) -> str:
    """What stands between the marks."""
    parts = [f"{run.conditions}\n\n{run.settings}"]
    for regime in dict.fromkeys(turn.regime for turn in run.turns):
        parts += [f"### {regime.capitalize()}: {ABOUT[regime]}", _table(run, regime)]
    parts += ["### Aims", _aims(run.aims())]
    return "\n\n".join(parts)


def _table(run: Run, regime: str) -> str:
    counts = " / ".join(map(str, CLIENTS))
    heads = ["server", f"a second at {counts} clients", f"p50 ms at {counts}", f"p99 ms at {counts}"]
    heads += [f"processor ms an answer at {counts}", "errors", "memory MiB", "start-up s"]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for each in run.rows(regime):
        title = run.titles[each.name]
        if math.isnan(each.rate[1]):
            reason = run.missing.get(each.name) or each.problem or "not measured"
            lines.append([title, f"missing: {_cell(reason)}", *[""] * (len(heads) - 2)])
            continue
        figures = [_over(each.rate, 1), _over(each.p50_ms, 1), _over(each.p99_ms, 1), _over(each.cpu_ms, 2)]
        errors = f"{each.errors:,} of {each.requests:,}" if each.requests else "–"
        lines.append([title, *figures, errors, _number(each.memory_mib, 0), _number(each.start_s, 1)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _aims(found: Sequence[Aim]) -> str:
    lines = ["| ratio | median (rounds) | aim | |", "| --- | ---: | ---: | --- |"]
    for each in found:
        value = f"{_number(each.ratio, 2)} ({_number(each.low, 2)} to {_number(each.high, 2)})"
        verdict = "not measured" if math.isnan(each.ratio) else "met" if each.met else "missed"
        lines.append(f"| {each.what} | {value} | {each.sign} {each.wanted:g} | {verdict} |")
    return "\n".join(lines)


def rewrite(document: Path, text: str) -> None:
    """Put a text between the marks of a document; at its end where there are none."""
    before = document.read_text("utf-8") if document.exists() else "# Performance\n"
    marked = f"{BEGIN}\n{text}\n{END}"
    changed, count = re.subn(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: marked, before, flags=re.DOTALL)
    document.write_text(changed if count else f"{before.rstrip()}\n\n{marked}\n", "utf-8")


def save(run: Run, file: Path) -> None:
    """Write all figures of every turn, so that other questions can be asked of them."""
    turns = [asdict(turn) | {"loads": {key: each._asdict() for key, each in turn.loads.items()}} for turn in run.turns]
    for turn, came_from in zip(turns, run.turns, strict=True):
        turn["open_loop"] = came_from.open_loop and came_from.open_loop._asdict()
    whole = run._asdict() | {"turns": turns, "aims": [each._asdict() | {"met": each.met} for each in run.aims()]}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(_plain(whole), indent=1, ensure_ascii=False) + "\n", "utf-8")


def _plain(value: Any) -> Any:
    """JSON has no NaN, and nobody needs a ninth digit."""
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _over(figures: dict[int, float], digits: int) -> str:
    return " / ".join(_number(figures[clients], digits) for clients in CLIENTS)


def _number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:,.{0 if value >= 1000 else digits}f}"


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value
