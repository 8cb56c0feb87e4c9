"""From bytes to tensors: decode, validate, transform. Imports nothing of BentoML, FastAPI or the settings."""
