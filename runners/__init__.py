"""Runners: a bounded queue and a few lanes for each model. Knows nothing of HTTP or BentoML."""
