"""Which model a request means."""

from pydantic import BaseModel, Field
from starlette.requests import Request

from serving.loaded_model import LoadedModel
from serving.repository import ModelRepository


def requested_model(repository: ModelRepository, request: Request) -> LoadedModel:
    """Return the model that the path names, or the default one; a version may stand in the path or in the query.

    It is the model under which the request is counted.

    Raises:
        NotFound: there is no such model or version; the message lists the known ones.
    """
    path = request.path_params
    model = repository.get(path.get("name"), path.get("version") or request.query_params.get("version"))
    request.scope["state"]["model"] = model
    return model


class VersionQuery(BaseModel):
    """The query parameters of an operation on one version of a model."""

    version: str | None = Field(None, description="The beginning of one version, where the path names none.")
