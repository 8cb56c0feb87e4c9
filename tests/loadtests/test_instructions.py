import math
import os
import sys
import time
from pathlib import Path

import pytest

from loadtests import instructions

PERF = """#!{python}
import signal, sys
if sys.argv[-1] == "true":
    print("7,,instructions:u,100,100.00,,", file=sys.stderr)
else:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    open({ready!r}, "w").close()
    signal.sigwait([signal.SIGINT])
    print(f"{{sys.argv[-1].replace(',', '')}},,instructions:u,100,100.00,,", file=sys.stderr)
"""
"""Stands for `perf` on the many machines that do not count: its count is the ids of the processes, in one number."""


def test_counts_of_all_kinds_of_cores_are_summed_and_what_was_not_counted_is_no_number() -> None:
    assert instructions.read_count("1200,,instructions:u,1000,100.00,,\n") == 1200
    both = "10,,cpu_atom/instructions:u/,5,50.00,,\n32,,cpu_core/instructions:u/,5,50.00,,\n"
    assert instructions.read_count(both) == 42
    for nothing in ("<not supported>,,instructions:u,0,100.00,,\n", "<not counted>,,instructions:u,0,0.00,,\n", ""):
        assert math.isnan(instructions.read_count(nothing))


def test_an_action_is_counted_where_the_machine_counts_and_done_in_any_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, count = instructions.count_during([os.getpid()], lambda: sum(range(1000)))
    assert result == 499500 and (count > 1000 if instructions.are_counted() else math.isnan(count))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not instructions.are_counted()
    result, count = instructions.count_during([1], lambda: 3)
    assert result == 3 and math.isnan(count)


def test_all_processes_are_counted_until_the_action_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = tmp_path / "ready"
    (tmp_path / "perf").write_text(PERF.format(python=sys.executable, ready=str(ready)))
    (tmp_path / "perf").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    def action() -> str:
        while not ready.exists():
            time.sleep(0.01)
        return "done"

    assert instructions.count_during([12, 34], action) == ("done", 1234.0)
