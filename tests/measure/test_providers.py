import numpy as np
import pytest

from mlcompress.errors import UnsupportedError
from mlcompress.measure import executed, providers
from mlcompress.measure.providers import CPU
from mlcompress.recipe.sections import Measure
from tests.measure.models import chain

ABSENT = ("VitisAIExecutionProvider", "RknpuExecutionProvider")
"""Names that onnxruntime knows and no build on a PC contains."""


def test_the_cpu_is_always_there_under_both_names() -> None:
    assert providers.resolve("cpu") == CPU
    assert providers.resolve("CPUExecutionProvider").ort_name == "CPUExecutionProvider"


def test_a_misspelt_name_gets_a_suggestion() -> None:
    with pytest.raises(UnsupportedError) as problem:
        providers.resolve("openvin")
    assert str(problem.value) == (
        "measure.providers: onnxruntime has no provider 'openvin'; did you mean 'openvino'?"
    )
    with pytest.raises(UnsupportedError, match="use one of cpu, openvino, cuda"):
        providers.resolve("zzz")


def test_every_required_provider_that_is_missing_gets_a_line() -> None:
    with pytest.raises(UnsupportedError) as problem:
        providers.select(Measure(providers=[ABSENT[0], "cpu", ABSENT[1]]))
    assert len(problem.value.lines) == 2
    assert all(name in line for name, line in zip(ABSENT, problem.value.lines, strict=True))
    assert "needs an onnxruntime that is built with it" in problem.value.lines[0]


def test_an_optional_provider_is_skipped_with_its_reason() -> None:
    chosen = providers.select(Measure(providers=["cpu", ABSENT[0]], optional=ABSENT))
    assert [provider.name for provider in chosen.providers] == ["cpu"]
    assert [skipped["name"] for skipped in chosen.skipped] == list(ABSENT)
    assert all("has no" in skipped["reason"] for skipped in chosen.skipped)


def test_an_optional_name_that_nobody_knows_is_a_mistake() -> None:
    with pytest.raises(UnsupportedError, match="did you mean 'cuda'"):
        providers.select(Measure(optional=["cudda"]))


def test_a_provider_named_twice_is_measured_once() -> None:
    chosen = providers.select(Measure(providers=["cpu", "cpu"], optional=["cpu"]))
    assert chosen.providers == (CPU,)


def test_the_list_has_every_short_name_with_a_word_on_it() -> None:
    listed = {info.name: info for info in providers.available()}
    assert list(listed)[:7] == ["cpu", "openvino", "cuda", "tensorrt", "coreml", "directml", "qnn"]
    assert listed["cpu"].ready
    assert "AzureExecutionProvider" not in listed
    assert all(info.note for info in listed.values())
    assert listed["cpu"].as_json() == {
        "name": "cpu",
        "ort_name": "CPUExecutionProvider",
        "ready": True,
        "note": "ready",
    }


@pytest.mark.parametrize("name", ["openvino", "cuda", "tensorrt", "coreml", "directml", "qnn"])
def test_a_provider_runs_nodes_or_says_what_it_needs(name: str) -> None:
    """Takes the first way on a machine that has the provider, the second one elsewhere; both are checked."""
    info = next(info for info in providers.available() if info.name == name)
    feeds = {"h0": np.ones((1, 8), np.float32)}
    if info.ready:
        provider = providers.resolve(name)
        ran = executed.profile(chain(3), feeds, provider)
        assert ran.nodes.get(provider.ort_name, 0) > 0
        return
    with pytest.raises(UnsupportedError) as problem:
        providers.resolve(name)
    (line,) = problem.value.lines
    assert line.startswith(f"measure.providers: '{name}' does not run here: ")
    assert line.endswith(providers.KNOWN[name].install)


def test_threads_reach_openvino_through_its_own_option() -> None:
    # Without it OpenVINO takes all cores, and one thread is compared with many.
    openvino = providers.Provider("openvino", "OpenVINOExecutionProvider")
    assert providers._settings(openvino, 1) == {"load_config": '{"CPU": {"INFERENCE_NUM_THREADS": "1"}}'}
    assert providers._settings(openvino, 0) == {}
    assert providers._settings(CPU, 1) == {}
