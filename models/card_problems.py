"""What is wrong with a card, in lines for its author."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def card_problems(error: ValidationError, cards: Mapping[str, type[BaseModel]]) -> list[str]:
    """Return a line for each problem that pydantic found, with the keys or values that are allowed in its place.

    Args:
        error: of a union of kinds of card that their task tells apart.
        cards: the kind of card that belongs to each task.
    """
    problems = []
    for detail in error.errors():
        task, *location = detail["loc"] or ("card",)
        key = ".".join(str(part) for part in location) or "card"
        if detail["type"] == "extra_forbidden":
            problems.append(_unknown_key(key, _section_keys(cards[str(task)], location[:-1])))
        elif detail["type"].startswith("union_tag"):
            problems.append(f"  task: must be one of {', '.join(cards)}")
            known = {name for card in cards.values() for name in card.model_fields}
            problems += [_unknown_key(key, known) for key in detail["input"] if key not in known]
        else:
            value = f" (got {detail['input']!r})" if location else ""  # else it is the whole card
            problems.append(f"  {key}: {detail['msg']}{value}")
    return problems


def _unknown_key(key: str, allowed: Iterable[str]) -> str:
    return f"  {key}: unknown key; allowed here: {', '.join(sorted(allowed))}"


def _section_keys(card: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Return the keys of a section of a card, found by following the card's own types; list positions do not count."""
    section: Any = card
    for part in location:
        if isinstance(part, str) and part in getattr(section, "model_fields", ()):
            section = _section_type(section.model_fields[part].annotation)
    return list(getattr(section, "model_fields", ()))


def _section_type(annotation: Any) -> Any:
    """Return the section behind an annotation such as `Section | None` or `tuple[Section, ...]`."""
    arguments = [part for part in get_args(annotation) if part not in (type(None), Ellipsis)]
    return _section_type(arguments[0]) if arguments else annotation
