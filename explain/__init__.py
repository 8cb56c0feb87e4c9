"""Class activation maps: methods, the compiled explain graph, overlays, and how good the maps are.

Imports nothing of BentoML, FastAPI or settings, so that a notebook can explain exactly as serving does.
"""
