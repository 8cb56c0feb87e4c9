"""Faults on purpose: overload, processes that are killed or stopped, a drain, and a soak of mixed requests."""
