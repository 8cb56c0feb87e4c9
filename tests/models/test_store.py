"""The store: the same content is the same tag, imports are whole or nothing, every byte is checked."""

import json
import os
import shutil
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
from models.served_versions import served_tags, serves_own_weights
from models.store_files import first_reason
from tests.conftest import ROOT
from tests.tiny import tiny_package


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return tiny_package(tmp_path / "package")


def test_the_same_content_again_is_the_same_tag_and_writes_nothing(home: Path, package: Path, tmp_path: Path) -> None:
    stored, is_new = store.import_package(package)
    assert is_new and stored.path == home / "models" / "tiny" / stored.version
    before = {path: path.stat().st_mtime_ns for path in stored.path.rglob("*")}
    again, is_new = store.import_package(tiny_package(tmp_path / "copy"))
    assert not is_new and again.tag == stored.tag
    assert {path: path.stat().st_mtime_ns for path in stored.path.rglob("*")} == before


def test_every_user_can_read_what_was_imported(home: Path, package: Path) -> None:
    before = os.umask(0o022)
    try:
        stored, _ = store.import_package(package)
    finally:
        os.umask(before)
    paths = [stored.path.parent, stored.path, *stored.path.rglob("*")]
    assert {path.stat().st_mode & 0o777 for path in paths if path.is_dir()} == {0o755}
    assert {path.stat().st_mode & 0o777 for path in paths if path.is_file()} == {0o644}


@pytest.mark.parametrize(
    "name", ["card.toml", "predict.onnx", "weights.safetensors", "goldens/goldens.json", "goldens/10.png"]
)
def test_another_byte_in_any_file_is_another_version(home: Path, package: Path, name: str) -> None:
    first, _ = store.import_package(package)
    with (package / name).open("ab") as file:
        file.write(b"\n")
    second, is_new = store.import_package(package)
    assert is_new and second.version != first.version
    assert store.find("tiny").version == second.version
    assert store.find(f"tiny:{first.version[:6]}").version == first.version


def test_a_new_report_is_taken_over_without_a_new_version(home: Path, package: Path) -> None:
    first, _ = store.import_package(package)
    assert first.report() == {}
    (package / "report.json").write_text(json.dumps({"metrics": {"auc": 0.5}}))
    second, is_new = store.import_package(package)
    assert not is_new and second.tag == first.tag and second.report() == {"metrics": {"auc": 0.5}}


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


@pytest.mark.parametrize("written", ["", "{", "null", "[]", "{}", '{"files": []}', '{"files": {"predict.onnx": 1}}'])
def test_a_damaged_manifest_is_named_with_its_repair(home: Path, package: Path, written: str) -> None:
    stored, _ = store.import_package(package)
    (stored.path / "manifest.json").write_text(written)
    with pytest.raises(StoreError, match=rf"manifest\.json is missing or damaged.*models remove {stored.tag}`"):
        verify(stored)
    store.import_package(package)
    verify(stored)


def test_a_package_without_one_of_its_files_is_refused(home: Path, package: Path) -> None:
    (package / "predict.onnx").unlink()
    with pytest.raises(StoreError, match=r"predict\.onnx is missing"):
        store.import_package(package)
    assert store.installed() == [] and dict(served_tags()) == {}


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


def test_shipped_weights_give_way_to_an_operators_own_until_these_are_asked_for_again(
    home: Path, package: Path
) -> None:
    assert not serves_own_weights("tiny")
    shipped, _ = store.import_package(package)
    assert not serves_own_weights("tiny")  # a later release may bring better ones
    own = package.parent / "own"
    shutil.copytree(package, own)
    (own / "weights.safetensors").write_bytes(b"other")
    brought, _ = store.import_package(own, own_weights=True)
    assert serves_own_weights("tiny")
    assert dict(served_tags()) == {"tiny": brought.version}
    store.import_package(package)
    assert not serves_own_weights("tiny")
    assert dict(served_tags()) == {"tiny": shipped.version}


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
    assert store.remove(second.tag) == [second.tag]
    assert dict(served_tags()) == {"tiny": first.version}
    store.remove("tiny")
    assert dict(served_tags()) == {} and store.installed() == []
    with pytest.raises(StoreError, match="not installed"):
        store.remove("tiny")


