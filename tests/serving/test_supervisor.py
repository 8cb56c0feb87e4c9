"""BentoML's real supervisor, with our watch, over a process that does nothing but beat."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from circus.sockets import CircusSocket
from tornado.ioloop import IOLoop

from serving.heartbeat import SUPERVISOR as SUPERVISOR_VARIABLE
from serving.heartbeat import Heartbeat, Watchdog, heartbeat_file
from serving.supervisor import MOST_AT_ONCE, Watch, watch_processes
from tests.conftest import ROOT
from tests.live.server import wait_until

SUPERVISOR = """
import sys
from pathlib import Path
from bentoml._internal.utils.circus import create_standalone_arbiter
from bentoml.serving import create_watcher
from serving.supervisor import watch_processes

watch_processes(Path(sys.argv[1]), 2.0)
watcher = create_watcher(name="beating", args=["-c", sys.argv[2], sys.argv[1]])
create_standalone_arbiter([watcher], check_delay=3600).start()  # so that circus itself replaces nothing
"""
BEATING = """
import asyncio, os, signal, sys, time
from pathlib import Path
from serving.heartbeat import Heartbeat

async def run():
    signal.signal(signal.SIGUSR1, lambda number, frame: time.sleep(600))  # the event loop stands still
    Heartbeat(Path(sys.argv[1])).start()
    print(os.getpid(), flush=True)
    await asyncio.sleep(600)

