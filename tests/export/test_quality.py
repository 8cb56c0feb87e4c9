"""AUC against scikit-learn's."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from export.quality import auc


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_auc_is_that_of_scikit_learn_ties_included(decimals: int) -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 500)
    scores = np.round(rng.normal(labels.astype(float), 1.5), decimals)
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert np.isnan(auc(np.ones(4, np.int64), scores[:4]))
