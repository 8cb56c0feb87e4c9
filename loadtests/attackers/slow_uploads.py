"""Uploads that never end: a large picture is announced, and comes a byte at a time."""

import asyncio

from loadtests.attackers.again import connect_again_and_again

ANNOUNCED_BYTES = 25_000_000


async def upload_slowly(
    host: str,
    port: int,
    *,
    clients: int = 2,
    path: str = "/predict",
    announced: int = ANNOUNCED_BYTES,
    at_once: int = 0,
    interval_s: float = 0.05,
) -> None:
    """Upload a byte at a time until cancelled; who is answered or cut off begins anew.

    Args:
        host: the server's address.
        port: the server's port for HTTP.
        clients: how many upload at a time.
        path: where to.
        announced: the Content-Length, in bytes.
        at_once: how many bytes are sent before the trickle begins.
        interval_s: seconds between two bytes.
    """

    async def upload(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = asyncio.ensure_future(reader.readline())
        writer.write(f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {announced}\r\n\r\n".encode())
        writer.write(bytes(at_once))
        await writer.drain()
        while not answer.done():
            writer.write(b"\xff")
            await writer.drain()
            await asyncio.wait((answer,), timeout=interval_s)
        answer.result()

    await connect_again_and_again(host, port, clients, upload)
