"""What chooses the best epoch: the recipe's metric on the validation data."""

import numpy as np
import onnx_ir as ir

from mlcompress.data.dataset import Dataset
from mlcompress.recipe.sections import Evaluate
from mlcompress.train import metrics
from mlcompress.train.executor import Executor
from mlcompress.train.logits import find_output
from mlcompress.train.teacher import Teacher


class Judge:
    """The recipe's metric of an executor on the validation data.

    Where that compares with the teacher, its answers are computed once and kept in float32: a metric is not
    to depend on how they are rounded, and float16 would refuse scores beyond 65504.
    """

    def __init__(self, teacher: ir.Model, data: Dataset, evaluate: Evaluate, threads: int) -> None:
        """Raises DataError when the metric needs labels that the data does not have."""
        self._data = data
        self._evaluate = evaluate
        self._output = str(find_output(teacher, evaluate.output, "evaluate.output").name)
        self._teacher = None
        metrics.check(evaluate.metric, data)
        if metrics.needs_teacher(evaluate.metric, data):
            self._teacher = Teacher(teacher, [self._output], threads=threads)
            self._teacher.cache(data, None, dtype=np.dtype(np.float32))

    def __call__(self, executor: Executor) -> float:
        return metrics.score(executor, self._data, self._evaluate, self._output, self._teacher)
