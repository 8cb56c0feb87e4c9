"""What one API key may do, and how much of it: the models and actions of its scope, and its quotas."""

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from errors import NotAllowed

Action = Literal["predict", "explain"]
ACTIONS: tuple[Action, ...] = get_args(Action)
Quota = Literal["requests", "items", "bytes"]
WINDOW_S: dict[Quota, int] = {"requests": 60, "items": 60, "bytes": 86_400}
"""The length of a quota's window, in seconds."""
MODEL_NAME = r"[a-z0-9-]{1,60}"
MOST_A_MINUTE, MOST_BYTES = 10**9, 10**15

_AMinute = Annotated[int, Field(strict=True, ge=1, le=MOST_A_MINUTE)]


class Restrictions(BaseModel):
    """The scope and the quotas of a key; what is None is not restricted.

    Attributes:
        models: the names of the models that it may use; of an administrator's key, also those it may load and unload.
        actions: what it may do with them.
        requests_per_minute: how many requests it may send in 60 seconds, those for health, statistics, metrics and
            docs aside.
        items_per_minute: how many pictures or rows it may send in 60 seconds.
        bytes_per_day: how many bytes the bodies of its requests may have in 86,400 seconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: Annotated[tuple[Annotated[str, Field(pattern=f"^{MODEL_NAME}$")], ...], Field(min_length=1)] | None = None
    actions: Annotated[tuple[Action, ...], Field(min_length=1)] | None = None
    requests_per_minute: _AMinute | None = None
    items_per_minute: _AMinute | None = None
    bytes_per_day: Annotated[int, Field(strict=True, ge=1, le=MOST_BYTES)] | None = None

    def restrictions(self) -> dict[str, tuple[str, ...] | int]:
        """Return what is restricted, by the names of the fields, in their order; empty for nothing."""
        values = ((name, getattr(self, name)) for name in Restrictions.model_fields)
        return {name: value for name, value in values if value is not None}

    def check_scope(self, key_name: str, model: str, action: Action | None = None) -> None:
        """Return if the key may do this with the model; without an action, if the model is in its scope at all.

        Args:
            key_name: whose key it is, for the message.
            model: the model's name.
            action: what is to be done.

        Raises:
            NotAllowed: it may not; the message says what it may.
        """
        if self.models is not None and model not in self.models:
            raise NotAllowed(f"The key {key_name!r} may not use {model}; it may use {', '.join(self.models)}.")
        if action is not None and self.actions is not None and action not in self.actions:
            raise NotAllowed(f"The key {key_name!r} may not {action}; it may {' and '.join(self.actions)}.")
