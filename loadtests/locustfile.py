"""Users of a running server, for `locust -f loadtests/locustfile.py --host http://127.0.0.1:3000` and `make loadtest`.

Every answer is compared with what the graph says without a server. Pictures are phantoms drawn from seeds that no
split of the training uses. `Arrivals` is the open loop: requests come when they come (a Poisson process, at `--rate` a
second), and latency counts from when one was due, not from when it was sent.
"""

import json
import random
import time
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import gevent
import grpc
import numpy as np
from geventhttpclient import HTTPClient
from grpc.experimental import gevent as grpc_gevent
from locust import FastHttpUser, User, constant, events, task
from tritonclient.grpc import service_pb2

from backends.onnx import OnnxBackend
from loadtests.bench import MODEL, payloads
from models.card import RowCard
from models.store import find
from postprocessing.interpret import softmax
from serving.pipeline import line_of

ROWS, TOLERANCE = "churn", 1e-4
PNG = "iVBORw0KGgo"
"""How a PNG begins in base64."""

grpc_gevent.init_gevent()


class Case(NamedTuple):
    """One request: the encoded picture or the row, and the probability of the last label."""

    sent: Any
    wanted: float


@cache
def pictures() -> list[Case]:
    """Phantoms as JPEG, and P(stone) by the graph alone."""
    stored = find(MODEL)
    line, backend = line_of(stored.card), OnnxBackend(stored.graph)
    return [
        Case(data, float(softmax(line.outputs(line.run(backend, [line.admit(data)])[0]))[-1])) for data in payloads()
    ]


@cache
def rows(count: int = 32) -> list[Case]:
    """Rows from anywhere in the features' ranges, and the probability of the last label."""
    stored, rng = find(ROWS), np.random.default_rng(0)
    if not isinstance(stored.card, RowCard):
        raise TypeError(f"{ROWS} takes no rows")
    line, backend, found = line_of(stored.card), OnnxBackend(stored.graph), []
    for _ in range(count):
        row = {each.name: float(rng.uniform(each.low, each.high)) for each in stored.card.input.features}
        outputs = line.outputs(line.run(backend, [line.admit([row])])[0])
        found.append(Case(row, float(softmax(outputs)[-1])))
    return found


def last_probability(answer: dict[str, Any]) -> float:
    """The probability of the last label of a prediction."""
    return float(list(answer["probabilities"].values())[-1])


def wrong(got: float, case: Case) -> str:
    """What is wrong with an answer; empty if nothing is."""
    return "" if abs(got - case.wanted) <= TOLERANCE else f"{got} instead of {case.wanted}"


class Http(FastHttpUser):
    """Sends the next request when the last is answered."""

    abstract = True
    wait_time = constant(0)

    def ask(self, name: str, path: str, check: Callable[[dict[str, Any]], str], **what: Any) -> None:
        """POST, and have the answer checked."""
        with self.client.post(path, name=name, catch_response=True, **what) as response:
            if response.status_code != 200:
                response.failure(f"{response.status_code}: {(response.text or '')[:200]}")
            elif problem := check(json.loads(response.text or "{}")):
                response.failure(problem)


class RawUser(Http):
    """One picture as the body."""

    weight = 8

    @task
    def predict(self) -> None:
        """Predict."""
        case = random.choice(pictures())
        self.ask("raw", f"/models/{MODEL}/predict", lambda said: wrong(last_probability(said), case), data=case.sent)


class FormUser(Http):
    """One picture in a form."""

    weight = 4

    @task
    def predict(self) -> None:
        """Predict."""
        case = random.choice(pictures())
        files = {"file": ("ct.jpg", case.sent)}
        self.ask("form", f"/models/{MODEL}/predict", lambda said: wrong(last_probability(said), case), files=files)


class BatchUser(Http):
    """Four pictures in a form."""

    weight = 1

    @task
    def predict(self) -> None:
        """Predict."""
        cases = random.sample(pictures(), 4)
        files = [("files", (f"{place}.jpg", case.sent)) for place, case in enumerate(cases)]

        def check(said: dict[str, Any]) -> str:
            pairs = zip(said["predictions"], cases, strict=True)
            return " ".join(filter(None, (wrong(last_probability(one), case) for one, case in pairs)))

        self.ask("batch of 4", f"/models/{MODEL}/predict/batch", check, files=files)


