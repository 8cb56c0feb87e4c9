"""Reading a fitted scikit-learn model, or one with scikit-learn's interface, from a pickle that is trusted."""

import copy
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
import onnx
import pandas as pd
import sklearn
from scipy.sparse import issparse
from skl2onnx import convert_sklearn, update_registered_converter
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from skl2onnx.common.shape_calculator import (
    calculate_linear_classifier_output_shapes,
    calculate_linear_regressor_output_shapes,
)
from sklearn.base import is_classifier, is_regressor
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline

from errors import StoreError
from export.rows.boosters import check_lightgbm, check_xgboost
from export.rows.model import FeatureFacts, Reference, RowModel, Values, as_numbers
from export.rows.sklearn_features import foreign_step, front, prepare_features

TARGET_OPSET = {"": 18, "ai.onnx.ml": 3}
INSTEAD = (
    "Do that step before the row is sent, put one of scikit-learn's own in its place that skl2onnx converts, or export "
    "an ONNX graph yourself."
)


def read_sklearn(file: Path, header: Sequence[str] | None, notes: list[str]) -> RowModel:
    """Return the model in a pickle or joblib file; reading it may run any code.

    Args:
        file: a fitted classifier or regressor, a pipeline, or a search over them.
        header: the names of the examples' columns, for a model that was fitted without names.
        notes: gets a line about whatever the operator should know.

    Raises:
        StoreError: the file cannot be read, or the model cannot be carried over; the message names what stands in the
            way and what to do instead.
    """
    model = _unpickled(file, notes)
    model = getattr(model, "best_estimator_", model)
    final = model.steps[-1][1] if isinstance(model, Pipeline) else model
    title = f"scikit-learn {sklearn.__version__}, {type(final).__name__}"
    if (own := foreign_step(model)) is not None:
        kind = f"{type(own).__module__}.{type(own).__qualname__}"
        raise StoreError(f"{title}: there is no converter for {kind}, so it cannot be carried over. {INSTEAD}")
    _check_kind(model, final)
    count = getattr(model, "n_features_in_", None)
    if count is None:
        raise StoreError(f"{title}: is not fitted, or does not say how many features it takes (n_features_in_).")
    own_names = getattr(model, "feature_names_in_", None)
    names = [str(name) for name in own_names] if own_names is not None else _default_names(header, count)
    convertible = copy.deepcopy(model)
    facts = prepare_features(convertible, names)

    def frame(values: Values) -> Any:
        return _frame(values, facts, with_names=own_names is not None)

    def predict(values: Values) -> Reference:
        output = model.predict_proba(frame(values)) if is_classifier(model) else model.predict(frame(values))
        return np.asarray(output, np.float64).reshape(len(values), -1)

    labels = [str(label) for label in model.classes_] if is_classifier(model) else []

    def decide(values: Values) -> npt.NDArray[np.int64]:
        places = {label: place for place, label in enumerate(model.classes_.tolist())}
        return np.array([places[label] for label in np.asarray(model.predict(frame(values))).tolist()], np.int64)

    sample = np.array([[_usual(fact) for fact in facts]], object)
    _check_dense(model, final, frame(sample))
    return RowModel(
        name=title,
        task="tabular-classification" if labels else "tabular-regression",
        features=facts,
        labels=labels,
        outputs=0 if labels else predict(sample).shape[1],
        predict=predict,
        decide=decide if labels else None,
        convert=lambda: _converted(convertible, facts, title),
    )


def _unpickled(file: Path, notes: list[str]) -> Any:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = joblib.load(file)
        except ModuleNotFoundError as error:
            raise StoreError(
                f"{file}: was written with code that is not here (module {error.name!r}). If that is a package, "
                f"install it beside Vitrine. If it is your own transformer, it cannot be carried over: {INSTEAD}"
            ) from error
        except Exception as error:
            raise StoreError(
                f"{file}: cannot be unpickled ({type(error).__name__}: {error}). Read it with the versions of the "
                "libraries that wrote it, or fit the model again with those installed here."
            ) from error
    notes += dict.fromkeys(str(warning.message).split("\n")[0] for warning in caught)
    return model


