"""The self-check by itself: which outputs pass, and what is said of one that does not."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from errors import StoreError
from models.card import read_card
from models.package import StoredModel
from runners.cores import CoreShare
from runners.plan import Plan
from runners.runner import Runner
from serving.loading import LoadedPipeline, load_prediction
from serving.options import RunnerOptions
from serving.self_check import SelfCheck, golden_batch, golden_payload
from tests.conftest import ROOT
from tests.tiny import logits_of_plain, plain, seal, tiny_package

SHARE = CoreShare(2)


def package(
    folder: Path, change: Callable[[list[dict[str, object]]], object] = len, tolerance: float = 1e-3
) -> StoredModel:
    """Return a tiny model whose goldens were changed before it was sealed."""
    tiny_package(folder)
    index = folder / "goldens" / "goldens.json"
    goldens = json.loads(index.read_text())
    change(goldens["goldens"])
    index.write_text(json.dumps(goldens | {"tolerance": tolerance}))
    return seal(folder)


def check(stored: StoredModel, tolerance: float = np.inf) -> tuple[SelfCheck, LoadedPipeline]:
    loaded = load_prediction(stored, RunnerOptions(), SHARE)
    return SelfCheck(stored, loaded.golden_payload, "a backend", tolerance), loaded


def replay_alone(self_check: SelfCheck, loaded: LoadedPipeline) -> Runner[object, object, object]:
    """Replay the goldens as one client would, and return the closed Runner."""
    runner = Runner[object, object, object]("tiny", loaded.pipeline, Plan(lanes=1, max_batch=4), queue_size=1)
    try:
        self_check.one_by_one(runner)
    finally:
        assert runner.close(20)
    return runner


def move_off(rows: list[dict[str, object]]) -> None:
    """Move the second golden's reference to even odds, which no longer is what the graph gives."""
    rows[1]["logits"] = [0.0, 0.0]


def move_a_little(rows: list[dict[str, object]]) -> None:
    """Move the first golden's reference by less than its tolerance."""
    logits: list[float] = rows[0]["logits"]  # type: ignore[assignment]
    rows[0]["logits"] = [logits[0], logits[1] + 1e-3]


def test_goldens_that_come_out_as_they_should_pass_alone_and_in_a_batch_and_are_not_counted(tmp_path: Path) -> None:
    self_check, loaded = check(package(tmp_path))
    assert replay_alone(self_check, loaded).stats().succeeded == 0
    self_check.in_batches(loaded.pipeline, Plan(max_batch=8), SHARE)


def test_a_golden_that_is_off_is_named_with_its_distance_and_what_to_do(tmp_path: Path) -> None:
    stored = package(tmp_path, move_off)
    self_check, loaded = check(stored)
    off = abs(1 / (1 + np.exp(-np.diff(logits_of_plain(240))[0])) - 0.5)
    for replay, how in (
        (lambda: replay_alone(self_check, loaded), "alone"),
        (lambda: self_check.in_batches(loaded.pipeline, Plan(max_batch=8), SHARE), "in a batch"),
    ):
        with pytest.raises(StoreError) as raised:
            replay()
        message = str(raised.value)
        assert message.startswith(f"{stored.tag} on a backend: golden 240.png, {how}, is {off:.2e} away")
        assert "`vitrine models verify tiny`" in message


def test_the_narrower_of_two_tolerances_holds(tmp_path: Path) -> None:
    stored = package(tmp_path, move_a_little)
    replay_alone(*check(stored))
    with pytest.raises(StoreError, match=r"golden 10\.png.*tolerance 1e-06"):
        replay_alone(*check(stored, 1e-6))


def test_another_label_fails_within_every_tolerance(tmp_path: Path) -> None:
    """The picture is a hair over even odds, its reference a hair under: only the label differs."""

    def at_even_odds(rows: list[dict[str, object]]) -> None:
        (tmp_path / "goldens" / "10.png").write_bytes(plain(128))
        rows[0]["logits"] = [0.01, -0.01]

    with pytest.raises(StoreError, match="gets another label than by its reference"):
        replay_alone(*check(package(tmp_path, at_even_odds, 0.01)))


def test_a_golden_row_is_sent_as_a_client_sends_one() -> None:
    card = read_card(ROOT / "models" / "churn" / "card.toml")
    goldens = [(path.name, path.read_bytes()) for path in sorted((ROOT / "models/churn/goldens").glob("[0-9].json"))]
    assert golden_payload(card, goldens[0][1]) == [json.loads(goldens[0][1])]
    assert golden_batch(card, goldens).shape == (len(goldens), 6)
    with pytest.raises(StoreError, match=r"churn: its card refuses the golden input bad\.json: .*age"):
        golden_batch(card, [*goldens, ("bad.json", b'{"age": 3}')])


def test_a_golden_picture_is_transformed_as_that_of_a_client(tmp_path: Path) -> None:
    stored = package(tmp_path)
    batch = golden_batch(stored.card, [("a.png", plain(0)), ("b.png", plain(255))])
    assert batch.shape == (2, 3, 16, 16) and batch.dtype == np.float32
    assert np.allclose(batch[:, 0, 0, 0], (-1, 1))
    with pytest.raises(StoreError, match=r"refuses the golden input bad\.png"):
        golden_batch(stored.card, [("bad.png", b"no picture")])


@pytest.mark.parametrize(
    ("plan", "sizes"), [(Plan(lanes=2, widths=(2, 1)), [1, 1]), (Plan(max_batch=8), [2]), (Plan(), [])]
)
def test_goldens_are_replayed_in_the_batches_that_the_plan_makes(tmp_path: Path, plan: Plan, sizes: list[int]) -> None:
    self_check, loaded = check(package(tmp_path))
    inferred, infer = list[int](), loaded.pipeline.infer

    def counting(batch: list[object]) -> object:
        inferred.append(len(batch))
        assert SHARE.cores() == 1  # as where every lane is at work
        return infer(batch)

    loaded.pipeline.infer = counting  # type: ignore[method-assign, assignment]
    seconds = self_check.in_batches(loaded.pipeline, plan, SHARE)
    assert inferred == sizes and bool(seconds) == bool(sizes)
