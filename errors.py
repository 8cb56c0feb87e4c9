"""The one exception tree. What a client sees of each is decided in `api/problems.py`, nowhere else.

    VitrineError
    ├── InvalidInput            400  one item or request is wrong              (preprocessing, serving, api)
    │   ├── NoExplanation       400  this model or picture has no explanation  (serving)
    │   ├── InvalidImage        400  not an image, corrupt, too small          (preprocessing.decode)
    │   └── TooLarge            413  bytes or pixels over the limit            (preprocessing.decode, api)
    ├── KeyRefused              401  no API key, or a wrong one                (api.auth)
    ├── NotAllowed              403  the key may not do this                   (api.control, api.restrictions)
    ├── NotFound                404  no such model or version                  (serving.repository)
    ├── BodyTimeout             408  a request's body is late or too slow      (api.bodies)
    ├── QueueFull               429  too long a wait, or too many bytes     (runners, serving.gradcam, api.bodies)
    │   └── QuotaReached        429  a quota of the key is used up          (api.quotas)
    ├── CallerGone              499  nobody waits for the answer any more      (serving.waiting, api.body)
    ├── Unavailable             503  starting, draining, self-check failed     (runners, serving)
    ├── DeadlineExceeded        504  the caller's deadline passed              (runners, serving)
    ├── InferenceFailed         500  the backend failed on this very item      (runners)
    ├── RedisGone                    Redis did not answer in time              (serving.shared_redis)
    ├── CardError                    a card.toml that cannot be read           (models.card)
    ├── StoreError                   a model missing, damaged or refused       (models, serving, export)
    ├── KeysError                    the API keys' file, or none where it is due  (api.keys, api.auth)
    ├── SettingsError                a VITRINE_* variable that is not allowed  (settings)
    ├── DeviceMissing                no such device, or no PyTorch for it      (backends.devices)
    ├── NotCompilable                a network without compiled explain graph  (explain)
    ├── LimitMissed                  no plan keeps the latency limit           (tuning.search)
    └── BulkError                    a run of bulk scoring that cannot begin or go on  (bulk)
        └── UnknownAddress           an address of a kind that nobody can read (bulk.files)

Messages are written for the person who has to act on them: what was wrong, and what to do instead.
"""


class VitrineError(Exception):
    """Base of everything that Vitrine raises on purpose."""


class InvalidInput(VitrineError):
    """The request, or one item of it, is not what the model's card asks for."""


class InvalidImage(InvalidInput):
    """The bytes are not a picture that can be used."""


class TooLarge(InvalidInput):
    """More bytes or more pixels than the limits allow."""


class NoExplanation(InvalidInput):
    """The model cannot be explained; the message says why."""


class KeyRefused(VitrineError):
    """The request has no API key, or one that is not known."""


class NotAllowed(VitrineError):
    """The caller is known, or needs no key, but may not do this."""


class NotFound(VitrineError):
    """No model (or version) of that name is served here."""


class BodyTimeout(VitrineError):
    """The body of the request was not there in time, or came too slowly."""


class QueueFull(VitrineError):
    """The request would wait too long, or the memory for bodies is taken; `retry_after_s` says when to come back."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QuotaReached(QueueFull):
    """A quota of the request's key is used up; `quota` is its name."""

    def __init__(self, message: str, retry_after_s: int = 1, quota: str = "requests") -> None:
        super().__init__(message, retry_after_s)
        self.quota = quota


class Unavailable(VitrineError):
    """The model (or the whole service) cannot answer now: starting, draining, or its self-check failed."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class CallerGone(VitrineError):
    """The caller left before the answer was there."""


class DeadlineExceeded(VitrineError):
    """The caller's deadline passed before the answer was there."""


class InferenceFailed(VitrineError):
    """The backend raised on this item, also when it was run alone."""


class RedisGone(VitrineError):
    """Redis did not do in time what it was asked, or is left alone because of that."""


class CardError(VitrineError):
    """A card.toml is missing, is not TOML, or holds a key or value that is not allowed."""


class StoreError(VitrineError):
    """A stored model is missing, damaged or was refused at import."""


class KeysError(VitrineError):
    """The file of API keys is missing, damaged or not named where one is due."""


class DeviceMissing(VitrineError):
    """The device that was asked for cannot be used here."""


class SettingsError(VitrineError):
    """A VITRINE_* variable has a value that is not allowed."""


class NotCompilable(VitrineError):
    """The network cannot be cut at this layer, or its gradient cannot be traced; autograd can still explain it."""


class LimitMissed(VitrineError):
    """No plan keeps the latency limit at any rate; `lowest_ms` is the lowest p99 that was measured."""

    def __init__(self, slo_ms: float, lowest_ms: float) -> None:
        super().__init__(f"No plan keeps a p99 of {slo_ms:g} ms here: the lowest measured is {lowest_ms:.1f} ms.")
        self.lowest_ms = lowest_ms


class BulkError(VitrineError):
    """A run of bulk scoring cannot begin, or cannot go on; the message says what to do."""


class UnknownAddress(BulkError):
    """An input of bulk scoring has an address, such as `abc://…`, of a kind that nobody can read."""
