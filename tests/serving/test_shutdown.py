"""The end of a process: what a signal does to it, with nothing stuck and with a request that never ends."""

import subprocess
import sys

from tests.conftest import ROOT

PROGRAM = """
import signal, sys, threading
from serving.repository import ModelRepository
from serving.options import RunnerOptions
from serving.shutdown import end_within

repository = ModelRepository([], RunnerOptions())
never, asked = threading.Event(), threading.Event()
signal.signal(signal.SIGTERM, lambda number, frame: asked.set())  # as the server asks itself to stop
end_within(float(sys.argv[1]), repository)
signal.raise_signal(signal.SIGTERM)
print(asked.is_set(), repository.closing, flush=True)
if sys.argv[2] == "stuck":
    never.wait()
"""


def run(seconds: float, last: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, str(seconds), last]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_the_first_signal_refuses_new_work_and_reaches_the_server_too() -> None:
    ended = run(60, "done")
    assert (ended.returncode, ended.stdout) == (0, "True True\n")


def test_what_is_stuck_ends_at_the_deadline_with_an_exit_code_that_says_so() -> None:
    ended = run(3, "stuck")
    assert (ended.returncode, ended.stdout) == (1, "True True\n")
    assert "ending with requests unanswered" in ended.stderr
