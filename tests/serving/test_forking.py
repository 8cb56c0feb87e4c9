"""What forking needs of circus and BentoML, with the versions that are installed."""

import logging
import sys
from types import SimpleNamespace

import pytest
from circus.process import Process
from circus.watcher import Watcher

from serving import forking
from serving.forking import fork_processes, missing_names

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only on Linux are processes forked")


def test_the_installed_versions_have_all_that_forking_and_the_watch_need() -> None:
    assert missing_names() == []


def test_what_an_instance_of_circus_has_is_there_too() -> None:
    process = SimpleNamespace(watcher=None)
    Process.__init__(process, "name", 1, "true", spawn=False)
    assert {"env", "working_dir", "args", "cmd"} <= vars(process).keys()


@pytest.mark.parametrize("name", ["circus.process:Process.gone", "no_such_module:main"])
def test_with_a_version_that_lacks_something_processes_are_started_anew(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    monkeypatch.setattr(forking, "NEEDED", (*forking.NEEDED, name))
    monkeypatch.setattr(Watcher, "_process_class", Process, raising=False)
    with caplog.at_level(logging.WARNING, "vitrine"):
        fork_processes(lambda: None)
    assert Watcher._process_class is Process and name in caplog.text
