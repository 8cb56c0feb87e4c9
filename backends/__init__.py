"""ONNX Runtime and PyTorch behind one protocol: batch in, logits out."""
