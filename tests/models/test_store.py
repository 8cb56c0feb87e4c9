"""The store: the same content is the same tag, imports are whole or nothing, every byte is checked."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bentoml
import pytest

from errors import StoreError
from models import store
from models.package import verify
from tests.conftest import ROOT
from tests.tiny import tiny_package


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return tiny_package(tmp_path / "package")


def test_the_same_content_again_is_the_same_tag_and_writes_nothing(home: Path, package: Path, tmp_path: Path) -> None:
    stored, fresh = store.import_package(package)
    assert fresh and stored.path == home / "models" / "tiny" / stored.version
    before = {path: path.stat().st_mtime_ns for path in stored.path.rglob("*")}
    again, fresh = store.import_package(tiny_package(tmp_path / "copy"))
    assert not fresh and again.tag == stored.tag
    assert {path: path.stat().st_mtime_ns for path in stored.path.rglob("*")} == before


@pytest.mark.parametrize(
    "name", ["card.toml", "predict.onnx", "weights.safetensors", "goldens/goldens.json", "goldens/10.png"]
)
def test_another_byte_in_any_file_is_another_version(home: Path, package: Path, name: str) -> None:
    first, _ = store.import_package(package)
    with (package / name).open("ab") as file:
        file.write(b"\n")
    second, fresh = store.import_package(package)
    assert fresh and second.version != first.version
    assert store.find("tiny").version == second.version
    assert store.find("tiny", first.version[:6]).version == first.version


def test_a_new_report_is_taken_over_without_a_new_version(home: Path, package: Path) -> None:
    first, _ = store.import_package(package)
    assert first.report() == {}
    (package / "report.json").write_text(json.dumps({"metrics": {"auc": 0.5}}))
    second, fresh = store.import_package(package)
    assert not fresh and second.tag == first.tag and second.report() == {"metrics": {"auc": 0.5}}


def test_bentoml_itself_lists_the_model_with_its_labels(home: Path, package: Path) -> None:
    stored, _ = store.import_package(package)
    listed = bentoml.models.get(stored.tag)
    assert listed.info.labels["task"] == "image-classification"
    assert listed.info.metadata["parameters"] == 6
    assert bentoml.models.get("tiny:latest").tag.version == stored.version


def test_a_flipped_byte_is_found_and_named(home: Path, package: Path) -> None:
    stored, _ = store.import_package(package)
    verify(stored)
    graph = bytearray(stored.graph.read_bytes())
    graph[40] ^= 1
    stored.graph.write_bytes(graph)
    with pytest.raises(StoreError, match=r"predict\.onnx is damaged.*vitrine models import tiny"):
        verify(stored)


def test_a_package_without_one_of_its_files_is_refused(home: Path, package: Path) -> None:
    (package / "predict.onnx").unlink()
    with pytest.raises(StoreError, match=r"predict\.onnx is missing"):
        store.import_package(package)
    assert store.installed() == [] and store.served_versions() == {}


def test_an_import_killed_at_any_moment_leaves_all_or_nothing(home: Path, package: Path) -> None:
    (package / "weights.safetensors").write_bytes(os.urandom(30_000_000))
    code = f"from pathlib import Path; from models.store import import_package; import_package(Path({str(package)!r}))"
    for delay in (0.0, 0.02, 0.05, 0.1):
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
        while process.poll() is None and not list((home / "vitrine").glob("staging-*")):
            time.sleep(0.001)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for stored in store.installed():
            verify(stored)
        bentoml.models.list()  # raises on a folder without a model.yaml
    stored, _ = store.import_package(package)
    verify(stored)
    assert list((home / "vitrine").glob("staging-*")) == []


def test_two_imports_at_once_both_succeed(home: Path, package: Path) -> None:
    code = f"from pathlib import Path; from models.store import import_package; import_package(Path({str(package)!r}))"
    with ThreadPoolExecutor(3) as pool:
        ends = pool.map(lambda _: subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False), range(3))
    assert [end.returncode for end in ends] == [0, 0, 0]
    verify(store.find("tiny"))


def test_importing_a_shipped_model_needs_no_pytorch(home: Path, package: Path) -> None:
    code = (
        f"import sys; from pathlib import Path; from models.store import import_package, find; "
        f"import_package(Path({str(package)!r})); print(1, 'torch' in sys.modules, 'onnx' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out.split()[1:] == ["False", "False"]


def test_removing_the_served_version_serves_the_newest_that_is_left(home: Path, package: Path) -> None:
    first, _ = store.import_package(package)
    (package / "weights.safetensors").write_bytes(b"other")
    second, _ = store.import_package(package)
    assert store.remove("tiny", second.version) == [second.tag]
    assert store.served_versions() == {"tiny": first.version}
    store.remove("tiny")
    assert store.served_versions() == {} and store.installed() == []
    with pytest.raises(StoreError, match="not installed"):
        store.remove("tiny")


def test_an_unknown_version_lists_what_is_there(home: Path, package: Path) -> None:
    stored, _ = store.import_package(package)
    with pytest.raises(StoreError, match=stored.tag):
        store.find("tiny", "0000")


def test_in_a_built_bento_exactly_what_it_packed_is_served(home: Path, package: Path, tmp_path: Path) -> None:
    store.import_package(package)
    (tmp_path / "bento" / "src").mkdir(parents=True)
    (tmp_path / "bento" / "bento.yaml").write_text("models: []\nservices:\n- models:\n  - tag: tiny:0123456789abcdef\n")
    assert store.served_versions(tmp_path / "bento" / "src") == {"tiny": "0123456789abcdef"}
