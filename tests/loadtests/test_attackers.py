"""The attackers: each does what its name says, and comes back when it is cut off."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from loadtests.attackers.endless_headers import send_headers_without_end
from loadtests.attackers.silent_connections import stay_silent
from loadtests.attackers.slow_uploads import upload_slowly

Attack = Callable[..., Awaitable[None]]


def watch(attack: Attack, enough: Callable[[list[bytes]], bool], answer: bytes = b"", **how: float) -> list[bytes]:
    """Let a server be attacked until it has had enough; return what came over each connection.

    Args:
        attack: the attacker.
        enough: whether what came is enough.
        answer: what the server says to a client, and then hangs up, as soon as something came; b"" for nothing.
        how: arguments of the attacker.
    """
    received = list[bytes]()

    async def run() -> None:
        done = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            index = len(received)
            received.append(b"")
            while not enough(received) and (part := await reader.read(4096)):
                received[index] += part
                if answer:
                    writer.write(answer)
                    break
            if enough(received):
                done.set()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        attacking = asyncio.ensure_future(attack("127.0.0.1", port, **how))
        async with asyncio.timeout(60):
            await done.wait()
        attacking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attacking
        server.close()

    asyncio.run(run())
    return received


def test_an_upload_comes_a_byte_at_a_time() -> None:
    came = watch(upload_slowly, lambda parts: any(part.endswith(b"\xff\xff\xff") for part in parts), interval_s=0.01)
    assert all(b"Content-Length: 25000000\r\n\r\n" in part for part in came if part)


def test_silent_connections_are_as_many_as_asked_for_and_send_nothing() -> None:
    came = watch(stay_silent, lambda parts: len(parts) >= 40, clients=40)
    assert set(came) == {b""}


def test_headers_have_no_end() -> None:
    came = watch(send_headers_without_end, lambda parts: any(part.count(b"\n") > 5 for part in parts), interval_s=0.01)
    assert not any(b"\r\n\r\n" in part for part in came)


@pytest.mark.parametrize("attack", [upload_slowly, send_headers_without_end])
def test_whoever_is_answered_begins_anew(attack: Attack) -> None:
    answer = b"HTTP/1.1 408 Request Timeout\r\n\r\n"
    assert len(watch(attack, lambda parts: len(parts) >= 5, answer, clients=2, interval_s=0.01)) >= 5
