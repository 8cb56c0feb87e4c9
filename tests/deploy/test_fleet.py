"""Real replicas behind a real HAProxy: what passes, what is sent again, what is not, and who is left out."""

import http.client
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
import requests
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from deploy.haproxy.balancer import Balancer, Replica, balancing
from tests.conftest import ROOT, encode
from tests.live.server import Server, environment, free_ports, install, serving, wait_until
from tests.tiny import plain, tiny_package

pytestmark = pytest.mark.usefixtures("haproxy")
REPLICAS, CLIENTS, CUT = 3, 6, -1
LARGER_THAN_THE_BUFFER = 300_000
BUDGET = 4_000_000
"""The most bytes of bodies that a replica takes at a time."""


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
        balancer = stack.enter_context(balancing(places, folder, free_ports(3)))
        yield Fleet(balancer, replicas)


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


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
    control = "/v2/repository/models/tiny"
    encoded = (f"{control}/un%6coad", f"/%76{control.removeprefix('/v')}/unload", f"{control}%2Funload")
    for path in (f"{control}/unload", f"{control}/unload/", *encoded):
        assert post_as_it_is(fleet, path) == 403, path
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{fleet.balancer.port}") as client:
        with pytest.raises(InferenceServerException, match=str(grpc.StatusCode.PERMISSION_DENIED)):
            client.unload_model("tiny")
    for path in ("/metrics", "/metrics/", "/metric%73"):
        assert requests.get(f"{fleet.url}{path}", timeout=30).status_code == 403, path
    assert [replica.log.read_text().count("/unload") for replica in fleet.replicas.values()] == before


def post_as_it_is(fleet: Fleet, path: str) -> int:
    """Return the status of a POST to a path that nobody has put in order."""
    with closing(http.client.HTTPConnection("127.0.0.1", fleet.balancer.port, timeout=30)) as connection:
        connection.request("POST", path)
        return connection.getresponse().status


def test_what_documents_and_manifests_ask_of_the_balancers_metrics_is_there(fleet: Fleet) -> None:
    exported = requests.get(f"http://127.0.0.1:{fleet.balancer.admin_port}/metrics", timeout=30).text
    scaled = ROOT / "deploy" / "kubernetes" / "components" / "keda" / "scaledobject.yaml"
    asked = (ROOT / "docs" / "scale.md").read_text() + scaled.read_text()
    names = set(re.findall(r"haproxy_(?:frontend|backend|server|process)_\w+", asked))
    assert len(names) >= 6 and names <= set(re.findall(r"(?m)^(\w+)(?:\{| )", exported))
    assert 'haproxy_frontend_http_requests_total{proxy="vitrine"}' in exported


def test_a_stopped_replica_a_killed_and_a_drained_one_lose_nothing_that_a_buffer_holds(fleet: Fleet) -> None:
    """Fleet of three: r1 is stopped and goes on, is killed with -9; then r2 is told to end, and r3 is left."""
    with load(fleet) as statuses:
        members = tree(fleet.replicas["r1"])
        uploads = [begun_upload(fleet) for _ in range(2 * REPLICAS)]
        wait_until(lambda: sum(map(fleet.balancer.in_hand, fleet.replicas)) >= len(uploads), 10)
        for process in members:
            process.suspend()
        for upload in uploads:
            upload.send(b"x")
        fleet.wait_for("r1", "DOWN")
        large = Counter(map(ended, uploads))
        for process in members:
            process.resume()
        fleet.wait_for("r1", "UP")
        wait_until(lambda: fleet.balancer.in_hand("r1") > 0, 10)
        for process in tree(fleet.replicas["r1"]):
            process.kill()
        fleet.wait_for("r1", "DOWN")
        since = len(statuses)
        wait_until(lambda: len(statuses) >= since + 2 * CLIENTS, 30)  # so that all know what became of theirs
        cut = Counter(statuses)[CUT]
        fleet.replicas["r2"].process.send_signal(signal.SIGTERM)
        fleet.replicas["r2"].process.wait(40)
        fleet.wait_for("r2", "DOWN")
    # A replica writes an answer's head before its body: who has the head when it is stopped or killed cannot be sent
    # another. One that is told to end finishes what it has.
    counts = Counter(statuses)
    assert set(counts) <= {200, CUT} and counts[200] > 50
    assert counts[CUT] == cut <= CLIENTS
    # No buffer holds the uploads, so those that the stopped replica had are lost, in words; the others are no pictures.
    assert set(large) == {400, 502} and large[400] >= REPLICAS


@contextmanager
def load(fleet: Fleet) -> Iterator[list[int]]:
    """Predict from several clients until the block ends; yield the statuses so far, as `post` returns them."""
    statuses, over = list[int](), threading.Event()

    def client() -> None:
        with requests.Session() as session:
            while not over.is_set():
                statuses.append(post(fleet, session))
                time.sleep(0.02)

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        over.set()
        for thread in threads:
            thread.join()


def post(fleet: Fleet, session: requests.Session | None = None) -> int:
    """Return the status of a prediction, `CUT` if its answer broke off, and 0 if there was none."""
    try:
        return (session or requests).post(f"{fleet.url}/predict", data=plain(200), timeout=60).status_code
    except requests.exceptions.ChunkedEncodingError:
        return CUT
    except requests.RequestException:
        return 0


def begun_upload(fleet: Fleet) -> http.client.HTTPConnection:
    """Upload all but the last byte of what is no picture, and no buffer holds."""
    connection = http.client.HTTPConnection("127.0.0.1", fleet.balancer.port, timeout=60)
    connection.putrequest("POST", "/predict")
    connection.putheader("Content-Length", str(LARGER_THAN_THE_BUFFER))
    connection.endheaders(b"x" * (LARGER_THAN_THE_BUFFER - 1))
    return connection


def ended(upload: http.client.HTTPConnection) -> int:
    """Return the status of the answer, and close the connection."""
    with closing(upload), upload.getresponse() as answer:
        answer.read()
        return answer.status


def tree(replica: Server) -> list[psutil.Process]:
    root = psutil.Process(replica.process.pid)
    return [root, *root.children(recursive=True)]


def test_one_command_starts_a_fleet_and_ends_it(fleet: Fleet, tmp_path: Path) -> None:
    port, tls_port, admin_port = free_ports(3)
    command = [sys.executable, "-m", "deploy.haproxy", "--replicas", "1", "--folder", str(tmp_path)]
    command += ["--port", str(port), "--tls-port", str(tls_port), "--admin-port", str(admin_port)]
    settings = {"VITRINE_DEFAULT_MODEL": "tiny", "VITRINE_EXPLAIN": "false"}
    own = environment(fleet.balancer.socket.parent / "home", **settings)
    interfaces = psutil.net_if_addrs().keys()
    process = subprocess.Popen(command, cwd=ROOT, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    try:
        printed = ""
        while "HAProxy: " not in printed and (line := process.stdout.readline()):
            printed += line
        answer = requests.post(f"http://127.0.0.1:{port}/predict", data=plain(200), timeout=30)
        assert answer.status_code == 200 and answer.json()["prediction"] == "bright", printed
        process.terminate()
        assert process.wait(60) == 0, printed + process.stdout.read()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert psutil.net_if_addrs().keys() <= interfaces  # no bridge and no cable is left
