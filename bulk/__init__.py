"""Scoring of many inputs with a served model's own pipeline: from a source to numbered parts, each input once."""
