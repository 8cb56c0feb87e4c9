"""The decoding process gives what decoding here gives, is killed where it should be, and ends with its parent."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import psutil
import pytest

from errors import DeadlineExceeded, InvalidImage, TooLarge, Unavailable
from loadtests.fuzz import hostile
from preprocessing.prepare import Keep, prepare
from preprocessing.sandbox.process import DecodingProcess
from preprocessing.spec import ImageInput, ImageLimits
from tests.conftest import ROOT, encode
from tests.live.server import wait_until

LIMITS = ImageLimits()
SPEC = ImageInput(
    size=(24, 32), library="opencv", kernel="area", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), blur_below=9.0
)
GREY = SPEC.model_copy(
    update={"resize": "letterbox", "channels": "grey", "mean": (0.5,), "std": (0.2,), "layout": "nhwc"}
)
PICTURE = encode(np.random.default_rng(2).integers(0, 256, (60, 80, 3)).astype(np.uint8))
ENDLESS = hostile.slow_bmp()
"""Takes seconds of processor time on any machine: Pillow decodes runs in Python."""


@pytest.fixture
def decoding() -> Iterator[DecodingProcess]:
    process = DecodingProcess()
    try:
        yield process
    finally:
        process.close()


@pytest.mark.parametrize("spec", [SPEC, GREY])
@pytest.mark.parametrize("keep", ["nothing", "resized", "original"])
def test_a_picture_prepared_in_the_sandbox_is_the_same_to_the_last_bit(
    decoding: DecodingProcess, keep: Keep, spec: ImageInput
) -> None:
    there, here = decoding.prepare(PICTURE, LIMITS, spec, keep), prepare(PICTURE, LIMITS, spec, keep)
    assert (
        there.tensor.shape == spec.shape
        and np.array_equal(there.tensor, here.tensor)
        and there.sharpness == here.sharpness
    )
    assert (there.pixels is None) == (keep == "nothing")
    assert keep == "nothing" or np.array_equal(there.pixels, here.pixels)  # type: ignore[arg-type]


def test_what_is_wrong_with_a_picture_is_said_as_here_and_costs_no_process(decoding: DecodingProcess) -> None:
    decoding.prepare(PICTURE, LIMITS, SPEC)
    before = decoding.pid
    for data, limits, kind in (
        (PICTURE[:-50], LIMITS, InvalidImage),
        (PICTURE, ImageLimits(max_pixels=99), TooLarge),
    ):
        with pytest.raises(kind) as here:
            prepare(data, limits, SPEC)
        with pytest.raises(kind) as there:
            decoding.prepare(data, limits, SPEC)
        assert str(there.value) == str(here.value)
    assert decoding.pid == before


def test_a_picture_that_takes_too_long_is_killed_at_its_deadline_and_the_next_is_served() -> None:
    decoding = DecodingProcess(cpu_seconds=60, deadline_s=1.0)
    try:
        decoding.prepare(PICTURE, LIMITS, SPEC)
        before = decoding.pid
        with pytest.raises(DeadlineExceeded, match="within 1 s"):
            decoding.prepare(ENDLESS, LIMITS, SPEC)
        assert before is not None and not psutil.pid_exists(before)
        assert decoding.pid not in (None, before)  # the next one is started before it is asked for
    finally:
        decoding.close()


def test_a_picture_that_takes_too_much_processor_time_is_refused_with_the_limit() -> None:
    decoding = DecodingProcess(cpu_seconds=1, deadline_s=120.0)
    try:
        with pytest.raises(TooLarge, match="more than 1 s of processor time"):
            decoding.prepare(ENDLESS, LIMITS, SPEC)
        assert np.array_equal(decoding.prepare(PICTURE, LIMITS, SPEC).tensor, prepare(PICTURE, LIMITS, SPEC).tensor)
    finally:
        decoding.close()


@pytest.fixture
def patient() -> Iterator[DecodingProcess]:
    """A process that has had its first picture and would decode the endless one to its end."""
    process = DecodingProcess(cpu_seconds=600, deadline_s=600.0)
    try:
        process.prepare(PICTURE, LIMITS, SPEC)
        yield process
    finally:
        process.close()


def signal_while_it_decodes(decoding: DecodingProcess, number: signal.Signals, after_s: float = 0.2) -> None:
    """Send a signal to the process once it has worked for so long on the picture that it gets next."""
    process = psutil.Process(decoding.pid)
    before = sum(process.cpu_times()[:2])

    def send() -> None:
        wait_until(lambda: sum(process.cpu_times()[:2]) > before + after_s)
        process.send_signal(number)

    threading.Thread(target=send, daemon=True).start()


def test_a_crash_costs_its_own_picture_alone(patient: DecodingProcess) -> None:
    signal_while_it_decodes(patient, signal.SIGSEGV)
    with pytest.raises(InvalidImage, match=r"exit code -11"):
        patient.prepare(ENDLESS, LIMITS, SPEC)
    assert patient.prepare(PICTURE, LIMITS, SPEC).tensor.shape == (3, 24, 32)


def test_a_picture_whose_process_is_ended_by_somebody_else_is_not_to_blame(patient: DecodingProcess) -> None:
    signal_while_it_decodes(patient, signal.SIGKILL)
    with pytest.raises(Unavailable, match="ended from outside"):
        patient.prepare(ENDLESS, LIMITS, SPEC)
    assert patient.prepare(PICTURE, LIMITS, SPEC).tensor.shape == (3, 24, 32)


def test_a_request_to_stop_changes_nothing_for_the_picture_at_work(patient: DecodingProcess) -> None:
    before = patient.pid
    signal_while_it_decodes(patient, signal.SIGTERM)
    signal_while_it_decodes(patient, signal.SIGSEGV, after_s=0.6)
    with pytest.raises(InvalidImage, match=r"exit code -11"):  # which ends it, long after SIGTERM did not
        patient.prepare(ENDLESS, LIMITS, SPEC)
    assert patient.pid != before


def test_a_picture_for_which_memory_is_too_short_is_too_large(decoding: DecodingProcess) -> None:
    decoding.prepare(PICTURE, LIMITS, SPEC)
    before = decoding.pid
    with pytest.raises(TooLarge, match="more than 96 MiB of memory"):
        decoding.prepare(PICTURE, LIMITS, SPEC.model_copy(update={"size": (8192, 8192)}))
    assert decoding.prepare(PICTURE, LIMITS, SPEC).tensor.shape == (3, 24, 32)
    assert decoding.pid == before


def test_a_decoder_that_lacks_memory_does_not_blame_the_picture() -> None:
    code = """
