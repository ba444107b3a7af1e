import json
import os
import platform
import subprocess
import sys

import numpy as np
import onnxruntime as ort

from mlcompress import __version__
from mlcompress.measure import environment


def test_versions_and_machine() -> None:
    facts = environment.facts()
    assert facts["mlcompress"] == __version__
    assert facts["onnxruntime"] == ort.__version__
    assert facts["numpy"] == np.__version__
    assert facts["python"] == platform.python_version()
    assert facts["cores"] == os.cpu_count()
    assert 0 < facts["usable_cores"] <= facts["cores"]
    assert len(facts["load_average"]) == 3


def test_facts_are_json_without_host_name_or_paths() -> None:
    text = json.dumps(environment.facts(), allow_nan=False)
    assert platform.node() not in text
    assert os.sep + "home" not in text
    assert os.fspath(os.getcwd()) not in text


def test_flags_are_those_of_the_cpu() -> None:
    if sys.platform != "linux":
        assert "cpu_flags" not in environment.facts()
        return
    listed = subprocess.run(
        ["grep", "-m1", "-E", "^(flags|Features)", "/proc/cpuinfo"], capture_output=True, text=True
    )
    words = listed.stdout.split()
    assert environment.facts()["cpu_flags"] == [flag for flag in environment.FLAGS if flag in words]


def test_torch_is_told_only_when_something_else_imported_it() -> None:
    code = (
        "import sys, json; from mlcompress.measure import environment; "
        "facts = environment.facts(); print('torch' in facts, 'torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["False", "False"]
