"""What a least-squares fit of a layer is told: second moments of its inputs and outputs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from mlcompress.data.padding import SEQUENCE, real
from mlcompress.errors import DataError
from mlcompress.graph.session import ORT_ERRORS, reason
from mlcompress.measure.tapped import tapped_session


def counting(values: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The positions that count, [1, M, C], where `mask` [N, T] fits; else `values`."""
    if values.ndim > SEQUENCE:
        return values
    kept = real(values, mask)
    return np.concatenate(kept, axis=1) if kept else values.reshape(1, -1, values.shape[-1])[:, :0]


RIDGE = 1e-3
"""Of the mean second moment: what the samples do not tell stays as it was."""


class Moments:
    """Sums over positions of x, y, x x' and y x'."""

    def __init__(self, outputs: int, inputs: int) -> None:
        self.count = 0
        self.x, self.y = np.zeros(inputs), np.zeros(outputs)
        self.xx, self.yx = np.zeros((inputs, inputs)), np.zeros((outputs, inputs))

    def update(self, x: np.ndarray, y: np.ndarray) -> None:
        """`x`: [K, M], `y`: [N, M]."""
        x, y = x.astype(np.float64), y.astype(np.float64)
        self.count += x.shape[1]
        self.x, self.y = self.x + x.sum(axis=1), self.y + y.sum(axis=1)
        self.xx, self.yx = self.xx + x @ x.T, self.yx + y @ x.T

    def follow(self, rows: np.ndarray, shift: np.ndarray) -> None:
        """Let y be W x + b, for moments that were told nothing of y; `rows`: W [N, K], `shift`: b [N]."""
        self.y = rows @ self.x + self.count * shift
        self.yx = rows @ self.xx + np.outer(shift, self.x)

    def part(self, outputs: Any, inputs: Any) -> "Moments":
        """Those of some outputs and some inputs."""
        found = Moments(0, 0)
        found.count, found.x, found.y = self.count, self.x[inputs], self.y[outputs]
        found.xx, found.yx = self.xx[inputs][:, inputs], self.yx[outputs][:, inputs]
        return found

    def solve(
        self, start: np.ndarray, shift: np.ndarray, *, fit_bias: bool, ridge: float = RIDGE
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows [N, K] and biases [N], which are the `shift` where they are not fitted."""
        xx, yx = self.xx / self.count, self.yx / self.count
        x, y = self.x / self.count, self.y / self.count
        if fit_bias:
            xx, yx = xx - np.outer(x, x), yx - np.outer(y, x)
        else:
            yx = yx - np.outer(shift, x)
        size = float(np.mean(np.diag(xx)))
        damped = xx + (ridge * size if size > 0 else 1.0) * np.eye(len(xx))
        rows = start + np.linalg.solve(damped, (yx - start @ xx).T).T
        return rows, y - rows @ x if fit_bias else shift

    def misfit(self, rows: np.ndarray, shift: np.ndarray) -> float:
        """Sum of |W x + b - y|^2, less that of |y|^2."""
        squares = np.sum((rows @ self.xx) * rows) + self.count * np.sum(shift**2)
        return float(squares + 2 * shift @ (rows @ self.x - self.y) - 2 * np.sum(rows * self.yx))

    def __add__(self, other: "Moments") -> "Moments":
        """Those of both sets of positions."""
        total = Moments(0, 0)
        total.count = self.count + other.count
        total.x, total.y = self.x + other.x, self.y + other.y
        total.xx, total.yx = self.xx + other.xx, self.yx + other.yx
        return total


class Tap:
    """Values of a model, by name, for a batch of inputs. Raises DataError where the model cannot be run on
    them, or a value is not finite."""

    def __init__(self, model: ir.Model, values: Sequence[ir.Value | None], data: str) -> None:
        """`data` names the samples in messages."""
        computed = [value for value in values if value is not None and not value.is_graph_input()]
        self._names = list(dict.fromkeys(str(value.name) for value in computed))
        self._data = data
        self._session = tapped_session(model, self._names) if self._names else None

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        found = {} if self._session is None else self._run(self._session, inputs)
        for name, values in found.items():
            if not np.isfinite(values).all():
                raise DataError(f"{self._data}: tensor {name!r} holds NaN or infinity; check the transforms")
        return {**inputs, **found}

    def _run(self, session: ort.InferenceSession, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        taken = {one.name for one in session.get_inputs()}
        try:
            found = session.run(self._names, {k: v for k, v in inputs.items() if k in taken})
        except ORT_ERRORS as error:
            raise DataError(
                f"{self._data}: the model cannot be run on these samples: {reason(error)}"
            ) from error
        return dict(zip(self._names, found, strict=True))
