"""What an explanation is asked to explain: one class or several, each by itself or set against another."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationInfo, field_validator

from api.parameter_types import whole_number

MOST_TARGETS = 10
"""The most classes of one request that are explained; by a gradient each costs a run of the network."""


def checked_target(target: str, info: ValidationInfo) -> str:
    """Return what is to be explained, if the model answers it.

    Raises:
        ValueError: it names neither one of the context's `targets` nor its index.
    """
    context: Mapping[str, Sequence[str]] = info.context or {}
    names = context.get("targets", ())
    if target not in names and target not in map(str, range(len(names))):
        some = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
        kind = "label" if names == context.get("labels") else "value"
        raise ValueError(f"must be a {kind} ({some}) or its index, 0 to {len(names) - 1}")
    return target


Target = Annotated[str, AfterValidator(checked_target)]


class ExplainedClasses(BaseModel):
    """The classes to explain; of a regressor its values, of a detector its score."""

    target: tuple[Target, ...] = Field(
        (),
        description="The label or value to explain, by name or index; the one answered by default. Given several "
        f"times, each is explained, up to {MOST_TARGETS}.",
    )
    explain_top: Annotated[int | None, BeforeValidator(whole_number(1, MOST_TARGETS))] = Field(
        None, ge=1, le=MOST_TARGETS, description="Explain that many of the most probable labels, instead of `target`."
    )
    contrast: Target | None = Field(
        None,
        description="A label, by name or index: explain why the target was answered and not this one. Of classifiers.",
    )

    @field_validator("target")
    @classmethod
    def _are_not_too_many(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        if len(targets) > MOST_TARGETS:
            raise ValueError(f"at most {MOST_TARGETS} can be explained in one request")
        return targets

    @field_validator("explain_top")
    @classmethod
    def _are_the_only_targets(cls, count: int | None, info: ValidationInfo) -> int | None:
        labels = _labels(info)
        if info.data.get("target"):
            raise ValueError("goes without target; ask for one of them")
        if count is not None and count > len(labels):
            raise ValueError(f"the model has {len(labels)} labels" if labels else "the model has no labels")
        return count

    @field_validator("contrast")
    @classmethod
    def _is_another_label(cls, contrast: str | None, info: ValidationInfo) -> str | None:
        labels = _labels(info)
        if contrast is None:
            return None
        if not labels:
            raise ValueError("goes with a classifier, whose labels can be set against each other")
        targets = [index_of(target, labels) for target in info.data.get("target", ())]
        if index_of(contrast, labels) in targets:
            raise ValueError("is the target itself; name another label")
        return contrast

    def targets(self, names: Sequence[str]) -> tuple[int, ...]:
        """Return the indices of what is to be explained; empty for what is answered, or the most probable labels."""
        return tuple(dict.fromkeys(index_of(target, names) for target in self.target))

    def contrast_index(self, names: Sequence[str]) -> int | None:
        """Return the index of the label that the targets are set against; None for none."""
        return None if self.contrast is None else index_of(self.contrast, names)


def _labels(info: ValidationInfo) -> Sequence[str]:
    """Return the labels of a classifier; none of a regressor, and of a detector, whose score is explained."""
    context: Mapping[str, Sequence[str]] = info.context or {}
    labels = context.get("labels", ())
    return labels if labels == context.get("targets") else ()


def index_of(target: str, names: Sequence[str]) -> int:
    """Return the index of a label or value that is given by its name or by that index."""
    return names.index(target) if target in names else int(target)
