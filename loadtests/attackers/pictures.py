"""Pictures that cost far more than they are worth, sent again and again."""

import asyncio

from loadtests.attackers.again import connect_again_and_again


async def send_pictures(host: str, port: int, *, body: bytes, path: str = "/predict", clients: int = 2) -> None:
    """Send one picture from so many clients until cancelled; each waits for its answer, whatever that is."""
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head.encode() + body)
        await reader.read()

    await connect_again_and_again(host, port, clients, send)
