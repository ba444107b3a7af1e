"""Small model files with known parameters and MACs, and cards written by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mlcompress import files

CLASSES, FEATURES = 3, 8


def write_net(path: Path, hidden: int, seed: int = 0) -> Path:
    """x [N, 8] -> Gemm -> Relu -> Gemm -> logits [N, 3]; 12 h + 3 parameters, 11 h MACs per sample."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> net (float[N, 8] x) => (float[N, 3] logits) '
        "{ a = Gemm (x, w1, b1)\n b = Relu (a)\n logits = Gemm (b, w2, b2) }"
    )
    draw = np.random.default_rng(seed)
    shapes = {"w1": (FEATURES, hidden), "b1": (hidden,), "w2": (hidden, CLASSES), "b2": (CLASSES,)}
    for name, shape in shapes.items():
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(draw.standard_normal(shape, np.float32), name)
        )
    onnx.save(model, path)
    return path


def write_card(artifact: Path, made_from: Path, stage: str = "prune", **changed: Any) -> None:
    card = {
        "tool": "mlcompress",
        "stage": stage,
        "recipe": {},
        "seed": 0,
        "parent": {"path": str(made_from), "sha256": files.sha256(made_from)},
        "output": {
            "path": str(artifact),
            "sha256": files.sha256(artifact),
            "bytes": 1,
            "compressed_bytes": 1,
        },
        "change": {
            "summary": "half of the units",
            "details": {},
            "skipped": [{"name": "b2", "reason": "output axis"}],
            "warnings": ["a warning of the stage"],
        },
        "metric": {"name": "top1", "before": 0.8, "after": 0.7, "samples": 50, "low": 0.56, "high": 0.81},
        "latency": [
            {
                "provider": "cpu",
                "batch_size": 1,
                "threads": 1,
                "before": {"p50": 4.0, "p90": 5.0},
                "after": {"p50": 2.0, "p90": 2.5},
                "ratio": 0.5,
                "ratio_low": 0.4,
                "ratio_high": 0.6,
                "verdict": "faster",
                "fallback_nodes": 0,
            }
        ],
        "memory": {"after": {"peak_bytes": 5_000_000, "load_bytes": 1, "load_ms": 12.5}},
        "data": {
            "train": {"samples": 64, "synthetic": True},
            "evaluate": {"samples": 50, "synthetic": False},
        },
        **changed,
    }
    artifact.with_name(artifact.name + ".json").write_text(json.dumps(card), encoding="utf-8")
