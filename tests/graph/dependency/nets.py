"""Small nets as ONNX text, one peculiarity each: name -> (text, weight shapes, constants)."""

import numpy as np
import onnx_ir as ir

from tests.graph.dependency.nets_moves import pixels, shared_target, shuffle, split_concat
from tests.graph.dependency.nets_time import attention, attention_op, attention_packed, recurrent, tied
from tests.graph.dependency.oracle import IMAGE, ints, net


def residual() -> ir.Model:
    """Conv, BatchNormalization, shortcut, global pooling, classifier."""
    text = (
        IMAGE
        + """{
      a = Conv<pads=[1,1,1,1]>(x, w0)
      b = BatchNormalization(a, s0, b0, m0, v0_var)
      c = Relu(b)
      d = Conv<pads=[1,1,1,1]>(c, w1, bias1)
      e = Add(d, c)
      f = Relu(e)
      g = GlobalAveragePool(f)
      h = Flatten(g)
      y = Gemm<transB=1>(h, fc, fcb)
    }"""
    )
    return net(text, {
        "w0": (16, 3, 3, 3), "s0": (16,), "b0": (16,), "m0": (16,), "v0_var": (16,),
        "w1": (16, 16, 3, 3), "bias1": (16,), "fc": (4, 16), "fcb": (4,),
    })  # fmt: skip


def flatten_fc() -> ir.Model:
    """Conv -> Flatten -> FC: each channel is many features; Reshape with its own target; Gemm with transA."""
    text = (
        IMAGE
        + """{
      a = Conv(x, w0, b0)
      f = Flatten(a)
      h = Gemm(f, fc0)
      r = Relu(h)
      t = Transpose<perm=[1,0]>(r)
      k = Gemm<transA=1>(t, fc1, k1)
      q = Reshape(k, shape)
      y = MatMul(q, fc2)
    }"""
    )
    shapes = {
        "w0": (8, 3, 3, 3),
        "b0": (8,),
        "fc0": (8 * 36, 12),
        "fc1": (12, 10),
        "k1": (1, 10),
        "fc2": (10, 4),
    }
    return net(text, shapes, shape=ints(-1, 10))


def depthwise_se() -> ir.Model:
    """Depthwise with multiplier 1 and 2, squeeze and excite, PRelu, one channel that is not depthwise."""
    text = (
        IMAGE
        + """{
      a = Conv(x, w0)
      p = PRelu(a, slope)
      d = Conv<group=8, pads=[1,1,1,1]>(p, dw)
      d2 = Conv<group=8>(d, dw2, dw2b)
      g = GlobalAveragePool(d2)
      s1 = Conv(g, se1, se1b)
      s2 = HardSwish(s1)
      s3 = Conv(s2, se2, se2b)
      s4 = Sigmoid(s3)
      m = Mul(d2, s4)
      one = Conv(m, narrow)
      wide = Conv<group=1>(one, from_one)
      c = Clip(wide, low, high)
      q = ReduceMean<keepdims=0>(c, axes)
      y = MatMul(q, fc)
    }"""
    )
    shapes = {
        "w0": (8, 3, 1, 1), "slope": (8, 1, 1), "dw": (8, 1, 3, 3), "dw2": (16, 1, 3, 3), "dw2b": (16,),
        "se1": (6, 16, 1, 1), "se1b": (6,), "se2": (16, 6, 1, 1), "se2b": (16,), "narrow": (1, 16, 1, 1),
        "from_one": (10, 1, 1, 1), "fc": (10, 4),
    }  # fmt: skip
    low, high = np.float32(-1.0), np.float32(2.0)
    return net(text, shapes, axes=ints(2, 3), low=np.array(low), high=np.array(high))


def grouped() -> ir.Model:
    """Grouped convolutions (4 groups of 4 -> 2 and of 2 -> 5), grouped and depthwise transposed ones."""
    text = (
        IMAGE
        + """{
      a = Conv(x, w0)
      r = Relu(a)
      b = Conv<group=4>(r, w1, b1)
      c = Conv<group=4>(b, w2)
      t = ConvTranspose<group=4, strides=[2,2]>(c, w3, b3)
      u = ConvTranspose<group=12>(t, w4)
      v = ConvTranspose(u, w5, b5)
      m = MaxPool<kernel_shape=[2,2]>(v)
      g = GlobalAveragePool(m)
      f = Flatten(g)
      y = MatMul(f, fc)
    }"""
    )
    return net(text, {
        "w0": (16, 3, 1, 1), "w1": (8, 4, 3, 3), "b1": (8,), "w2": (20, 2, 1, 1),
        "w3": (20, 3, 2, 2), "b3": (12,),
        "w4": (12, 2, 1, 1), "w5": (24, 6, 1, 1), "b5": (6,), "fc": (6, 4),
    })  # fmt: skip


def group_norm(opset: int) -> ir.Model:
    """GroupNormalization: groups go as a whole; scale per channel since opset 21, per group before."""
    text = (
        IMAGE.replace("18]", f"{opset}]")
        + """{
      a = Conv(x, w0)
      n = GroupNormalization<num_groups=4>(a, s, b)
      r = Relu(n)
      c = Conv(r, w1)
      i = InstanceNormalization(c, si, bi)
      g = GlobalMaxPool(i)
      f = Flatten(g)
      y = MatMul(f, fc)
    }"""
    )
    per = 12 if opset >= 21 else 4
    return net(text, {
        "w0": (12, 3, 1, 1), "s": (per,), "b": (per,), "w1": (8, 12, 1, 1), "si": (8,), "bi": (8,),
        "fc": (8, 4),
    })  # fmt: skip


def quantised() -> ir.Model:
    """Q/DQ around a convolution: int8 weights with a scale per channel, uint8 activations."""
    text = (
        IMAGE
        + """{
      a = Conv(x, w0)
      aq = QuantizeLinear(a, sa, za)
      ad = DequantizeLinear(aq, sa, za)
      wd = DequantizeLinear<axis=0>(wq, sw, zw)
      b = Conv(ad, wd, b1)
      r = Relu(b)
      g = GlobalAveragePool(r)
      f = Flatten(g)
      y = MatMul(f, fc)
    }"""
    )
    rng = np.random.default_rng(3)
    return net(
        text,
        {"w0": (8, 3, 1, 1), "b1": (10,), "fc": (10, 4)},
        wq=rng.integers(-127, 128, (10, 8, 3, 3)).astype(np.int8),
        sw=(0.001 + 0.01 * rng.random(10)).astype(np.float32),
        zw=np.zeros(10, dtype=np.int8),
        sa=np.array(0.05, dtype=np.float32),
        za=np.array(120, dtype=np.uint8),
    )


NETS = {
    "residual": residual,
    "flatten": flatten_fc,
    "depthwise": depthwise_se,
    "grouped": grouped,
    "shuffle": shuffle,
    "split": split_concat,
    "tied": tied,
    "pixels": pixels,
    "lstm_two_ways": recurrent,
    "lstm_one_way": lambda: recurrent("LSTM", "reverse"),
    "gru": lambda: recurrent("GRU"),
    "rnn": lambda: recurrent("RNN", "forward"),
    "group_norm": lambda: group_norm(21),
    "attention_fused": lambda: attention(True),
    "attention_apart": lambda: attention(False),
    "shared_target": shared_target,
    "attention_op": attention_op,
    "attention_packed": attention_packed,
    "quantised": quantised,
}
"""Name -> builder of a fresh model."""
