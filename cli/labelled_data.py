"""Which labelled data belong to which model."""

from export.labelled_data import LabelledDataSource
from models.card import Card


def labelled_data_source(card: Card) -> LabelledDataSource | None:
    """Return the labelled data of a model, None if it has none; those of kidney-stone need PyTorch."""
    match card.name:
        case "kidney-stone":
            from training.kidney_stone import data as phantoms

            return phantoms
        case "churn":
            from training.churn import data as customers

            return customers
        case "machine-anomaly":
            from training.machine_anomaly import data as readings

            return readings
    return None
