"""Models that come and go while a process serves: swapped when they are ready everywhere, and never a request lost."""

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from errors import NotFound, StoreError, Unavailable
from models.asked_models import AskedModels
from models.followed import FollowedFolders
from models.package import open_stored
from models.store import Store
from serving import follower
from serving.follower import Follower
from serving.gradcam import process as gradcam
from serving.gradcam.process import ExplanationProcess
from serving.loaded_model import LoadedModel, State
from serving.options import RunnerOptions
from serving.repository import ASKED_FOR_NONE, ModelRepository
from serving.run_state import RunState, last_served
from serving.workers import Workers
from tests.tiny import logits_of_plain, plain, tiny_package


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "INTERVAL_S", 0.02)
    monkeypatch.setattr(follower, "PENDING_INTERVAL_S", 0.01)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A folder with one version of the model `tiny`."""
    store = Store.own(tmp_path / "own")
    add(store, tmp_path)
    return store


def add(store: Store, folder: Path, name: str = "tiny", *, threshold: float = 0.5, broken: bool = False) -> str:
    """Import a model with this threshold on its card; a broken one fails its self-check. Return its version."""
    package = tiny_package(folder / f"{name}-{threshold}-{broken}", name)
    card = package / "card.toml"
    card.write_text(card.read_text().replace("threshold = 0.5", f"threshold = {threshold}"))
    if broken:
        goldens = package / "goldens" / "goldens.json"
        entries = json.loads(goldens.read_text())
        entries["goldens"][0]["logits"] = [9.0, 9.0]
        goldens.write_text(json.dumps(entries))
    return store.import_package(package)[0].version


def served(repository: ModelRepository) -> dict[str, str | None]:
    return {name: model.version for name, model in repository.models.items() if model.state == "ready"}


class Worker:
    """One worker's models, and what follows the folder for it."""

    def __init__(self, store: Store, run: Path, name: str, asked: AskedModels = ASKED_FOR_NONE, **options: Any) -> None:
        folders = FollowedFolders([store])
        stored = [open_stored(store.models / name / version) for name, version in store.read_lock().items()]
        run.mkdir(exist_ok=True)
        state = RunState(run)
        models = last_served(stored, folders, state)
        self.repository = ModelRepository(models, RunnerOptions(), default="tiny", asked=asked)
        self.follower = Follower(self.repository, folders, state, **options)
        self.repository._workers = Workers(run, self.repository.news, name)


@asynccontextmanager
async def following(*workers: Worker) -> AsyncIterator[None]:
    """Serve and follow until the block ends."""
    tasks = []
    try:
        for worker in workers:
            worker.repository.start()
            assert worker.repository._workers is not None
            await worker.repository._workers.start()
            tasks.append(asyncio.create_task(worker.follower.run()))
            await until(lambda worker=worker: served(worker.repository) != {})  # type: ignore[misc]
        yield
    finally:
        for worker in workers:
            worker.repository.drain()
            await worker.repository.leave()
            assert await asyncio.to_thread(worker.repository.close, 20)
        await asyncio.gather(*tasks)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


def run(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 120))


def test_a_model_that_was_asked_for_makes_the_server_ready_once_it_is_installed(store: Store, tmp_path: Path) -> None:
    asked = AskedModels((("tiny", ""), ("other", "")), frozenset(("tiny", "other")))
    worker = Worker(store, tmp_path / "run", "a", asked=asked)
    repository = worker.repository

    async def scene() -> None:
        async with following(worker):
            await until(lambda: "tiny" in served(repository))
            assert not repository.ready and ["asks for other" in text for text in repository.absences()] == [True]
            add(store, tmp_path, "other")
            await until(lambda: repository.ready)
            store.remove("other")
            await until(lambda: "other" not in repository.models)
            assert not repository.ready
            add(store, tmp_path, "other", threshold=0.4)
            await until(lambda: repository.ready)
            await worker.follower.unload("other")
            assert repository.ready and not repository.absences()  # a client took it out, which is no mistake

    run(scene())


