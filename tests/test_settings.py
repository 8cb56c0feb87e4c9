"""Settings: read from the environment, checked, and explained."""

from pathlib import Path

import pytest

import settings
from errors import SettingsError
from settings import Settings, load_settings, warnings_of


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("empty"))
    for name in Settings.model_fields:
        monkeypatch.delenv(f"VITRINE_{name.upper()}", raising=False)
    load_settings.cache_clear()


def test_the_environment_wins_over_the_env_file(monkeypatch: pytest.MonkeyPatch) -> None:
    settings.ENV_FILE.write_text("VITRINE_PORT=4000\nVITRINE_QUEUE_SIZE=7\n")
    monkeypatch.setenv("VITRINE_PORT", "5000")
    assert (load_settings().port, load_settings().queue_size) == (5000, 7)


def test_production_turns_the_docs_off_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().docs_enabled
    monkeypatch.setenv("VITRINE_PROFILE", "production")
    assert not Settings().docs_enabled
    monkeypatch.setenv("VITRINE_DOCS", "true")
    assert Settings().docs_enabled


def test_chosen_models_are_a_list_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().chosen_models == ()
    monkeypatch.setenv("VITRINE_MODELS", "kidney-stone, churn:1a2b,")
    assert Settings().chosen_models == (("kidney-stone", ""), ("churn", "1a2b"))


@pytest.mark.parametrize(("name", "value"), [("PORT", "0"), ("QUEUE_SIZE", "many"), ("DRAIN_SECONDS", "-1")])
def test_a_bad_value_names_its_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"VITRINE_{name}", value)
    with pytest.raises(SettingsError, match=f"VITRINE_{name}='{value}': Input should be"):
        load_settings()


@pytest.mark.parametrize("value", ["0.5", "-1", "nan", "inf"])
def test_a_process_between_two_beats_is_not_taken_for_one_that_hangs(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("VITRINE_HANG_SECONDS", "0")
    assert Settings().hang_seconds == 0
    monkeypatch.setenv("VITRINE_HANG_SECONDS", value)
    with pytest.raises(SettingsError, match=r"VITRINE_HANG_SECONDS.*2 or more seconds"):
        load_settings()


@pytest.mark.parametrize("url", ["gradcam:3000", "http://gradcam:3000/", "http://a=b", "http://"])
def test_the_grad_cam_runners_address_is_scheme_host_and_port(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("VITRINE_EXPLAIN_URL", url)
    with pytest.raises(SettingsError, match="VITRINE_EXPLAIN_URL"):
        load_settings()


def test_binding_wide_and_a_misspelt_name_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    assert warnings_of(Settings()) == []
    monkeypatch.setenv("VITRINE_HOST", "0.0.0.0")
    monkeypatch.setenv("VITRINE_QUEUE_SIZ", "9")
    wide, misspelt = warnings_of(Settings())
    assert "asks for no key" in wide
    assert "VITRINE_QUEUE_SIZ is no setting" in misspelt
    assert "Did you mean VITRINE_QUEUE_SIZE?" in misspelt


def test_what_needs_no_key_is_a_list_of_known_words_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().exempt == ("health",)
    for text, exempt in (("health, docs", ("health", "docs")), ("none", ()), ("", ("health",))):
        monkeypatch.setenv("VITRINE_API_KEYS_EXEMPT", text)
        assert Settings().exempt == exempt
    monkeypatch.setenv("VITRINE_API_KEYS_EXEMPT", "health,doc")
    with pytest.raises(SettingsError, match="'doc' is none of health, metrics, docs"):
        load_settings()


def test_a_file_of_keys_ends_the_warning_and_makes_the_word_for_anyone_pointless(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VITRINE_HOST", "0.0.0.0")
    monkeypatch.setenv("VITRINE_API_KEYS_FILE", "keys.toml")
    assert warnings_of(Settings()) == []
    assert Settings().api_keys_file == Path.cwd() / "keys.toml"
    monkeypatch.setenv("VITRINE_ALLOW_ANONYMOUS", "true")
    assert "VITRINE_ALLOW_ANONYMOUS does nothing" in warnings_of(Settings())[0]


def test_a_host_is_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRINE_HOST", "localhost")
    assert Settings().host == "127.0.0.1"
    monkeypatch.setenv("VITRINE_HOST", "example.org")
    with pytest.raises(SettingsError, match=r"VITRINE_HOST='example\.org'"):
        load_settings()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"GRPC_PORT": "3000"}, "VITRINE_PORT and VITRINE_GRPC_PORT are both 3000"),
        ({"GRPC_TLS_CERT": "cert.pem"}, "go together"),
        ({"GRPC_TLS_CERT": "cert.pem", "GRPC_TLS_KEY": "cert.pem"}, "no pair of PEM files"),
        ({"GRPC_TLS_CERT": "nowhere.pem", "GRPC_TLS_KEY": "cert.pem"}, "VITRINE_GRPC_TLS_CERT='nowhere.pem'"),
    ],
)
def test_what_grpc_cannot_be_served_with_is_said_before_it_starts(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    Path("cert.pem").write_text("no certificate")
    for name, value in variables.items():
        monkeypatch.setenv(f"VITRINE_{name}", value)
    with pytest.raises(SettingsError, match=message) as refused:
        load_settings()
    assert not str(refused.value).startswith("Value error")


def test_a_folder_of_models_that_is_not_there_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRINE_MODELS_DIR", "mine")
    assert Settings().models_dir == Path.cwd() / "mine"
    assert "mine is no folder, so no model of it is served" in warnings_of(Settings())[0]
    (Path.cwd() / "mine").mkdir()
    assert warnings_of(Settings()) == []


def test_a_file_of_keys_decides_who_loads_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRINE_MODEL_CONTROL", "true")
    assert warnings_of(Settings()) == []
    monkeypatch.setenv("VITRINE_API_KEYS_FILE", "keys.toml")
    assert "VITRINE_MODEL_CONTROL does nothing" in warnings_of(Settings())[0]


def test_the_password_of_redis_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRINE_REDIS_URL", "redis://user:5ecret@cache.example:6380/2")
    chosen = load_settings()
    assert chosen.redis_url is not None and chosen.redis_url.get_secret_value().endswith(":5ecret@cache.example:6380/2")
    assert "5ecret" not in repr(chosen) + str(chosen.model_dump()) + chosen.model_dump_json()
    load_settings.cache_clear()
    monkeypatch.setenv("VITRINE_REDIS_URL", "http://user:5ecret@cache.example")
    with pytest.raises(SettingsError, match=r"VITRINE_REDIS_URL=….*give redis://") as refused:
        load_settings()
    assert "5ecret" not in str(refused.value)


def test_an_operator_is_told_of_settings_that_do_nothing_without_redis_or_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VITRINE_CACHE_SHARED_SECONDS", "60")
    assert any("nothing without VITRINE_REDIS_URL" in warning for warning in warnings_of(Settings()))
    monkeypatch.setenv("VITRINE_REDIS_URL", "redis://127.0.0.1")
    assert any("nothing without VITRINE_CACHE_MB" in warning for warning in warnings_of(Settings()))
    monkeypatch.setenv("VITRINE_CACHE_MB", "1")
    assert not [warning for warning in warnings_of(Settings()) if "REDIS" in warning or "SHARED" in warning]
    monkeypatch.setenv("VITRINE_CACHE_SHARED_SECONDS", "0")
    assert any("VITRINE_REDIS_URL does nothing" in warning for warning in warnings_of(Settings()))
