"""The row of the churn model, for the peers whose documentation declares what an API takes."""

from pydantic import BaseModel


class Customer(BaseModel):
    """A row of the churn model."""

    age: float
    income: float
    tenure_days: float
    num_purchases: float
    avg_transaction_value: float
    days_since_last_purchase: float
