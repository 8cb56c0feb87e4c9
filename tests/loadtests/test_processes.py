import sys
import time
from pathlib import Path

import psutil
import pytest

from loadtests import processes

STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(60)
    os._exit(0)
time.sleep(60)
"""


def test_a_server_that_ignores_the_signal_and_its_orphan_are_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "GRACE_S", 0.2)
    monkeypatch.setattr(processes, "AGAIN_S", 0.2)
    members, folders = list[psutil.Process](), list[Path]()

    def serve_until_interrupted() -> None:
        with processes.started([sys.executable, "-c", STUBBORN], {}, None, tmp_path / "log.txt") as tree:
            deadline = time.monotonic() + 30
            while len(members) != 2 or any(member.ppid() == tree.process.pid for member in members):
                assert time.monotonic() < deadline
                time.sleep(0.02)
                members[:] = tree.members()
            folders[:] = {Path(member.environ()["TMPDIR"]) for member in members}
            assert folders[0].exists() and min(tree.memory_mib()) > 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        serve_until_interrupted()
    assert len(members) == 2 and not any(processes.is_alive(member) for member in members)
    assert len(folders) == 1 and not folders[0].exists()


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS does not tell what children took")
def test_processor_time_is_that_of_all_processes_also_of_those_that_have_ended(tmp_path: Path) -> None:
    busy = "import time\nwhile time.process_time() < 0.5: pass\n"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}]); print('done', flush=True)\n"
    log = tmp_path / "log.txt"
    with processes.started([sys.executable, "-c", f"{busy}{code}time.sleep(60)"], {}, tmp_path, log) as tree:
        deadline = time.monotonic() + 30
        while "done" not in log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert 0.95 <= tree.cpu_s() < 1.45  # one of them twice would be 1.5
