"""Quality figures against cases solved on paper."""

import numpy as np
import pytest

from training import figures as quality

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1])
SCORES = np.array([0.1, 0.2, 0.3, 0.6, 0.4, 0.7, 0.8, 0.9])


def test_auc_counts_the_pairs_in_the_right_order() -> None:
    assert quality.auc(LABELS, SCORES) == pytest.approx(15 / 16)  # only (0.6, 0.4) is the wrong way round


def test_auc_of_one_class_is_not_a_number() -> None:
    assert np.isnan(quality.auc(np.ones(3, np.int64), SCORES[:3]))


def test_sensitivity_and_specificity_at_the_threshold() -> None:
    assert quality.sensitivity(LABELS, SCORES) == pytest.approx(3 / 4)
    assert quality.specificity(LABELS, SCORES) == pytest.approx(3 / 4)


def test_a_score_at_the_threshold_is_called() -> None:
    assert quality.sensitivity(np.array([0, 1]), np.array([0.0, 0.5])) == 1.0
    assert quality.specificity(np.array([0, 1]), np.array([0.5, 1.0])) == 0.0


def test_f2_weighs_recall_twice() -> None:
    labels, scores = np.array([1, 1, 1, 0, 0]), np.array([0.9, 0.9, 0.1, 0.9, 0.1])
    precision, recall = 2 / 3, 2 / 3
    assert quality.f2(labels, scores) == pytest.approx(5 * precision * recall / (4 * precision + recall))


def test_sensitivity_where_the_specificity_is_at_least_the_wanted() -> None:
    assert quality.sensitivity_at_specificity(LABELS, SCORES, wanted=1.0) == pytest.approx(3 / 4)
    assert quality.sensitivity_at_specificity(LABELS, SCORES, wanted=0.75) == pytest.approx(1.0)


def test_calibration_error_of_two_bins() -> None:
    labels, scores = np.array([0, 1, 1, 1]), np.array([0.2, 0.4, 0.9, 0.7])
    # bin [0, 0.5): rate 0.5, mean 0.3; bin [0.5, 1]: rate 1, mean 0.8; half of the items each
    assert quality.expected_calibration_error(labels, scores, bins=2) == pytest.approx(0.2)


def test_a_perfectly_calibrated_certainty_has_no_error() -> None:
    assert quality.expected_calibration_error(np.array([0, 1]), np.array([0.0, 1.0])) == 0.0


def test_the_interval_holds_the_figure_and_is_reproducible() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 400)
    scores = np.clip(labels * 0.3 + rng.normal(0.35, 0.2, 400), 0, 1)
    low, high = quality.interval(quality.auc, labels, scores, resamples=200)
    assert low < quality.auc(labels, scores) < high
    assert [low, high] == quality.interval(quality.auc, labels, scores, resamples=200)


def test_the_interval_of_a_perfect_separation_is_a_point() -> None:
    assert quality.interval(quality.auc, LABELS, LABELS.astype(float), resamples=50) == [1.0, 1.0]
