"""What a fitted scikit-learn model knows about its features: their names, and the categories that its encoders saw."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, TargetEncoder

from errors import StoreError
from export.rows.model import FeatureFacts

ENCODERS = (OneHotEncoder, OrdinalEncoder, TargetEncoder)
LIBRARIES = ("lightgbm", "sklearn", "xgboost")
"""Whose steps there are converters for."""
_REFUSES_OTHERS = ("error",)


def prepare_features(model: Any, names: Sequence[str]) -> list[FeatureFacts]:
    """Return what a model knows about its features, and change the model into one that the converter takes.

    A column of the transformers is named by its place afterwards, since the converter spells names in its own way. An
    imputer before an encoder of texts, which the converter cannot carry over, is taken out: what it puts in place of a
    missing value becomes `FeatureFacts.null`.

    Args:
        model: a copy, which is changed.
        names: of its features, in order.

    Raises:
        StoreError: an encoder or imputer cannot be carried over; the message names it.
    """
    facts = [FeatureFacts(name) for name in names]
    _visit(model, list(range(len(names))), facts)
    return facts


def foreign_step(model: Any) -> Any:
    """Return a step of a model that comes from none of `LIBRARIES`, such as a transformer of one's own; else None."""
    if type(model).__module__.split(".")[0] not in LIBRARIES:
        return model
    parts: list[Any] = []
    if isinstance(model, Pipeline):
        parts = [step for _, step in model.steps]
    elif isinstance(model, ColumnTransformer):
        parts = [part for _, part, _ in model.transformers_]
    elif isinstance(model, FeatureUnion):
        parts = [part for _, part in model.transformer_list]
    steps = (foreign_step(part) for part in parts if part is not None and not isinstance(part, str))
    return next((step for step in steps if step is not None), None)


def front(model: Any) -> Any:
    """Return the step of a pipeline that is given the rows themselves."""
    while isinstance(model, Pipeline):
        model = model.steps[0][1]
    return model


def _visit(estimator: Any, columns: list[int], facts: list[FeatureFacts]) -> None:
    """Note what an estimator knows about the columns that it is given, the places of features."""
    if isinstance(estimator, Pipeline):
        _visit_pipeline(estimator, columns, facts)
    elif isinstance(estimator, FeatureUnion):
        for _, part in estimator.transformer_list:
            _visit(part, columns, facts)
    elif isinstance(estimator, ColumnTransformer):
        _visit_columns(estimator, columns, facts)
    elif isinstance(estimator, ENCODERS):
        for place, column in enumerate(columns):
            _note_categories(facts[column], estimator, place)


def _visit_columns(transformer: ColumnTransformer, columns: list[int], facts: list[FeatureFacts]) -> None:
    places = transformer._transformer_to_input_indices
    changed = []
    for name, part, _ in transformer.transformers_:
        chosen = list(places.get(name, ()))
        _visit(part, [columns[place] for place in chosen], facts)
        changed.append((name, part, chosen))
    transformer.transformers_ = changed


def _visit_pipeline(pipeline: Pipeline, columns: list[int], facts: list[FeatureFacts]) -> None:
    fills: Sequence[Any] | None = None
    kept = []
    for name, step in pipeline.steps:
        is_text_imputer = isinstance(step, SimpleImputer) and step.statistics_.dtype == object
        if isinstance(step, SimpleImputer):
            if step.add_indicator and is_text_imputer:
                raise StoreError("SimpleImputer(add_indicator=True) of texts cannot be carried over: fit it without.")
            fills = step.statistics_ if len(step.statistics_) == len(columns) else None
        if not is_text_imputer:
            kept.append((name, step))
    for _, step in kept:
        if isinstance(step, SimpleImputer) or step in (None, "passthrough"):
            continue
        _visit(step, columns, facts)
        break  # behind a step that changes values the columns are no features any more
    if fills is not None:
        for column, fill in zip(columns, fills, strict=True):
            if facts[column].categories is not None:
                facts[column].null = fill
    pipeline.steps = kept or pipeline.steps


def _note_categories(fact: FeatureFacts, encoder: Any, place: int) -> None:
    categories = [value for value in encoder.categories_[place].tolist() if not _is_missing(value)]
    if any(isinstance(value, bool) or not isinstance(value, str | int | float) for value in categories):
        raise StoreError(
            f"{fact.name}: its categories are neither texts nor numbers ({categories[0]!r}). Make them texts, and fit "
            "the model again."
        )
    if {isinstance(value, str) for value in categories} == {True, False}:
        raise StoreError(f"{fact.name}: its categories are texts and numbers mixed. Make them texts, and fit again.")
    takes_others = getattr(encoder, "handle_unknown", "ignore") not in _REFUSES_OTHERS
    if takes_others and not isinstance(categories[0], str):
        return  # any number will do
    fact.categories, fact.other_categories, fact.null = categories, takes_others, _null_of(encoder, place)


def _null_of(encoder: Any, place: int) -> Any:
    """Return how the converter spells a missing value among the categories of an encoder."""
    missing = [value for value in encoder.categories_[place].tolist() if _is_missing(value)]
    return str(missing[0]) if missing else "nan"


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and bool(np.isnan(value)))
