"""How a card transforms its input, in a sentence for whoever has to say whether their model was trained like that."""

from models.card import Card, ImageCard
from preprocessing.row_spec import Clip, Feature, Log1p
from preprocessing.spec import ImageInput

ADVICE = (
    "If yours was trained otherwise it answers otherwise, without complaint: bring --card with what it was trained "
    "with, or --expected FILE with what it gave, which is compared."
)


def input_text(card: Card) -> str:
    """Return what is done to an input before the network gets it, and what to do if that is not right."""
    if isinstance(card, ImageCard):
        return f"{'; '.join(_picture_parts(card.input))}. {ADVICE}"
    return f"{'; '.join(map(_feature_text, card.input.features))}. {ADVICE}"


def _picture_parts(spec: ImageInput) -> list[str]:
    (height, width), (box_height, box_width) = spec.size, spec.box
    fitted = {
        "stretch": f"stretched to {box_height} x {box_width} pixels",
        "short_side": f"resized until they cover {box_height} x {box_width} pixels",
        "letterbox": f"resized to fit into {box_height} x {box_width} pixels",
        "none": "not resized",
    }[spec.resize]
    by = "" if spec.resize == "none" else f" by {spec.library}'s {spec.kernel}"
    cut = f", cut or padded to {height} x {width}" if spec.resize == "none" or spec.box != spec.size else ""
    turned = "turned upright by EXIF" if spec.orientation == "apply" else "taken as they are stored"
    clahe = "no CLAHE"
    if spec.clahe is not None:
        clahe = f"CLAHE of clip limit {spec.clahe.clip_limit:g} on {spec.clahe.colour_space}"
    return [
        f"pictures are {turned}, {fitted}{by}{cut}",
        clahe,
        f"channels {spec.channels}, pixels {spec.scale}, less {_listed(spec.mean)}, divided by {_listed(spec.std)}",
    ]


def _feature_text(feature: Feature) -> str:
    steps = []
    for step in feature.steps:
        if isinstance(step, Log1p):
            steps.append("ln(1 + x)")
        elif isinstance(step, Clip):
            steps.append(f"clipped to {step.low:g} to {step.high:g}")
        else:
            steps.append(f"less {step.mean:g}, divided by {step.std:g}")
    return f"{feature.name} {', '.join(steps) if steps else 'as it is'}"


def _listed(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)
