"""The names by which the Open Inference Protocol knows a model: its own, and one for each further way to ask it.

A card's name has no dot, so that `kidney-stone.tensor` is never another model's.
"""

from collections.abc import Iterator
from typing import NamedTuple

from api.oip.signature import MAP, Signature, signatures
from errors import NotFound
from models.card import ImageCard
from serving.loaded_model import LoadedModel
from serving.repository import ModelRepository


class NamedModel(NamedTuple):
    """A model under one of its names.

    Attributes:
        name: the card's name, alone or with a dot and the signature's suffix.
        model: the model.
        signature: what the name takes, and the output that it lists.
    """

    name: str
    model: LoadedModel
    signature: Signature

    def check_room(self) -> None:
        """Return if a request might be queued; one for maps is queued elsewhere.

        Raises:
            QueueFull: so much waits that none would be.
            Unavailable: the model is not ready.
        """
        if self.signature.output.name == MAP:
            self.model.check_ready()
        else:
            self.model.check_room(for_lanes=isinstance(self.model.card, ImageCard))


def names_of(model: LoadedModel) -> Iterator[NamedModel]:
    """Yield a model under each of its names, its own first."""
    for signature in signatures(model.card):
        yield NamedModel(f"{model.name}.{signature.suffix}" if signature.suffix else model.name, model, signature)


def named_model(repository: ModelRepository, name: str | None = None, version: str | None = None) -> NamedModel:
    """Return the model that a name means, the default one without; of several versions by the beginning of one.

    Raises:
        NotFound: there is no such model, version or name of the model; the message lists the known ones.
    """
    own_name = (name or "").partition(".")[0]
    model = repository.get(own_name if own_name in repository.models else name, version)
    names = list(names_of(model))
    for named in names:
        if named.name == (name or model.name):
            return named
    raise NotFound(f"{model.name} has no name {name!r:.80}. Its names are {', '.join(named.name for named in names)}.")
