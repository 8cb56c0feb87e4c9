"""Real replicas behind a real HAProxy: what passes, what is sent again, what is not, and who is left out."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
import requests
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from deploy.haproxy.balancer import CONFIGURATION, LUA, Balancer, Replica, balancing, make_certificate
from deploy.haproxy.hosts import hosts
from tests.conftest import ROOT, encode
from tests.deploy.kustomize import missing
from tests.live.server import Server, free_ports, install, serving, wait_until
from tests.tiny import plain, tiny_package

REPLICAS = 3
BUDGET = 1_000_000
"""The most bytes of bodies that a replica takes at a time."""
SENT_AGAIN, LARGER_THAN_THE_BUFFER = 258_000, 300_000
"""Bytes of a body that the balancer can send again, as docs/scale.md says, and of one that it cannot."""
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass(frozen=True)
class Fleet:
    """A balancer and the replicas behind it, by name."""

    balancer: Balancer
    replicas: dict[str, Server]

    @property
    def url(self) -> str:
        """Where the balancer answers without TLS."""
        return f"http://127.0.0.1:{self.balancer.port}"

    def wait_for(self, name: str, status: str) -> None:
        """Return once the balancer's opinion of a replica is this."""
        wait_until(lambda: self.balancer.status()[name]["status"] == status, 30)

    def counted(self, name: str) -> Counter[str]:
        """Return how many predictions of one replica ended with which status."""
        text = requests.get(f"{self.replicas[name].url}/metrics", timeout=30).text
        lines = re.findall(r"^vitrine_requests_total\{(.*)\} (\S+)", text, re.MULTILINE)
        counts = Counter[str]()
        for labels, value in lines:
            if 'model="tiny"' in labels:
                counts[re.findall(r'status="(\w+)"', labels)[0]] += int(float(value))
        return counts


@pytest.fixture(scope="module", autouse=True)
def haproxy() -> None:
    """HAProxy, or the reason why nothing here is run."""
    if not shutil.which("haproxy"):
        missing("haproxy", "Install 2.6 or newer: apt-get install haproxy")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Three replicas of a model that takes no time."""
    folder = tmp_path_factory.mktemp("fleet")
    home = folder / "home"
    install(tiny_package(folder / "tiny"), home)
    settings = {"VITRINE_DEFAULT_MODEL": "tiny", "VITRINE_EXPLAIN": "false", "VITRINE_MODEL_CONTROL": "true"}
    settings |= {"VITRINE_MAX_BODY_BYTES": str(BUDGET), "VITRINE_BODY_BUDGET_BYTES": str(BUDGET)}
    with ExitStack() as stack:
        names = [f"r{index + 1}" for index in range(REPLICAS)]
        replicas = {
            name: stack.enter_context(serving(home, folder / f"{name}.log", cwd=ROOT, **settings)) for name in names
        }
        for replica in replicas.values():
            replica.wait_ready()
        places = [
            Replica(name, "127.0.0.1", port_of(replica.url), port_of(replica.grpc))
            for name, replica in replicas.items()
        ]
        balancer = stack.enter_context(balancing(places, folder, three_ports()))
        yield Fleet(balancer, replicas)


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def three_ports() -> tuple[int, int, int]:
    first, second, third = free_ports(3)
    return first, second, third


def test_the_shipped_configuration_is_valid_as_it_stands(tmp_path: Path) -> None:
    make_certificate(tmp_path)
    variables = {"VITRINE_LB_PEM": str(tmp_path / "haproxy.pem"), "VITRINE_LB_SOCKET": str(tmp_path / "socket")}
    variables["VITRINE_LB_LUA"] = str(LUA)
    command = ["haproxy", "-c", "-f", str(CONFIGURATION)]
    ran = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    assert ran.returncode == 0 and "arning" not in ran.stdout + ran.stderr, ran.stderr


def test_http_1_and_http_2_and_grpc_go_through_with_tls_and_without(fleet: Fleet) -> None:
    balancer = fleet.balancer
    secure = f"https://localhost:{balancer.tls_port}"
    for url in (fleet.url, secure):
        answer = requests.post(f"{url}/predict", data=plain(200), timeout=30, verify=str(balancer.certificate))
        assert answer.status_code == 200 and answer.json()["prediction"] == "bright"
    image = tritonclient.grpc.InferInput("image", [1], "BYTES")
    image.set_data_from_numpy(np.array([plain(200)], np.object_))
    for address, trusted in ((f"127.0.0.1:{balancer.port}", None), (f"localhost:{balancer.tls_port}", balancer)):
        certificate = str(trusted.certificate) if trusted else None
        with tritonclient.grpc.InferenceServerClient(
            address, ssl=trusted is not None, root_certificates=certificate
        ) as client:
            for _ in range(2 * REPLICAS):  # over one connection
                assert client.infer("tiny", [image]).as_numpy("probabilities").argmax() == 1
    served = [row for row in balancer.command("show stat").splitlines() if row.startswith("grpc,r")]
    assert len(served) == REPLICAS and all(int(row.split(",")[7]) >= 2 for row in served)  # spread call by call


def test_a_request_keeps_its_id_or_gets_one_that_the_replica_knows_too(fleet: Fleet) -> None:
    named = requests.post(
        f"{fleet.url}/predict", data=plain(200), headers={"X-Request-ID": "from-the-client"}, timeout=30
    )
    nameless = requests.post(f"{fleet.url}/predict", data=plain(200), timeout=30)
    assert named.headers["X-Request-ID"] == "from-the-client"
    ids = [named.headers["X-Request-ID"], nameless.headers["X-Request-ID"]]
    wait_until(lambda: all(served_by(fleet, request_id) == 1 for request_id in ids), 10)
    log = fleet.balancer.socket.parent / "haproxy.log"
    wait_until(lambda: all(f"{{{request_id}}}" in log.read_text() for request_id in ids), 10)


def served_by(fleet: Fleet, request_id: str) -> int:
    """Return how many replicas have a request in their log."""
    return sum(request_id in replica.log.read_text() for replica in fleet.replicas.values())


def test_what_is_refused_for_lack_of_room_is_not_asked_of_another_replica(fleet: Fleet) -> None:
    before = {name: fleet.counted(name) for name in fleet.replicas}
    with filled(fleet.replicas["r1"]):
        picture = encode(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))
        statuses = Counter(
            str(requests.post(f"{fleet.url}/predict", data=picture, timeout=30).status_code) for _ in range(12)
        )
    after = {name: fleet.counted(name) - before[name] for name in fleet.replicas}
    assert set(statuses) == {"200", "429"}
    assert after["r1"]["429"] == statuses["429"]
    assert after["r2"]["200"] + after["r3"]["200"] == statuses["200"]
    assert fleet.balancer.status()["r1"]["status"] == "UP"


@contextmanager
def filled(replica: Server) -> Iterator[None]:
    """Hold nearly all of a replica's room for bodies with an upload that does not end."""
    with socket.create_connection(("127.0.0.1", port_of(replica.url))) as upload:
        size = BUDGET - 1000
        upload.sendall(f"POST /predict HTTP/1.1\r\nHost: h\r\nContent-Length: {size}\r\n\r\n".encode())
        upload.sendall(b"x" * (size - 1))
        wait_until(lambda: refuses(replica), 10)
        yield


