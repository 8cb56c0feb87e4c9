"""Metrics against cases solved on paper."""

import numpy as np
import pytest

from training import metrics

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1])
SCORES = np.array([0.1, 0.2, 0.3, 0.6, 0.4, 0.7, 0.8, 0.9])


def test_auc_counts_the_pairs_in_the_right_order() -> None:
    assert metrics.auc(LABELS, SCORES) == pytest.approx(15 / 16)  # only (0.6, 0.4) is the wrong way round


def test_auc_of_one_class_is_not_a_number() -> None:
    assert np.isnan(metrics.auc(np.ones(3, np.int64), SCORES[:3]))


def test_sensitivity_and_specificity_at_the_threshold() -> None:
    assert metrics.sensitivity(LABELS, SCORES) == pytest.approx(3 / 4)
    assert metrics.specificity(LABELS, SCORES) == pytest.approx(3 / 4)


def test_a_score_at_the_threshold_is_positive() -> None:
    assert metrics.sensitivity(np.array([0, 1]), np.array([0.0, 0.5])) == 1.0
    assert metrics.specificity(np.array([0, 1]), np.array([0.5, 1.0])) == 0.0


def test_f2_weighs_recall_twice() -> None:
    labels, scores = np.array([1, 1, 1, 0, 0]), np.array([0.9, 0.9, 0.1, 0.9, 0.1])
    precision, recall = 2 / 3, 2 / 3
    assert metrics.f2(labels, scores) == pytest.approx(5 * precision * recall / (4 * precision + recall))


def test_sensitivity_where_the_specificity_is_at_least_the_minimum() -> None:
    assert metrics.sensitivity_at_specificity(LABELS, SCORES, minimum=1.0) == pytest.approx(3 / 4)
    assert metrics.sensitivity_at_specificity(LABELS, SCORES, minimum=0.75) == pytest.approx(1.0)


def test_calibration_error_of_two_bins() -> None:
    labels, scores = np.array([0, 1, 1, 1]), np.array([0.2, 0.4, 0.9, 0.7])
    # bin [0, 0.5): rate 0.5, mean 0.3; bin [0.5, 1]: rate 1, mean 0.8; half of the items each
    assert metrics.expected_calibration_error(labels, scores, bins=2) == pytest.approx(0.2)


def test_a_perfectly_calibrated_certainty_has_no_error() -> None:
    assert metrics.expected_calibration_error(np.array([0, 1]), np.array([0.0, 1.0])) == 0.0


def test_the_interval_contains_the_metric_and_is_reproducible() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 400)
    scores = np.clip(labels * 0.3 + rng.normal(0.35, 0.2, 400), 0, 1)
    low, high = metrics.bootstrap_interval(metrics.auc, labels, scores, resamples=200)
    assert low < metrics.auc(labels, scores) < high
    assert [low, high] == metrics.bootstrap_interval(metrics.auc, labels, scores, resamples=200)


def test_the_interval_of_a_perfect_separation_is_a_point() -> None:
    assert metrics.bootstrap_interval(metrics.auc, LABELS, LABELS.astype(float), resamples=50) == [1.0, 1.0]