class ExplainUser(Http):
    """One picture with its heatmap."""

    weight = 1

    @task
    def explain(self) -> None:
        """Explain."""
        case = random.choice(pictures())

        def check(said: dict[str, Any]) -> str:
            drawn = said["gradcam_heatmap"].startswith(PNG)
            return wrong(last_probability(said), case) if drawn else "the heatmap is no PNG"

        self.ask("explain", f"/models/{MODEL}/explain", check, data=case.sent)


class RowUser(Http):
    """One row of numbers."""

    weight = 2

    @task
    def predict(self) -> None:
        """Predict."""
        case = random.choice(rows())
        body = {"features": case.sent}
        self.ask("row", f"/models/{ROWS}/predict", lambda said: wrong(last_probability(said), case), json=body)


class GrpcUser(User):
    """One picture over gRPC, by the Open Inference Protocol."""

    weight = 4
    wait_time = constant(0)

    def on_start(self) -> None:
        """Connect."""
        channel = grpc.insecure_channel(grpc_address(self.environment), [("grpc.use_local_subchannel_pool", 1)])
        self.call: Any = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            service_pb2.ModelInferRequest.SerializeToString,
            service_pb2.ModelInferResponse.FromString,
        )

    @task
    def predict(self) -> None:
        """Predict."""
        case = random.choice(pictures())
        request = service_pb2.ModelInferRequest(model_name=MODEL)
        request.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(case.sent)
        request.outputs.add(name="probabilities")
        started, problem, size = time.perf_counter(), "", 0
        try:
            answer = self.call(request, timeout=60)
            size = len(answer.raw_output_contents[0])
            problem = wrong(float(np.frombuffer(answer.raw_output_contents[0], "<f4")[-1]), case)
        except grpc.RpcError as error:
            problem = f"{error.code()}: {error.details()}"
        fire(self.environment, "gRPC", "gRPC", time.perf_counter() - started, size, problem)


class Arrivals(User):
    """The open loop: one picture as the body, whenever the next is due."""

    fixed_count = 1
    rate = 0.0

    @task
    def arrive(self) -> None:
        """Send requests until stopped, each from a greenlet of its own."""
        place, due = urlsplit(str(self.environment.host)), time.perf_counter()
        client = HTTPClient(
            place.hostname or "", place.port, concurrency=1024, network_timeout=60, connection_timeout=60
        )
        while True:
            due += random.expovariate(self.rate or self.environment.parsed_options.rate)
            gevent.sleep(max(0.0, due - time.perf_counter()))
            gevent.spawn(self._one, client, random.choice(pictures()), due)

    def _one(self, client: HTTPClient, case: Case, due: float) -> None:
        size, problem = 0, ""
        try:
            response = client.post(f"/models/{MODEL}/predict", body=case.sent)
            body = response.read()
            size = len(body)
            if response.status_code == 200:
                problem = wrong(last_probability(json.loads(body)), case)
            else:
                problem = f"{response.status_code}: {body[:200]!r}"
        except OSError as error:
            problem = repr(error)
        fire(self.environment, "POST", "open loop", time.perf_counter() - due, size, problem)


def fire(environment: Any, kind: str, name: str, seconds: float, size: int, problem: str) -> None:
    """Report a request to locust."""
    failed = AssertionError(problem) if problem else None
    environment.events.request.fire(
        request_type=kind, name=name, response_time=seconds * 1e3, response_length=size, exception=failed, context={}
    )


def grpc_address(environment: Any) -> str:
    """Where gRPC listens: `--grpc`, or the host's port 3001."""
    given = getattr(environment.parsed_options, "grpc", "") if environment.parsed_options else ""
    return given or f"{urlsplit(str(environment.host)).hostname}:3001"


@events.init_command_line_parser.add_listener
def _options(parser: Any) -> None:
    parser.add_argument("--rate", type=float, default=10.0, help="Requests a second of the open loop (Arrivals)")
    parser.add_argument("--grpc", default="", help="HOST:PORT of gRPC, if not the host's port 3001")
