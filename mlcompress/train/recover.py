"""Train one graph with another as its teacher: distillation, and recovery after a graph was compressed."""

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import onnx_ir as ir
from torch import nn

from mlcompress import console, graph
from mlcompress.context import Context
from mlcompress.data.dataset import Dataset
from mlcompress.metrics import HIGHER_IS_BETTER, LABELLED
from mlcompress.recipe.finetune import Finetune
from mlcompress.recipe.sections import Evaluate
from mlcompress.recipe.train import TrainSection
from mlcompress.train.device import first_process_first
from mlcompress.train.ensemble import Ensemble, Running
from mlcompress.train.executor import Executor
from mlcompress.train.judge import Judge
from mlcompress.train.lesson import begin, training_data
from mlcompress.train.logits import find_output, has_logits
from mlcompress.train.loop import Loss, fit
from mlcompress.train.losses import LossEntry, entry
from mlcompress.train.objective import Objective
from mlcompress.train.selection import History
from mlcompress.train.teacher import Teacher

LARGEST_CACHE = 1e9
"""Bytes of teacher values that are kept without being asked for; features take more than logits."""
_REGRESSION = {"mse", "cosine", "snr"}


def recover(
    model: ir.Model,
    teacher: ir.Model,
    settings: TrainSection,
    context: Context,
    *,
    epochs: int,
    label: str,
    evaluate: Evaluate | None = None,
    losses: Sequence[LossEntry] | None = None,
    after_step: Callable[[], None] | None = None,
    frozen: Collection[str] = (),
    executor: Executor | None = None,
    penalty: nn.Module | None = None,
    facts: str = "",
) -> History:
    """Fine-tune `model` in place towards `teacher`, usually its own original.

    On the validation data the result is never worse than `model` was: its first weights compete.

    Args:
        epochs: passes over `context.train`.
        label: names progress bar and state file; distinct within the run (one per pruning step).
        evaluate: the recipe's metric, on `context.validation`, chooses the best epoch; without validation
            data the last is kept.
        losses: default: 0.9 soft (T 4) + 0.1 hard; without labels soft only; mse for regression metrics.
        after_step: re-applies masks to `executor.trainable`.
        executor: of `model`, where the caller needs it for `after_step`; made here by default.
        penalty: without arguments it gives what is added to the loss of every batch; its buffers are part of
            the state. The last weights are kept then, because the first would win, and there is no
            `early_stop`.
        facts: whatever else the course of training depends on; a state of other facts is not resumed.

    Raises:
        DataError: no training data. UnsupportedError, UserError: as `fit`.
    """
    section = evaluate or Evaluate()
    data = training_data(context)
    chosen = losses if losses is not None else default_losses(teacher, data, section)
    return learn(
        model,
        teacher,
        settings,
        context,
        losses=chosen,
        evaluate=section,
        epochs=epochs,
        label=label,
        where="finetune",
        keep_initial=penalty is None,
        after_step=after_step,
        frozen=frozen,
        executor=executor,
        penalty=penalty,
        facts=facts,
    ).history


@dataclass(frozen=True)
class Learnt:
    """What `learn` did, for the card."""

    history: History
    is_cached: bool
    """Whether the teacher's values were read from a cache."""
    is_read: bool
    """Whether an earlier run had written that cache."""
    online: str
    """Why a teacher that was asked ran on every batch; "" where it did not."""
    skipped: list[dict[str, str]]
    warnings: list[str]


