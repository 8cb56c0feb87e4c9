"""Connections that say nothing."""

import asyncio

from loadtests.attackers.again import connect_again_and_again


async def stay_silent(host: str, port: int, *, clients: int = 400) -> None:
    """Keep so many connections open without a byte until cancelled, over HTTP or gRPC; those cut off come again."""

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):  # what a gRPC server says first
            pass

    await connect_again_and_again(host, port, clients, wait)
