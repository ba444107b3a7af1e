"""Running statistics of BatchNormalization after its inputs changed (channels cut, weights replaced)."""

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from mlcompress.data.dataset import Dataset
from mlcompress.train.batches import to_torch
from mlcompress.train.executor import Executor


@torch.no_grad()
def reestimate_bn(model: ir.Model, data: Dataset, *, batch_size: int = 128, samples: int = 2048) -> int:
    """Set the statistics of every BatchNormalization to averages over batches; returns how many were set.

    Each batch is run in train mode, so that a layer sees what its normalised predecessors will send. The mean
    is the mean of batch means, the variance the mean of unbiased batch variances, as in
    torch.optim.swa_utils.update_bn. The first `samples` samples are used. Weights are not changed.

    Raises:
        UnsupportedError: the graph has ops that the executor does not know.
    """
    layers = [node for node in model.graph if node.op_type == "BatchNormalization"]
    if not layers or len(data) == 0:
        return 0
    executor = Executor(model).train()
    entering = {str(node.inputs[0].name) for node in layers if node.inputs[0] is not None}
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    count = 0
    part = data.subset(np.arange(min(samples, len(data))))
    for batch in part.batches(batch_size, drop_last=len(part) >= batch_size):
        values = executor(to_torch(batch).inputs, entering)
        count += 1
        for name in entering:
            axes = [axis for axis in range(values[name].ndim) if axis != 1]
            variance, mean = torch.var_mean(values[name].double(), dim=axes)
            old = sums.get(name, (torch.zeros_like(mean), torch.zeros_like(variance)))
            sums[name] = old[0] + mean, old[1] + variance
    for node in layers:
        first = node.inputs[0]
        if first is not None:
            mean, variance = sums[str(first.name)]
            _set(node.inputs[3], mean / count)
            _set(node.inputs[4], variance / count)
    return len(layers)


def _set(value: ir.Value | None, tensor: Tensor) -> None:
    if value is not None and value.const_value is not None:
        old = value.const_value
        value.const_value = ir.Tensor(tensor.numpy().astype(old.numpy().dtype), name=old.name)
