"""Every loss against loops that follow its publication, gradients against finite differences, and invariances."""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from mlcompress.train import losses as module
from mlcompress.train.losses import losses

Array = np.ndarray
RNG = np.random.default_rng(0)
# float64 on both sides: only the order of sums and the epsilons of the publications differ
CLOSE = 1e-6

STUDENT, TEACHER = RNG.normal(size=(6, 5)), 2 * RNG.normal(size=(6, 5))
TARGET = np.array([0, 4, 2, 2, 1, 3])
MAPS, LARGER = RNG.normal(size=(6, 3, 2, 2)), RNG.normal(size=(6, 5, 4, 4))
TOKENS, TAUGHT_TOKENS = RNG.normal(size=(6, 4, 3)), RNG.normal(size=(6, 4, 3))
MASK = np.arange(4) < np.array([4, 3, 2, 4, 1, 3])[:, None]


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


ATTENTION, TAUGHT_ATTENTION = (softmax(RNG.normal(size=(6, heads, 4, 4))) for heads in (2, 2))


def divergence(p: Array, q: Array) -> float:
    return sum(float(a * np.log(a / b)) for a, b in zip(p.ravel(), q.ravel(), strict=True) if a > 0)


def pearson(one: Array, other: Array) -> float:
    return float(np.corrcoef(one, other)[0, 1])


# ---------------------------------------------------------------- loops


def dkd(student: Array, teacher: Array, t: float, alpha: float, beta: float) -> float:
    total = 0.0
    for s, r, y in zip(student / t, teacher / t, TARGET, strict=True):
        p, q = softmax(r), softmax(s)
        others = [c for c in range(len(p)) if c != y]
        of_target = divergence(np.array([p[y], 1 - p[y]]), np.array([q[y], 1 - q[y]]))
        of_others = divergence(p[others] / p[others].sum(), q[others] / q[others].sum())
        total += alpha * of_target + beta * of_others
    return t * t * total / len(student)


def confident_soft(student: Array, teacher: Array, t: float, confidence: float) -> float:
    counted = [(s, r) for s, r in zip(student, teacher, strict=True) if softmax(r).max() >= confidence]
    return t * t * sum(divergence(softmax(r / t), softmax(s / t)) for s, r in counted) / len(student)


def pseudo(student: Array, teacher: Array, confidence: float) -> float:
    rows = zip(student, teacher, strict=True)
    counted = [-np.log(softmax(s)[r.argmax()]) for s, r in rows if softmax(r).max() >= confidence]
    return float(sum(counted)) / len(student)


def logit_std(student: Array, teacher: Array, t: float) -> float:
    total = 0.0
    for s, r in zip(student, teacher, strict=True):
        rows = [softmax((z - z.mean()) / z.std(ddof=1) / t) for z in (r, s)]
        total += divergence(*rows)
    return t * t * total / len(student)


def dist(student: Array, teacher: Array, t: float, beta: float, gamma: float) -> float:
    p, q = softmax(teacher / t), softmax(student / t)
    rows = np.mean([1 - pearson(a, b) for a, b in zip(p, q, strict=True)])
    columns = np.mean([1 - pearson(a, b) for a, b in zip(p.T, q.T, strict=True)])
    return t * t * (beta * rows + gamma * columns)


def attention(student: Array, teacher: Array) -> float:
    """`teacher` has maps twice as large."""
    total, count = 0.0, 0
    for s, r in zip(student, teacher, strict=True):
        small = np.stack([[[c[i : i + 2, j : j + 2].mean() for j in (0, 2)] for i in (0, 2)] for c in r])
        maps = [(x**2).mean(0).ravel() for x in (s, small)]
        maps = [x / np.sqrt((x**2).sum()) for x in maps]
        total += ((maps[0] - maps[1]) ** 2).sum()
        count += maps[0].size
    return total / count


def similarity(student: Array, teacher: Array) -> float:
    grams = []
    for x in (student.reshape(len(student), -1), teacher.reshape(len(teacher), -1)):
        gram = np.array([[a @ b for b in x] for a in x])
        grams.append(np.array([row / np.linalg.norm(row) for row in gram]))
    return float(((grams[0] - grams[1]) ** 2).sum() / len(student) ** 2)


def huber(difference: float) -> float:
    size = abs(difference)
    return 0.5 * size**2 if size < 1 else size - 0.5


def rkd(student: Array, teacher: Array, distance: float, angle: float) -> float:
    x, y = (z.reshape(len(z), -1) for z in (student, teacher))
    n = len(x)
    lengths = [np.array([[np.linalg.norm(a - b) for b in z] for a in z]) for z in (x, y)]
    lengths = [z / z[z > 0].mean() for z in lengths]
    pairs = sum(huber(a - b) for a, b in zip(lengths[0].ravel(), lengths[1].ravel(), strict=True)) / n**2
    triplets = 0.0
    for k, i, j in product(range(n), repeat=3):
        cosines = []
        for z in (x, y):
            a, b = z[i] - z[k], z[j] - z[k]
            norms = np.linalg.norm(a) * np.linalg.norm(b)
            cosines.append(a @ b / norms if norms else 0.0)
        triplets += huber(cosines[0] - cosines[1])
    return distance * pairs + angle * triplets / n**3


