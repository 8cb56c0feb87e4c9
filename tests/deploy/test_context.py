"""What goes into the image, before any engine is asked: the same from the same, and only what serves."""

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.live.server import environment

CONTAINER = ROOT / "deploy" / "container"


def prepare(folder: Path, home: Path, root: Path = ROOT, *options: str) -> dict[str, str]:
    """Fill a build context; gives time, mode and digest of everything in it by its name."""
    command = [sys.executable, "-m", "deploy.container.image", "--prepare", str(folder), *options]
    ran = subprocess.run(command, cwd=root, env=environment(home), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return {
        str(path.relative_to(folder)): f"{path.stat().st_mtime} {path.stat().st_mode:o} "
        + (hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "")
        for path in folder.rglob("*")
    }


def copy_of_the_source(folder: Path) -> Path:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists() and not name.startswith(("tests/", "docs/", "loadtests/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


@pytest.mark.slow
def test_the_same_source_gives_the_same_context_elsewhere_and_later_and_a_change_of_code_changes_only_the_code(
    tmp_path: Path,
) -> None:
    first = prepare(tmp_path / "first", tmp_path / "home")
    elsewhere = copy_of_the_source(tmp_path / "source")
    assert prepare(tmp_path / "second", tmp_path / "other-home", elsewhere) == first
    (elsewhere / "errors.py").write_text((elsewhere / "errors.py").read_text() + "\n# A change.\n")
    third = prepare(tmp_path / "third", tmp_path / "other-home", elsewhere)
    assert {name for name in first if first[name] != third[name]} == {"app/bento/bento.yaml", "app/bento/src/errors.py"}
    assert set(first) == set(third)

    bento = yaml.safe_load((tmp_path / "first" / "app" / "bento" / "bento.yaml").read_text())
    assert {model["tag"].partition(":")[0] for service in bento["services"] for model in service["models"]} == {
        *("churn", "kidney-stone", "machine-anomaly")
    }
    size = sum(path.stat().st_size for path in (tmp_path / "first" / "app").rglob("*") if path.is_file())
    assert size < 1_000_000
    assert not [name for name in first if name.startswith("app/") and re.search(r"\.(safetensors|onnx|pyc)$", name)]
    assert not list((tmp_path / "home").glob("bentos/*/*/bento.yaml"))


def test_both_flavours_install_hashed_requirements_that_agree_and_only_cuda_brings_torch() -> None:
    pin = re.compile(r"^(\S+)==(\S+)(?: ; (.*?))? \\$", re.MULTILINE)

    def pins(name: str) -> set[tuple[str, str, str]]:
        text = (ROOT / "requirements" / name).read_text()
        blocks = re.split(r"\n(?=\S)", text.strip())
        assert all("--hash=sha256:" in block for block in blocks), name
        assert not re.search(r"https?://|--index|--find-links", text), name
        return set(pin.findall(text))

    serve, cuda, bill = pins("serve.txt"), pins("cuda.txt"), pins("sbom.txt")
    assert serve < cuda
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


def test_the_cuda_flavour_is_the_same_dockerfile_with_other_requirements(tmp_path: Path) -> None:
    source = copy_of_the_source(tmp_path / "source")
    prepare(tmp_path / "context", tmp_path / "home", source, "--flavour", "cuda")
    assert (tmp_path / "context" / "requirements.txt").read_bytes() == (ROOT / "requirements" / "cuda.txt").read_bytes()
    assert (tmp_path / "context" / "Dockerfile").read_bytes() == (CONTAINER / "Dockerfile").read_bytes()


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
