"""What losses train for themselves: adapters by shape, projections, and the memory of `crd` against loops."""

import numpy as np
import pytest
import torch
from torch import Tensor

from mlcompress.train import losses as module
from mlcompress.train.adapters import Adapter, Heads
from mlcompress.train.memory import MemoryBank

# float64 on both sides: only the order of sums differs
CLOSE = 1e-6


def made(student: tuple[int, ...], teacher: tuple[int, ...]) -> Adapter:
    return Adapter(torch.zeros(student), torch.zeros(teacher), torch.Generator().manual_seed(0), "here")


def test_adapters_follow_the_shapes() -> None:
    for student, teacher, kind in (
        ((2, 3, 8, 8), (2, 5, 4, 4), torch.nn.Conv2d),
        ((2, 3, 4, 4), (2, 5, 8, 6), torch.nn.Conv2d),
        ((2, 3), (2, 5), torch.nn.Linear),
        ((2, 7, 3), (2, 7, 5), torch.nn.Linear),
        ((2, 3, 8, 8), (2, 3, 4, 4), torch.nn.Identity),
    ):
        adapter = made(student, teacher)
        one, other = adapter(torch.ones(student), torch.ones(teacher))
        assert isinstance(adapter.layer, kind)
        assert one.shape == other.shape
        assert other.shape[2:] == tuple(map(min, student[2:], teacher[2:])) or len(student) == 3


def test_adapters_are_seeded() -> None:
    one, same = made((2, 3), (2, 5)), made((2, 3), (2, 5))
    assert torch.equal(one.layer.weight, same.layer.weight)
    assert one.layer.weight.abs().max() <= 3**-0.5


def test_heads_average_tokens_that_are_no_padding() -> None:
    heads = Heads(torch.zeros(2, 3, 4), torch.zeros(2, 3, 6), 8, torch.Generator().manual_seed(0))
    tokens, mask = torch.randn(2, 3, 4), torch.tensor([[True, True, False], [True, False, False]])
    got, _ = heads(tokens, torch.zeros(2, 3, 6), mask)
    means = torch.stack([tokens[0, :2].mean(0), tokens[1, 0]])
    torch.testing.assert_close(got, heads.student(means))


# ---------------------------------------------------------------- crd


def bank(samples: int = 9, dim: int = 4) -> MemoryBank:
    return MemoryBank(samples, dim, torch.Generator().manual_seed(0)).double()


def test_crd_is_the_estimate_of_its_paper() -> None:
    generator = torch.Generator().manual_seed(1)
    memory, ids, m, n, tau = bank(), torch.tensor([2, 7, 0]), 5, 9, 0.5
    student, teacher = (torch.randn(3, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    remembered = memory.teacher.numpy().copy(), memory.student.numpy().copy()
    torch.manual_seed(5)
    drawn = torch.randint(n - 1, (3, m))
    chosen = torch.cat([ids[:, None], drawn + (drawn >= ids[:, None])], 1).numpy()
    assert all(row[0] not in row[1:] for row in chosen)
    expected = 0.0
    for present, kept in zip((student, teacher), remembered, strict=True):
        unit = [x / np.linalg.norm(x) for x in present.numpy()]
        u = np.array([[np.exp(kept[c] @ x / tau) for c in row] for x, row in zip(unit, chosen, strict=True)])
        u = u / (u.mean() * n)
        for row in u:
            expected -= np.log(row[0] / (row[0] + m / n)) / 3
            expected -= sum(np.log(m / n / (one + m / n)) for one in row[1:]) / 3
    torch.manual_seed(5)
    got = module.crd(student, teacher, memory, ids, temperature=tau, negatives=m, momentum=0.5)
    assert float(got) == pytest.approx(expected, rel=CLOSE)
    moved = 0.5 * remembered[1][2] + 0.5 * student[0].numpy() / np.linalg.norm(student[0])
    np.testing.assert_allclose(memory.student[2], moved / np.linalg.norm(moved), rtol=CLOSE)
    np.testing.assert_array_equal(memory.student[1], remembered[1][1])  # not in the batch


def test_crd_gradients_are_finite_differences() -> None:
    ids, drawn = torch.tensor([2, 7, 0]), torch.tensor([[1, 3], [0, 2], [4, 8]])
    memory = bank()
    memory.scale.fill_(9.0)

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        sides = memory.scores(student, teacher, ids, temperature=0.5, negatives=2, drawn=drawn)
        return sum(side.log().sum() + side.sum() for side in sides)

    both = tuple(torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(loss, both)


def test_crd_keeps_the_scale_of_its_first_batch_and_can_be_followed_by_a_backward_pass() -> None:
    memory, ids = bank(), torch.tensor([0, 1])
    student = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    value = module.crd(student, student.detach() + 1, memory, ids, negatives=8)
    first = memory.scale.clone()
    module.crd(student, student.detach(), memory, ids, negatives=8)
    torch.testing.assert_close(memory.scale, first)
    value.backward()  # the memory has moved on in between
    assert student.grad.abs().sum() > 0
