"""Containers, prefixes and types of state dicts. Oracle: the numbers that were saved."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from mlcompress.checkpoint import state_dict
from mlcompress.errors import ModelError, UnsupportedError
from tests.checkpoint.nets import Cnn, Tied, seasoned

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def saved() -> Tensors:
    return {name: tensor.clone() for name, tensor in seasoned(Cnn()).state_dict().items()}


def filled(content: Any, module: nn.Module | None = None) -> nn.Module:
    module = module or Cnn()
    state_dict.fill(module, content, "net.pt", "nets:build")
    return module


def holds(module: nn.Module, saved: Tensors) -> bool:
    there = module.state_dict()
    return all(
        torch.equal(there[name], tensor) for name, tensor in saved.items() if tensor.is_floating_point()
    )


def refused(content: Any, kind: type[Exception] = ModelError, module: nn.Module | None = None) -> str:
    with pytest.raises(kind) as caught:
        filled(content, module)
    (line,) = caught.value.lines  # type: ignore[attr-defined]
    assert line.startswith("net.pt: ")
    assert len(line) < 320
    return str(line)


def renamed(change: Callable[[str], str]) -> Callable[[Tensors], Tensors]:
    return lambda saved: {change(name): tensor for name, tensor in saved.items()}


CONTAINERS: dict[str, tuple[Callable[[Tensors], Any], str]] = {
    "as it is": (lambda saved: saved, ""),
    "ordered": (OrderedDict, ""),
    "state_dict": (lambda saved: {"state_dict": saved, "epoch": 3, "optimizer": {"lr": 0.1}}, "`state_dict`"),
    "model_state_dict": (lambda saved: {"model_state_dict": saved}, "`model_state_dict`"),
    "model": (lambda saved: {"model": saved, "args": None}, "`model`"),
    "ema": (lambda saved: {"ema": saved}, "`ema`"),
    "nested once": (lambda saved: {"state_dict": {"model": saved}}, "`state_dict.model`"),
    "Lightning": (
        lambda saved: {
            "pytorch-lightning_version": "2.2.0",
            "state_dict": {f"model.{name}": tensor for name, tensor in saved.items()},
            "hyper_parameters": {"lr": 0.1},
        },
        "`state_dict`",
    ),
    "DataParallel": (renamed("module.{}".format), ""),
    "compiled": (renamed("_orig_mod.{}".format), ""),
    "compiled, then wrapped": (renamed("module._orig_mod.{}".format), ""),
    "wrapped, then compiled": (renamed("model.module._orig_mod.{}".format), ""),
    "a compiled part": (renamed(lambda name: name.replace("bn1.", "bn1._orig_mod.")), ""),
    "averaged": (lambda saved: {"n_averaged": torch.tensor(3)} | renamed("module.{}".format)(saved), ""),
    "numbers beside": (lambda saved: {**saved, "epoch": 7}, "entries that are no tensors are left: epoch"),
    "fallback": (lambda saved: {"model": {"fc.weight": torch.ones(2)}, "ema": saved}, "`ema`"),
}


@pytest.mark.parametrize("case", CONTAINERS)
def test_weights_are_found_wherever_scripts_put_them(
    case: str, saved: Tensors, capsys: pytest.CaptureFixture[str]
) -> None:
    change, said = CONTAINERS[case]
    assert not holds(Cnn(), saved)  # negative control
    assert holds(filled(change(saved)), saved)
    printed = capsys.readouterr().err
    assert said in printed
    assert bool(printed) == bool(said)


def test_of_two_that_fit_the_first_is_taken_and_both_are_named(
    saved: Tensors, capsys: pytest.CaptureFixture[str]
) -> None:
    average = {name: torch.zeros_like(tensor) for name, tensor in saved.items()}
    assert holds(filled({"ema": average, "model": saved}), saved)
    assert capsys.readouterr().err == ("net.pt: the weights of `model` are taken; `ema` would fit too\n")


def test_a_prefix_that_is_a_part_of_the_name_stays() -> None:
    """`model.` is taken off only where the names match without it."""
    net = nn.Sequential()
    net.model = seasoned(nn.Linear(2, 3))
    assert holds(
        filled(net.state_dict(), nn.Sequential(OrderedDict(model=nn.Linear(2, 3)))), net.state_dict()
    )


def test_half_weights_become_the_modules_type(saved: Tensors, capsys: pytest.CaptureFixture[str]) -> None:
    halves = {n: one.to(torch.bfloat16) if one.is_floating_point() else one for n, one in saved.items()}
    made = filled(halves)
    assert made.fc.weight.dtype == torch.float32
    torch.testing.assert_close(made.fc.weight, saved["fc.weight"].bfloat16().float(), rtol=0, atol=0)
    assert capsys.readouterr().err == "net.pt: 12 bfloat16 tensors are converted to the module's float32\n"


def test_counters_of_batch_normalisation_may_be_missing(saved: Tensors) -> None:
    assert holds(filled({name: one for name, one in saved.items() if "num_batches" not in name}), saved)


def test_tied_tensors_are_needed_once() -> None:
    saved = seasoned(Tied()).state_dict()
    for dropped in ("head.weight", "embedding.weight"):
        made = filled({name: one for name, one in saved.items() if name != dropped}, Tied())
        assert torch.equal(made.head.weight, saved["head.weight"])
        assert made.head.weight is made.embedding.weight
    apart = {"embedding.weight": torch.zeros(6, 4), "head.weight": torch.ones(6, 4)}
    assert "has different numbers for tensors that nets:build ties" in refused(apart, module=Tied())


def test_buffers_that_older_versions_saved_are_no_surplus() -> None:
    net = nn.Linear(2, 2)
    net.register_buffer("positions", torch.arange(3), persistent=False)
    assert holds(filled({**net.state_dict(), "positions": torch.arange(3)}, net), net.state_dict())
    assert "1 unexpected (positions)" in refused(
        {**net.state_dict(), "positions": torch.arange(4)}, module=net
    )


def test_masks_of_infinities_are_fine() -> None:
    net = nn.Linear(2, 2)
    net.register_buffer("mask", torch.zeros(2))
    filled({**net.state_dict(), "mask": torch.tensor([0.0, -torch.inf])}, net)
    assert net.mask[1] == -torch.inf


def without(*names: str) -> Callable[[Tensors], Tensors]:
    return lambda saved: {name: one for name, one in saved.items() if name not in names}


def put(name: str, tensor: torch.Tensor) -> Callable[[Tensors], Tensors]:
    return lambda saved: {**saved, name: tensor}


MISFITS: dict[str, tuple[Callable[[Tensors], Any], str]] = {
    "missing": (
        without("fc.bias", "bn1.running_var"),
        "does not fit what nets:build builds: 2 of 14 tensors missing (bn1.running_var, fc.bias); mend model.factory",
    ),
    "unexpected": (put("fc2.bias", torch.ones(4)), ": 1 unexpected (fc2.bias)"),
    "wrong shape": (
        put("fc.weight", torch.ones(10, 16)),
        "1 of another shape or type (fc.weight is float32 [10, 16], the module's float32 [4, 16])",
    ),
    "wrong type": (put("fc.bias", torch.ones(4, dtype=torch.int64)), "fc.bias is int64 [4], the module's float32 [4]"),
    "complex": (put("fc.bias", torch.ones(4, dtype=torch.complex64)), "fc.bias is complex64 [4]"),
    "eight bits": (put("fc.bias", torch.ones(4).to(torch.float8_e4m3fn)), "fc.bias is float8_e4m3fn [4]"),
    "no prefix on one": (
        lambda saved: {("fc.bias" if name == "fc.bias" else f"module.{name}"): one for name, one in saved.items()},
        "11 of 14 tensors missing",
    ),
    "in its container": (lambda saved: {"state_dict": without("fc.bias")(saved)}, "its `state_dict` does not fit"),
    "everything else": (lambda saved: {f"x{i}": torch.ones(1) for i in range(9)}, "(conv1.weight, bn1.weight, bn1.bias (+9 more)"),
    "NaN": (put("conv2.weight", torch.full((16, 16, 3, 3), torch.nan)), "NaN or infinite numbers in 1 tensors (conv2.weight)"),
    "infinite": (put("fc.bias", torch.full((4,), torch.inf)), "NaN or infinite numbers in 1 tensors (fc.bias)"),
    "NaN in statistics": (put("bn1.running_mean", torch.full((16,), torch.nan)), "(bn1.running_mean)"),
    "no numbers": (put("fc.bias", torch.ones(4, device="meta")), "on the meta device (fc.bias)"),
    "empty": (lambda saved: {}, "holds no tensors by name (but nothing)"),
    "a list": (lambda saved: list(saved.values()), "(but a list)"),
    "one tensor": (lambda saved: saved["fc.bias"], "(but a Tensor)"),
    "no weights": (lambda saved: {"epoch": 3, "loss": 0.2}, "(but the entries epoch, loss)"),
    "numbered": (lambda saved: dict(enumerate(saved.values())), "holds no tensors by name"),
    "too deep": (lambda saved: {"state_dict": {"model": {"net": saved}}}, "holds no tensors by name"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_one_line_with_counts_and_names(case: str, saved: Tensors) -> None:
    change, said = MISFITS[case]
    assert said in refused(change(saved))


def test_sparse_tensors_are_refused_by_name(saved: Tensors) -> None:
    sparse = {**saved, "fc.weight": saved["fc.weight"].to_sparse()}
    assert "quantised or sparse tensors (fc.weight)" in refused(sparse, UnsupportedError)


def test_numbers_that_overflow_the_modules_type_are_infinite(saved: Tensors) -> None:
    large = {**saved, "fc.bias": torch.full((4,), 1e6)}
    assert "(fc.bias)" in refused(large, module=Cnn().half())
