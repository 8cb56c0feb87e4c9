"""What is said of models that were asked for and are not there."""

from models.asked_models import AskedModels, known_names, nearest

KNOWN = frozenset(("cifar10", "churn", "kidney-stone"))


def test_a_model_that_is_not_known_is_told_with_the_nearest() -> None:
    asked = AskedModels((("kidney-stone", ""), ("chrun", "")), KNOWN)
    (absence,) = asked.absences({"kidney-stone": {"ab": 1}}, {})
    assert absence == (
        "VITRINE_MODELS asks for chrun, which is not served. There is no such model. "
        "Known models: churn, cifar10, kidney-stone. Did you mean churn?"
    )
    assert asked.absences({"kidney-stone": {"ab": 1}, "chrun": {"cd": 1}}, {}) == []
    assert asked.absences({}, {}, excused=("kidney-stone", "chrun")) == []


def test_a_known_model_comes_with_its_reason_and_a_version_with_those_that_are_served() -> None:
    asked = AskedModels((("cifar10", ""), ("churn", "ab")), KNOWN)
    of_name, of_version = asked.absences({"churn": {"cd12": 1}}, {"cifar10": "It is not installed; do so."})
    assert of_name == "VITRINE_MODELS asks for cifar10, which is not served. It is not installed; do so."
    assert of_version.startswith("VITRINE_MODELS asks for churn:ab, which is not served. Versions that are: cd12.")
    assert asked.absences({"churn": {"ab12": 1}, "cifar10": {"ef": 1}}, {}) == []


def test_a_default_model_that_is_left_out_or_not_known_says_so() -> None:
    left_out = AskedModels((("churn", ""),), KNOWN).default_absence("kidney-stone")
    assert left_out.endswith("which VITRINE_MODELS leaves out. Set VITRINE_DEFAULT_MODEL=churn.")
    unknown = AskedModels((), KNOWN).default_absence("kidney")
    assert unknown.startswith("VITRINE_DEFAULT_MODEL=kidney: There is no such model.")
    assert unknown.endswith("Did you mean kidney-stone?")


def test_many_names_are_not_all_listed_and_one_that_is_like_none_has_no_nearest() -> None:
    names = [f"model-{number:02}" for number in range(30)]
    assert "model-19, …." in known_names("zzz", names) and "model-20" not in known_names("zzz", names)
    assert "Did you mean" not in known_names("zzz", names)
    assert known_names("x", ()) == "Known models: none." and nearest("churm", KNOWN) == ["churn"]