def refuses(replica: Server) -> bool:
    return requests.post(f"{replica.url}/models/unknown/predict", data=b"x" * 5000, timeout=30).status_code == 429


def test_an_unready_replica_gets_nothing_until_it_is_ready(fleet: Fleet) -> None:
    control = f"{fleet.replicas['r2'].url}/v2/repository/models/tiny"
    assert requests.post(f"{control}/unload", timeout=30).ok
    fleet.wait_for("r2", "DOWN")
    assert [post(fleet) for _ in range(6)] == [200] * 6
    assert requests.post(f"{control}/load", timeout=30).ok
    fleet.wait_for("r2", "UP")


def test_nobody_loads_or_unloads_a_model_in_one_replica_of_several(fleet: Fleet) -> None:
    before = [replica.log.read_text().count("/unload") for replica in fleet.replicas.values()]
    assert requests.post(f"{fleet.url}/v2/repository/models/tiny/unload", timeout=30).status_code == 403
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{fleet.balancer.port}") as client:
        with pytest.raises(InferenceServerException, match=str(grpc.StatusCode.PERMISSION_DENIED)):
            client.unload_model("tiny")
    assert requests.get(f"{fleet.url}/metrics", timeout=30).status_code == 403
    own = requests.get(f"http://127.0.0.1:{fleet.balancer.admin_port}/metrics", timeout=30).text
    assert 'haproxy_frontend_http_requests_total{proxy="vitrine"}' in own  # KEDA's manifest asks Prometheus for it
    assert [replica.log.read_text().count("/unload") for replica in fleet.replicas.values()] == before


def test_a_stopped_replica_a_killed_and_a_drained_one_lose_nothing_that_a_buffer_holds(fleet: Fleet) -> None:
    """Fleet of three: r1 is stopped and goes on, is killed with -9; then r2 is told to end, and r3 is left."""
    with load(fleet) as statuses:
        members = tree(fleet.replicas["r1"])
        for process in members:
            process.suspend()
        large = dict.fromkeys(range(2 * REPLICAS), 0)
        uploads = [threading.Thread(target=upload_large, args=(fleet, large, index)) for index in large]
        for upload in uploads:
            upload.start()
        fleet.wait_for("r1", "DOWN")
        for upload in uploads:
            upload.join()
        for process in members:
            process.resume()
        fleet.wait_for("r1", "UP")
        wait_until(lambda: fleet.balancer.in_hand("r1") > 0, 10)
        for process in tree(fleet.replicas["r1"]):
            process.kill()
        fleet.wait_for("r1", "DOWN")
        fleet.replicas["r2"].process.send_signal(signal.SIGTERM)
        fleet.replicas["r2"].process.wait(40)
        fleet.wait_for("r2", "DOWN")
    assert Counter(statuses) == {200: len(statuses)} and len(statuses) > 50
    # A buffer does not hold them, so those that the stopped replica had are lost, in words; the others are not.
    assert set(large.values()) <= {400, 502, 503} and 400 in large.values()
    assert set(large.values()) & {502, 503}


