"""Reading gradient-boosted trees from the files of XGBoost and LightGBM, which hold data and no code."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from errors import StoreError
from export.rows.model import FeatureFacts, Reference, RowModel, Values, as_numbers

TARGET_OPSET = 15
"""The newest that onnxmltools 1.16 writes."""
XGBOOST_CLASSIFIERS = ("binary:logistic", "multi:softprob", "multi:softmax")
XGBOOST_REGRESSORS = (
    *("reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror", "reg:quantileerror"),
    *("reg:squaredlogerror", "reg:gamma", "reg:tweedie", "count:poisson"),
)
LIGHTGBM_CLASSIFIERS = ("binary", "multiclass")
LIGHTGBM_REGRESSORS = (
    *("regression", "regression_l1", "huber", "fair", "quantile", "mape", "poisson", "gamma", "tweedie"),
)
ENCODE_INSTEAD = (
    "Encode the categories outside the trees (OneHotEncoder or OrdinalEncoder in a pipeline), and fit again."
)


def read_xgboost(file: Path, notes: list[str]) -> RowModel:
    """Return the model in XGBoost's JSON or UBJSON.

    Raises:
        StoreError: the file cannot be read, or the trees cannot be carried over; the message says why.
    """
    import xgboost

    try:
        booster = xgboost.Booster(model_file=str(file))
    except Exception as error:
        raise StoreError(f"{file}: XGBoost cannot read it ({str(error).splitlines()[0][:200]}).") from error
    objective = check_xgboost(booster)
    if objective == "multi:softmax":  # which gives the most probable class alone; the trees are the same
        booster.set_param({"objective": "multi:softprob"})
    best = booster.attr("best_iteration")
    if best is not None and int(best) + 1 < booster.num_boosted_rounds():
        notes.append(f"The trees up to the best round, {int(best) + 1}, are taken, as XGBoost's own classes take them.")
        booster = booster[: int(best) + 1]
    names = booster.feature_names or [f"f{place}" for place in range(booster.num_features())]
    booster.feature_names = booster.feature_types = None  # the converter reads no other names than f0, f1, …

    def predict(values: Values) -> Reference:
        output = booster.predict(xgboost.DMatrix(as_numbers(values))).astype(np.float64)
        return _with_both_classes(output, objective == "binary:logistic")

    def convert() -> onnx.ModelProto:
        from onnxmltools import convert_xgboost
        from onnxmltools.convert.common.data_types import FloatTensorType

        inputs = [("rows", FloatTensorType([None, len(names)]))]
        graph: onnx.ModelProto = convert_xgboost(booster, initial_types=inputs, target_opset=TARGET_OPSET)
        return graph

    classes = max(2, _xgboost_classes(booster)) if objective in XGBOOST_CLASSIFIERS else 0
    return _row_model(f"XGBoost {xgboost.__version__}, {objective}", names, classes, predict, convert)


def read_lightgbm(file: Path) -> RowModel:
    """Return the model in LightGBM's text.

    Raises:
        StoreError: the file cannot be read, or the trees cannot be carried over; the message says why.
    """
    import lightgbm

    try:
        text = file.read_text("utf-8")
        booster = lightgbm.Booster(model_str=text)
    except Exception as error:
        raise StoreError(f"{file}: LightGBM cannot read it ({str(error).splitlines()[0][:200]}).") from error
    objective = check_lightgbm(text)

    def predict(values: Values) -> Reference:
        output = np.asarray(booster.predict(as_numbers(values)), np.float64)
        return _with_both_classes(output, objective == "binary")

    def convert() -> onnx.ModelProto:
        from onnxmltools import convert_lightgbm
        from onnxmltools.convert.common.data_types import FloatTensorType

        inputs = [("rows", FloatTensorType([None, booster.num_feature()]))]
        graph: onnx.ModelProto = convert_lightgbm(
            booster, initial_types=inputs, target_opset=TARGET_OPSET, zipmap=False
        )
        return graph

    classes = max(2, booster.num_model_per_iteration()) if objective in LIGHTGBM_CLASSIFIERS else 0
    return _row_model(
        f"LightGBM {lightgbm.__version__}, {objective}", booster.feature_name(), classes, predict, convert
    )


def check_xgboost(booster: Any) -> str:
    """Return the objective of a booster of XGBoost whose trees the converter carries over.

    Raises:
        StoreError: it does not; the message names what it cannot carry over and what to do instead.
    """
    learner = json.loads(booster.save_config())["learner"]
    objective, trees = str(learner["objective"]["name"]), str(learner["gradient_booster"]["name"])
    kinds = booster.feature_types or ()
    if categorical := [place for place, kind in enumerate(kinds) if kind == "c"]:
        names = booster.feature_names or [f"f{place}" for place in range(len(kinds))]
        listed = ", ".join(names[place] for place in categorical[:20])
        raise StoreError(f"XGBoost: categorical splits ({listed}) cannot be carried over. {ENCODE_INSTEAD}")
    if trees != "gbtree":
        raise StoreError(f"XGBoost: the booster {trees!r} cannot be carried over, only gbtree. Fit it with that.")
    known = (*XGBOOST_CLASSIFIERS, *XGBOOST_REGRESSORS)
    if objective not in known:
        raise StoreError(f"XGBoost: the objective {objective!r} cannot be carried over; these can: {', '.join(known)}.")
    if int(learner["learner_model_param"].get("num_target", 1)) > 1:
        raise StoreError("XGBoost: several targets in one model cannot be carried over: bring a model for each.")
    return objective


def check_lightgbm(text: str) -> str:
    """Return the objective of a model of LightGBM, in its text, whose trees the converter carries over.

    Raises:
        StoreError: it does not; the message names what it cannot carry over and what to do instead.
    """
    head = text.split("\nTree=", 1)[0]
    fields = dict(line.split("=", 1) for line in head.splitlines() if "=" in line)
    objective, *options = fields.get("objective", "none").split()
    if re.search(r"^num_cat=[1-9]", text, re.MULTILINE):
        pairs = zip(fields["feature_names"].split(), fields["feature_infos"].split(), strict=True)
        listed = ", ".join([name for name, info in pairs if not info.startswith("[") and info != "none"][:20])
        raise StoreError(f"LightGBM: categorical splits ({listed}) cannot be carried over. {ENCODE_INSTEAD}")
    if re.search(r"^is_linear=1", text, re.MULTILINE):
        raise StoreError("LightGBM: linear trees (linear_tree) cannot be carried over. Fit it without.")
    if "average_output" in head.splitlines():
        raise StoreError("LightGBM: random forests (boosting=rf) cannot be carried over. Fit it with gbdt or dart.")
    known = (*LIGHTGBM_CLASSIFIERS, *LIGHTGBM_REGRESSORS)
    if objective not in known:
        raise StoreError(
            f"LightGBM: the objective {objective!r} cannot be carried over; these can: {', '.join(known)}."
        )
    for option in options:
        if option == "sqrt" or (option.startswith("sigmoid:") and option != "sigmoid:1"):
            raise StoreError(f"LightGBM: the option {option} of its objective cannot be carried over. Fit it without.")
    return objective


def _xgboost_classes(booster: Any) -> int:
    return int(json.loads(booster.save_config())["learner"]["learner_model_param"]["num_class"])


def _with_both_classes(output: Reference, is_binary: bool) -> Reference:
    """Return outputs (N, K): those of a binary classifier, which gives the second class, with the first beside."""
    columns = output.reshape(len(output), -1)
    return np.concatenate([1 - columns, columns], axis=1) if is_binary else columns


def _row_model(name: str, features: Sequence[str], classes: int, predict: Any, convert: Any) -> RowModel:
    return RowModel(
        name=name,
        task="tabular-classification" if classes else "tabular-regression",
        features=[FeatureFacts(str(feature)) for feature in features],
        labels=[str(place) for place in range(classes)],
        outputs=0 if classes else 1,
        predict=predict,
        decide=None,
        convert=convert,
    )
