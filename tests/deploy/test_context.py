"""What goes into the image, before any engine runs: the same source gives the same files, and only what serves."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from deploy.container import image
from tests.conftest import ROOT
from tests.deploy.contexts import Context, Contexts
from tests.live.server import environment

CONTAINER = ROOT / "deploy" / "container"


@pytest.mark.slow
def test_the_same_source_gives_the_same_context_elsewhere_and_a_change_of_code_changes_only_the_code(
    contexts: Contexts, image_store: Path
) -> None:
    here, changed = contexts.here.files(), contexts.changed.files()
    assert contexts.elsewhere.files() == here
    assert set(changed) == set(here)
    assert {name for name in here if here[name] != changed[name]} == {
        *("app/bento/bento.yaml", "app/bento/src/errors.py")
    }
    assert not list(image_store.glob("bentos/*/*/bento.yaml"))


@pytest.mark.slow
def test_a_context_holds_the_shipped_models_and_of_the_code_only_what_serves(contexts: Contexts) -> None:
    app = contexts.here.folder / "app"
    bento = yaml.safe_load((app / "bento" / "bento.yaml").read_text())
    assert {model["tag"].partition(":")[0] for service in bento["services"] for model in service["models"]} == {
        *("churn", "kidney-stone", "machine-anomaly")
    }
    assert {path.name for path in (app / "bento" / "src").iterdir()} == {
        *("api", "backends", "bulk", "explain", "models", "postprocessing", "preprocessing", "runners", "serving"),
        *("atomic_write.py", "errors.py", "regular_file.py", "service.py", "settings.py"),
    }
    files = [path for path in app.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1_500_000
    assert not [path for path in files if path.suffix in (".safetensors", ".onnx", ".pyc")]


def test_all_flavours_install_hashed_requirements_that_agree_and_only_cuda_brings_torch() -> None:
    pin = re.compile(r"^(\S+)==(\S+)(?: ; (.*?))? \\$", re.MULTILINE)

    def pins(name: str) -> set[tuple[str, str, str]]:
        text = (ROOT / "requirements" / name).read_text()
        blocks = re.split(r"\n(?=\S)", text.strip())
        assert all("--hash=sha256:" in block for block in blocks), name
        assert not re.search(r"https?://|--index|--find-links", text), name
        return set(pin.findall(text))

    serve, cuda, scale, bill = (pins(f"{name}.txt") for name in ("serve", "cuda", "scale", "sbom"))
    assert serve < cuda
    assert {pin[:2] for pin in serve} < {pin[:2] for pin in scale}  # what is for PyPy alone in one is for all there
    assert {"pyarrow", "ray", "s3fs"} <= {name for name, *_ in scale - serve}
    assert not {"torch", "timm"} & {name for name, *_ in serve}
    torch = set((ROOT / "requirements" / "torch.in").read_text().split())
    assert torch <= {f"{name}=={version}" for name, version, _ in cuda}
    assert any(name.startswith("nvidia-cudnn") for name, *_ in cuda)
    assert "cyclonedx-bom" in {name for name, *_ in bill}


def test_every_file_that_the_dockerfile_copies_is_in_the_context() -> None:
    text = (CONTAINER / "Dockerfile").read_text()
    script = (CONTAINER / "image.py").read_text()
    copied = {name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE) for name in line.split()}
    assert copied == {"requirements.txt", "sbom.txt", "pyproject.toml", "models", "app"}
    assert all(f'"{name}"' in script for name in copied)


@pytest.mark.slow
def test_the_cuda_flavour_is_the_same_context_with_other_requirements(
    contexts: Contexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unpack(bento: Path) -> None:
        shutil.copytree(contexts.here.folder / "app" / "bento", bento)
        shutil.copytree(contexts.here.folder / "models", bento / "models")

    monkeypatch.setattr(image, "import_shipped", list)
    monkeypatch.setattr(image, "export_bento", unpack)
    ran = CliRunner().invoke(image.main, ["--prepare", str(tmp_path / "cuda"), "--flavour", "cuda"])
    assert ran.exit_code == 0, ran.output
    cpu, cuda = contexts.here.files(), Context(tmp_path / "cuda").files()
    assert {name for name in cpu | cuda if cpu.get(name) != cuda.get(name)} == {"requirements.txt"}
    assert (tmp_path / "cuda" / "requirements.txt").read_bytes() == (ROOT / "requirements" / "cuda.txt").read_bytes()


def test_an_image_is_not_built_without_a_model_that_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "import_shipped", lambda: ["churn"])
    ran = CliRunner().invoke(image.main, ["--prepare", str(tmp_path / "context")])
    assert ran.exit_code == 1 and "churn" in ran.output


def test_without_an_engine_the_build_says_how_to_get_one(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "deploy.container.image"],
        cwd=ROOT,
        env=environment(tmp_path) | {"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 1
    assert "apt-get install" in ran.stderr
    assert "Traceback" not in ran.stderr
