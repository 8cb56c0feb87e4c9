"""Users of a running server, for `locust -f loadtests/locustfile.py --host http://127.0.0.1:3000` and `make loadtest`.

Every answer is compared with what the graph answers without a server. Pictures are phantoms drawn from seeds that no
split of the training uses. `Arrivals` is the open loop: requests are due at random (a Poisson process, `--rate` of them
a second), and latency counts from when a request was due, not from when it was sent.
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

from backends.onnx import OnnxBackend
from loadtests.bench import MODEL, phantoms
from loadtests.grpc_client import infer_request, model_infer
from models.card import as_row_card
from models.package import StoredModel
from models.store import find
from postprocessing.classification import card_probabilities
from serving.self_check import golden_batch

ROWS, TOLERANCE = "churn", 1e-4
PNG = "iVBORw0KGgo"
"""How a PNG begins in base64."""

grpc_gevent.init_gevent()


class Case(NamedTuple):
    """One request: the encoded picture or the row, and the right probability of the last label."""

    payload: Any
    probability: float

    def mismatch(self, probability: float) -> str:
        """Return what is wrong with an answer's probability, an empty string if nothing is."""
        right = abs(probability - self.probability) <= TOLERANCE
        return "" if right else f"{probability} instead of {self.probability}"

    def check(self, answer: dict[str, Any]) -> str:
        """Return what is wrong with a prediction, an empty string if nothing is."""
        return self.mismatch(float(list(answer["probabilities"].values())[-1]))


@cache
def pictures() -> list[Case]:
    """Return phantoms as JPEG, with P(stone) by the graph alone."""
    answer = _last_probability_by_graph(find(MODEL))
    return [Case(image, answer(image)) for image in phantoms()]


@cache
def rows(count: int = 32) -> list[Case]:
    """Return rows drawn uniformly from the features' ranges, with the probability of the last label."""
    stored, rng, cases = find(ROWS), np.random.default_rng(0), list[Case]()
    answer, features = _last_probability_by_graph(stored), as_row_card(stored.card).input.features
    for _ in range(count):
        row = {feature.name: float(rng.uniform(feature.low, feature.high)) for feature in features}
        cases.append(Case(row, answer(row)))
    return cases


def _last_probability_by_graph(stored: StoredModel) -> Callable[[Any], float]:
    backend = OnnxBackend(stored.graph)

    def answer(payload: Any) -> float:
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        batch = golden_batch(stored.card, [("a request", data)])
        return float(card_probabilities(backend.run(batch).logits[0], stored.card)[-1])

    return answer


class Http(FastHttpUser):
    """Sends the next request when the last is answered."""

    abstract = True
    wait_time = constant(0)

    def ask(self, name: str, path: str, check: Callable[[dict[str, Any]], str], **request: Any) -> None:
        """Send a POST request, and report to locust what `check` finds wrong with the answer."""
        with self.client.post(path, name=name, catch_response=True, **request) as response:
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
        self.ask("raw", f"/models/{MODEL}/predict", case.check, data=case.payload)


class FormUser(Http):
    """One picture in a form."""

    weight = 4

    @task
    def predict(self) -> None:
        """Predict."""
        case = random.choice(pictures())
        files = {"file": ("ct.jpg", case.payload)}
        self.ask("form", f"/models/{MODEL}/predict", case.check, files=files)


class BatchUser(Http):
    """Four pictures in a form."""

    weight = 1

    @task
    def predict(self) -> None:
        """Predict."""
        cases = random.sample(pictures(), 4)
        files = [("files", (f"{place}.jpg", case.payload)) for place, case in enumerate(cases)]

        def check(answer: dict[str, Any]) -> str:
            pairs = zip(answer["predictions"], cases, strict=True)
            problems = (case.check(prediction) for prediction, case in pairs)
            return " ".join(filter(None, problems))

        self.ask("batch of 4", f"/models/{MODEL}/predict/batch", check, files=files)


class ExplainUser(Http):
    """One picture with its heatmap."""

    weight = 1

    @task
    def explain(self) -> None:
        """Explain."""
        case = random.choice(pictures())

        def check(answer: dict[str, Any]) -> str:
            is_png = answer["gradcam_heatmap"].startswith(PNG)
            return case.check(answer) if is_png else "the heatmap is no PNG"

        self.ask("explain", f"/models/{MODEL}/explain", check, data=case.payload)


class RowUser(Http):
    """One row of numbers."""

    weight = 2

    @task
    def predict(self) -> None:
        """Predict."""
        case = random.choice(rows())
        body = {"features": case.payload}
        self.ask("row", f"/models/{ROWS}/predict", case.check, json=body)


class GrpcUser(User):
    """One picture over gRPC, by the Open Inference Protocol."""

    weight = 4
    wait_time = constant(0)

    def on_start(self) -> None:
        """Connect."""
        self.infer = model_infer(grpc_address(self.environment))

    @task
    def predict(self) -> None:
        """Predict."""
        case = random.choice(pictures())
        request = infer_request(MODEL)
        request.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(case.payload)
        request.outputs.add(name="probabilities")
        started, problem, size = time.perf_counter(), "", 0
        try:
            answer = self.infer(request, timeout=60)
            size = len(answer.raw_output_contents[0])
            problem = case.mismatch(float(np.frombuffer(answer.raw_output_contents[0], "<f4")[-1]))
        except grpc.RpcError as error:
            problem = f"{error.code()}: {error.details()}"
        fire(self.environment, "gRPC", "gRPC", time.perf_counter() - started, size, problem)


class Arrivals(User):
    """The open loop: one picture as the body, whenever a request is due."""

    fixed_count = 1
    rate = 0.0

    @task
    def arrive(self) -> None:
        """Send requests until stopped, each from a greenlet of its own."""
        address, due = urlsplit(str(self.environment.host)), time.perf_counter()
        client = HTTPClient(
            address.hostname or "", address.port, concurrency=1024, network_timeout=60, connection_timeout=60
        )
        while True:
            due += random.expovariate(self.rate or self.environment.parsed_options.rate)
            gevent.sleep(max(0.0, due - time.perf_counter()))
            gevent.spawn(self._post, client, random.choice(pictures()), due)

    def _post(self, client: HTTPClient, case: Case, due: float) -> None:
        size, problem = 0, ""
        try:
            response = client.post(f"/models/{MODEL}/predict", body=case.payload)
            body = response.read()
            size = len(body)
            if response.status_code == 200:
                problem = case.check(json.loads(body))
            else:
                problem = f"{response.status_code}: {body[:200]!r}"
        except OSError as error:
            problem = repr(error)
        fire(self.environment, "POST", "open loop", time.perf_counter() - due, size, problem)


def fire(environment: Any, kind: str, name: str, seconds: float, size: int, problem: str) -> None:
    """Report a request to locust; `problem` is empty if all was well."""
    exception = AssertionError(problem) if problem else None
    environment.events.request.fire(
        request_type=kind, name=name, response_time=seconds * 1e3, response_length=size, exception=exception, context={}
    )


def grpc_address(environment: Any) -> str:
    """Return where gRPC listens: `--grpc`, or the host's port 3001."""
    address = getattr(environment.parsed_options, "grpc", "") if environment.parsed_options else ""
    return address or f"{urlsplit(str(environment.host)).hostname}:3001"


@events.init_command_line_parser.add_listener
def _options(parser: Any) -> None:
    parser.add_argument("--rate", type=float, default=10.0, help="Requests a second of the open loop (Arrivals)")
    parser.add_argument("--grpc", default="", help="HOST:PORT of gRPC, if not the host's port 3001")