def test_a_version_is_replaced_added_and_removed_and_requests_on_the_old_one_end_well(
    store: Store, tmp_path: Path
) -> None:
    worker = Worker(store, tmp_path / "run", "a", retire_after_s=0.3)
    repository = worker.repository

    async def scene() -> None:
        async with following(worker):
            old = repository.get("tiny")
            second = add(store, tmp_path, threshold=0.9)
            await until(lambda: served(repository) == {"tiny": second})
            assert repository.get("tiny").card.threshold == 0.9 and repository.get("tiny", second[:6]).state == "ready"
            # A request that came before the swap may submit after it.
            assert np.allclose(
                (await asyncio.wrap_future(old.submit(plain(9)))).value.logits, logits_of_plain(9), atol=1e-5
            )
            await until(lambda: old.state == "draining" and not repository.retired)
            other = add(store, tmp_path, "other")
            await until(lambda: served(repository) == {"tiny": second, "other": other})
            store.remove("other")
            await until(lambda: served(repository) == {"tiny": second})
            with pytest.raises(NotFound):
                repository.get("other")
            store.lock_file.write_text("{")  # what is damaged takes nothing out of service
            await asyncio.sleep(0.2)
            assert served(repository) == {"tiny": second} and repository.get("tiny").submit(plain(1)).result(20)

    run(scene())


