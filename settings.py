"""The settings of an operator: `VITRINE_*` in the environment or in `.env`, read once and never changed."""

import difflib
import ipaddress
import math
import os
import re
import ssl
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from dotenv import dotenv_values
from pydantic import AfterValidator, Field, FilePath, SecretStr, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from backends.devices import parse
from errors import SettingsError

PREFIX = "VITRINE_"
ENV_FILE = Path(".env")
MOST_WORKERS = 16
"""The most processes that answer requests."""


def _ip_address(text: str) -> str:
    return "127.0.0.1" if text == "localhost" else str(ipaddress.ip_address(text))


def _longer_than_a_few_beats(seconds: float) -> float:
    if seconds != 0 and not 2 <= seconds < math.inf:
        raise ValueError("give 2 or more seconds, since a process beats every half second; or 0 to kill none")
    return seconds


_REDIS_URL = re.compile(r"(redis|rediss)://[^\s/]+(/\d*)?(\?\S*)?|unix://\S+")


def _redis_url(url: SecretStr) -> SecretStr:
    if not _REDIS_URL.fullmatch(url.get_secret_value()):
        raise ValueError("give redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE], rediss:// for TLS, or unix://PATH")
    return url


_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]+)?|https?://\[[0-9a-f:]+\](:[0-9]+)?")
"""As browsers send them: in small letters, and without a path."""
Exempt = Literal["health", "metrics", "docs"]


def _known_exemptions(text: str) -> str:
    if text != "none" and (unknown := [word for word in _words(text) if word not in get_args(Exempt)]):
        raise ValueError(f"{unknown[0]!r} is none of {', '.join(get_args(Exempt))}, by commas, or none")
    return text


def _known_origins(text: str) -> str:
    for word in _words(text):
        if not _ORIGIN.fullmatch(word):
            raise ValueError(f"{word!r} is no origin: name it by scheme, host and port, such as https://a.example:8443")
    return text


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