def learn(
    student: ir.Model,
    teacher: ir.Model,
    settings: TrainSection,
    context: Context,
    *,
    losses: Sequence[LossEntry],
    evaluate: Evaluate,
    epochs: int,
    label: str,
    where: str,
    cache: bool | str = True,
    keep_initial: bool = False,
    after_step: Callable[[], None] | None = None,
    frozen: Collection[str] = (),
    executor: Executor | None = None,
    penalty: nn.Module | None = None,
    facts: str = "",
    ensemble: Ensemble | None = None,
) -> Learnt:
    """Train `student` in place on `context.train` by `losses`, and check that `teacher` stayed as it was.

    `cache`: keep teacher values by sample id, in a folder, or with True in `context.state_dir` where they are
    at most `LARGEST_CACHE`. That needs inputs that never change: with `settings.augment` the teacher runs on
    every batch whatever `cache` says. `where` begins messages about losses. `ensemble`: all teachers, the
    first of which is `teacher`; by default it is the only one.

    Raises:
        UserError: a loss that cannot be computed on the first samples; nothing was trained.
    """
    data = training_data(context)
    if penalty is not None:
        settings = settings.model_copy(update={"early_stop": None})
    lesson = begin(
        student,
        teacher,
        settings,
        context,
        losses=losses,
        where=where,
        ensemble=ensemble,
        frozen=frozen,
        executor=executor,
    )
    trained, objective, online = lesson.executor, lesson.objective, lesson.online
    for note in objective.notes:
        console.say(note)
    validation = context.validation if context.validation is not None and len(context.validation) else None
    judge = None if validation is None else Judge(teacher, validation, evaluate, settings.threads)
    why, skipped = "", list[dict[str, str]]()
    if online is not None and settings.augment:
        why = "train.augment makes every sample new"
    elif online is not None and not cache:
        why = "`cache: false`"
    elif online is not None:
        limit = inf if isinstance(cache, str) else LARGEST_CACHE
        with first_process_first(settings):
            why = online.cache(data, _cache_folder(cache, context), limit=limit)
        skipped = [{"name": "teacher cache", "reason": why}] if why else []
    history = fit(
        trained,
        objective if penalty is None else _penalised(objective, penalty),
        data,
        settings,
        seed=context.seed,
        validate=None if judge is None or penalty is not None else lambda: judge(trained),
        higher_is_better=HIGHER_IS_BETTER[evaluate.metric],
        epochs=epochs,
        state_dir=context.state_dir,
        label=label,
        frozen={*frozen, *lesson.frozen},
        after_step=after_step,
        taps=objective.student_values,
        beside=objective.parts if penalty is None else nn.ModuleList([objective.parts, penalty]),
        before_epoch=lambda epoch: _start_epoch(epoch, objective, online),
        keep_initial=keep_initial,
        key=_key(teacher, losses, evaluate, validation, [facts, *(ensemble.facts() if ensemble else [])]),
    )
    if online is not None:
        online.check_unchanged()
    history.frozen = lesson.frozen
    trained.write_back()
    is_kept = online is not None and not why
    is_read = is_kept and online is not None and online.is_read
    return Learnt(history, is_kept, is_read, why, skipped, lesson.warnings)


def _start_epoch(epoch: int, objective: Objective, online: Teacher | Running | None) -> None:
    objective.start_epoch(epoch)
    if isinstance(online, Running):
        online.start_epoch(epoch)


def _penalised(objective: Objective, penalty: nn.Module) -> Loss:
    return lambda outputs, batch: objective(outputs, batch) + penalty()


def default_losses(
    teacher: ir.Model, data: Dataset, evaluate: Evaluate, *, soft: float = 0.9, temperature: float = 4.0
) -> list[LossEntry]:
    """`soft` of the teacher's classes and the rest of the labels; without labels the teacher alone.

    Outputs that hold no class logits, and regression metrics, get mse to the teacher on every float output.
    """
    judged = find_output(teacher, evaluate.output, "evaluate.output")
    if evaluate.metric in _REGRESSION or not has_logits(judged):
        if evaluate.metric in LABELLED and data.labels is not None:
            console.say(
                f"fine-tune: {judged.name} holds no class logits, so labels only choose the best epoch; "
                "the loss is mse to the original's outputs"
            )
        outputs = graph.signature(teacher).outputs
        return [entry("mse", output=tensor.name) for tensor in outputs if tensor.dtype.kind == "f"]
    if data.labels is None or data.labels.dtype.kind not in "iu":
        return [entry("soft", temperature=temperature, output=evaluate.output)]
    weighted = [("soft", soft, {"temperature": temperature}), ("hard", 1 - soft, {})]
    return [
        entry(name, weight=weight, output=evaluate.output, **options)
        for name, weight, options in weighted
        if weight > 0
    ]


def finetune_losses(
    finetune: Finetune, teacher: ir.Model, data: Dataset, evaluate: Evaluate
) -> list[LossEntry]:
    """The losses of a recipe's `finetune` or `qat` section."""
    if finetune.teacher == "none":
        return [entry("hard")]
    return default_losses(teacher, data, evaluate, soft=finetune.soft, temperature=finetune.temperature)


def _cache_folder(cache: bool | str, context: Context) -> Path | None:
    """Where teacher values are kept; None: in memory."""
    if isinstance(cache, str):
        return Path(cache)
    return None if context.state_dir is None else context.state_dir / "teacher"


def _key(
    teacher: ir.Model,
    losses: Sequence[LossEntry],
    evaluate: Evaluate,
    validation: Dataset | None,
    facts: list[str],
) -> str:
    """Hash of what the course of training depends on beside data, settings, seed and first weights.

    The validation data is part of it: it chose the best of the epochs that a state holds.
    """
    parts = [hashlib.sha256(graph.to_bytes(teacher)).hexdigest(), evaluate.model_dump_json()]
    parts += [one.model_dump_json() for one in losses]
    parts += ["" if validation is None else validation.fingerprint, *facts]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
