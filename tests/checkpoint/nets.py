"""Small modules and the factories that build them, named in recipes as `tests.checkpoint.nets:build`."""

from dataclasses import dataclass

import torch
from torch import nn


class Cnn(nn.Module):
    """image [batch, 1, 8, 8] -> logits [batch, classes]; two convolutions with batch normalisation."""

    def __init__(self, classes: int = 4, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(width, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(image)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.fc(self.drop(x.mean((2, 3))))


class Tied(nn.Module):
    """ids [batch, length] -> scores [batch, length, words]; the output layer is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.embedding(ids)))


@dataclass
class Answer:
    """What `Two` returns beside a dictionary."""

    score: torch.Tensor
    nothing: None


class Two(nn.Module):
    """ids, mask [batch, length] of one type -> pooled [batch, 4], a score, and one of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.fc = nn.Linear(4, 1)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, object]:
        weights = mask[..., None].float()
        pooled = (self.embedding(ids) * weights).sum(1) / (1 + weights.sum(1))
        return {"pooled": pooled, "rest": (Answer(self.fc(pooled), None), [mask])}


def seasoned(module: nn.Module, seed: int = 1) -> nn.Module:
    """The module with numbers that are no defaults, running statistics included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + (0.5 if "var" in name else -0.5))
    return module.eval()


def build(**kwargs: int) -> nn.Module:
    return Cnn(**kwargs)


def tied() -> nn.Module:
    return Tied()


def half() -> nn.Module:
    return Cnn().half()


def lazy() -> nn.Module:
    return nn.LazyLinear(3)


def no_module() -> int:
    return 3


def fails() -> nn.Module:
    raise ValueError("several\nlines")


def leaves() -> nn.Module:
    raise SystemExit(0)
