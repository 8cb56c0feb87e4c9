"""Requests whose headers have no end."""

import asyncio

from loadtests.attackers.again import connect_again_and_again


async def send_headers_without_end(host: str, port: int, *, clients: int = 2, interval_s: float = 0.05) -> None:
    """Send one short header after the other until cancelled; who is cut off begins anew."""

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        closed = asyncio.ensure_future(reader.read())
        writer.write(f"GET /health HTTP/1.1\r\nHost: {host}\r\n".encode())
        while not closed.done():
            writer.write(b"x-more: and more\r\n")
            await writer.drain()
            await asyncio.wait((closed,), timeout=interval_s)
        closed.result()

    await connect_again_and_again(host, port, clients, send)
