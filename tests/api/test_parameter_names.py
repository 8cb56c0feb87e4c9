"""Which names are taken for a mistake in writing a parameter."""

from itertools import combinations

import pytest

from api.parameter_names import MOST_CHECKED, check_names, is_one_edit_apart
from api.parameters import ExplanationQuery, InstancesQuery, PredictionQuery, RegressorQuery
from api.row_explanations import ClassifierExplanationQuery
from errors import InvalidInput

KNOWN = ("top_k", "threshold", "label")


def edits(name: str) -> set[str]:
    """Every text that is one edit away, by Norvig's enumeration of deletes, transposes, replaces and inserts."""
    letters = "abcdefghijklmnopqrstuvwxyz_"
    splits = [(name[:place], name[place:]) for place in range(len(name) + 1)]
    deletes = {a + b[1:] for a, b in splits if b}
    transposes = {a + b[1] + b[0] + b[2:] for a, b in splits if len(b) > 1}
    replaces = {a + letter + b[1:] for a, b in splits if b for letter in letters}
    return deletes | transposes | replaces | {a + letter + b for a, b in splits for letter in letters}


@pytest.mark.parametrize("name", ["top_k", "size", "ab", "a"])
def test_one_edit_apart_is_what_an_enumeration_of_edits_finds(name: str) -> None:
    near = edits(name)
    assert all(is_one_edit_apart(other, name) for other in near)
    twice = {further for other in list(near)[:40] for further in list(edits(other))[:60]} - near - {name}
    assert len(twice) > 100 and not any(is_one_edit_apart(other, name) for other in twice)


@pytest.mark.parametrize("name", ["topk", "TOP_K", "Top-K", "treshold", "thresholds", "thershold", "lable"])
def test_a_name_that_is_nearly_a_known_one_is_refused_with_it(name: str) -> None:
    with pytest.raises(
        InvalidInput, match=rf"^{name}: there is no such parameter\. Did you mean (top_k|threshold|label)\?$"
    ):
        check_names([name], KNOWN)


def test_other_names_are_ignored_and_a_flood_of_them_costs_nothing() -> None:
    check_names(["top_k", "k", "utm_source", "_", "", "confidence", "topkkk"], KNOWN)
    check_names([*(f"x{number}" for number in range(MOST_CHECKED)), "topk"], KNOWN)


def test_no_two_parameters_are_so_alike_that_one_is_taken_for_the_other() -> None:
    queries = (PredictionQuery, ExplanationQuery, RegressorQuery, InstancesQuery, ClassifierExplanationQuery)
    names = {"version", *(name for query in queries for name in query.model_fields)}
    assert not [pair for pair in combinations(sorted(names), 2) if is_one_edit_apart(*pair)]
