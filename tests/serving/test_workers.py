"""Workers that tell each other how they are: over real sockets, also with one that is slow, hung or dead."""

import asyncio
import socket
from pathlib import Path
from typing import Any

from serving.options import RunnerOptions
from serving.repository import ModelRepository
from serving.workers import Workers
from tests.tiny import seal, tiny_package


def sibling(folder: Path, name: str, **news: Any) -> Workers:
    """A worker of another process, as far as its socket's name goes."""
    return Workers(folder, lambda: {"name": name, **news}, name)


def test_each_hears_all_others_and_none_that_has_stopped(tmp_path: Path) -> None:
    async def scene() -> None:
        workers = [sibling(tmp_path, name) for name in ("a", "b", "c")]
        for worker in workers:
            await worker.start()
        heard = await workers[0].ask()
        assert sorted(news["name"] for news in heard) == ["b", "c"]
        await workers[1].stop()
        assert [news["name"] for news in await workers[0].ask()] == ["c"]
        for worker in (workers[0], workers[2]):
            await worker.stop()
        assert list(tmp_path.iterdir()) == []

    asyncio.run(scene())


def test_a_dead_workers_socket_is_cleared_away(tmp_path: Path) -> None:
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "dead.sock"))
    dead.close()  # as after kill -9: the file stays, nobody listens

    async def scene() -> None:
        assert await sibling(tmp_path, "a").ask() == []
        assert not (tmp_path / "dead.sock").exists()

    asyncio.run(scene())


def test_of_one_that_hangs_the_last_news_will_do(tmp_path: Path) -> None:
    async def scene() -> None:
        slow, asking = sibling(tmp_path, "slow", count=7), sibling(tmp_path, "a")
        await slow.start()
        assert [news["count"] for news in await asking.ask(30)] == [7]
        await slow.stop()
        with socket.socket(socket.AF_UNIX) as hung:
            hung.bind(str(tmp_path / "slow.sock"))
            hung.listen()  # connects, and never says a word
            assert [news["count"] for news in await asking.ask(0.05)] == [7]
            assert await sibling(tmp_path, "b").ask(0.05) == []

    asyncio.run(scene())


def test_that_another_was_not_ready_a_moment_ago_is_asked_again(tmp_path: Path) -> None:
    served = ModelRepository([seal(tiny_package(tmp_path / "tiny"))], RunnerOptions(), default="tiny")
    state = {"ready": False, "closing": False, "stats": {}}
    other = Workers(tmp_path, lambda: state, "other")

    async def scene() -> list[bool]:
        readiness = list[bool]()
        await other.start()
        await served.join(tmp_path)
        served.start()
        await asyncio.to_thread(served.wait_loaded, 60)
        for ready in (False, True, False):
            state["ready"] = ready
            await served.refresh(max_age_s=60)
            readiness.append(served.ready)
        await served.leave()
        await other.stop()
        return readiness

    # That it was ready is taken for granted for as long as the caller allows.
    assert asyncio.run(scene()) == [False, True, True]
    assert served.close(5)
