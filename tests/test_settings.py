"""Settings: read from the environment, checked, and explained."""

import pytest

import settings
from settings import Settings, SettingsError, load_settings, warnings_of


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


def test_binding_wide_and_a_misspelt_name_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    assert warnings_of(Settings()) == []
    monkeypatch.setenv("VITRINE_HOST", "0.0.0.0")
    monkeypatch.setenv("VITRINE_QUEUE_SIZ", "9")
    wide, misspelt = warnings_of(Settings())
    assert "asks for no key" in wide
    assert "VITRINE_QUEUE_SIZ is no setting" in misspelt
    assert "Did you mean VITRINE_QUEUE_SIZE?" in misspelt