from PIL import Image
from preprocessing.decode import decode
from preprocessing.sandbox.child import limit_resources
from preprocessing.spec import ImageLimits
from tests.conftest import encode
for kind in ("JPEG", "WEBP", "PNG"):
    picture = encode(Image.new("RGB", (6000, 4000)), kind)
    limit_resources(60, 20 * 2**20)
    try:
        decode(picture, ImageLimits())
    except MemoryError:
        print(kind)
    limit_resources(60, 2**32)
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["JPEG", "WEBP", "PNG"]


def test_a_process_that_died_while_it_was_idle_is_replaced_without_a_word(decoding: DecodingProcess) -> None:
    decoding.start()
    before = decoding.pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: has_ended(before))
    assert decoding.prepare(PICTURE, LIMITS, SPEC).tensor.shape == (3, 24, 32)


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="Python cannot watch a process here")
def test_a_process_that_dies_while_it_is_idle_is_replaced_before_the_next_picture(patient: DecodingProcess) -> None:
    before = patient.pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: patient.pid not in (None, before))


def has_ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_the_memory_of_one_picture_is_limited_by_its_own_pixels() -> None:
    code = """
import os, sys
from preprocessing.sandbox.child import limit_resources
limit_resources(60, 64 * 2**20)
try:
    bytearray(200 * 2**20)
except MemoryError:
    print("limited")
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["limited"]


def test_it_is_small_and_knows_nothing_of_the_server(
    decoding: DecodingProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITRINE_API_KEYS_FILE", "/a/secret")
    decoding.prepare(PICTURE, LIMITS, SPEC)
    process = psutil.Process(decoding.pid)
    assert not [name for name in process.environ() if name.startswith("VITRINE_")]
    maps = " ".join(mapped.path for mapped in process.memory_maps())
    assert not [name for name in ("onnxruntime", "torch", "bentoml", "grpc", "uvloop") if f"/{name}/" in maps]


def test_it_ends_with_its_parent_even_while_it_decodes() -> None:
    code = """
import sys, threading, time
from preprocessing.sandbox.process import DecodingProcess
from tests.preprocessing.sandbox.test_process import ENDLESS, LIMITS, PICTURE, SPEC
decoding = DecodingProcess(cpu_seconds=60, deadline_s=120.0)
decoding.prepare(PICTURE, LIMITS, SPEC)
threading.Thread(target=decoding.prepare, args=(ENDLESS, LIMITS, SPEC), daemon=True).start()
print(decoding.pid, flush=True)
time.sleep(300)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent, parent.stdout:
        child = int(parent.stdout.readline())
        assert psutil.pid_exists(child)
        parent.kill()
        parent.wait()
    wait_until(lambda: has_ended(child))


def test_after_its_end_pictures_are_refused(decoding: DecodingProcess) -> None:
    decoding.prepare(PICTURE, LIMITS, SPEC)
    before = decoding.pid
    decoding.close()
    with pytest.raises(Unavailable, match="shutting down"):
        decoding.prepare(PICTURE, LIMITS, SPEC)
    assert before is not None and not psutil.pid_exists(before)
