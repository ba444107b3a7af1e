"""Compress a trained model from the shell: distil, prune, quantise, and prove what it gained."""

__version__ = "0.1.0"
