"""The tree of exceptions that errors.py draws, against the classes that there are."""

import importlib
import re
from collections.abc import Iterator

import pytest

import errors
from api.problems import problem_of
from errors import LimitMissed, VitrineError
from tests.conftest import ROOT

BRANCH = re.compile(r"^ {4}(?P<indent>[│├└─ ]*)(?P<name>\w+)(?: +(?P<status>\d{3})?.*)?$")
ROOMS = (
    *("api", "backends", "bulk", "cli", "explain", "export", "models", "postprocessing", "preprocessing", "runners"),
    *("serving", "settings", "training", "tuning"),
)


def drawn_tree() -> dict[str, tuple[str, int | None]]:
    """Return the base and the HTTP status of each exception that the docstring of errors.py draws."""
    tree = dict[str, tuple[str, int | None]]()
    bases = ["Exception"]
    for line in (errors.__doc__ or "").splitlines():
        if match := BRANCH.match(line):
            depth = len(match["indent"]) // 4
            tree[match["name"]] = bases[depth], int(match["status"]) if match["status"] else None
            bases[depth + 1 :] = [match["name"]]
    return tree


def subclasses(kind: type[VitrineError]) -> Iterator[type[VitrineError]]:
    """Give an exception and everything that is derived from it."""
    yield kind
    for derived in kind.__subclasses__():
        yield from subclasses(derived)


def raised(kind: type[VitrineError]) -> VitrineError:
    """Return an exception with a message, or with the figures that its class asks for."""
    return LimitMissed(10.0, 20.0) if kind is LimitMissed else kind("what was wrong")


@pytest.fixture(scope="module")
def kinds() -> list[type[VitrineError]]:
    """Every exception of Vitrine's own modules, all of which are imported."""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py") if (ROOT / room).is_dir() else [ROOT / f"{room}.py"]):
            text = path.read_text("utf-8")
            if re.search(rf"^ *class \w+\((?:errors\.)?(?:{'|'.join(drawn_tree())})\)", text, re.MULTILINE):
                importlib.import_module(path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."))
    return [kind for kind in subclasses(VitrineError) if not kind.__module__.startswith("tests")]


def test_every_exception_stands_in_the_drawn_tree_and_every_drawn_one_exists(
    kinds: list[type[VitrineError]],
) -> None:
    tree = drawn_tree()
    assert len(tree) > 15 and tree["InvalidImage"] == ("InvalidInput", 400)
    assert sorted((kind.__name__, kind.__bases__[0].__name__) for kind in kinds) == sorted(
        (name, base) for name, (base, _) in tree.items()
    )
    assert {kind.__module__ for kind in kinds} == {"errors"}


def test_an_exception_with_a_status_in_the_tree_is_answered_with_that_status(
    kinds: list[type[VitrineError]],
) -> None:
    statuses = {name: status for name, (_, status) in drawn_tree().items() if status is not None}
    assert set(statuses.values()) == {400, 401, 403, 404, 408, 413, 429, 499, 500, 503, 504}
    for kind in kinds:
        assert problem_of(raised(kind), "id").status == statuses.get(kind.__name__, 500), kind


def test_every_exception_says_what_it_means(kinds: list[type[VitrineError]]) -> None:
    assert all(kind.__doc__ for kind in kinds)
