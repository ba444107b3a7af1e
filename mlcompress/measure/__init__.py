"""Latency by execution provider, accuracy, size and memory, all measured with onnxruntime itself."""
