"""The versions that VITRINE_MODELS asks for, among those in a store or in a built Bento."""

from pathlib import Path

import pytest

from errors import StoreError
from models import store
from models.served_versions import served_tags, served_versions
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


@pytest.mark.parametrize(
    ("requested", "advice"),
    [
        (("tiny", "zz"), "tiny:zz is not there. Versions there: {versions}."),
        (("othr", ""), "othr is not there. Known models: other, tiny. Did you mean other?"),
        (("qqq", ""), "qqq is not there. Known models: other, tiny."),
    ],
)
def test_what_is_not_there_is_left_out_and_the_nearest_is_named(
    versions: tuple[str, str], requested: tuple[str, str], advice: str
) -> None:
    served = served_versions([requested, ("tiny", versions[0])])
    assert served.packed == [("tiny", versions[0])] and served.known == {"other", "tiny"}
    assert served.problems == [f"VITRINE_MODELS: {advice.format(versions=', '.join(sorted(versions)))}"]


def test_in_a_built_bento_versions_are_requested_from_those_it_packed(tmp_path: Path) -> None:
    code_folder = tmp_path / "bento" / "src"
    code_folder.mkdir(parents=True)
    tags = "".join(f"  - tag: tiny:{version}\n" for version in ("ab01", "ab02", "cd03"))
    (code_folder.parent / "bento.yaml").write_text(f"models: []\nservices:\n- models:\n{tags}")
    assert served_tags((), code_folder) == [("tiny", "ab01"), ("tiny", "ab02"), ("tiny", "cd03")]
    assert served_tags([("tiny", "cd")], code_folder) == [("tiny", "cd03")]
    assert served_tags([("tiny", "ab"), ("tiny", "")], code_folder) == [("tiny", "ab01")]


def own_folder(folder: Path, *packages: Path) -> store.Store:
    """An operator's own folder of models."""
    own = store.Store.own(folder)
    for package in packages:
        own.import_package(package)
    return own


def test_models_of_ones_own_folder_are_served_beside_those_of_the_store(
    versions: tuple[str, str], tmp_path: Path
) -> None:
    own = own_folder(tmp_path / "own", tiny_package(tmp_path / "mine", "mine"))
    served = served_versions((), own)
    mine = own.read_lock()["mine"]
    assert [name for name, version in served.packed] == ["other", "tiny"] and served.own == [("mine", mine)]
    (opened,) = served.open_own()
    assert opened.path == tmp_path / "own" / "mine" / mine and opened.card.name == "mine"
    served.check()
    chosen = served_versions([("mine", mine[:5]), ("tiny", "")], own)
    assert (chosen.packed, chosen.own) == ([("tiny", versions[1])], [("mine", mine)])
    assert store.find("tiny").version == versions[1] and "mine" not in store.read_lock()  # BentoML's store is apart


def test_a_bento_serves_its_own_models_and_those_of_the_folder(tmp_path: Path) -> None:
    code_folder = tmp_path / "bento" / "src"
    code_folder.mkdir(parents=True)
    (code_folder.parent / "bento.yaml").write_text("models:\n- tag: tiny:ab01\n")
    own = own_folder(tmp_path / "own", tiny_package(tmp_path / "mine", "mine"))
    served = served_versions((), own, code_folder)
    assert served.packed == [("tiny", "ab01")] and served.own == list(own.read_lock().items())


def test_a_name_that_means_two_models_is_refused_until_a_version_is_named(
    versions: tuple[str, str], tmp_path: Path
) -> None:
    package = tiny_package(tmp_path / "again")
    (package / "weights.safetensors").write_bytes(b"mine")
    own = own_folder(tmp_path / "own", package)
    clashing = served_versions((), own)
    assert clashing.own == [] and clashing.clashes == ["tiny"]
    with pytest.raises(StoreError, match=r"two models tiny: .*own \(VITRINE_MODELS_DIR\).*VITRINE_MODELS=tiny:VERSION"):
        clashing.check()
    named = served_versions([("tiny", own.read_lock()["tiny"]), ("other", "")], own)
    named.check()
    assert [name for name, version in named.own] == ["tiny"] and [name for name, version in named.packed] == ["other"]


def test_the_same_version_in_both_places_is_one_model(versions: tuple[str, str], tmp_path: Path) -> None:
    own = own_folder(tmp_path / "own", tmp_path / "package")
    served = served_versions((), own)
    served.check()
    assert served.own == [] and ("tiny", versions[1]) in served.packed
