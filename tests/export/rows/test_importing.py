"""Models of rows of scikit-learn, XGBoost and LightGBM are served as the library that made them predicts."""

import base64
import csv
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import lightgbm
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import xgboost
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from starlette.testclient import TestClient

from errors import StoreError
from export.parity import ParityReport
from export.rows.boosters import check_lightgbm, check_xgboost
from export.rows.importing import package_from_model
from models.card import RowCard, read_card
from tests.api.conftest import client_maker
from tests.explain.orders import mean_over_orders
from tests.tiny import seal

NUMBERS, COLOURS = ["Age", "income (CHF)"], ("blue", "green", "red")
LIMIT = 1e-4
Array = npt.NDArray[np.float64]


def people(count: int, seed: int, *, missing: bool = False) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "Age": rng.uniform(18, 80, count),
            "income (CHF)": rng.lognormal(10, 1, count),
            "colour": rng.choice(COLOURS, count),
        }
    )
    if missing:
        frame.loc[::7, "colour"] = np.nan
        frame.loc[::5, "Age"] = np.nan
    return frame


def classes(frame: pd.DataFrame) -> npt.NDArray[np.str_]:
    return np.where((frame["income (CHF)"] > np.exp(10)) ^ (frame["colour"] == "red"), "stays", "leaves")