def test_one_that_fails_its_self_check_leaves_the_old_one_serving_until_it_is_good(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    worker, first = Worker(store, tmp_path / "run", "a"), store.read_lock()["tiny"]
    repository = worker.repository

    async def scene() -> None:
        async with following(worker):
            bad = add(store, tmp_path, broken=True)
            await until(lambda: any(model.state == "failed" for model in repository.candidates.values()))
            failed = repository.candidates[f"tiny:{bad}"]
            assert "golden" in failed.detail and served(repository) == {"tiny": first} and repository.ready
            await until(lambda: "tiny goes on being served as it was" in caplog.text)
            missing = store.models / "tiny" / ("0" * 16)
            store._write_lock({"tiny": missing.name})
            await until(lambda: "tiny" in repository.unreadable)
            good = add(store, tmp_path, threshold=0.7)
            await until(lambda: served(repository) == {"tiny": good})
            assert repository.candidates == {} and repository.unreadable == {}

    run(scene())


def test_files_that_were_damaged_are_tried_again_once_they_change(store: Store, tmp_path: Path) -> None:
    worker, first = Worker(store, tmp_path / "run", "a"), store.read_lock()["tiny"]
    repository = worker.repository
    package = tiny_package(tmp_path / "second")
    (package / "weights.safetensors").write_bytes(b"second")

    async def scene() -> None:
        async with following(worker):
            elsewhere = Store.own(tmp_path / "elsewhere")
            second = elsewhere.import_package(package)[0]
            half_copied = store.models / "tiny" / second.version
            half_copied.mkdir()
            for file in second.path.rglob("*"):
                target = half_copied / file.relative_to(second.path)
                target.mkdir() if file.is_dir() else target.write_bytes(file.read_bytes())
            (half_copied / "predict.onnx").write_bytes(b"half")
            store._write_lock({"tiny": second.version})
            await until(lambda: any(model.state == "failed" for model in repository.candidates.values()))
            assert served(repository) == {"tiny": first}
            (half_copied / "predict.onnx").write_bytes(second.graph.read_bytes())
            await until(lambda: served(repository) == {"tiny": second.version})

    run(scene())


@pytest.mark.parametrize("passes", [True, False])
def test_workers_and_the_grad_cam_process_swap_together_or_not_at_all(
    store: Store, tmp_path: Path, passes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: dict[str, State] = {"gradcam": "loading"}
    one = Worker(store, tmp_path / "run", "one", explained=lambda model: states["gradcam"])
    two, first = Worker(store, tmp_path / "run", "two"), store.read_lock()["tiny"]
    held = asyncio.Event()
    load = two.repository.load

    def load_late(model: LoadedModel) -> None:
        while not held.is_set():
            time.sleep(0.01)
        load(model) if passes else model.fail(StoreError("no memory"))

    async def scene() -> None:
        async with following(one, two):
            monkeypatch.setattr(two.repository, "load", load_late)
            second = add(store, tmp_path, threshold=0.9)
            await until(lambda: [model.state for model in one.repository.candidates.values()] == ["ready"])
            await asyncio.sleep(0.1)
            assert served(one.repository) == {"tiny": first}
            held.set()
            if passes:
                await until(lambda: served(two.repository) == {"tiny": second})
                await asyncio.sleep(0.1)
                assert served(one.repository) == {"tiny": first}  # which asks the Grad-CAM process too
                states["gradcam"] = "ready"
            else:
                await until(lambda: one.repository.candidates[f"tiny:{second}"].state == "failed")
            await until(lambda: served(one.repository) == {"tiny": second if passes else first})
            assert served(two.repository) == {"tiny": second if passes else first}

    run(scene())


def test_a_client_takes_a_model_out_of_service_in_every_worker_and_brings_it_back(store: Store, tmp_path: Path) -> None:
    one, two = (Worker(store, tmp_path / "run", name) for name in ("one", "two"))

    async def scene() -> None:
        async with following(one, two):
            await one.follower.unload("tiny")
            assert served(one.repository) == served(two.repository) == {}
            with pytest.raises(Unavailable, match="a client took it out of service; POST /v2/repository"):
                two.repository.get("tiny").submit(b"")
            second = add(store, tmp_path, threshold=0.9)
            await asyncio.sleep(0.1)
            assert served(one.repository) == {}
            await two.follower.load("tiny")
            assert served(two.repository) == served(one.repository) == {"tiny": second}
            add(store, tmp_path, broken=True)
            with pytest.raises(Unavailable, match=r"tiny was not loaded: tiny:.*golden"):
                await one.follower.load("tiny")
            assert served(one.repository) == {"tiny": second}
            for ask in (one.follower.load, one.follower.unload):
                with pytest.raises(NotFound, match="There is no model 'absent' to"):
                    await ask("absent")

    run(scene())


def test_a_model_whose_next_version_cannot_be_read_is_taken_out_of_service_all_the_same(
    store: Store, tmp_path: Path
) -> None:
    worker = Worker(store, tmp_path / "run", "a")

    async def scene() -> None:
        async with following(worker):
            store._write_lock({"tiny": "0" * 16})
            await until(lambda: "tiny" in worker.repository.unreadable)
            await worker.follower.unload("tiny")
            assert served(worker.repository) == {}

    run(scene())


def test_a_client_that_loads_a_model_is_kept_waiting_until_it_is_ready_in_every_worker(
    store: Store, tmp_path: Path
) -> None:
    one, two = (Worker(store, tmp_path / "run", name) for name in ("one", "two"))
    repository = two.repository

    async def scene() -> None:
        async with following(one):
            with repository._loading:  # the second worker starts, and its model loads slowly
                repository.start()
                assert repository._workers is not None
                await repository._workers.start()
                asked = [asyncio.create_task(worker.follower.load("tiny")) for worker in (one, two)]
                await asyncio.sleep(0.2)
                assert not any(task.done() for task in asked)
            await asyncio.gather(*asked)
            assert served(repository) == served(one.repository) != {}
            repository.get("tiny").fail(StoreError("no memory"))
            with pytest.raises(Unavailable, match="tiny was not loaded: it failed in another worker"):
                await one.follower.load("tiny")
            await repository.leave()
            assert await asyncio.to_thread(repository.close, 20)

    run(scene())


def test_clients_may_load_and_unload_after_the_folder_of_the_server_has_been_deleted(
    store: Store, tmp_path: Path
) -> None:
    worker = Worker(store, tmp_path / "run", "a")

    async def scene() -> None:
        async with following(worker):
            shutil.rmtree(tmp_path / "run")
            await worker.follower.unload("tiny")
            assert served(worker.repository) == {}
            await worker.follower.load("tiny")
            shutil.rmtree(tmp_path / "run")
            (tmp_path / "run").write_text("a file where the folder should be")
            with pytest.raises(Unavailable, match=r"run cannot be written to .* restart the server"):
                await worker.follower.unload("tiny")
            assert served(worker.repository) != {}
            (tmp_path / "run").unlink()

    run(scene())


def test_a_process_in_place_of_a_dead_one_serves_what_that_did(store: Store, tmp_path: Path) -> None:
    worker, first = Worker(store, tmp_path / "run", "a"), store.read_lock()["tiny"]

    async def scene() -> None:
        async with following(worker):
            bad = add(store, tmp_path, broken=True)
            await until(lambda: any(model.state == "failed" for model in worker.repository.candidates.values()))
            locked = [open_stored(store.models / "tiny" / bad)]
            folders, state = FollowedFolders([store]), RunState(tmp_path / "run")
            assert [model.version for model in last_served(locked, folders, state)] == [first]
            assert last_served(locked, folders, RunState(tmp_path)) == locked  # a server that starts anew

    run(scene())


@pytest.mark.parametrize("text", ["{", None])
def test_a_process_in_place_of_a_dead_one_serves_on_though_the_lock_is_lost(
    store: Store, tmp_path: Path, text: str | None
) -> None:
    first = store.read_lock()["tiny"]

    async def scene() -> None:
        async with following(Worker(store, tmp_path / "run", "a")):
            await until(lambda: RunState(tmp_path / "run").served() == {"tiny": [first]})
        store.lock_file.unlink() if text is None else store.lock_file.write_text(text)
        worker = Worker(store, tmp_path / "run", "b")
        repository = worker.repository
        async with following(worker):
            await until(lambda: repository.lock_problems != [])
            assert served(repository) == {"tiny": first} and "models.lock cannot be read" in repository.lock_problems[0]
            second = add(store, tmp_path, threshold=0.9)
            await until(lambda: served(repository) == {"tiny": second} and repository.lock_problems == [])

    run(scene())


def test_a_lock_that_could_not_be_read_once_is_read_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, first = Worker(store, tmp_path / "run", "a"), store.read_lock()["tiny"]
    load_lock = Store.load_lock
    failures = list[Exception]([MemoryError(), OSError(24, "Too many open files")])

    def load_lock_late(store: Store) -> dict[str, str]:
        if failures:
            raise failures.pop(0)
        return load_lock(store)

    async def scene() -> None:
        async with following(worker):
            await until(lambda: worker.follower._has_planned)
            elsewhere = Store.own(tmp_path / "elsewhere")
            version = add(elsewhere, tmp_path, "other")
            shutil.copytree(elsewhere.models / "other", store.models / "other")
            monkeypatch.setattr(Store, "load_lock", load_lock_late)
            store._write_lock({"tiny": first, "other": version})
            await until(lambda: served(worker.repository) == {"tiny": first, "other": version})
            assert failures == []

    run(scene())


def test_the_grad_cam_process_has_the_versions_that_servers_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.own(tmp_path / "own")
    first, _ = store.import_package(tiny_package(tmp_path / "first", explained=True))
    other = tiny_package(tmp_path / "second", explained=True)
    (other / "weights.safetensors").write_bytes(b"second")
    monkeypatch.setattr(gradcam, "RELEASE_AFTER_S", 0.2)

    async def scene() -> None:
        process = ExplanationProcess([first], RunnerOptions(), FollowedFolders([store]))
        process.start()
        second, _ = store.import_package(other)
        await until(lambda: process.status([first.tag, second.tag])[second.tag]["state"] == "ready")
        assert process.status([first.tag])[first.tag]["state"] == "ready"
        await until(lambda: first.tag not in process.status([second.tag]))
        assert process.status([second.tag, "absent:0123456789abcdef"])["absent:0123456789abcdef"]["state"] == "missing"
        for tag in ("", "tiny", ":", "a:b:c", "../tiny:x"):
            assert process.status([tag])[tag]["state"] == "missing"
        await asyncio.sleep(0.3)
        process.status([second.tag])
        assert set(process._asked_for_at) <= {first.tag, second.tag}
        await process.stop(20)

    run(scene())
