"""The plan of a Runner: from the cores, the device and the cost of an item."""

from dataclasses import replace

from runners.plan import make_plan
from serving.options import RunnerOptions


def test_an_image_model_gets_a_lane_a_core_and_batches_of_one_unless_told_otherwise() -> None:
    plan = make_plan(4, takes_images=True)
    assert (plan.lanes, plan.widths, plan.max_batch) == (4, (4, 1), 1)
    assert make_plan(1, takes_images=True).widths == (1,)
    cheap = make_plan(4, takes_images=True, item_seconds=0.0005)
    assert (cheap.lanes, cheap.widths) == (1, (1,)) and cheap.max_batch > 1
    assert RunnerOptions(max_batch=8).override(plan) == replace(plan, max_batch=8)


def test_rows_share_one_lane_and_an_accelerator_gets_large_batches_and_a_decoding_pool() -> None:
    rows = make_plan(8, takes_images=False)
    assert rows.lanes == 1 and rows.max_batch > 1 and rows.decoders == 0
    on_accelerator = make_plan(8, device="cuda:0", takes_images=True)
    assert (on_accelerator.lanes, on_accelerator.decoders) == (2, 8)
    assert RunnerOptions(max_batch=64).override(on_accelerator).max_batch == 64
