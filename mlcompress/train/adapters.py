"""What brings student features to the shape of the teacher's: trained with the student, never exported."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlcompress.errors import ModelError


class Adapter(nn.Module):
    """Student and teacher features at one shape; the student's go through a trained layer if widths differ.

    [B, C, *size]: larger maps are averaged to the smaller size, then a 1x1 convolution from C to C' channels.
    [B, N] and [B, T, D]: a linear layer on the last axis; T must be equal.
    """

    def __init__(self, student: Tensor, teacher: Tensor, generator: torch.Generator, where: str) -> None:
        """Chosen from the shapes of one batch. Raises ModelError where no layer joins them."""
        super().__init__()
        self.layer: nn.Module = nn.Identity()
        check_ranks(student, teacher, where)
        if student.ndim == 3 and student.shape[1] != teacher.shape[1]:
            raise ModelError(
                f"{where}: sequences of {shapes(student, teacher)} differ in length; name others"
            )
        axis = 1 if student.ndim > 3 else -1
        given, wanted = student.shape[axis], teacher.shape[axis]
        if given != wanted:
            self.layer = _pointwise(student.ndim, given, wanted)
            _initialise(self.layer, generator)

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """(adapted student, teacher), of equal shape."""
        if student.ndim > 3:
            student, teacher = pooled(student, teacher)
        return self.layer(student), teacher


class Heads(nn.Module):
    """Linear projections of student and teacher features to [B, dim], both trained.

    [B, C, *size] is averaged over its positions, [B, T, D] over its tokens (those of the mask).
    """

    def __init__(self, student: Tensor, teacher: Tensor, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        widths = (vector(features, None).shape[1] for features in (student, teacher))
        self.student, self.teacher = (nn.Linear(width, dim) for width in widths)
        for layer in (self.student, self.teacher):
            _initialise(layer, generator)

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """(student, teacher) embeddings, float32 [B, dim]."""
        return self.student(vector(student, mask)), self.teacher(vector(teacher, mask))


class ShallowHead(nn.Module):
    """A classifier on features inside a graph: layer, Relu, mean over positions, linear to `width`, classes.

    The layer: [B, C, *size] a 3x3 convolution of stride 2 to `dim` channels, [B, N] and [B, T, D] a linear
    one. Without `width` the classes are read from the mean.
    """

    def __init__(
        self, features: Tensor, classes: int, generator: torch.Generator, *, dim: int, width: int | None
    ) -> None:
        super().__init__()
        given = features.shape[1 if features.ndim > 3 else -1]
        kinds = {4: nn.Conv2d, 5: nn.Conv3d}
        kind = kinds.get(features.ndim)
        self.layer = nn.Linear(given, dim) if kind is None else kind(given, dim, 3, stride=2, padding=1)
        self.adapter = nn.Identity() if width is None else nn.Linear(dim, width)
        self.classifier = nn.Linear(width or dim, classes)
        for layer in (self.layer, self.adapter, self.classifier):
            _initialise(layer, generator)

    def forward(self, features: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """(class logits [B, classes], features [B, width or dim])."""
        found = self.adapter(vector(self.layer(features).relu(), mask))
        return self.classifier(found), found


def pooled(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """[B, C, *size] and [B, C', *size'], both averaged to the smaller length of each axis."""
    sizes = [min(one, other) for one, other in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    return _to_size(student, sizes), _to_size(teacher, sizes)


def check_ranks(student: Tensor, teacher: Tensor, where: str) -> None:
    """Raise ModelError unless both have one rank, of 2 to 5."""
    if student.ndim != teacher.ndim or not 2 <= student.ndim <= 5:
        raise ModelError(
            f"{where}: no adapter joins {shapes(student, teacher)}; name tensors of one rank, [batch, ...]"
        )


def shapes(student: Tensor, teacher: Tensor) -> str:
    """`student [2, 4] and teacher [2, 8]`."""
    return f"student {list(student.shape)} and teacher {list(teacher.shape)}"


def _to_size(features: Tensor, sizes: list[int]) -> Tensor:
    if list(features.shape[2:]) == sizes:
        return features
    if len(sizes) == 2:
        return functional.adaptive_avg_pool2d(features, (sizes[0], sizes[1]))
    return functional.adaptive_avg_pool3d(features, (sizes[0], sizes[1], sizes[2]))


def vector(features: Tensor, mask: Tensor | None) -> Tensor:
    """[B, N]: the mean over positions of [B, C, *size], over tokens (those of the mask) of [B, T, D]."""
    if features.ndim > 3:
        return features.flatten(2).mean(2)
    if features.ndim < 3:
        return features
    if mask is None:
        return features.mean(1)
    kept = mask[:, :, None].to(features)
    return (features * kept).sum(1) / kept.sum(1).clamp(min=1)


def _pointwise(rank: int, given: int, wanted: int) -> nn.Module:
    if rank <= 3:
        return nn.Linear(given, wanted)
    kinds = {4: nn.Conv2d, 5: nn.Conv3d}
    return kinds[rank](given, wanted, 1)


def _initialise(layer: nn.Module, generator: torch.Generator) -> None:
    """Uniform within 1 / sqrt(fan in), as torch does, from `generator`."""
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.ndim > 1:
                bound = 1 / math.sqrt(parameter[0].numel())
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
