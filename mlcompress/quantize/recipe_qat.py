"""`quantize.qat`: how a graph is trained with the rounding that it will be deployed with."""

from typing import Literal, get_args

from pydantic import Field

from mlcompress.recipe.finetune import Finetune

Trainable = Literal["int8", "int4", "int2", "ternary", "binary"]
TRAINABLE: tuple[str, ...] = get_args(Trainable)
"""Weight schemes that training knows; the others are for finished weights."""


class Qat(Finetune):
    """Train, with `train` settings, to answer as the float model does, rounded as the deployed graph is."""

    ranges: Literal["learned", "moving"] = Field(
        "learned",
        description="learned: steps of weights and activations are trained (LSQ). moving: ranges of "
        "activations follow the batches until the last fifth of training, steps of weights follow mean|w|",
    )
    progressive: list[Trainable] = Field(
        [],
        description="schemes to train in turn, the last being weights.scheme: [int8, int4]; train.epochs are "
        "shared out among them",
    )

    def problems(self, scheme: str) -> list[str]:
        """What does not go together with the scheme of the weights."""
        found = []
        if scheme not in TRAINABLE:
            found.append(
                f"weights.scheme {scheme} does not go with mode qat, which trains {', '.join(TRAINABLE)}; "
                "use `mode: static`"
            )
        elif self.progressive and self.progressive[-1] != scheme:
            found.append(f"qat.progressive ends with {self.progressive[-1]}, weights.scheme is {scheme}")
        if len(set(self.progressive)) < len(self.progressive):
            found.append("qat.progressive names a scheme twice")
        return found
