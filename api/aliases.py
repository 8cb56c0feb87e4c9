"""The further names that a card gives to fields of answers: written into them, and described for OpenAPI."""

from collections.abc import Callable, Mapping
from types import GenericAlias
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, Field, RootModel, create_model

from api.row_explanations import MaybeExplainedRow, RowExplanationFacts
from api.schemas import (
    AnomalyPrediction,
    BatchAnswer,
    BatchError,
    BatchPrediction,
    ExplainedBatchAnswer,
    ExplainedBatchPrediction,
    ExplainedPrediction,
    ExplainedRowBatchAnswer,
    Prediction,
    Regression,
    RowBatchAnswer,
    RowError,
    RowPrediction,
)
from api.state_schemas import ModelFacts, Stats
from models.answer import Aliases, value_at
from models.card import Card, ImageCard, RowCard, is_detector, is_regressor

Schema = TypeVar("Schema", bound=BaseModel)


class AnswerSchemas(NamedTuple):
    """The schemas of the answers of one model.

    Attributes:
        prediction: the answer to one picture or row.
        batch: the answer to several.
        explained: a prediction with its explanation.
        explained_batch: several of them.
        model: the answer about the model.
        stats: its statistics.
    """

    prediction: type[BaseModel]
    batch: type[BaseModel]
    explained: type[BaseModel]
    explained_batch: type[BaseModel]
    model: type[BaseModel]
    stats: type[BaseModel]


def with_aliases(answer: Schema, aliases: Aliases, read: Callable[[Any, str], Any] = value_at) -> Schema:
    """Return an answer, whose schema allows more fields, with its further names; `read` gives what they repeat."""
    if aliases and (extra := answer.model_extra) is not None:
        for name, source in aliases.items():
            if isinstance(source, str):
                extra[name] = read(answer, source)
            else:
                extra[name] = {part: read(answer, path) for part, path in source.items()}
    return answer


def answer_schemas(card: Card) -> AnswerSchemas:
    """Return the schemas of a model's answers, with the further names that its card gives them."""
    form = card.answer
    if isinstance(card, ImageCard):
        prediction = schema_with_aliases(card, Prediction, form.also)
        explained = schema_with_aliases(card, ExplainedPrediction, form.also)
        batch = _batch_schema(card, schema_with_aliases(card, BatchPrediction, form.also), BatchError, BatchAnswer)
        entry = schema_with_aliases(card, ExplainedBatchPrediction, form.also)
        explained_batch = _batch_schema(card, entry, BatchError, ExplainedBatchAnswer)
    else:
        aliased = schema_with_aliases(card, row_answer_schema(card), form.also)
        prediction = create_model(_name(card, row_answer_schema(card)), __base__=(MaybeExplainedRow, aliased))
        explained = create_model(
            f"{_name(card, row_answer_schema(card))}_explained",
            __base__=prediction,
            explanations=(
                list[RowExplanationFacts] | None,
                Field(None, description="Of every target, in order, if several were asked for."),
            ),
        )
        explained_batch = _batch_schema(card, explained, RowError, ExplainedRowBatchAnswer, is_own=True)
        batch = _batch_schema(card, prediction, RowError, RowBatchAnswer, is_own=True)
    model = schema_with_aliases(card, ModelFacts, form.model_also)
    stats = schema_with_aliases(card, Stats, form.stats_also)
    return AnswerSchemas(prediction, batch, explained, explained_batch, model, stats)


def row_answer_schema(card: RowCard) -> type[BaseModel]:
    """Return the schema of the answer of a model of rows, without further names."""
    if is_detector(card):
        return AnomalyPrediction
    return Regression if is_regressor(card) else RowPrediction


def _batch_schema(
    card: Card, entry: type[BaseModel], failed: type[BaseModel], batch: type[BaseModel], *, is_own: bool = False
) -> type[BaseModel]:
    """Return the schema of a batch, each of whose entries is a prediction or what failed.

    Args:
        card: the model's card.
        entry: the schema of a prediction.
        failed: the schema of what failed.
        batch: the schema of the batch.
        is_own: whether the model's entries are its own, although it has no further names.
    """
    form = card.answer
    entries: Any = GenericAlias(list, (entry | failed,))
    if form.batch == "list":
        base: Any = RootModel[entries]
        return create_model(_name(card, batch), __base__=base, __doc__="An answer an item, in the order sent.")
    if form.also or form.batch_also or is_own:
        return schema_with_aliases(card, batch, form.batch_also, predictions=(entries, ...))
    return batch


def schema_with_aliases(card: Card, schema: type[BaseModel], aliases: Aliases, **fields: Any) -> type[BaseModel]:
    """Return the schema of one of a model's answers with its further names, and with `fields` in place of its own."""
    if not aliases and not fields:
        return schema
    for place, (name, source) in enumerate(aliases.items()):
        repeated = [source] if isinstance(source, str) else source.values()
        text = f"The same as {', '.join(f'`{path}`' for path in repeated)}."
        # The field's own name is none that pydantic's models have already, such as `copy`.
        described = Field(serialization_alias=name, description=text)
        fields[f"alias_{place}"] = (_type_of(schema, source), described)
    return create_model(_name(card, schema), __base__=schema, __doc__=schema.__doc__, **fields)


def _type_of(schema: type[BaseModel], source: str | Mapping[str, str]) -> Any:
    """Return the type of what an alias repeats, as far as the schema knows it."""
    if not isinstance(source, str):
        return dict[str, Any]
    field = schema.model_fields.get(source)
    return field.annotation if field else Any


def _name(card: Card, schema: type[BaseModel]) -> str:
    return f"{card.name.replace('-', '_')}_{schema.__name__}"
