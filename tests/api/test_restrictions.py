"""What a file of keys says of a key's scope and quotas, and what `vitrine keys` makes of it."""

import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from api.keys import Entry, add_key, read_keys, restrict_key
from api.restrictions import Restrictions
from cli.main import main
from errors import KeysError, NotAllowed
from tests.api.conftest import keys_of

ALL = Restrictions(
    models=("churn", "kidney-stone"),
    actions=("predict",),
    requests_per_minute=60,
    items_per_minute=600,
    bytes_per_day=10**9,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def run(path: Path, *arguments: str) -> str:
    ran = CliRunner().invoke(main, ["keys", *arguments, "--file", str(path)])
    assert ran.exit_code == 0, ran.stderr
    return ran.stdout


def test_what_is_written_is_read_and_a_key_without_restrictions_is_written_as_before(path: Path) -> None:
    add_key(path, "plain")
    add_key(path, "limited", admin=True, restrictions=ALL)
    plain, limited = tomllib.loads(path.read_text())["key"]
    assert set(plain) == {"name", "sha256", "created"}
    assert limited["models"] == ["churn", "kidney-stone"] and limited["bytes_per_day"] == 10**9
    entry = read_keys(path)[1]
    assert entry.restrictions() == ALL.restrictions() and entry.admin
    keys = keys_of(path)
    assert list(keys.restricted) == ["limited"] and keys.restricted["limited"].requests_per_minute == 60


def test_the_command_line_sets_shows_and_takes_back_restrictions(path: Path) -> None:
    scope = ("--model", "churn", "--model", "kidney-stone", "--action", "predict")
    key = run(path, "add", "ci", *scope, "--requests-per-minute", "60")
    assert run(path, "list").split("  ")[1:] == [
        "ci",
        "models=churn,kidney-stone",
        "actions=predict",
        "requests_per_minute=60\n",
    ]
    run(path, "restrict", "ci", "--items-per-minute", "600", "--bytes-per-day", "1000000000")
    assert read_keys(path)[0].restrictions() == {"items_per_minute": 600, "bytes_per_day": 10**9}
    run(path, "restrict", "ci")
    assert read_keys(path)[0].restrictions() == {}
    assert keys_of(path).name_of(key.strip().encode()) == "ci"  # the key itself is as it was
    ran = CliRunner().invoke(main, ["keys", "add", "x", "--model", "Kidney Stone", "--file", str(path)])
    assert ran.exit_code == 2 and "is no name of a model" in ran.stderr
    with pytest.raises(KeysError, match="has no key nobody; it has: ci"):
        restrict_key(path, "nobody", ALL)


@pytest.mark.parametrize(
    "line",
    [
        "models = []",
        'models = ["Kidney Stone"]',
        'models = "churn"',
        'actions = ["train"]',
        "actions = []",
        "requests_per_minute = 0",
        "requests_per_minute = true",
        "requests_per_minute = 1.5",
        'items_per_minute = "60"',
        "items_per_minute = -1",
        "bytes_per_day = 1000000000000001",
        "requests_per_second = 5",
    ],
)
def test_what_could_mean_two_things_or_nothing_damages_the_file(path: Path, line: str) -> None:
    add_key(path, "ci")
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(KeysError, match=f"damaged at key.0.{line.split()[0]}"):
        read_keys(path)


def test_a_scope_names_what_is_allowed() -> None:
    ALL.check_scope("ci", "churn", "predict")
    with pytest.raises(NotAllowed, match="may not use imagenet; it may use churn, kidney-stone"):
        ALL.check_scope("ci", "imagenet", "predict")
    with pytest.raises(NotAllowed, match="may not explain; it may predict"):
        ALL.check_scope("ci", "churn", "explain")
    ALL.check_scope("ci", "churn")
    Restrictions().check_scope("ci", "anything", "explain")
    assert not Restrictions().restrictions() and issubclass(Entry, Restrictions)