def pkt(student: Array, teacher: Array) -> float:
    tables = []
    for x in (student.reshape(len(student), -1), teacher.reshape(len(teacher), -1)):
        cosine = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in x] for a in x])
        tables.append(np.array([row / row.sum() for row in (1 + cosine) / 2]))
    s, t = tables
    return float(np.mean(t * np.log((t + 1e-7) / (s + 1e-7))))


def contrastive(student: Array, teacher: Array, tau: float) -> float:
    total = 0.0
    for i, s in enumerate(student):
        cosines = np.array([s @ t / np.linalg.norm(s) / np.linalg.norm(t) for t in teacher])
        total -= np.log(softmax(cosines / tau)[i])
    return total / len(student)


def hint(student: Array, teacher: Array, mask: Array | None) -> float:
    found = []
    for b, i in np.ndindex(student.shape[:2]):
        if mask is None or mask[b, i]:
            found += list((student[b, i] - teacher[b, i]).ravel() ** 2)
    return float(np.mean(found))


def self_attention(student: Array, teacher: Array, mask: Array | None, kind: str) -> float:
    found = []
    for b, h, i in np.ndindex(student.shape[:3]):
        keep = np.ones(student.shape[3], bool) if mask is None else mask[b]
        if not keep[i]:
            continue
        p, q = teacher[b, h, i][keep], student[b, h, i][keep]
        found += [divergence(p, q)] if kind == "kl" else list((p - q) ** 2)
    return float(np.mean(found))


def tensor(array: Array) -> Tensor:
    return torch.tensor(array)


SURE = float(np.median(softmax(TEACHER).max(1)))
"""Half of the samples reach it."""
CASES: dict[str, tuple[Callable[[Tensor], Tensor], Array, float]] = {
    "soft confident": (
        lambda s: module.soft(s, tensor(TEACHER), temperature=3.0, confidence=SURE),
        STUDENT,
        confident_soft(STUDENT, TEACHER, 3.0, SURE),
    ),
    "pseudo": (lambda s: module.pseudo(s, tensor(TEACHER)), STUDENT, pseudo(STUDENT, TEACHER, 0)),
    "pseudo confident": (
        lambda s: module.pseudo(s, tensor(TEACHER), confidence=SURE),
        STUDENT,
        pseudo(STUDENT, TEACHER, SURE),
    ),
    "dkd": (
        lambda s: module.dkd(s, tensor(TEACHER), tensor(TARGET), temperature=3.0, alpha=0.7, beta=2.5),
        STUDENT,
        dkd(STUDENT, TEACHER, 3.0, 0.7, 2.5),
    ),
    "logit_std": (
        lambda s: module.logit_std(s, tensor(TEACHER), temperature=2.0),
        STUDENT,
        logit_std(STUDENT, TEACHER, 2.0),
    ),
    "dist": (
        lambda s: module.dist(s, tensor(TEACHER), temperature=2.0, beta=0.5, gamma=2.0),
        STUDENT,
        dist(STUDENT, TEACHER, 2.0, 0.5, 2.0),
    ),
    "attention": (lambda s: module.attention(s, tensor(LARGER)), MAPS, attention(MAPS, LARGER)),
    "similarity": (lambda s: module.similarity(s, tensor(LARGER)), MAPS, similarity(MAPS, LARGER)),
    "rkd": (
        lambda s: module.rkd(s, tensor(LARGER), distance=3.0, angle=2.0),
        MAPS,
        rkd(MAPS, LARGER, 3.0, 2.0),
    ),
    "pkt": (lambda s: module.pkt(s, tensor(LARGER)), MAPS, pkt(MAPS, LARGER)),
    "contrastive": (
        lambda s: module.contrastive(s, tensor(TEACHER), temperature=0.2),
        STUDENT,
        contrastive(STUDENT, TEACHER, 0.2),
    ),
    "hint": (
        lambda s: module.hint(s, tensor(TAUGHT_TOKENS), None),
        TOKENS,
        hint(TOKENS, TAUGHT_TOKENS, None),
    ),
    "hint masked": (
        lambda s: module.hint(s, tensor(TAUGHT_TOKENS), tensor(MASK)),
        TOKENS,
        hint(TOKENS, TAUGHT_TOKENS, MASK),
    ),
    "simkd": (lambda s: module.simkd(s, tensor(TAUGHT_TOKENS)), TOKENS, hint(TOKENS, TAUGHT_TOKENS, None)),
    **{
        f"self_attention {kind} {'masked' if masked else ''}": (
            lambda s, kind=kind, masked=masked: module.self_attention(
                s, tensor(TAUGHT_ATTENTION), tensor(MASK) if masked else None, divergence=kind
            ),
            ATTENTION,
            self_attention(ATTENTION, TAUGHT_ATTENTION, MASK if masked else None, kind),
        )
        for kind, masked in product(("kl", "mse"), (False, True))
    },
}


