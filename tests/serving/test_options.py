"""What an operator sets for every Runner, divided among the workers."""

import pytest

from models.card import read_card
from serving.options import RunnerOptions
from tests.conftest import SHIPPED


@pytest.mark.parametrize(("workers", "places"), [(1, 256), (2, 128), (8, 64), (16, 64)])
def test_a_workers_share_of_the_queue_still_takes_the_largest_request(workers: int, places: int) -> None:
    card = read_card(SHIPPED / "card.toml")
    assert card.limits.max_items == 64
    assert RunnerOptions(workers=workers).queue_size_for(card) == places
    assert RunnerOptions(queue_size=4, workers=workers).queue_size_for(card) == 4
