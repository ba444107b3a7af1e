"""Removed equals masked on nets as torch's exporter writes them (dynamo, not optimised, dynamic batch)."""

import warnings
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mlcompress import graph
from mlcompress.graph import dependency
from mlcompress.graph.settle import settle
from tests.graph.dependency.oracle import check, numbers


class Attention(nn.Module):
    """Self-attention with one matrix for query, key and value, or with three."""

    def __init__(self, width: int, heads: int, *, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        if fused:
            self.qkv = nn.Linear(width, 3 * width)
        else:
            self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, time, width = x.shape
        if self.fused:
            parts = (
                self.qkv(x).reshape(batch, time, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
            )
            q, k, v = parts.unbind(0)
        else:
            split = [m(x).view(batch, time, self.heads, -1) for m in (self.q, self.k, self.v)]
            q, k, v = (part.transpose(1, 2) for part in split)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(batch, time, width))


class Vit(nn.Module):
    """Patches, class token, positions, two blocks (fused and separate query, key and value), head."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.place = nn.Parameter(torch.randn(1, 5, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(5))
        self.attention = nn.ModuleList(Attention(width, 4, fused=fused) for fused in (True, False))
        self.wide = nn.ModuleList(nn.Linear(width, 40) for _ in range(2))
        self.narrow = nn.ModuleList(nn.Linear(40, width) for _ in range(2))
        self.head = nn.Linear(width, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.place
        for block in range(2):
            x = x + self.attention[block](self.norms[2 * block](x))
            x = x + self.narrow[block](F.gelu(self.wide[block](self.norms[2 * block + 1](x))))
        return self.head(self.norms[4](x)[:, 0])


class Unet(nn.Module):
    """Two levels with GroupNorm and a skip Concat; up by ConvTranspose, then by bilinear Resize."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.GroupNorm(4, 16)
        self.deep = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.deep_norm = nn.GroupNorm(8, 32)
        self.up = nn.ConvTranspose2d(32, 16, 2, 2)
        self.join = nn.Conv2d(32, 12, 3, padding=1)
        self.last = nn.Conv2d(12, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = F.silu(self.norm(self.down(x)))
        b = F.silu(self.deep_norm(self.deep(a)))
        c = F.relu(self.join(torch.cat([a, self.up(b)], dim=1)))
        return self.last(F.interpolate(c, scale_factor=2.0, mode="bilinear"))


class Speech(nn.Module):
    """Two bidirectional LSTM layers over frames, last state, classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 14)
        self.rnn = nn.LSTM(14, 10, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(20, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, _ = self.rnn(torch.relu(self.embed(x)))
        return self.head(y[:, -1])


class Shuffle(nn.Module):
    """Grouped convolutions with a channel shuffle between them (ShuffleNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 36, 1)
        self.one = nn.Conv2d(36, 36, 1, groups=3)
        self.norm = nn.BatchNorm2d(36)
        self.deep = nn.Conv2d(36, 36, 3, padding=1, groups=36)
        self.two = nn.Conv2d(36, 36, 1, groups=3)
        self.head = nn.Linear(36, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        y = F.relu(self.norm(self.one(x)))
        batch, channels, height, width = y.shape
        y = (
            y.view(batch, 3, channels // 3, height, width)
            .transpose(1, 2)
            .reshape(batch, channels, height, width)
        )
        return self.head(F.relu(x + self.two(self.deep(y))).mean((2, 3)))


CASES = {
    "vit": (Vit, (2, 3, 8, 8), 0.60),
    "unet": (Unet, (2, 3, 8, 8), 0.30),
    "lstm": (Speech, (2, 5, 6), 0.31),
    "shuffle": (Shuffle, (2, 3, 6, 6), 0.40),
}
"""Net, input shape, and the largest share of weights that may be left when half of every family goes."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("nets")
    paths = {}
    for name, (build, shape, _) in CASES.items():
        torch.manual_seed(0)
        module = build().eval()
        paths[name] = folder / f"{name}.onnx"
        batch = {0: torch.export.Dim("batch")}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own
            program = torch.onnx.export(
                module,
                (torch.randn(shape),),
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=18,
                dynamic_shapes=(batch,),
            )
            program.save(paths[name])
    return paths


def load(path: Path) -> ir.Model:
    model = graph.load(path)
    settle(model)
    return model


@pytest.mark.parametrize("name", CASES)
def test_removed_equals_masked(name: str, exported: dict[str, Path]) -> None:
    model = load(exported[name])
    short = check(model)
    assert numbers(short) <= CASES[name][2] * numbers(model)


def test_residual_width_behind_layer_norm_is_soft(exported: dict[str, Path]) -> None:
    model = load(exported["vit"])
    families = {family.name: family for family in dependency.analyse(model).families}
    residual = families["patch.weight"]
    assert residual.soft
    assert "LayerNormalization" in residual.reason
    assert sorted((f.kind, f.units) for f in families.values() if not f.soft) == [
        ("head", 4), ("head", 4), ("linear", 40), ("linear", 40)
    ]  # fmt: skip
    short = check(model, soft=True)
    assert numbers(short) <= 0.33 * numbers(model)