asyncio.run(run())
"""


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    environment = {key: value for key, value in os.environ.items() if key != "BENTOML_CONTAINERIZED"}
    command = [sys.executable, "-c", SUPERVISOR, str(tmp_path), BEATING]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    yield process
    if process.poll() is None:
        process.terminate()
    assert process.stdout is not None
    process.stdout.close()
    process.wait(60)


def test_what_dies_hangs_or_is_stopped_is_replaced_and_ends_with_its_supervisor(
    supervisor: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    assert supervisor.stdout is not None
    process = psutil.Process(int(supervisor.stdout.readline()))
    for fault in (signal.SIGKILL, signal.SIGUSR1, signal.SIGSTOP):
        process.send_signal(fault)
        successor = psutil.Process(int(supervisor.stdout.readline()))
        assert successor != process and not process.is_running()
        process = successor
    supervisor.kill()
    wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)


def test_only_silence_in_every_look_counts_as_hanging(tmp_path: Path) -> None:
    watchdog, beating = Watchdog(tmp_path, 2), heartbeat_file(tmp_path, 7)
    assert [watchdog.hung([7, 8]) for _ in range(4)] == [[]] * 4  # neither has begun to beat
    for no_count in (b"", bytes(8)):  # it could not write, as on a full disk
        beating.write_bytes(no_count)
        assert [watchdog.hung([7]) for _ in range(4)] == [[]] * 4
    beating.write_bytes((1).to_bytes(8))
    assert [watchdog.hung([7]) for _ in range(2)] == [[], []]
    beating.write_bytes((2).to_bytes(8))
    assert [watchdog.hung([7]) for _ in range(4)] == [[], [], [7], [7]]
    assert watchdog.hung([]) == [] and not beating.exists()  # its id may come again
    beating.write_bytes((2).to_bytes(8))
    assert watchdog.hung([7]) == []
    beating.unlink()
    assert [watchdog.hung([7]) for _ in range(4)] == [[]] * 4  # what cleans up is not the process's fault


class Arbiter:
    """Has one process, which is dead, and counts how often it is told to replace it."""

    def __init__(self) -> None:
        self.processes = {1: self}
        self.status, self.pid, self.replaced = 1, 1, 0
        self.sockets, self._stopping = dict[str, CircusSocket](), False
        self.watchers, self.env, self.looks = [self], dict[str, str](), 0
        self.args = ["--fd", "$(circus.sockets.http)"]

    def iter_watchers(self) -> list["Arbiter"]:
        self.looks += 1
        return self.watchers

    def poll(self) -> int:
        return -signal.SIGKILL

    def manage_watchers(self) -> None:
        self.replaced += 1


def test_processes_that_die_again_and_again_are_left_to_circus(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from circus.process import DEAD_OR_ZOMBIE

    arbiter = Arbiter()
    arbiter.status = DEAD_OR_ZOMBIE
    watch = Watch(arbiter, tmp_path, 0)
    for _ in range(3 * MOST_AT_ONCE):
        watch.look()
    assert arbiter.replaced == MOST_AT_ONCE == caplog.text.count("process 1 has died (exit code -9): replaced")
    assert caplog.text.count("again and again: the next one starts within ten seconds") == 1


def test_who_waits_at_a_port_that_no_process_can_listen_on_is_answered(tmp_path: Path) -> None:
    from circus.process import DEAD_OR_ZOMBIE, RUNNING

    arbiter = Arbiter()
    watch = Watch(arbiter, tmp_path, 0)
    with CircusSocket(host="127.0.0.1", port=0) as listening, CircusSocket(host="127.0.0.1", port=0) as other:
        arbiter.sockets = {"http": listening, "other": other}
        listening.bind_and_listen()
        other.bind_and_listen()
        clients = [socket.create_connection(listening.getsockname(), 60) for _ in range(2)]
        clients[0].sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        for status in (RUNNING, DEAD_OR_ZOMBIE):
            arbiter.status = status
            for _ in range(MOST_AT_ONCE):
                watch.look()
                clients[1].setblocking(False)
                with pytest.raises(BlockingIOError):  # as long as it is replaced at once, it is worth waiting
                    clients[1].recv(1)
        watch.look()
        for client in clients:
            client.settimeout(60)
            answer = b"".join(iter(lambda client=client: client.recv(65_536), b""))  # type: ignore[misc]
            assert answer.startswith(b"HTTP/1.1 503 ") and b"\r\nRetry-After: 10\r\n" in answer
            head, _, body = answer.partition(b"\r\n\r\n")
            assert json.loads(body)["status"] == 503 and f"Content-Length: {len(body)}".encode() in head
            client.close()


def test_the_supervisor_goes_on_looking_when_the_clock_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import circus.controller

    monkeypatch.setattr(circus.controller.Controller, "start", lambda _: None)
    watch_processes(tmp_path, 0)
    arbiter, real_time = Arbiter(), time.time

    async def look_thrice() -> None:
        controller = SimpleNamespace(arbiter=arbiter, loop=IOLoop.current(), sys_hdl=SimpleNamespace())
        circus.controller.Controller.start(controller)
        monkeypatch.setattr(time, "time", lambda: real_time() - 3600)
        while arbiter.looks < 3:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(look_thrice(), 60))
    assert arbiter.env == {SUPERVISOR_VARIABLE: str(os.getpid())}


def test_a_signal_to_stop_is_not_forgotten_while_circus_is_busy(tmp_path: Path) -> None:
    from circus.exc import ConflictError

    class BusyArbiter(Arbiter):
        times_asked = 0

        def stop(self) -> None:
            self.times_asked += 1
            if self.times_asked < 3:
                raise ConflictError
            self._stopping = True

    arbiter = BusyArbiter()
    watch = Watch(arbiter, tmp_path, 0)
    watch.look()
    assert arbiter.times_asked == 0
    watch.stop()
    for _ in range(5):
        watch.look()
    assert arbiter._stopping and arbiter.times_asked == 3


def test_who_comes_while_the_server_drains_is_refused_but_the_grad_cam_process_is_still_reached(tmp_path: Path) -> None:
    arbiter, path = Arbiter(), tmp_path / "gradcam.sock"
    arbiter.sockets = {"http": CircusSocket(port=0, host="127.0.0.1"), "gradcam": CircusSocket(path=str(path))}
    for listening in arbiter.sockets.values():
        listening.bind_and_listen()
    address, watch = arbiter.sockets["http"].getsockname(), Watch(arbiter, tmp_path, 0)
    watch.look()
    socket.create_connection(address, 10).close()
    arbiter._stopping = True
    watch.look()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, 10)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    arbiter.sockets["gradcam"].close()


def test_a_check_that_fails_does_not_stop_the_heart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    calls = list[int]()

    def check() -> None:
        calls.append(1)
        raise RuntimeError

    async def beat() -> None:
        Heartbeat(tmp_path, [check]).start()
        counts = {heartbeat_file(tmp_path, os.getpid()).read_bytes()}
        while len(counts) < 2:
            await asyncio.sleep(0.02)
            counts.add(heartbeat_file(tmp_path, os.getpid()).read_bytes())

    asyncio.run(asyncio.wait_for(beat(), 60))
    assert len(calls) >= 2 and "a check of this process failed" in caplog.text