def _check_kind(model: Any, final: Any) -> None:
    kind = type(final).__name__
    if not is_classifier(model) and not is_regressor(model):
        raise StoreError(f"{kind} is neither a classifier nor a regressor, which are what can be served as rows.")
    if is_classifier(model) and not hasattr(model, "predict_proba"):
        raise StoreError(
            f"{kind} gives no probabilities (predict_proba). Wrap it in CalibratedClassifierCV and fit it again."
        )
    if is_classifier(model) and isinstance(model.classes_, list):
        raise StoreError(f"{kind} answers several questions at once (multi-output): bring a model for each.")
    if np.any(getattr(final, "is_categorical_", None)):
        raise StoreError(
            f"{kind} has categorical splits (categorical_features), which the converter cannot carry over. Fit it on "
            "OneHotEncoder's or OrdinalEncoder's columns instead, in one pipeline with the encoder."
        )
    if hasattr(final, "get_booster"):
        check_xgboost(final.get_booster())
    if hasattr(final, "booster_"):
        check_lightgbm(final.booster_.model_to_string())


def _check_dense(model: Any, final: Any, sample: Any) -> None:
    """Raise StoreError if XGBoost is given sparse columns, of which it takes the zeros for missing values."""
    if hasattr(final, "get_booster") and isinstance(model, Pipeline) and issparse(model[:-1].transform(sample)):
        raise StoreError(
            f"{type(final).__name__} is given a sparse matrix here and takes its zeros for missing values, which the "
            "converter cannot carry over. Set sparse_output=False in OneHotEncoder and sparse_threshold=0 in "
            "ColumnTransformer, and fit the pipeline again."
        )


def _default_names(header: Sequence[str] | None, count: int) -> list[str]:
    return list(header) if header is not None and len(header) == count else [f"x{place}" for place in range(count)]


def _usual(fact: FeatureFacts) -> Any:
    return fact.categories[0] if fact.categories else 1.0


def _frame(values: Values, facts: Sequence[FeatureFacts], *, with_names: bool) -> Any:
    """Return rows as the model was fitted on them: a frame with names, or an array."""
    if not with_names:
        return np.where(_is_null(values), np.nan, values) if any(fact.is_text for fact in facts) else as_numbers(values)
    columns = {}
    for place, fact in enumerate(facts):
        column = np.where(_is_null(values[:, place]), np.nan, values[:, place])
        columns[fact.name] = pd.Series(column, dtype=object if fact.is_text else float)
    return pd.DataFrame(columns)


def _is_null(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    return np.array([value is None for value in values.ravel()], bool).reshape(values.shape)


def _converted(model: Any, facts: Sequence[FeatureFacts], title: str) -> onnx.ModelProto:
    """Return the converter's graph: with an input for each column where a transformer chooses some, else with one."""
    if isinstance(front(model), ColumnTransformer) or any(fact.is_text for fact in facts):
        kinds = [StringTensorType if fact.is_text else FloatTensorType for fact in facts]
        inputs = [(f"column{place}", kind([None, 1])) for place, kind in enumerate(kinds)]
    else:
        inputs = [("rows", FloatTensorType([None, len(facts)]))]
    _register_boosters()
    try:
        graph: onnx.ModelProto = convert_sklearn(
            model,
            initial_types=inputs,
            options={id(model): {"zipmap": False}} if is_classifier(model) else None,
            target_opset=TARGET_OPSET,
        )
        return graph
    except Exception as error:
        # The converter's own words name the class that it does not know, or the option of one that it does not.
        unknown = re.search(r"type '<class '(.+?)'>'", str(error))
        reason = (
            f"there is no converter for {unknown[1]}"
            if unknown
            else re.split(r"\n|\. You may", str(error))[0][:300].rstrip(".")
        )
        raise StoreError(f"{title}: cannot be carried over to ONNX: {reason}. {INSTEAD}") from error


def _register_boosters() -> None:
    """Tell skl2onnx how to convert the boosters that have been unpickled."""
    classifier, regressor = calculate_linear_classifier_output_shapes, calculate_linear_regressor_output_shapes
    options: dict[str, Any] = {"nocl": [True, False], "zipmap": [True, False, "columns"]}
    if lightgbm := sys.modules.get("lightgbm"):
        from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm

        for name, shapes in (("LGBMClassifier", classifier), ("LGBMRegressor", regressor)):
            chosen = options if shapes is classifier else {"split": None}
            update_registered_converter(
                getattr(lightgbm, name), f"LightGbm{name}", shapes, convert_lightgbm, options=chosen
            )
    if xgboost := sys.modules.get("xgboost"):
        from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost

        for name, shapes in (("XGBClassifier", classifier), ("XGBRegressor", regressor)):
            own = options if shapes is classifier else None
            update_registered_converter(getattr(xgboost, name), f"XGBoost{name}", shapes, convert_xgboost, options=own)
