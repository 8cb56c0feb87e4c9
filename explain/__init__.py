"""Class activation maps: the methods, explainers that compute them with ONNX Runtime or PyTorch, and overlays.

Nothing in this package imports BentoML, a web framework or the settings, so a notebook can explain a prediction exactly
as the server does.
"""