def json_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as a client sends them: null where a value is missing."""
    return [
        {str(name): None if pd.isna(value) else value for name, value in row.items()}
        for row in frame.to_dict("records")
    ]


class Imported(NamedTuple):
    package: Path
    report: ParityReport
    notes: list[str]

    @property
    def card(self) -> RowCard:
        card = read_card(self.package / "card.toml")
        assert isinstance(card, RowCard)
        return card


def import_model(folder: Path, name: str, file: Path, **options: Any) -> Imported:
    notes = list[str]()
    report = package_from_model(name, file, folder / name, notes.append, **options)
    return Imported(folder / name, report, notes)


def dumped(folder: Path, model: Any) -> Path:
    file = folder / "model.joblib"
    joblib.dump(model, file)
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rows")


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[[Imported], TestClient]]:
    with client_maker() as make:
        yield lambda imported: make(seal(imported.package))


@pytest.fixture(scope="module")
def pipeline() -> Any:
    frame = people(400, 0, missing=True)
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    texts = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    columns = ColumnTransformer([("numbers", numbers, NUMBERS), ("texts", texts, ["colour"])])
    return make_pipeline(columns, LogisticRegression()).fit(frame, classes(frame))


@pytest.fixture(scope="module")
def imported_pipeline(folder: Path, pipeline: Any) -> Imported:
    examples = folder / "examples.csv"
    people(20, 1, missing=True).assign(truth="stays").to_csv(examples, index=False)
    return import_model(folder, "pipeline", dumped(folder, pipeline), examples=examples, trust_pickle=True)


def test_the_card_of_a_pipeline_says_what_the_pipeline_knows(imported_pipeline: Imported) -> None:
    card = imported_pipeline.card
    assert card.task == "tabular-classification" and card.labels == ("leaves", "stays")
    assert [feature.name for feature in card.input.features] == [*NUMBERS, "colour"]
    colour = card.input.features[2]
    assert colour.categories == COLOURS and colour.other_categories and colour.missing
    assert not imported_pipeline.notes and imported_pipeline.report.largest_difference <= LIMIT


def test_the_examples_of_a_pipeline_are_its_goldens(imported_pipeline: Imported) -> None:
    golden = json.loads((imported_pipeline.package / "goldens" / "row-01.json").read_bytes())
    with (imported_pipeline.package.parent / "examples.csv").open() as file:
        first = next(csv.DictReader(file))
    assert golden == {"Age": None, "income (CHF)": float(first["income (CHF)"]), "colour": None}


def test_a_pipeline_is_explained_against_its_examples(
    imported_pipeline: Imported, pipeline: Any, serve: Callable[[Imported], TestClient]
) -> None:
    examples = pd.read_csv(imported_pipeline.package.parent / "examples.csv")[[*NUMBERS, "colour"]]
    row = people(1, 5)
    response = serve(imported_pipeline).post("/models/pipeline/explain?target=stays", json=json_rows(row)[0])
    explanation = response.json()["explanation"]

    def worth(members: frozenset[int]) -> float:
        mixed = examples.copy()
        for member in members:
            mixed[mixed.columns[member]] = row.iloc[0, member]
        return float(pipeline.predict_proba(mixed)[:, 1].mean())

    assert list(explanation["attributions"].values()) == pytest.approx(mean_over_orders(worth, 3), abs=LIMIT)
    assert explanation["background"] == "20 of 20 rows of examples.csv"


def test_a_pipeline_is_served_as_it_predicts(
    imported_pipeline: Imported, pipeline: Any, serve: Callable[[Imported], TestClient]
) -> None:
    frame = people(300, 2, missing=True)
    frame.loc[3, "colour"] = "violet"
    client = serve(imported_pipeline)
    answer = client.post("/models/pipeline/predict/batch", json={"samples": json_rows(frame)}).json()
    served = [list(row["probabilities"].values()) for row in answer["predictions"]]
    assert np.abs(np.array(served) - pipeline.predict_proba(frame)).max() <= LIMIT
    assert [row["prediction"] for row in answer["predictions"]] == pipeline.predict(frame).tolist()


def test_the_open_inference_protocol_takes_categories_as_texts_and_as_places(
    imported_pipeline: Imported, pipeline: Any, serve: Callable[[Imported], TestClient]
) -> None:
    frame = people(4, 3)
    client = serve(imported_pipeline)
    inputs = client.get("/v2/models/pipeline.columns").json()["inputs"]
    assert {entry["name"]: entry["datatype"] for entry in inputs}["colour"] == "BYTES"
    columns = [{**entry, "shape": [4], "data": frame[entry["name"]].tolist()} for entry in inputs]
    columns[-1] |= {
        "data": [base64.b64encode(colour.encode()).decode() for colour in frame["colour"]],
        "parameters": {"content_type": "base64"},
    }
    places = np.column_stack([frame[NUMBERS].to_numpy(), [COLOURS.index(colour) for colour in frame["colour"]]])
    tensor = {"name": "rows", "shape": [4, 3], "datatype": "FP64", "data": places.ravel().tolist()}
    for name, sent in (("pipeline", [tensor]), ("pipeline.columns", columns)):
        outputs = client.post(f"/v2/models/{name}/infer", json={"inputs": sent}).json()["outputs"]
        served = next(output["data"] for output in outputs if output["name"] == "probabilities")
        assert np.abs(np.array(served).reshape(4, 2) - pipeline.predict_proba(frame)).max() <= LIMIT
    instances = client.post("/v1/models/pipeline:predict", json={"instances": places.tolist()}).json()["predictions"]
    assert np.abs(np.array(instances) - pipeline.predict_proba(frame)).max() <= LIMIT


@pytest.fixture(scope="module")
def booster() -> lightgbm.Booster:
    frame = people(400, 4)
    data = lightgbm.Dataset(frame[NUMBERS].to_numpy(), frame["Age"] * 3, feature_name=["age", "income"])
    return lightgbm.train({"objective": "regression", "verbose": -1, "num_threads": 1}, data, 20)


@pytest.fixture(scope="module")
def imported_booster(folder: Path, booster: lightgbm.Booster) -> Imported:
    booster.save_model(folder / "model.txt")
    return import_model(folder, "prices", folder / "model.txt", outputs=[("price", "CHF")])


def test_a_regressor_is_served_with_its_value_its_name_and_its_unit(
    imported_booster: Imported, booster: lightgbm.Booster, serve: Callable[[Imported], TestClient]
) -> None:
    rows = people(200, 5)[NUMBERS].to_numpy()
    client = serve(imported_booster)
    samples = [dict(zip(("age", "income"), row, strict=True)) for row in rows.tolist()]
    answer = client.post("/models/prices/predict/batch", json={"samples": samples}).json()
    expected = np.asarray(booster.predict(rows))
    assert np.allclose([row["values"]["price"] for row in answer["predictions"]], expected, rtol=LIMIT)
    single = client.post("/models/prices/predict?top_k=3", json={"features": samples[0]}).json()
    assert single["prediction"] == single["values"]["price"] == pytest.approx(expected[0], rel=LIMIT)
    assert single["units"] == {"price": "CHF"} and "probabilities" not in single and "threshold" not in single


def test_a_missing_value_is_refused_where_the_model_takes_none(
    imported_booster: Imported, serve: Callable[[Imported], TestClient]
) -> None:
    takes = {feature.name: feature.missing for feature in imported_booster.card.input.features}
    response = serve(imported_booster).post("/models/prices/predict", json={"age": "old", "income": 5})
    assert response.status_code == 400 and "age must be a number" in response.json()["detail"]
    assert set(takes) == {"age", "income"}


SENT = {"age": 40, "income": 20_000}


def test_every_door_knows_the_values_of_a_regressor(
    imported_booster: Imported, serve: Callable[[Imported], TestClient]
) -> None:
    client = serve(imported_booster)
    (output,) = client.get("/v2/models/prices").json()["outputs"]
    assert output == {"name": "values", "datatype": "FP32", "shape": [-1, 1]}
    assert client.get("/models/prices").json()["outputs"] == [{"name": "price", "unit": "CHF", "description": ""}]
    document = client.get("/openapi.json").json()
    schema = document["paths"]["/models/prices/predict"]["post"]["responses"]["200"]["content"]["application/json"]
    assert schema["schema"]["$ref"].endswith("/prices_Regression")
    tensor = {"name": "rows", "shape": [1, 2], "datatype": "FP32", "data": list(SENT.values())}
    (values,) = client.post("/v2/models/prices/infer", json={"inputs": [tensor]}).json()["outputs"]
    row = client.post("/models/prices/predict?label=index", json=SENT).json()
    assert values["data"] == [pytest.approx(row["prediction"])]
    columns = [{"name": name, "shape": [1], "datatype": "FP32", "data": [number]} for name, number in SENT.items()]
    (values,) = client.post("/v2/models/prices.columns/infer", json={"inputs": columns}).json()["outputs"]
    assert values["data"] == [pytest.approx(row["prediction"])]
    for instance in (SENT, list(SENT.values())):
        answer = client.post("/v1/models/prices:predict?threshold=x", json={"instances": [instance]}).json()
        assert answer == {"predictions": [[pytest.approx(row["prediction"])]]}
        answer = client.post("/predictions/prices", json=instance).json()
        assert answer == {"price": pytest.approx(row["prediction"])}


@pytest.mark.parametrize("kind", [lightgbm.LGBMClassifier, xgboost.XGBClassifier])
def test_a_booster_behind_an_encoder_in_a_pipeline_is_served_as_the_pipeline_predicts(
    folder: Path, serve: Callable[[Imported], TestClient], kind: Any
) -> None:
    frame, name = people(300, 14), kind.__name__.lower()
    encoder = OneHotEncoder(sparse_output=False)
    columns = ColumnTransformer(
        [("numbers", "passthrough", NUMBERS), ("texts", encoder, ["colour"])], sparse_threshold=0
    )
    truth = (classes(frame) == "stays").astype(int)
    pipeline = make_pipeline(columns, kind(n_estimators=10, n_jobs=1)).fit(frame, truth)
    examples = folder / f"{name}.json"
    examples.write_text(json.dumps(json_rows(frame.head(30))))
    imported = import_model(folder, name, dumped(folder, pipeline), examples=examples, trust_pickle=True)
    answer = serve(imported).post(f"/models/{name}/predict/batch", json={"samples": json_rows(frame)}).json()
    served = np.array([list(row["probabilities"].values()) for row in answer["predictions"]])
    assert np.abs(served - pipeline.predict_proba(frame)).max() <= LIMIT
    response = serve(imported).post(f"/models/{name}/predict", json=json_rows(frame)[0] | {"colour": "violet"})
    assert response.status_code == 400 and "colour must be one of 'blue', 'green', 'red'" in response.json()["detail"]


@pytest.mark.parametrize("ending", ["json", "ubj"])
def test_a_classifier_of_xgboost_is_served_as_it_predicts_missing_values_included(
    folder: Path, serve: Callable[[Imported], TestClient], ending: str
) -> None:
    frame = people(300, 6, missing=True)
    names = ["age", "income"]
    data = xgboost.DMatrix(frame[NUMBERS].to_numpy(), np.arange(300) % 3, feature_names=names)
    booster = xgboost.train({"objective": "multi:softprob", "num_class": 3, "nthread": 1}, data, 15)
    booster.save_model(folder / f"model.{ending}")
    imported = import_model(folder, f"xgb-{ending}", folder / f"model.{ending}", labels=["a", "b", "c"])
    assert all(feature.missing for feature in imported.card.input.features)
    samples = [dict(zip(names, row.values(), strict=False)) for row in json_rows(frame)]
    answer = serve(imported).post(f"/models/xgb-{ending}/predict/batch", json={"samples": samples}).json()
    served = [list(row["probabilities"].values()) for row in answer["predictions"]]
    assert list(answer["predictions"][0]["probabilities"]) == ["a", "b", "c"]
    assert np.abs(np.array(served) - booster.predict(data)).max() <= LIMIT


def test_a_forest_fitted_on_an_array_takes_its_names_from_the_examples(folder: Path) -> None:
    frame = people(200, 7)
    forest = RandomForestClassifier(10, random_state=0).fit(frame[NUMBERS].to_numpy(), classes(frame))
    examples = folder / "examples.json"
    examples.write_text(json.dumps({"samples": [{"years": 30, "francs": 5e4}, {"years": 50, "francs": 1e4}]}))
    imported = import_model(folder, "forest", dumped(folder, forest), examples=examples, trust_pickle=True)
    assert [feature.name for feature in imported.card.input.features] == ["years", "francs"]
    assert imported.report.inputs == 2002 and imported.report.label_flips == 0


def test_several_values_have_a_name_each(folder: Path) -> None:
    rows = people(100, 8)[NUMBERS].to_numpy()
    model = LinearRegression().fit(rows, rows[:, :1] * [1, 2])
    imported = import_model(folder, "two", dumped(folder, model), trust_pickle=True)
    assert [output.name for output in imported.card.outputs] == ["value_0", "value_1"]


class Doubled(BaseEstimator, TransformerMixin):  # type: ignore[misc]
    def fit(self, rows: Array, truth: Array | None = None) -> "Doubled":
        return self

    def transform(self, rows: Array) -> Array:
        return rows * 2


def test_a_pickle_is_read_by_nobody_who_does_not_trust_it(tmp_path: Path) -> None:
    file = dumped(tmp_path, Ridge().fit([[0.0], [1.0]], [0.0, 1.0]))
    with pytest.raises(StoreError, match="--trust-pickle"):
        import_model(tmp_path, "ridge", file)
    assert not (tmp_path / "ridge").exists()


def test_a_file_of_another_kind_is_refused_with_those_that_will_do(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"binf\0\0\0\0")
    with pytest.raises(StoreError, match="save_model"):
        import_model(tmp_path, "other", tmp_path / "model.bin")


def test_a_transformer_of_ones_own_is_refused_by_name(tmp_path: Path) -> None:
    rows = people(50, 9)[NUMBERS].to_numpy()
    file = dumped(tmp_path, make_pipeline(Doubled(), Ridge()).fit(rows, rows[:, 0]))
    with pytest.raises(StoreError, match=r"no converter for .*\.Doubled, .*Do that step before the row is sent"):
        import_model(tmp_path, "own", file, trust_pickle=True)


def test_examples_without_a_feature_are_refused_by_its_name(tmp_path: Path) -> None:
    frame = people(50, 10)
    file = dumped(tmp_path, Ridge().fit(frame[NUMBERS], frame["Age"]))
    (tmp_path / "examples.csv").write_text("Age\n5\n")
    with pytest.raises(StoreError, match=r"lack income \(CHF\)"):
        import_model(tmp_path, "ridge", file, examples=tmp_path / "examples.csv", trust_pickle=True)


def test_categorical_splits_are_refused_with_the_names_of_their_features() -> None:
    frame = people(300, 11)
    frame["colour"] = frame["colour"].astype("category")
    truth = (frame["colour"] == "red").astype(int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        light = lightgbm.LGBMClassifier(n_estimators=3, min_data_per_group=5, verbose=-1, n_jobs=1).fit(frame, truth)
        boosted = xgboost.XGBClassifier(n_estimators=3, enable_categorical=True, n_jobs=1).fit(frame, truth)
    with pytest.raises(StoreError, match=r"categorical splits \(colour\)"):
        check_lightgbm(light.booster_.model_to_string())
    with pytest.raises(StoreError, match=r"categorical splits \(colour\)"):
        check_xgboost(boosted.get_booster())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"linear_tree": True}, "linear trees"),
        ({"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}, "random forests"),
        ({"reg_sqrt": True}, "sqrt"),
        ({"objective": "binary", "sigmoid": 2.0}, "sigmoid:2"),
        ({"objective": "cross_entropy"}, "cross_entropy"),
    ],
)
def test_what_the_converter_of_lightgbm_gets_wrong_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    rows = people(200, 12)[NUMBERS].to_numpy()
    truth = (rows[:, 0] > 40).astype(float)
    parameters = {"objective": "regression", "verbose": -1, "num_threads": 1} | options
    booster = lightgbm.train(parameters, lightgbm.Dataset(rows, truth), 5)
    with pytest.raises(StoreError, match=message):
        check_lightgbm(booster.model_to_string())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"booster": "dart"}, "'dart'"),
        ({"booster": "gblinear"}, "'gblinear'"),
        ({"objective": "rank:pairwise"}, "rank:pairwise"),
    ],
)
def test_what_the_converter_of_xgboost_gets_wrong_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    rows = people(100, 13)[NUMBERS].to_numpy()
    data = xgboost.DMatrix(rows, (rows[:, 0] > 40).astype(int))
    booster = xgboost.train({"objective": "binary:logistic", "nthread": 1} | options, data, 3)
    with pytest.raises(StoreError, match=message):
        check_xgboost(booster)
