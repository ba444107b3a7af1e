"""Windows and Fourier transforms. Complex numbers are a last axis of length 2."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mlcompress.train.ops.node import DEVICE, Node, Refusal, Run, dtype, op

WINDOWS = {
    "HannWindow": (0.5, -0.5),
    "HammingWindow": (25 / 46, -21 / 46),
    "BlackmanWindow": (0.42, -0.5, 0.08),
}
"""Factors of cos(0), cos(2 pi n / N), cos(4 pi n / N)."""


def _window(name: str, factors: tuple[float, ...]) -> None:
    @op(name, "size", host="size", reserved=(DEVICE,))
    def build(node: Node, *, output_datatype: int = 1, periodic: int = 1) -> Run:
        """Sum of cosines over `size` steps; N is the size, or one less when not periodic."""
        wanted = dtype(output_datatype, "output_datatype")

        def run(device: torch.device, size: Any) -> Tensor:
            count = size[0] if isinstance(size, list) else size
            step = torch.arange(count, dtype=torch.float64, device=device)
            angle = step * (2 * torch.pi / max(count if periodic else count - 1, 1))
            parts = [factor * torch.cos(index * angle) for index, factor in enumerate(factors)]
            return torch.stack(parts).sum(0).to(wanted)

        return run


for _name, _factors in WINDOWS.items():
    _window(_name, _factors)


def _complex(x: Tensor) -> Tensor:
    x = x.to(torch.promote_types(x.dtype, torch.float32))  # no transforms of half precision on CPUs
    return torch.view_as_complex(x.contiguous()) if x.shape[-1] == 2 else x[..., 0]


@op("DFT", "input dft_length axis", host="dft_length axis")
def fourier(node: Node, *, axis: int | None = None, inverse: int = 0, onesided: int = 0) -> Run:
    """Along `axis` (an attribute before opset 20), cut or padded to `dft_length`; `onesided` gives the first
    half, or takes it when inverse.
    """
    if inverse and not onesided:
        raise Refusal("attribute inverse=1 without onesided")
    default = 1 if node.opset < 20 else -2
    if axis is not None:
        default = axis

    def run(x: Tensor, length: Any = None, given: Any = None) -> Tensor:
        place = default if given is None else given[0] if isinstance(given, list) else given
        dim = place if place >= 0 else place + x.dim()
        count = length[0] if isinstance(length, list) else length
        if onesided and inverse:
            size = count or 2 * (x.shape[dim] - 1)
            numbers: Tensor = torch.fft.irfft(_complex(x), size, dim)
            return numbers.unsqueeze(-1).to(x.dtype)
        if onesided:
            return torch.view_as_real(torch.fft.rfft(_complex(x[..., :1]), count, dim)).to(x.dtype)
        return torch.view_as_real(torch.fft.fft(_complex(x), count, dim)).to(x.dtype)

    return run


@op("STFT", "signal frame_step window frame_length", host="frame_step frame_length")
def short_time_fourier(node: Node, *, onesided: int = 1) -> Run:
    """[batch, length, 1 or 2] -> [batch, frames, bins, 2]"""
    if not node.has(2) and not node.has(3):
        raise Refusal("inputs window and frame_length are both missing, which")

    def run(x: Tensor, step: Any, window: Tensor | None = None, length: Any = None) -> Tensor:
        hop = step[0] if isinstance(step, list) else step
        size = window.shape[0] if length is None and window is not None else length
        size = size[0] if isinstance(size, list) else size
        frames = _complex(x).unfold(1, size, hop)
        if window is not None:
            frames = frames * F.pad(window, (0, size - window.shape[0]))
        if onesided and not frames.is_complex():
            return torch.view_as_real(torch.fft.rfft(frames)).to(x.dtype)
        bins = torch.view_as_real(torch.fft.fft(frames)).to(x.dtype)
        return bins[..., : size // 2 + 1, :] if onesided else bins

    return run
