"""The soak: right and wrong requests over HTTP and gRPC, and clients that hang up, mixed."""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import grpc
import numpy as np
from tqdm import tqdm
from tritonclient.grpc import service_pb2

from loadtests.chaos.outcomes import Outcome
from loadtests.compare.load import REFUSALS, TIMEOUT_S, TOLERANCE, Connection
from loadtests.compare.wire import post
from loadtests.grpc_client import infer_request

CLIENTS = 16
ROW = {
    "age": 42,
    "income": 52_000,
    "tenure_days": 420,
    "num_purchases": 9,
    "avg_transaction_value": 63.5,
    "days_since_last_purchase": 95,
}
REFUSED_CODES = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)


class Asked(NamedTuple):
    """What the soak asks, and where.

    Attributes:
        port: of HTTP.
        grpc_port: of gRPC.
        model: of pictures.
        pictures: encoded.
        expected: the right answer to each.
        requests: how many are sent.
    """

    port: int
    grpc_port: int
    model: str
    pictures: Sequence[bytes]
    expected: Sequence[dict[str, Any]]
    requests: int


End = tuple[str, str]
"""What became of a request (`answered`, `refused`, `failed` or `lost`), and the reason of the last two."""
Act = Callable[[Connection], Awaitable[End]]


def soak(asked: Asked) -> Outcome:
    """Send the mixture from a closed loop of clients, and count what became of each request."""
    return asyncio.run(_soak(asked))


async def _soak(asked: Asked) -> Outcome:
    stream, ends, took = random.Random(0), list[End](), list[float]()
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{asked.grpc_port}", options) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            service_pb2.ModelInferRequest.SerializeToString,
            service_pb2.ModelInferResponse.FromString,
        )
        acts = _acts(asked, infer)
        due = iter(stream.choices([act for act, _ in acts], [weight for _, weight in acts], k=asked.requests))

        async def client() -> None:
            connection = Connection()
            for act in due:
                began = time.perf_counter()
                try:
                    async with asyncio.timeout(TIMEOUT_S):
                        end = await act(connection)
                except (OSError, TimeoutError) as error:
                    connection.close()
                    end = "lost", repr(error)
                if end[0] == "answered":
                    took.append(time.perf_counter() - began)
                ends.append(end)
                bar.update()
            connection.close()

        with tqdm(total=asked.requests, desc="soak", unit="request") as bar:
            await asyncio.gather(*(client() for _ in range(CLIENTS)))
    counts = {kind: sum(end[0] == kind for end in ends) for kind in ("answered", "refused", "failed", "lost")}
    p50, p99 = np.percentile(np.array(took) * 1e3, [50, 99])
    reason = next((end[1] for end in ends if end[0] in ("failed", "lost")), "")
    return Outcome(len(ends), **counts, p50_ms=float(p50), p99_ms=float(p99), reason=reason)


def _acts(asked: Asked, infer: Callable[..., Awaitable[Any]]) -> list[tuple[Act, int]]:
    """Return what clients do, and how often."""
    pairs = list(zip(asked.pictures, asked.expected, strict=True))
    base = f"/models/{asked.model}"
    text, cut = b"this is no picture", asked.pictures[0][: len(asked.pictures[0]) // 2]
    row = post("/models/churn/predict", json.dumps({"features": ROW}).encode(), "application/json")
    rows = post("/models/churn/predict/batch", json.dumps({"samples": [ROW] * 50}).encode(), "application/json")
    wrong_row = post("/models/churn/predict", b'{"features": {"age": -5}}', "application/json")
    acts: list[tuple[Act, int]] = [(partial(_predict, port=asked.port, path=f"{base}/predict", pairs=pairs), 30)]
    acts += [
        (partial(_predict, port=asked.port, path=f"{base}/explain", pairs=pairs), 5),
        (partial(_infer, infer=infer, model=asked.model, pairs=pairs), 15),
        (partial(_infer, infer=infer, model=asked.model, pairs=[(text, None)]), 3),
        (partial(_hang_up, port=asked.port, request=post(f"{base}/predict", asked.pictures[0], "image/jpeg")), 5),
    ]
    statuses = [(row, 200, 20), (rows, 200, 5), (wrong_row, 400, 5)]
    statuses += [
        (post(f"{base}/predict", text, "image/jpeg"), 400, 5),
        (post(f"{base}/predict", cut, "image/jpeg"), 400, 4),
    ]
    statuses += [(post("/models/nobody/predict", text, "image/jpeg"), 404, 3)]
    return acts + [
        (partial(_ask, port=asked.port, request=request, status=status), weight) for request, status, weight in statuses
    ]


async def _ask(connection: Connection, *, port: int, request: bytes, status: int) -> End:
    got, body = await connection.exchange(port, request)
    return _end(got, status, body)


async def _predict(
    connection: Connection, *, port: int, path: str, pairs: Sequence[tuple[bytes, dict[str, Any]]]
) -> End:
    picture, right = random.choice(pairs)
    status, body = await connection.exchange(port, post(path, picture, "image/jpeg"))
    if status != 200:
        return _end(status, 200, body)
    probabilities = json.loads(body)["probabilities"]
    difference = max(abs(probabilities[label] - value) for label, value in right["probabilities"].items())
    return ("answered", "") if difference <= TOLERANCE else ("failed", f"a wrong answer to {path}")


async def _infer(
    _: Connection,
    *,
    infer: Callable[..., Awaitable[Any]],
    model: str,
    pairs: Sequence[tuple[bytes, dict[str, Any] | None]],
) -> End:
    picture, right = random.choice(pairs)
    request = infer_request(model)
    request.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(picture)
    request.outputs.add(name="probabilities")
    try:
        answer = await infer(request, timeout=TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        if right is None and error.code() is grpc.StatusCode.INVALID_ARGUMENT:
            return "answered", ""
        return "refused" if error.code() in REFUSED_CODES else "failed", f"{error.code()}: {error.details()}"
    if right is None:
        return "failed", "gRPC took a text for a picture"
    probabilities = np.frombuffer(answer.raw_output_contents[0], "<f4")
    difference = np.abs(probabilities - list(right["probabilities"].values())).max()
    return ("answered", "") if difference <= TOLERANCE else ("failed", "a wrong answer over gRPC")


async def _hang_up(_: Connection, *, port: int, request: bytes) -> End:
    """Send half of a request and leave; there is nothing to be answered."""
    _reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request[: len(request) // 2])
    await writer.drain()
    writer.close()
    return "answered", ""


def _end(status: int, right: int, body: bytes) -> End:
    if status == right:
        return "answered", ""
    return "refused" if status in REFUSALS else "failed", f"{status} instead of {right}: {body[:200]!r}"
