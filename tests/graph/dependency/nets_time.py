"""Small nets over sequences as ONNX text: embeddings, recurrent layers, attention."""

import numpy as np
import onnx_ir as ir

from tests.graph.dependency.oracle import HEAD, ints, net


def tied() -> ir.Model:
    """One matrix is embedding and, transposed, output layer; one bias is shared by two layers."""
    text = (
        HEAD
        + """(int64[N,5] ids) => (float[N,5,11] y) {
      e = Gather(table, ids)
      h = MatMul(e, w0)
      hb = Add(h, shared)
      r = Gelu_like(hb)
      k = MatMul(r, w1)
      z = Add(k, e)
      t = Transpose<perm=[1,0]>(table)
      y = MatMul(z, t)
    }""".replace("Gelu_like", "Softplus")
    )
    return net(text, {"table": (11, 12), "w0": (12, 20), "shared": (20,), "w1": (20, 12)})


def recurrent(op: str = "LSTM", direction: str = "bidirectional", layout: int = 0) -> ir.Model:
    """Two recurrent layers, the second on joined directions, with initial states and peepholes (LSTM)."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    ways = 2 if direction == "bidirectional" else 1
    state = ", h0, c0, peep" if op == "LSTM" else ", h0"
    text = (
        HEAD
        + f"""(float[6,2,5] x) => (float[2,4] y) {{
      a, ah = {op}<hidden_size=8, direction="{direction}">(x, w0, r0, b0, {state})
      t = Transpose<perm=[0,2,1,3]>(a)
      m = Reshape(t, join)
      b, bh = {op}<hidden_size=6, direction="forward">(m, w1, r1)
      s = Squeeze(bh, first)
      z = Tanh(s)
      y = Gemm(z, fc, k)
    }}"""
    )
    shapes = {
        "w0": (ways, gates * 8, 5), "r0": (ways, gates * 8, 8), "b0": (ways, 2 * gates * 8),
        "h0": (ways, 2, 8),
        "w1": (1, gates * 6, ways * 8), "r1": (1, gates * 6, 6), "fc": (6, 4), "k": (4,),
    }  # fmt: skip
    if op == "LSTM":
        shapes |= {"c0": (ways, 2, 8), "peep": (ways, 24)}
    return net(text, shapes, join=ints(6, 2, ways * 8), first=ints(0))


def attention(fused: bool) -> ir.Model:
    """Multi-head attention without a residual, query, key and value from one matrix or from three."""
    fused_text = """
      f = MatMul(x, wqkv)
      fb = Add(f, bqkv)
      s = Reshape(fb, parts)
      t = Transpose<perm=[2,0,3,1,4]>(s)
      q = Gather<axis=0>(t, zero)
      k = Gather<axis=0>(t, one)
      v = Gather<axis=0>(t, two)
      kt = Transpose<perm=[0,1,3,2]>(k)"""
    apart_text = """
      q0 = MatMul(x, wq)
      q1 = Reshape(q0, heads)
      q = Transpose<perm=[0,2,1,3]>(q1)
      k0 = MatMul(x, wk)
      k1 = Reshape(k0, heads)
      kt = Transpose<perm=[0,2,3,1]>(k1)
      v0 = MatMul(x, wv)
      v1 = Reshape(v0, heads)
      v = Transpose<perm=[0,2,1,3]>(v1)"""
    text = (
        HEAD
        + f"""(float[N,5,10] x) => (float[N,5,7] y) {{{fused_text if fused else apart_text}
      qk = MatMul(q, kt)
      sc = Mul(qk, scale)
      p = Softmax<axis=-1>(sc)
      o = MatMul(p, v)
      ot = Transpose<perm=[0,2,1,3]>(o)
      m = Reshape(ot, merge)
      y = MatMul(m, wo)
    }}"""
    )
    shapes = {"wqkv": (10, 48), "bqkv": (48,)} if fused else {"wq": (10, 16), "wk": (10, 16), "wv": (10, 16)}
    constants = {"scale": np.array(0.5, dtype=np.float32), "merge": ints(-1, 5, 16)}
    if fused:
        constants |= {"parts": ints(0, 5, 3, 4, 4), "zero": ints(0)[0], "one": ints(1)[0], "two": ints(2)[0]}
    else:
        constants |= {"heads": ints(0, 5, 4, 4)}
    return net(
        text, {**shapes, "wo": (16, 7)}, **{name: np.asarray(array) for name, array in constants.items()}
    )


def attention_op() -> ir.Model:
    """The Attention op of opset 23 on four axes, with a mask that is the same for all heads."""
    text = (
        HEAD.replace("18]", "23]")
        + """(float[N,5,10] x) => (float[N,5,7] y) {
      q0 = MatMul(x, wq)
      q1 = Reshape(q0, heads)
      q = Transpose<perm=[0,2,1,3]>(q1)
      k0 = MatMul(x, wk)
      k1 = Reshape(k0, heads)
      k = Transpose<perm=[0,2,1,3]>(k1)
      v0 = MatMul(x, wv)
      v1 = Reshape(v0, heads)
      v = Transpose<perm=[0,2,1,3]>(v1)
      o = Attention(q, k, v, mask)
      ot = Transpose<perm=[0,2,1,3]>(o)
      m = Reshape(ot, merge)
      y = MatMul(m, wo)
    }"""
    )
    shapes = {"wq": (10, 16), "wk": (10, 16), "wv": (10, 16), "wo": (16, 7)}
    return net(
        text, shapes, heads=ints(0, 5, 4, 4), merge=ints(0, 5, 16), mask=np.zeros((5, 5), dtype=np.float32)
    )


def attention_packed() -> ir.Model:
    """The Attention op of opset 23 on three axes, heads packed, with a mask of its own for each head."""
    text = (
        HEAD.replace("18]", "23]")
        + """(float[N,5,10] x) => (float[N,5,7] y) {
      q = MatMul(x, wq)
      k = MatMul(x, wk)
      v = MatMul(x, wv)
      o = Attention<q_num_heads=4, kv_num_heads=4>(q, k, v, mask)
      y = MatMul(o, wo)
    }"""
    )
    shapes = {"wq": (10, 16), "wk": (10, 16), "wv": (10, 24), "wo": (24, 7), "mask": (1, 4, 5, 5)}
    return net(text, shapes)
