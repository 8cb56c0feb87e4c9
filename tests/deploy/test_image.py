"""The image, built and run as CI does: by another user, on a read-only root, without a capability, in 1.5 GiB."""

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import tritonclient.grpc as triton

from tests.conftest import ROOT, SHIPPED
from tests.deploy.contexts import Contexts
from tests.deploy.engine import START_S, Container, Podman, checked
from tests.live.server import vitrine

pytestmark = pytest.mark.slow
SITE = "/app/.venv/lib/python3.11/site-packages"
STONE = (SHIPPED / "goldens" / "01-coronal-stone.png").read_bytes()


@pytest.fixture(scope="module")
def container(podman: Podman, image: str) -> Iterator[Container]:
    """The image with a user who is in no password file."""
    with podman.serving(image, "--user=54321:0", "--memory=1536m", "--memory-swap=1536m") as running:
        running.wait_ready()
        yield running


def layers_of(podman: Podman, image: str) -> list[str]:
    listed: list[str] = json.loads(podman("image", "inspect", "--format", "{{json .RootFS.Layers}}", image))
    return listed


def processes(container: Container) -> dict[int, str]:
    """Return state and command line by the process id inside."""
    listed = "psutil.process_iter(['status', 'cmdline'])"  # a zombie has no command line
    code = f"import psutil; [print(p.pid, p.info['status'], *p.info['cmdline'] or []) for p in {listed}]"
    lines = [line.partition(" ") for line in container.run("python", "-c", code).splitlines()]
    return {int(pid): line for pid, _, line in lines}


def worker(container: Container, service: str) -> int | None:
    """Return the process id of a service's worker."""
    pids = [pid for pid, line in processes(container).items() if re.search(rf"bentoml worker {service}\b", line)]
    return pids[0] if pids else None


def predict(container: Container, **query: str) -> requests.Response:
    return requests.post(f"{container.url}/predict", params=query, data=STONE, timeout=60)


def predict_with_heatmap(container: Container) -> dict[str, object]:
    """Return a prediction with its heatmap, as soon as one can be made: readiness does not wait for explanations."""
    deadline = time.monotonic() + START_S
    while not (answer := predict(container, include_gradcam="true").json())["gradcam_heatmap"]:
        assert time.monotonic() < deadline, answer
        time.sleep(0.5)
    with_heatmap: dict[str, object] = answer
    return with_heatmap


def test_it_predicts_and_explains_over_http_and_answers_grpc(container: Container) -> None:
    answer = predict_with_heatmap(container)
    assert (answer["prediction"], answer["model"]) == ("stone", "kidney-stone")
    explained = requests.post(f"{container.url}/explain?format=png", data=STONE, timeout=60)
    assert explained.content.startswith(b"\x89PNG")
    row: dict[str, object] = {"temperature": 95, "vibration": 3.1, "pressure": 31, "power": 1900}
    row |= {"timestamp": "2026-01-15T08:30:00Z", "machine_id": "press-07"}
    assert requests.post(f"{container.url}/models/machine-anomaly/predict", json=row, timeout=60).status_code == 200
    with triton.InferenceServerClient(f"127.0.0.1:{container.grpc_port}") as client:
        assert client.is_server_ready() and client.is_model_ready("kidney-stone")


def test_it_is_healthy_by_its_own_check(podman: Podman, container: Container, image: str) -> None:
    config = json.loads(podman("image", "inspect", image))[0]
    assert config["Config"]["User"] == "1034:0"
    assert config["Healthcheck"]["Test"] == ["CMD", "python", "/app/healthcheck.py"]
    container.run("python", "/app/healthcheck.py")
    with pytest.raises(AssertionError, match="refused"):
        container.run("env", "VITRINE_PORT=1", "python", "/app/healthcheck.py")


def test_it_runs_as_anyone_and_writes_nowhere_but_to_tmp(container: Container) -> None:
    assert container.run("id", "-u").strip() == "54321"
    assert container.run("id", "-g").strip() == "0"
    for place in ("/app/x", "/app/bento/models/x", "/x"):
        with pytest.raises(AssertionError, match="Read-only file system"):
            container.run("touch", place)
    container.run("touch", "/tmp/x")
    assert re.search(r"CapEff:\s+0+$", container.run("cat", "/proc/1/status"), re.MULTILINE)
    assert "Traceback" not in container.logs()


def test_it_holds_no_compiler_no_git_no_installer_and_no_cache(container: Container) -> None:
    tools = "cc gcc g++ c++ make git uv pip curl"
    listed = container.run(
        "sh", "-c", f"for tool in {tools}; do command -v $tool; done; ls -d /root/.cache /app/.venv/bin/pip*; true"
    )
    assert set(listed.split()) <= {"/usr/bin/pip"}, "Debian's own, of the base of the tests"
    assert "torch" not in container.run("ls", SITE).split()
    for path in ("errors.py", "service.py"):
        assert (ROOT / path).read_text() == container.run("cat", f"/app/bento/src/{path}")


@pytest.mark.parametrize("service", ["gradcam", "vitrine"])
def test_a_worker_that_is_killed_comes_back(container: Container, service: str) -> None:
    killed = worker(container, service)
    assert killed is not None
    container.run("sh", "-c", f"kill -9 {killed}")
    deadline = time.monotonic() + START_S
    while worker(container, service) in (killed, None):
        assert time.monotonic() < deadline, container.logs()
        time.sleep(0.3)
    container.wait_ready()
    assert predict_with_heatmap(container)["prediction"] == "stone"
    deadline = time.monotonic() + START_S
    while dead := [pid for pid, line in processes(container).items() if line.startswith("zombie")]:
        assert time.monotonic() < deadline, f"{dead} are dead and not collected"
        time.sleep(0.5)


