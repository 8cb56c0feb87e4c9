"""What a service that others depend on reads from the network."""

import asyncio
from typing import Any

import pytest

from api.pickles import NoPickleFromAfar


@pytest.mark.parametrize(
    ("called", "kind", "passes"),
    [
        (("/tmp/gradcam.sock", None), "application/vnd.bentoml+pickle", True),
        (("127.0.0.1", 3000), "application/vnd.bentoml+pickle", True),
        (("10.0.0.7", 3000), "application/json", True),
        (("10.0.0.7", 3000), "application/vnd.bentoml+pickle", False),
        (("10.0.0.7", 3000), "Application/vnd.BentoML+Pickle; charset=x", False),
        (None, "application/vnd.bentoml+pickle", False),
    ],
)
def test_a_pickle_from_another_machine_is_never_read(
    called: tuple[str, int | None] | None, kind: str, passes: bool
) -> None:
    reached, sent = [], []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope)

    async def receive() -> Any:
        raise AssertionError("the body was read")

    async def send(message: Any) -> None:
        sent.append(message)

    # Whoever claims to be near in a header, or to come from there, is still not.
    headers = [(b"x-forwarded-for", b"127.0.0.1"), (b"content-type", kind.encode())]
    scope = {"type": "http", "server": called, "client": ("127.0.0.1", 1), "headers": headers}
    asyncio.run(NoPickleFromAfar(app)(scope, receive, send))
    assert bool(reached) == passes
    assert [message["status"] for message in sent if "status" in message] == ([] if passes else [415])
