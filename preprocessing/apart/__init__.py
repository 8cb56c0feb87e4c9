"""Slow pictures, decoded apart: in a process that is small, limited in time and memory, and can be killed."""