def test_keys_are_read_by_their_owner_and_one_that_is_removed_is_refused(
    podman: Podman, image: str, tmp_path: Path
) -> None:
    file = tmp_path / "keys" / "keys.toml"
    file.parent.mkdir()
    key = vitrine(tmp_path, "keys", "add", "client", "--file", str(file)).split()[0]
    for path in (file.parent, file):
        os.chown(path, 54321, 0)
    volume = f"--volume={file.parent}:/run/keys:ro"
    with podman.serving(
        image,
        "--user=54321:0",
        "--memory=1536m",
        volume,
        VITRINE_ALLOW_ANONYMOUS="",
        VITRINE_API_KEYS_FILE="/run/keys/keys.toml",
    ) as container:
        container.wait_ready()

        def status(**headers: str) -> int:
            return requests.post(f"{container.url}/predict", data=STONE, headers=headers, timeout=60).status_code

        assert (status(), status(Authorization=f"Bearer {key}")) == (401, 200)
        vitrine(tmp_path, "keys", "remove", "client", "--file", str(file))
        deadline = time.monotonic() + START_S
        while status(Authorization=f"Bearer {key}") != 401:
            assert time.monotonic() < deadline, container.logs()
            time.sleep(0.5)


def test_sigterm_ends_it_with_0_when_it_serves_and_when_it_starts(podman: Podman, image: str) -> None:
    with podman.serving(image) as starting:
        time.sleep(0.5)
        podman("kill", "--signal=TERM", starting.id)
        assert starting.wait_ended(60) == 0
    with podman.serving(image) as serving:
        serving.wait_ready()
        assert predict(serving).status_code == 200
        podman("kill", "--signal=TERM", serving.id)
        assert serving.wait_ended(60) == 0
        assert "Traceback" not in serving.logs()


def test_with_far_too_little_memory_it_ends_with_137(podman: Podman, image: str) -> None:
    with podman.serving(image, "--memory=48m", "--memory-swap=48m") as small:
        assert small.wait_ended(60) == 137


def test_a_setting_that_is_wrong_ends_it_with_a_sentence(podman: Podman, image: str) -> None:
    with podman.serving(image, VITRINE_WORKERS="none") as wrong:
        assert wrong.wait_ended(60) == 1
        assert "VITRINE_WORKERS='none'" in wrong.logs()
        assert "Traceback" not in wrong.logs()


def test_it_says_what_it_is_and_is_within_600_mb(podman: Podman, image: str) -> None:
    config = json.loads(podman("image", "inspect", image))[0]
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in config["Labels"].items()}
    assert (labels["title"], labels["licenses"]) == ("Vitrine", "Apache-2.0")
    assert re.fullmatch(r"0\.1\.0-[0-9a-f]{16}", labels["version"])
    assert re.match(r"[0-9a-f]{40}|unknown", labels["revision"])
    assert config["Size"] <= 600e6


def test_the_bill_of_materials_lists_what_is_installed(image: str, container: Container, sbom: Path) -> None:
    bill = json.loads(sbom.read_text())
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "vitrine")
    listed = {(part["name"].lower(), part["version"]) for part in bill["components"]}
    code = (
        f"import importlib.metadata as m\nfor d in m.distributions(path=['{SITE}']): print(d.name.lower(), d.version)"
    )
    assert listed == {tuple(line.split()) for line in container.run("python", "-c", code).splitlines()}
    pinned = re.search(r"^onnxruntime==(\S+)", (ROOT / "requirements" / "serve.txt").read_text(), re.MULTILINE)
    assert pinned and ("onnxruntime", pinned[1]) in listed
    assert not {"uv", "pip", "setuptools", "torch"} & {name for name, _ in listed}


def test_a_change_of_code_changes_the_last_layer_only_and_the_same_inputs_built_anew_change_none(
    podman: Podman, image: str, contexts: Contexts, tmp_path: Path
) -> None:
    before = layers_of(podman, image)

    def build(context: Path, tag: str, *options: str) -> list[str]:
        command = ["podman", "build", "--format=docker", "--layers", "--timestamp=315532800", f"--tag={tag}", *options]
        checked(*command, str(context), env=podman.building)
        return layers_of(podman, tag)

    try:
        changed = build(contexts.changed.folder, "localhost/vitrine:test-changed")
        assert changed[:-1] == before[:-1] and changed[-1] != before[-1]
        shutil.copytree(contexts.elsewhere.folder, tmp_path / "same")
        # Without the cache, but for the installed packages, which take a minute to fetch.
        dockerfile = tmp_path / "same" / "Dockerfile"
        stages = re.split(r"(?=^FROM )", dockerfile.read_text(), flags=re.MULTILINE)
        dockerfile.write_text(f"{stages[0]}FROM {image} AS packages\n{stages[-1]}")
        assert build(tmp_path / "same", "localhost/vitrine:test-same", "--no-cache") == before
    finally:
        for tag in ("localhost/vitrine:test-changed", "localhost/vitrine:test-same"):
            podman("rmi", "--force", "--ignore", tag)
