"""What an operator sets for every Runner."""

from dataclasses import replace

from runners.plan import make_plan
from serving.options import RunnerOptions
from settings import Settings


def test_a_worker_has_its_share_of_the_cores_and_a_queue_of_its_own() -> None:
    settings = Settings(_env_file=None, workers=4, queue_ms=500, queue_size=7)
    options = RunnerOptions.from_settings(settings.model_dump())
    assert (options.workers, options.queue_ms, options.queue_size) == (4, 500, 7)
    assert options.cores() == max(1, RunnerOptions().cores() // 4)


def test_the_defaults_are_those_of_the_settings() -> None:
    assert RunnerOptions.from_settings(Settings(_env_file=None).model_dump()) == RunnerOptions()


def test_narrow_lanes_have_one_session_of_one_thread() -> None:
    plan = make_plan(4, takes_images=True)
    assert plan.widths == (4, 1) and RunnerOptions().override(plan) == plan
    assert RunnerOptions(narrow=True).override(plan) == replace(plan, widths=(1,))
