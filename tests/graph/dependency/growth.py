"""A graph that grows node by node, as ONNX text."""

import numpy as np

Image = tuple[str, int, int]
"""Name, channels, side of a value [N, C, side, side]."""


class Growth:
    """A graph that grows node by node; `images` are the values that can be read next."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.lines: list[str] = []
        self.weights: dict[str, tuple[int, ...]] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.images: list[Image] = [("x", 3, 6)]
        self.count = 0

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def weight(self, *shape: int) -> str:
        name = self.name("w")
        self.weights[name] = shape
        return name

    def ints(self, *numbers: int) -> str:
        name = self.name("i")
        self.constants[name] = np.array(numbers, dtype=np.int64)
        return name

    def number_constant(self, number: float) -> str:
        name = self.name("c")
        self.constants[name] = np.array(number, dtype=np.float32)
        return name

    def add(self, op: str, channels: int, side: int, *inputs: str) -> None:
        out = self.name("v")
        self.lines.append(f"{out} = {op}({', '.join(inputs)})")
        self.images.append((out, channels, side))

    def pick(self) -> Image:
        """A value that has been computed, rather a late one."""
        late = min(int(self.rng.geometric(0.4)), len(self.images))
        return self.images[-late]

    def number(self, *choices: int) -> int:
        return int(self.rng.choice(choices))
