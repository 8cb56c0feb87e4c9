"""A picture that takes too long costs itself alone, and its process ends with the worker, however that ends."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import requests

from loadtests.fuzz.hostile import slow_bmp
from tests.live.server import Server, serving, wait_until

ENDLESS = slow_bmp()
"""Takes more processor time than one picture may."""


def decoding_processes(server: Server) -> list[psutil.Process]:
    decoding = list[psutil.Process]()
    for process in psutil.Process(server.process.pid).children(recursive=True):
        with suppress(psutil.Error):  # it ends at this very moment
            decoding += [process] if "preprocessing.sandbox.child" in process.cmdline() else []
    return decoding


def test_a_slow_picture_is_refused_while_others_are_answered(server: Server, pictures: list[bytes]) -> None:
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(requests.post, f"{server.url}/predict", data=ENDLESS, timeout=90)
        while not slow.done():
            assert requests.post(f"{server.url}/predict", data=pictures[0], timeout=30).status_code == 200
    answer = slow.result()
    assert answer.status_code in (413, 504) and "decode" in answer.json()["detail"]
    assert requests.post(f"{server.url}/predict", data=pictures[0], timeout=30).status_code == 200


def test_decoding_processes_end_with_their_worker_and_with_the_server(home: Path, tmp_path: Path) -> None:
    with serving(home, tmp_path / "log", VITRINE_MODELS="kidney-stone", VITRINE_GRPC_PORT="0") as server:
        server.wait_ready()
        wait_until(lambda: len(decoding_processes(server)) == 2)  # of the worker and of the Grad-CAM process
        before = decoding_processes(server)
        for process in before:
            psutil.Process(process.ppid()).kill()
        wait_until(lambda: not any(process.is_running() and process.status() != "zombie" for process in before))
        server.wait_ready()
        wait_until(lambda: len(decoding_processes(server)) == 2)
        after = decoding_processes(server)
    wait_until(lambda: not any(process.is_running() and process.status() != "zombie" for process in after))
