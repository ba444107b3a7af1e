"""Attention and rotary position embedding."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mlcompress.train.ops.node import HALF, Node, Refusal, Run, dtype, op


def _heads(x: Tensor, count: int | None) -> Tensor:
    """[batch, length, heads * width] -> [batch, heads, length, width]; of rank 4 it is that already."""
    if x.dim() == 4:
        return x
    if count is None:
        raise RuntimeError("inputs of rank 3 need the attributes q_num_heads and kv_num_heads")
    return x.reshape(x.shape[0], x.shape[1], count, -1).transpose(1, 2)


@dataclass(frozen=True)
class _Sight:
    """Which keys a query may see."""

    causal: bool
    before: int
    """How many keys before its own place, -1 for all."""
    after: int

    def bias(
        self, q: Tensor, k: Tensor, mask: Tensor | None, past: int, valid: Tensor | None
    ) -> Tensor | None:
        """What is added to the scores: the mask, and -inf where a key is out of sight."""
        if mask is not None:
            if mask.dtype == torch.bool:
                mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, float("-inf"))
            if mask.shape[-1] < k.shape[2]:
                mask = F.pad(mask, (0, k.shape[2] - mask.shape[-1]), value=float("-inf"))
        hidden = self.hidden(q, k, past, valid)
        if hidden is None:
            return mask
        seen = torch.zeros_like(hidden, dtype=q.dtype).masked_fill(hidden, float("-inf"))
        return seen if mask is None else mask + seen

    def hidden(self, q: Tensor, k: Tensor, past: int, valid: Tensor | None) -> Tensor | None:
        """The pairs [..., queries, keys] that are left out: by causality, the window, and padding.

        `past` keys precede the first query, or as many as make the last query end with the last of `valid`.
        """
        if valid is None and not self.causal and self.before < 0 and self.after < 0:
            return None
        key = torch.arange(k.shape[2], device=q.device)
        query = torch.arange(q.shape[2], device=q.device)[:, None] + past
        hidden = (key < 0) & (query < 0)
        if valid is not None:
            ends = valid.reshape(-1, 1, 1, 1)
            query, hidden = query + (ends - q.shape[2]), key >= ends
        if self.causal:
            hidden = hidden | (key > query)
        if self.before >= 0:
            hidden = hidden | (key < query - self.before)
        if self.after >= 0:
            hidden = hidden | (key > query + self.after)
        return hidden


@op("Attention", "Q K V attn_mask past_key past_value nonpad_kv_seqlen", extra=3)
def attention(
    node: Node,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    left_window_size: int = -1,
    q_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0,
    right_window_size: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
) -> Run:
    """softmax(softcap(scale Q K') + bias) V; grouped heads repeat keys and values. A row that may attend
    nothing gives zeros.

    Y, then the keys and values with the past ones in front, then the scores: before (mode 0) and after the
    softcap (1), with the bias (2) or after the softmax (3). Graphs in half precision are rounded once, in the
    end.
    """
    if not 0 <= qk_matmul_output_mode <= 3:
        raise Refusal(f"attribute qk_matmul_output_mode={qk_matmul_output_mode}")
    if node.has(6) and (node.has(4) or any(node.outputs[1:3])):
        raise Refusal("input nonpad_kv_seqlen together with a cache")
    precision = None if softmax_precision is None else dtype(softmax_precision, "softmax_precision")
    node.floats_only(0, "Q")
    node.floats_only(2, "V")
    half = node.kind(0) in HALF
    fused = node.plain and not softcap and precision is None and not half
    sight = _Sight(bool(is_causal), left_window_size, right_window_size)

    def run(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        past_key: Tensor | None = None,
        past_value: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> Any:
        flat = q.dim() == 3
        q, k, v = _heads(q, q_num_heads), _heads(k, kv_num_heads), _heads(v, kv_num_heads)
        past = 0
        if past_key is not None and past_value is not None:
            past = past_key.shape[2]
            k, v = torch.cat((past_key, k), 2), torch.cat((past_value, v), 2)
        present = (k, v)
        bias = sight.bias(q, k, mask, past, valid)
        kind = q.dtype
        if half:
            q, k, v = q.float(), k.float(), v.float()
        repeats = q.shape[1] // k.shape[1]
        if repeats > 1:
            k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
        root = (q.shape[3] ** -0.5 if scale is None else scale) ** 0.5
        if fused and bias is None:
            y = F.scaled_dot_product_attention(q, k, v, scale=scale)
            return y.transpose(1, 2).flatten(2) if flat else y
        scores = [(q * root) @ (k * root).transpose(-2, -1)]
        scores.append(torch.tanh(scores[0] / softcap) * softcap if softcap else scores[0])
        scores.append(scores[1] if bias is None else scores[1] + bias)
        blind = None if bias is None else (bias == float("-inf")).all(-1, keepdim=True)
        if blind is None:
            shares = torch.softmax(scores[2], -1, dtype=precision)
        else:  # nothing but -inf has no softmax, and no gradient
            shares = torch.softmax(scores[2].masked_fill(blind, 0.0), -1, dtype=precision)
            shares = shares.masked_fill(blind, 0.0)
        scores.append(shares.to(q.dtype))
        y = (scores[3] @ v).to(kind)
        if flat:
            y = y.transpose(1, 2).flatten(2)
        return y if node.plain else (y, *present, scores[qk_matmul_output_mode].to(kind))

    return run


@op("RotaryEmbedding", "X cos_cache sin_cache position_ids")
def rotary_embedding(
    node: Node, *, interleaved: int = 0, num_heads: int = 0, rotary_embedding_dim: int = 0
) -> Run:
    """Turns pairs of features by position dependent angles: halves of the width, or neighbours if
    `interleaved`. X: [batch, heads, length, width], or [batch, length, heads * width].
    """

    def run(x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None = None) -> Tensor:
        heads = _heads(x, num_heads or None)
        if positions is not None:
            cos, sin = F.embedding(positions, cos), F.embedding(positions, sin)
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        width = rotary_embedding_dim or heads.shape[-1]
        turned, rest = heads[..., :width], heads[..., width:]
        if interleaved:
            one, two = turned[..., 0::2], turned[..., 1::2]
        else:
            one, two = turned.chunk(2, -1)
        pair = (cos * one - sin * two, sin * one + cos * two)
        turned = torch.stack(pair, -1).flatten(-2) if interleaved else torch.cat(pair, -1)
        y = torch.cat((turned, rest), -1)
        return y if x.dim() == 4 else y.transpose(1, 2).flatten(2)

    return run
