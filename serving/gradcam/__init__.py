"""Explanations in a process of their own: what crosses to it, its callers' side, and its inside."""