@pytest.mark.parametrize("case", CASES)
def test_values_are_those_of_a_loop(case: str) -> None:
    function, student, expected = CASES[case]
    assert float(function(tensor(student))) == pytest.approx(expected, rel=CLOSE)
    assert expected > 1e-3  # a comparison of something


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_finite_differences(case: str) -> None:
    function, student, _ = CASES[case]
    assert torch.autograd.gradcheck(function, (tensor(student).requires_grad_(),))


def test_every_loss_has_a_case() -> None:
    elsewhere = {"hard", "mse", "cosine"}  # test_losses.py, and soft without `confidence`
    # crd: test_adapters.py; byot: test_shallow.py
    assert {case.split()[0] for case in CASES} | elsewhere | {"crd", "byot"} == set(losses)


# ---------------------------------------------------------------- what must hold


def test_the_divergence_is_target_plus_weighted_rest() -> None:
    """Per sample KL = TCKD + (1 - p_y) NCKD, the chain rule, at T = 1."""
    for s, t, y in zip(STUDENT, TEACHER, TARGET, strict=True):
        one = tensor(s)[None], tensor(t)[None]
        label = torch.tensor([y])
        of_target = module.dkd(*one, label, temperature=1.0, alpha=1.0, beta=0.0)
        of_others = module.dkd(*one, label, temperature=1.0, alpha=0.0, beta=1.0)
        whole = module.soft(*one, temperature=1.0)
        rest = 1 - softmax(t)[y]
        assert float(of_target + rest * of_others) == pytest.approx(float(whole), rel=1e-12)  # float64


def test_logit_std_is_blind_to_shift_and_scale() -> None:
    moved = 3 * tensor(STUDENT) - 7
    assert float(module.logit_std(moved, tensor(TEACHER))) == pytest.approx(
        float(module.logit_std(tensor(STUDENT), tensor(TEACHER))),
        rel=1e-5,  # the 1e-7 beside the deviation
    )
    assert float(module.soft(moved, tensor(TEACHER))) != pytest.approx(
        float(module.soft(tensor(STUDENT), tensor(TEACHER))), rel=0.1
    )


@pytest.mark.parametrize("name", ["similarity", "rkd", "pkt"])
def test_relations_are_blind_to_rotation(name: str) -> None:
    turn = torch.linalg.qr(
        torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    )[0]
    before = float(losses[name](tensor(STUDENT), tensor(TEACHER)))
    assert float(losses[name](tensor(STUDENT) @ turn, tensor(TEACHER))) == pytest.approx(before, rel=1e-9)
    stretched = tensor(STUDENT) * torch.tensor([1.0, 1, 1, 1, 5])
    assert float(losses[name](stretched, tensor(TEACHER))) != pytest.approx(before, rel=0.01)


@pytest.mark.parametrize("name", sorted(set(losses) - {"hard", "pseudo", "contrastive", "crd", "byot"}))
def test_a_student_equal_to_its_teacher_has_no_loss(name: str) -> None:
    x = tensor({"attention": MAPS, "self_attention": ATTENTION}.get(name, STUDENT))
    further = {"dkd": [tensor(TARGET)], "hint": [None], "self_attention": [None]}.get(name, [])
    assert float(losses[name](x, x.clone(), *further)) == pytest.approx(0.0, abs=1e-7)  # dist has an epsilon


@pytest.mark.parametrize("name", ["rkd", "similarity", "pkt"])
def test_equal_samples_have_a_gradient(name: str) -> None:
    """Dead units give equal or zero features; no NaN comes of them, in float32 too."""
    student = torch.zeros(5, 3)
    student[2:] = torch.tensor([[1.0, 2, 3], [1, 2, 3], [0, 1, 0]])
    student.requires_grad_()
    losses[name](student, torch.randn(5, 7, generator=torch.Generator().manual_seed(0))).backward()
    assert student.grad.isfinite().all()


def test_float32_is_close_to_float64() -> None:
    """Inner products instead of differences lose little where samples lie far from the origin."""
    student, teacher = tensor(STUDENT) + 50, tensor(TEACHER) - 30
    exact = float(module.rkd(student, teacher))
    assert float(module.rkd(student.float(), teacher.float())) == pytest.approx(exact, rel=1e-4)


def test_default_weights_are_the_published_ones_and_said() -> None:
    published = {"logit_std": 9, "hint": 100, "attention": 1000, "similarity": 3000, "pkt": 30000, "crd": 0.8}
    required = {"hint": {"teacher": "t"}, "simkd": {"teacher": "t"}, "byot": {"heads": ["t"]}}
    for name in losses:
        assert module.entry(name, **required.get(name, {})).weight == published.get(name, 1.0)
        assert (f"weight {published.get(name)} by default" in losses.summary(name)) == (name in published)
