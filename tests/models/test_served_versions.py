"""The versions that VITRINE_MODELS asks for, among those in a store or in a built Bento."""

import logging
from pathlib import Path

import pytest

from models import store
from models.served_versions import served_tags
from tests.tiny import tiny_package


@pytest.fixture
def versions(home: Path, tmp_path: Path) -> tuple[str, str]:
    """Two versions of the model `tiny` and one of `other` in the store; the second is in service."""
    package = tiny_package(tmp_path / "package")
    first, _ = store.import_package(package)
    (package / "weights.safetensors").write_bytes(b"other")
    second, _ = store.import_package(package)
    store.import_package(tiny_package(tmp_path / "other", "other"))
    return first.version, second.version


def test_a_version_is_requested_by_its_beginning_and_the_first_comes_first(versions: tuple[str, str]) -> None:
    first, second = versions
    requested = [("tiny", first[:6]), ("tiny", second[:6]), ("tiny", first)]
    assert served_tags(requested) == [("tiny", first), ("tiny", second)]
    assert served_tags([("tiny", "")]) == [("tiny", second)]
    assert dict(served_tags())["tiny"] == second


@pytest.mark.parametrize("requested", [("tiny", "zz"), ("absent", "")])
def test_what_is_not_there_is_logged_and_left_out(
    versions: tuple[str, str], caplog: pytest.LogCaptureFixture, requested: tuple[str, str]
) -> None:
    with caplog.at_level(logging.ERROR, "vitrine"):
        assert served_tags([requested, ("tiny", versions[0])]) == [("tiny", versions[0])]
    tag = ":".join(part for part in requested if part)
    assert f"VITRINE_MODELS: {tag} is not there" in caplog.text


def test_in_a_built_bento_versions_are_requested_from_those_it_packed(tmp_path: Path) -> None:
    code_folder = tmp_path / "bento" / "src"
    code_folder.mkdir(parents=True)
    tags = "".join(f"  - tag: tiny:{version}\n" for version in ("ab01", "ab02", "cd03"))
    (code_folder.parent / "bento.yaml").write_text(f"models: []\nservices:\n- models:\n{tags}")
    assert served_tags((), code_folder) == [("tiny", "ab01"), ("tiny", "ab02"), ("tiny", "cd03")]
    assert served_tags([("tiny", "cd")], code_folder) == [("tiny", "cd03")]
    assert served_tags([("tiny", "ab"), ("tiny", "")], code_folder) == [("tiny", "ab01")]
