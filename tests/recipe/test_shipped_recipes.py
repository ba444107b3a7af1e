"""Every recipe in `recipes/` runs by the command line in its first line, and does what it says."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlcompress import methods, stages
from mlcompress.cli.app import _status
from mlcompress.recipe.load import load
from tests import task
from tests.conftest import ROOT

FOLDER = ROOT / "recipes"
RECIPES = sorted(path for path in FOLDER.glob("*.yaml") if path.name != "data.yaml")

LEVEL = 24.0
"""Pixel steps per unit of the task's values: 0 ... 255 holds -5.3 ... 5.3, which is all of them."""
SMALL = {
    "every": (f"data.train.transforms.1.normalize={{mean: [0.5], std: [{LEVEL / 255}]}}", "measure.repeats=1"),
    "distill": ("train.epochs=1", "train.batch_size=50", "train.threads=1"),
    "prune": ("train.epochs=2", "train.batch_size=50", "train.threads=1"),
    "quantize": ("data.calibration.samples=64",),
    "report": (),
}
"""What turns a recipe for a real net into one for the small task, by stage."""