class Settings(BaseSettings):
    """Every setting with its default. A field `x` is the variable `VITRINE_X`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=ENV_FILE, frozen=True, extra="ignore", env_ignore_empty=True
    )

    profile: Literal["development", "production"] = "development"
    host: Annotated[str, AfterValidator(_ip_address)] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65_535)] = 3000
    grpc_port: Annotated[int, Field(ge=0, le=65_535)] = Field(3001, description="The port of gRPC; 0 turns gRPC off.")
    torchserve_port: Annotated[int, Field(ge=0, le=65_535)] = Field(
        0, description="A second port for HTTP, such as TorchServe's 8080; 0: none."
    )
    grpc_tls_cert: FilePath | None = Field(None, description="A PEM file; with VITRINE_GRPC_TLS_KEY, gRPC speaks TLS.")
    grpc_tls_key: FilePath | None = Field(None, description="A PEM file, without a passphrase.")
    api_keys_file: Annotated[Path, AfterValidator(Path.absolute)] | None = Field(
        None, description="The file of `vitrine keys`; with it every request needs a key."
    )
    api_keys_exempt: Annotated[str, NoDecode, AfterValidator(_known_exemptions)] = Field(
        "health", description="What needs no key, separated by commas: health, metrics, docs; or none."
    )
    allow_anonymous: bool = Field(
        False, description="Whether other machines may use the service where there is no file of keys."
    )
    model_control: bool = Field(
        False, description="Whether anybody may load and unload models where there is no file of keys."
    )
    redis_url: Annotated[SecretStr, AfterValidator(_redis_url)] | None = Field(
        None, description="redis://HOST:PORT/DATABASE, where several servers count the quotas of keys together."
    )
    redis_ms: Annotated[float, Field(ge=1, le=1000)] = Field(
        5.0, description="The longest that a request waits for Redis, which is then left alone for a while."
    )
    quotas_without_redis: Literal["local", "open", "closed"] = Field(
        "local",
        description="While Redis does not answer, a server counts quotas alone (local), counts nothing (open), or "
        "refuses requests of keys that have quotas (closed).",
    )
    default_model: str = "kidney-stone"
    models: Annotated[str, NoDecode] = Field(
        "", description="The models to serve, NAME or NAME:VERSION separated by commas; empty: all that are installed."
    )
    models_dir: Annotated[Path, AfterValidator(Path.absolute)] | None = Field(
        None, description="A folder of models of your own, served beside the others; `vitrine models` works on it."
    )
    device: Annotated[str, AfterValidator(parse)] = Field(
        "auto", description="auto, cpu (on ONNX Runtime), or cuda, cuda:1, …, mps, torch-cpu (on PyTorch)."
    )
    queue_ms: Annotated[int, Field(ge=1)] = Field(
        2000, description="The longest that an item may be expected to wait for its model; others are refused at once."
    )
    queue_size: Annotated[int, Field(ge=1)] = Field(
        16_384, description="How many items may wait for each model in each worker, which bounds their memory."
    )
    max_batch: Annotated[int, Field(ge=1)] | None = Field(
        None, description="The largest batch; empty: as tuned here, else the default plan's."
    )
    linger_ms: Annotated[float, Field(ge=0, le=1000)] | None = Field(
        None, description="How long a batch waits to be filled; empty: as tuned here, else the default plan's."
    )
    gather: bool = Field(
        True,
        description="Run models that take less time than a hand-over to a lane on the event loop, all requests of one "
        "of its turns together.",
    )
    workers: Annotated[int, Field(ge=1, le=MOST_WORKERS)] = Field(
        1, description="Processes that answer, each with all models; more than one pays only for cheap models."
    )
    top_k: Annotated[int, Field(ge=1)] | None = Field(
        None, description="How many labels a classifier lists in `top` by default; empty: 1 of two labels, else 3."
    )
    timeout_ms: Annotated[int, Field(ge=1)] = Field(30_000, description="The longest that a request may take.")
    explain: bool = Field(True, description="Whether to start the Grad-CAM runner, which is a process of its own.")
    explain_timeout_ms: Annotated[int, Field(ge=1)] = Field(
        10_000, description="The longest that an explanation may take."
    )
    explain_url: Annotated[str, Field(pattern=r"^(https?://[^/\s=]+)?$")] = Field(
        "", description="http://HOST:PORT of a Grad-CAM runner that was started elsewhere; empty: one is started here."
    )
    drain_seconds: Annotated[float, Field(gt=0)] = Field(
        20.0, description="After SIGTERM the process ends within this."
    )
    hang_seconds: Annotated[float, AfterValidator(_longer_than_a_few_beats)] = Field(
        10.0, description="A process whose event loop stands still for so long is replaced; 0: never, for debuggers."
    )
    cache_mb: Annotated[int, Field(ge=0)] = Field(
        0, description="Memory for answers to pictures that may come again; 0 keeps none."
    )
    cache_shared_seconds: Annotated[int, Field(ge=0, le=31_536_000)] = Field(
        0, description="How long Redis keeps those answers for other servers; 0: only this one has them."
    )
    cors_origins: Annotated[str, NoDecode, AfterValidator(_known_origins)] = Field(
        "", description="The origins whose pages may call the API, such as https://a.example, by commas; empty: none."
    )
    max_body_bytes: Annotated[int, Field(ge=1024)] = 32 * 2**20
    body_seconds: Annotated[float, Field(gt=0)] = Field(
        30.0, description="The longest that the body of a request may take to come."
    )
    body_budget_bytes: Annotated[int, Field(ge=1024)] | None = Field(
        None, description="The most bytes of all bodies at a time, shared by workers; empty: an eighth of the memory."
    )
    max_connections: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="The most connections to a worker, of HTTP and of gRPC each; empty: as the file descriptors allow.",
    )
    header_seconds: Annotated[float, Field(gt=0)] = Field(
        10.0, description="The longest that a connection may be silent, or take to send a request's headers."
    )
    docs: bool | None = Field(None, description="/docs, /redoc, /openapi.json; empty: only in development.")
    access_log: bool = True
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _ports_and_certificate_agree(self) -> Self:
        if (self.grpc_tls_cert is None) != (self.grpc_tls_key is None):
            raise ValueError("VITRINE_GRPC_TLS_CERT and VITRINE_GRPC_TLS_KEY go together: give both or neither")
        if self.grpc_tls_cert and self.grpc_tls_key:
            try:
                # An encrypted key would ask for its passphrase at the terminal.
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(self.grpc_tls_cert, self.grpc_tls_key, password=lambda: b"")
            except (OSError, ValueError) as error:
                raise ValueError(
                    f"VITRINE_GRPC_TLS_CERT={self.grpc_tls_cert} and VITRINE_GRPC_TLS_KEY={self.grpc_tls_key} are no "
                    f"pair of PEM files, the key without a passphrase ({error})"
                ) from error
        if self.grpc_port == self.port:
            raise ValueError(
                f"VITRINE_PORT and VITRINE_GRPC_PORT are both {self.port}: give gRPC another, or 0 to turn it off"
            )
        if self.torchserve_port and self.torchserve_port in (self.port, self.grpc_port):
            raise ValueError(
                f"VITRINE_TORCHSERVE_PORT={self.torchserve_port} is the port of HTTP or gRPC already: give it another, "
                "or 0 for none"
            )
        return self

    @property
    def docs_enabled(self) -> bool:
        """Whether the documentation pages are served."""
        return self.profile == "development" if self.docs is None else self.docs

    @property
    def exempt(self) -> tuple[str, ...]:
        """The groups of routes that need no key."""
        return () if self.api_keys_exempt == "none" else tuple(_words(self.api_keys_exempt))

    @property
    def origins(self) -> tuple[str, ...]:
        """The origins whose pages may call the API."""
        return tuple(_words(self.cors_origins))

    @property
    def chosen_models(self) -> tuple[tuple[str, str], ...]:
        """Name and beginning of a version (empty: the one in service) of each model to serve; empty means all."""
        parts = (word.partition(":") for word in _words(self.models))
        return tuple((name, version) for name, _, version in parts)


@cache
def load_settings() -> Settings:
    """Return the settings, which the first call reads.

    Raises:
        SettingsError: a value is not allowed; the message names each such variable, its value and what is allowed.
    """
    try:
        return Settings()
    except ValidationError as error:
        reasons = [
            f"{PREFIX}{str(detail['loc'][0]).upper()}={_shown(detail)}: {detail['msg']}"
            if detail["loc"]
            else detail["msg"].removeprefix("Value error, ")
            for detail in error.errors()
        ]
        raise SettingsError("\n".join(reasons)) from error


def _shown(detail: ErrorDetails) -> str:
    """Return the value that is not allowed; the address of Redis may hold a password, so it is not shown."""
    return "…" if detail["loc"][0] == "redis_url" else repr(detail["input"])


def warnings_of(settings: Settings) -> list[str]:
    """Return what an operator should know before serving with these settings, one sentence each."""
    warnings = []
    if settings.api_keys_file is None and not ipaddress.ip_address(settings.host).is_loopback:
        warnings.append(
            f"Listening on {settings.host}: anyone who reaches this machine can use the service; it asks for no key."
        )
    if settings.api_keys_file is not None and settings.allow_anonymous:
        warnings.append("VITRINE_ALLOW_ANONYMOUS does nothing beside VITRINE_API_KEYS_FILE: a key is asked for.")
    if settings.api_keys_file is not None and settings.model_control:
        warnings.append("VITRINE_MODEL_CONTROL does nothing beside VITRINE_API_KEYS_FILE: `keys add --admin` decides.")
    if settings.redis_url is None and settings.cache_shared_seconds:
        warnings.append("VITRINE_CACHE_SHARED_SECONDS does nothing without VITRINE_REDIS_URL.")
    elif settings.cache_shared_seconds and not settings.cache_mb:
        warnings.append("VITRINE_CACHE_SHARED_SECONDS does nothing without VITRINE_CACHE_MB: give it some memory.")
    elif settings.redis_url is not None and settings.api_keys_file is None and not settings.cache_shared_seconds:
        warnings.append("VITRINE_REDIS_URL does nothing without VITRINE_API_KEYS_FILE or VITRINE_CACHE_SHARED_SECONDS.")
    if settings.models_dir is not None and not settings.models_dir.is_dir():
        warnings.append(f"VITRINE_MODELS_DIR={settings.models_dir} is no folder, so no model of it is served.")
    names = {*os.environ, *(dotenv_values(ENV_FILE) if ENV_FILE.is_file() else ())}
    known = [f"{PREFIX}{field.upper()}" for field in Settings.model_fields]
    for name in sorted(name for name in names if name.upper().startswith(PREFIX) and name.upper() not in known):
        near = difflib.get_close_matches(name.upper(), known, 1)
        warnings.append(f"{name} is no setting of Vitrine." + (f" Did you mean {near[0]}?" if near else ""))
    return warnings