def test_an_unknown_version_lists_what_is_there(home: Path, package: Path) -> None:
    stored, _ = store.import_package(package)
    with pytest.raises(StoreError, match=stored.tag):
        store.find("tiny:0000")


def test_in_a_built_bento_exactly_what_it_packed_is_served(home: Path, package: Path, tmp_path: Path) -> None:
    store.import_package(package)
    (tmp_path / "bento" / "src").mkdir(parents=True)
    (tmp_path / "bento" / "bento.yaml").write_text("models: []\nservices:\n- models:\n  - tag: tiny:0123456789abcdef\n")
    assert dict(served_tags((), tmp_path / "bento" / "src")) == {"tiny": "0123456789abcdef"}


def test_importing_again_repairs_what_was_damaged_and_says_so(
    home: Path, package: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stored, _ = store.import_package(package)
    for damaged in ("predict.onnx", "card.toml", "manifest.json", "model.yaml"):
        (stored.path / damaged).write_bytes(b"\x00")
        again, is_new = store.import_package(package)
        assert is_new and again.tag == stored.tag
        message = f"{stored.tag} was damaged, and is repaired: {damaged}"
        assert [record.getMessage().startswith(message) for record in caplog.records].count(True) == 1
        caplog.clear()
        verify(again)
        assert [model.tag for model in store.installed()] == [stored.tag]
        assert bentoml.models.get(stored.tag).info.labels["app"] == "vitrine"
    store.import_package(package)
    assert not caplog.records  # nothing was wrong


def test_a_damaged_model_can_be_removed(home: Path, package: Path) -> None:
    stored, _ = store.import_package(package)
    (stored.path / "model.yaml").unlink()
    (stored.path / "card.toml").write_text("name =")
    assert store.installed() == []
    assert store.remove("tiny") == [stored.tag]
    assert not (home / "models" / "tiny").exists()
    assert bentoml.models.list() == []


@pytest.mark.parametrize("name", ["..", ".", "", "*", "tiny/..", "../bentos"])
def test_remove_touches_nothing_but_models(home: Path, package: Path, name: str) -> None:
    stored, _ = store.import_package(package)
    (home / "bentos" / "mine").mkdir()
    with pytest.raises(StoreError, match="not installed"):
        store.remove(name)
    verify(store.find(stored.tag))
    assert (home / "bentos" / "mine").exists()


def test_models_of_other_tools_are_neither_listed_nor_removed(home: Path, package: Path) -> None:
    with bentoml.models.create("tiny:v1") as theirs:
        (Path(theirs.path) / "file").write_text("theirs")
    stored, _ = store.import_package(package)
    assert [model.tag for model in store.installed()] == [stored.tag]
    assert store.remove("tiny") == [stored.tag]
    assert (Path(bentoml.models.get("tiny:v1").path) / "file").read_text() == "theirs"


def test_the_beginning_of_several_versions_removes_none(home: Path, package: Path) -> None:
    first, _ = store.import_package(package)
    begins = first.version[0]
    while True:  # on average 16 more
        with (package / "weights.safetensors").open("ab") as file:
            file.write(b"\n")
        second, _ = store.import_package(package)
        if second.version[0] == begins:
            break
    before = len(store.installed())
    with pytest.raises(StoreError, match=rf"matches several versions: .*{second.version}"):
        store.remove(f"tiny:{begins}")
    assert len(store.installed()) == before


def test_a_package_whose_goldens_cannot_be_read_is_refused(home: Path, package: Path) -> None:
    (package / "goldens" / "10.png").unlink()
    with pytest.raises(StoreError, match="the goldens cannot be read"):
        store.import_package(package)
    assert store.installed() == []


def test_a_store_that_cannot_be_written_to_says_so(home: Path, package: Path) -> None:
    (home / "vitrine").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match=r"tiny:.* could not be written to the store: .*Nothing was installed"):
        store.import_package(package)
    assert store.installed() == []


def test_a_lock_that_is_damaged_serves_nothing_until_the_next_import(home: Path, package: Path) -> None:
    stored, _ = store.import_package(package)
    for text in ("[]", "{", ""):
        (home / "vitrine" / "models.lock").write_text(text)
        assert dict(served_tags()) == {}
    store.import_package(package)
    assert dict(served_tags()) == {"tiny": stored.version}


