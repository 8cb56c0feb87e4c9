"""Whether a stored model can be explained, and what a gradient would need."""

from models.background import BACKGROUND
from models.card import Card, ImageCard
from models.package import WEIGHTS, StoredModel


def not_explainable_reason(card: Card, stored: StoredModel | None) -> str:
    """Return why a model has no explanations; empty if it has, as every model of pictures."""
    if isinstance(card, ImageCard) or stored is None or (stored.path / BACKGROUND).exists():
        return ""
    again = (
        "add it again with --examples FILE, and it keeps some"
        if card.architecture == "onnx"
        else (f"import it again with a {BACKGROUND} beside its card")
    )
    return f"{card.name} has no background, the usual rows that a row is compared with; {again}"


def no_gradient_reason(card: ImageCard, stored: StoredModel | None) -> str:
    """Return why no gradient explains a model of pictures; empty if one does."""
    if card.explain is None:
        unavailable = stored.explanations().get("unavailable") if stored else None
        return str(unavailable or f"the card of {card.name} names no layer to explain at")
    if stored and stored.explain_graph is None and not (stored.path / WEIGHTS).exists():
        return f"{card.name} came as an ONNX graph and has no explain graph yet; `vitrine models add` it again"
    return ""
