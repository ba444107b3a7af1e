"""The embeddings that `crd` remembers of every training sample."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class MemoryBank(nn.Module):
    """One unit vector [dim] of student and teacher for each of N samples; part of the training state."""

    student: Tensor
    teacher: Tensor
    scale: Tensor

    def __init__(self, samples: int, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.samples = samples
        for name in ("student", "teacher"):
            first = torch.randn(samples, dim, generator=generator)
            self.register_buffer(name, functional.normalize(first, dim=1))
        self.register_buffer("scale", torch.zeros(2))  # Z of both sides; 0: the first batch sets it

    def scores(
        self,
        student: Tensor,
        teacher: Tensor,
        ids: Tensor,
        *,
        temperature: float,
        negatives: int,
        drawn: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """exp(cos / T) / Z [B, 1 + negatives] of the student against remembered teacher embeddings, and of
        the teacher against the student's; the sample's own first.

        `drawn` int64 [B, negatives]: the other samples; by default uniform, with torch's generator.
        """
        if drawn is None:
            drawn = torch.randint(self.samples - 1, (len(ids), negatives), device=ids.device)
            drawn = drawn + (drawn >= ids[:, None]).long()  # never the sample itself
        chosen = torch.cat([ids[:, None], drawn], dim=1)
        sides = [
            (present @ remembered.to(present.dtype).T / temperature).gather(1, chosen).exp()
            for present, remembered in ((student, self.teacher), (teacher, self.student))
        ]
        with torch.no_grad():
            first = torch.stack([side.mean() for side in sides]).to(self.scale) * self.samples
            self.scale = torch.where(self.scale > 0, self.scale, first)
        return sides[0] / self.scale[0], sides[1] / self.scale[1]

    @torch.no_grad()
    def remember(self, student: Tensor, teacher: Tensor, ids: Tensor, *, momentum: float) -> None:
        """Move what is remembered of `ids` towards the present embeddings, and back to length 1."""
        # not in place: the gradients of `scores` are still to be taken
        self.student = self.student.index_copy(0, ids, _moved(self.student[ids], student, momentum))
        self.teacher = self.teacher.index_copy(0, ids, _moved(self.teacher[ids], teacher, momentum))


def _moved(remembered: Tensor, present: Tensor, momentum: float) -> Tensor:
    return functional.normalize(momentum * remembered + (1 - momentum) * present.to(remembered), dim=1)
