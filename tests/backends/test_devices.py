"""The choice of a device; most of it on a machine without an accelerator."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from backends import devices
from backends.devices import choose, parse
from errors import DeviceMissing
from tests.conftest import ROOT

bare = pytest.mark.skipif(devices.may_have_accelerator(), reason="an accelerator may be here")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("auto", "auto"),
        ("cpu", "cpu"),
        ("torch-cpu", "torch-cpu"),
        ("mps", "mps"),
        ("cuda", "cuda:0"),
        ("cuda:0", "cuda:0"),
        ("cuda:11", "cuda:11"),
        (" CUDA:1 ", "cuda:1"),
    ],
)
def test_devices_are_written_in_one_way(text: str, wanted: str) -> None:
    assert parse(text) == wanted
    assert parse(wanted) == wanted


@pytest.mark.parametrize("text", ["gpu", "cuda:x", "cuda:-1", "cuda:", "cuda0", "cuda:1,2", "cuda:٣", "cuda:0000", ""])
def test_what_is_no_device_is_told_what_is(text: str) -> None:
    with pytest.raises(ValueError, match="Allowed: auto, cpu, torch-cpu, mps, cuda, cuda:0"):
        parse(text)
    with pytest.raises(ValueError):
        choose(text)


@pytest.mark.parametrize("wanted", ["cpu", pytest.param("auto", marks=bare)])
def test_the_cpu_is_chosen_without_importing_pytorch(wanted: str) -> None:
    code = f"import sys; from backends.devices import choose; print(choose({wanted!r}), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["cpu", "False"]


@bare
def test_auto_says_why_a_driver_alone_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(devices, "_NVIDIA", (str(tmp_path),))
    with caplog.at_level(logging.WARNING, "vitrine.backends"):
        assert choose("auto") == "cpu"
        monkeypatch.setitem(sys.modules, "torch", None)
        assert choose("auto") == "cpu"
    assert "finds no accelerator" in caplog.messages[0]
    assert "cannot be imported" in caplog.messages[1]


@bare
@pytest.mark.parametrize("wanted", ["cuda", "cuda:1", "mps"])
def test_an_accelerator_that_is_not_here_is_refused_with_what_to_do(wanted: str) -> None:
    with pytest.raises(DeviceMissing, match=f"VITRINE_DEVICE={wanted}: .* finds neither CUDA nor MPS") as caught:
        choose(wanted)
    assert "Set VITRINE_DEVICE=cpu" in str(caught.value)


@pytest.mark.parametrize("wanted", ["cuda", "mps", "torch-cpu"])
def test_pytorch_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DeviceMissing, match=f"VITRINE_DEVICE={wanted} needs PyTorch.*`torch` extra.*DEVICE=cpu"):
        choose(wanted)


def test_pytorch_on_the_cpu_is_there_on_request() -> None:
    assert choose("torch-cpu") == "torch-cpu"
