"""Class activation maps of an ONNX graph: its gradient is written into the graph itself, without PyTorch.

Needs the `onnx` package, which making a package has and serving does not need.
"""