def test_of_many_files_that_cannot_be_copied_the_first_reason_is_said(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    for name in ("a", "b"):
        (tmp_path / "from" / name).symlink_to(tmp_path / "absent")
    with pytest.raises(shutil.Error) as raised:
        shutil.copytree(tmp_path / "from", tmp_path / "to")
    reason = first_reason(raised.value)
    assert reason.startswith("[Errno 2] No such file") and reason.count("Errno") == 1
    assert first_reason(OSError(28, "No space left on device")) == "[Errno 28] No space left on device"


@pytest.mark.parametrize("text", ["{", None])
def test_what_is_changed_after_a_lock_is_lost_keeps_the_newest_version_of_every_other_model(
    home: Path, package: Path, tmp_path: Path, text: str | None
) -> None:
    first, _ = store.import_package(package)
    (package / "weights.safetensors").write_bytes(b"second")
    second, _ = store.import_package(package)
    os.utime(first.path / "manifest.json", (1_000_000, 1_000_000))
    lock, other = home / "vitrine" / "models.lock", tiny_package(tmp_path / "other", "other")
    lock.unlink() if text is None else lock.write_text(text)
    added, _ = store.import_package(other)
    assert store.read_lock() == {"tiny": second.version, "other": added.version}
    lock.unlink() if text is None else lock.write_text(text)
    store.remove("other")
    assert store.read_lock() == {"tiny": second.version}


def test_a_model_deleted_by_bentoml_is_no_longer_served(home: Path, package: Path) -> None:
    stored, _ = store.import_package(package)
    bentoml.models.delete(stored.tag)
    assert store.read_lock() == {"tiny": stored.version} and dict(served_tags()) == {}


def test_an_interrupt_in_the_middle_of_the_copy_leaves_nothing(
    home: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = []

    def copyfile(source: Path, target: Path) -> None:
        copied.append(target.write_bytes(source.read_bytes()))
        if len(copied) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("models.store.shutil.copyfile", copyfile)
        with pytest.raises(KeyboardInterrupt):
            store.import_package(package)
    assert store.installed() == [] and bentoml.models.list() == []
    assert [path.name for path in (home / "vitrine").iterdir()] == [".import"]
    stored, is_new = store.import_package(package)
    assert is_new
    verify(stored)


@pytest.mark.parametrize("text", ["", "\x00{", "[1]", None])
def test_a_model_that_bentoml_cannot_open_stops_only_itself(
    home: Path, package: Path, tmp_path: Path, text: str | None
) -> None:
    damaged, _ = store.import_package(package)
    other, _ = store.import_package(tiny_package(tmp_path / "other", "other"))
    path = damaged.path / "model.yaml"
    path.unlink() if text is None else path.write_text(text)
    assert dict(served_tags()) == {"other": other.version}
    store.import_package(package)
    assert dict(served_tags()) == {"other": other.version, "tiny": damaged.version}


def test_an_import_reports_nothing_to_anyone(home: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENTOML_DO_NOT_TRACK")
    code = (
        f"import httpx; from pathlib import Path; from models.store import import_package; "
        f"httpx.post = lambda *args, **kwargs: print('sent'); import_package(Path({str(package)!r})); print('done')"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out.split() == ["done"]


def test_pruning_deletes_what_nothing_serves_and_keeps_what_was_asked_for(home: Path, package: Path) -> None:
    versions = []
    for seconds, content in enumerate((b"one", b"two", b"three", b"four")):
        (package / "weights.safetensors").write_bytes(content)
        stored, _ = store.import_package(package)
        os.utime(stored.path, (1_000_000 + seconds, 1_000_000 + seconds))
        versions.append(stored.version)
    one, two, three, four = versions
    vitrine = store.bentoml_store()
    assert vitrine.prune(0, [("tiny", one)], dry_run=True) == sorted([f"tiny:{two}", f"tiny:{three}"])
    assert len(store.installed()) == 4
    assert vitrine.prune(1, [("tiny", one)], dry_run=False) == [f"tiny:{two}"]
    assert vitrine.prune(0, [], dry_run=False) == sorted([f"tiny:{one}", f"tiny:{three}"])
    assert [stored.version for stored in store.installed()] == [four] and store.find("tiny").version == four
    assert bentoml.models.get("tiny:latest").tag.version == four
    vitrine.lock_file.write_text("{")
    with pytest.raises(StoreError, match=r"models\.lock is missing or damaged"):
        vitrine.prune(0, [], dry_run=False)
    assert len(store.installed()) == 1
