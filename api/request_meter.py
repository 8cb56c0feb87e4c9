"""How many requests there were and how long they took, by model, route and status: never by anything a client chose."""

from runners.metrics import REQUEST_SECONDS, Distribution, written_regularly
from serving.loaded_model import LoadedModel

METHODS = frozenset(("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT"))
OTHER_METHOD = "_OTHER"
"""What OpenTelemetry's conventions call a method that they do not know."""


class RequestMeter:
    """Counts requests on the event loop.

    Args:
        protocol: `http` or `grpc`.
    """

    def __init__(self, protocol: str) -> None:
        self._protocol = protocol
        self._ended = dict[tuple[LoadedModel | str, str, str, str | int], Distribution]()
        self._written = dict[tuple[str, ...], Distribution]()
        written_regularly(self)

    def count(self, model: LoadedModel | str, route: str, method: str, status: str | int, seconds: float) -> None:
        """Count a request that has ended.

        Args:
            model: the version that answered; `unknown` where there is none of the name, empty for a request of none.
            route: the template of its path; empty where there is nothing at the path.
            method: HTTP's; empty for gRPC.
            status: the status of its answer.
            seconds: how long it took.
        """
        key = model, route, method, status
        ended = self._ended.get(key)
        if ended is None:
            ended = self._ended[key] = self._distribution(model, route, method, str(status))
        ended.add(seconds)

    def write(self) -> None:
        """Write to the metrics what was counted since the last time."""
        for distribution in self._written.values():
            distribution.write()
        self._ended.clear()  # or a version that is gone would stay in memory

    def _distribution(self, model: LoadedModel | str, route: str, method: str, status: str) -> Distribution:
        name, version = (model, "") if isinstance(model, str) else (model.name, model.version or "")
        method = method if method in METHODS or not method else OTHER_METHOD
        labels = name, version, route, status, method, self._protocol
        if labels not in self._written:
            self._written[labels] = Distribution(REQUEST_SECONDS, "request", *labels)
        return self._written[labels]