@contextmanager
def load(fleet: Fleet, clients: int = 6) -> Iterator[list[int]]:
    """Predict from several clients until the block ends; yield the statuses so far, 0 for no answer."""
    statuses, over = list[int](), threading.Event()

    def client() -> None:
        with requests.Session() as session:
            while not over.is_set():
                statuses.append(post(fleet, session))
                time.sleep(0.02)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        over.set()
        for thread in threads:
            thread.join()


def post(fleet: Fleet, session: requests.Session | None = None) -> int:
    """Return the status of a prediction, 0 if there was no answer."""
    try:
        return (session or requests).post(f"{fleet.url}/predict", data=plain(200), timeout=60).status_code
    except requests.RequestException:
        return 0


def upload_large(fleet: Fleet, statuses: dict[int, int], index: int) -> None:
    """Upload what is no picture and no buffer holds, on a new connection: a 400 if a replica reads it."""
    body = b"x" * LARGER_THAN_THE_BUFFER
    statuses[index] = requests.post(f"{fleet.url}/predict", data=body, timeout=60).status_code


def tree(replica: Server) -> list[psutil.Process]:
    root = psutil.Process(replica.process.pid)
    return [root, *root.children(recursive=True)]


class Recorder(ThreadingHTTPServer):
    """A replica that is ready, keeps the headers of what it is sent, and answers with a status of the test's."""

    daemon_threads = True

    def __init__(self, status: int) -> None:
        self.status, self.received = status, list[dict[str, str]]()
        super().__init__(("127.0.0.1", 0), _Recording)


class _Recording(BaseHTTPRequestHandler):
    server: Recorder
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(200)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append({key.lower(): value for key, value in self.headers.items()})
        self._answer(self.server.status)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def recording(folder: Path, *statuses: int) -> Iterator[tuple[str, list[Recorder]]]:
    """Run a balancer in front of recorders; yield its address and them."""
    recorders = [Recorder(status) for status in statuses]
    threads = [threading.Thread(target=recorder.serve_forever, args=(0.02,)) for recorder in recorders]
    for thread in threads:
        thread.start()
    places = [
        Replica(f"r{number}", "127.0.0.1", recorder.server_port, 0) for number, recorder in enumerate(recorders, 1)
    ]
    try:
        with balancing(places, folder, three_ports()) as balancer:
            yield f"http://127.0.0.1:{balancer.port}/predict", recorders
    finally:
        for recorder, thread in zip(recorders, threads, strict=True):
            recorder.shutdown()
            recorder.server_close()
            thread.join()


def test_a_trace_and_an_id_are_the_same_in_every_replica_that_a_request_is_sent_to(tmp_path: Path) -> None:
    with recording(tmp_path, 503, 503) as (url, recorders):
        answer = requests.post(url, data=b"x" * 200_000, headers={"traceparent": TRACE}, timeout=30)
    headers = [sent for recorder in recorders for sent in recorder.received]
    assert answer.status_code == 503 and len(headers) == 3  # once, and twice again
    assert {recorder.status for recorder in recorders if recorder.received} == {503}
    assert all(recorder.received for recorder in recorders)
    assert {sent["traceparent"] for sent in headers} == {TRACE} and len({sent["x-request-id"] for sent in headers}) == 1


def test_every_other_answer_is_passed_on_at_once(tmp_path: Path) -> None:
    with recording(tmp_path, 200, 200) as (url, recorders):
        for status in (400, 413, 429, 500, 502, 504):
            for recorder in recorders:
                recorder.status = status
            assert requests.post(url, data=b"x", timeout=30).status_code == status
    assert sum(len(recorder.received) for recorder in recorders) == 6


def test_what_a_buffer_does_not_hold_is_sent_once(tmp_path: Path) -> None:
    with recording(tmp_path, 503, 200) as (url, _):
        answers = {
            size: {requests.post(url, data=b"x" * size, timeout=30).status_code for _ in range(4)}
            for size in (SENT_AGAIN, 2**18)
        }
    assert answers == {SENT_AGAIN: {200}, 2**18: {200, 503}}


def test_hosts_have_a_network_of_their_own_that_can_be_cut() -> None:
    with hosts(2) as (first, second):
        if not first.namespace:
            missing("a network namespace", "It needs Linux, root and iproute2.")
        command = [sys.executable, "-m", "http.server", "--bind", first.address, "3000"]
        server = subprocess.Popen(first.command(command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: reaches(first.address), 20)
            inside = [sys.executable, "-c", f"import socket; socket.create_connection(('{first.address}', 3000), 5)"]
            subprocess.run(second.command(inside), check=True)
            first.plug("down")
            assert not reaches(first.address)
            first.plug("up")
            wait_until(lambda: reaches(first.address), 20)
        finally:
            server.kill()
            server.wait()


def reaches(address: str) -> bool:
    with suppress(OSError), socket.create_connection((address, 3000), timeout=0.3):
        return True
    return False
