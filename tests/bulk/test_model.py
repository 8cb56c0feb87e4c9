"""Where the model of a run comes from: a store, a folder of one's own, or the Bento that the code lies in."""

import shutil
from pathlib import Path

import pytest

from bulk.model import find_model
from errors import BulkError
from models.store import Store
from tests.tiny import seal, tiny_package


def test_a_bento_that_was_exported_has_its_own_models(home: Path, tmp_path: Path) -> None:
    sealed = seal(tiny_package(tmp_path / "package", "packed"))
    code = tmp_path / "bento" / "src"
    code.mkdir(parents=True)
    (code.parent / "bento.yaml").write_text("{}")
    shutil.copytree(sealed.path, code.parent / "models" / "packed" / sealed.version)
    assert find_model("packed", None, code).path == code.parent / "models" / "packed" / sealed.version
    assert find_model(sealed.tag[:-4], None, code).tag == sealed.tag
    with pytest.raises(BulkError, match="There is no model packed"):
        find_model("packed", None)


def test_a_folder_of_ones_own_goes_first_and_a_bundled_model_says_how_to_have_it(tiny: str, tmp_path: Path) -> None:
    own = tmp_path / "own"
    package = tiny_package(tmp_path / "package")
    (package / "card.toml").write_text((package / "card.toml").read_text().replace("Averages", "Also averages"))
    stored, _ = Store.own(own).import_package(package)
    assert stored.tag != tiny
    assert find_model("tiny", own).tag == stored.tag and find_model(tiny, own).tag == tiny
    with pytest.raises(BulkError, match=r"no model churn. It can be installed with `vitrine models import churn`"):
        find_model("churn", own)
    with pytest.raises(BulkError, match=r"Did you mean kidney-stone\? It can be installed"):
        find_model("kidneystone", None)
