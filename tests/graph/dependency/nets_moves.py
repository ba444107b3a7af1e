"""Small nets as ONNX text whose ops move, join and take apart channels."""

import numpy as np
import onnx_ir as ir

from tests.graph.dependency.oracle import IMAGE, ints, net


def shuffle() -> ir.Model:
    """Channel shuffle between grouped convolutions, with the target shapes of exporters."""
    text = (
        IMAGE
        + """{
      a = Conv(x, w0)
      g1 = Conv<group=2>(a, w1)
      s = Reshape(g1, split)
      t = Transpose<perm=[0,2,1,3,4]>(s)
      m = Reshape(t, merge)
      g2 = Conv<group=2>(m, w2)
      r = Relu(g2)
      p = GlobalAveragePool(r)
      f = Flatten(p)
      y = MatMul(f, fc)
    }"""
    )
    shapes = {"w0": (12, 3, 1, 1), "w1": (16, 6, 3, 3), "w2": (12, 8, 1, 1), "fc": (12, 4)}
    return net(text, shapes, split=ints(-1, 2, 8, 6, 6), merge=ints(0, 16, 6, 6))


def split_concat() -> ir.Model:
    """Concat of unequal parts, Split (equal, then sized), Slice with negative bounds, Gather of constants."""
    text = (
        IMAGE
        + """{
      a = Conv(x, w0)
      b = Conv(x, w1)
      c = Concat<axis=1>(a, x, b)
      p, q = Split<axis=1, num_outputs=2>(c)
      ra = Relu(p)
      s, t, u = Split<axis=1>(q, sizes)
      k = Conv(ra, w2)
      l = Slice(k, from, to, ax)
      i = Gather<axis=1>(k, picks)
      j = Concat<axis=-3>(l, i, s, t, u)
      z = Conv(j, w3)
      g = GlobalMaxPool(z)
      f = Flatten(g)
      y = MatMul(f, fc)
    }"""
    )
    shapes = {
        "w0": (9, 3, 1, 1),
        "w1": (8, 3, 1, 1),
        "w2": (12, 10, 1, 1),
        "w3": (14, 20, 1, 1),
        "fc": (14, 4),
    }
    return net(
        text,
        shapes,
        sizes=ints(2, 3, 5),
        to=ints(-2),
        ax=ints(1),
        picks=ints(3, 11, 0, 7, 7),
        **{"from": ints(-7)},
    )


def pixels() -> ir.Model:
    """Resize by sizes and by scales, Pad, DepthToSpace in both modes, SpaceToDepth, skip Concat."""
    text = (
        IMAGE
        + """{
      a = Conv(x, w0)
      b = Relu(a)
      d = Conv<strides=[2,2]>(b, w1)
      u = Resize<mode="nearest">(d, , , sizes)
      p = Pad(u, pads)
      v = Resize<mode="nearest">(p, , scales)
      k = Conv(v, w2)
      q = DepthToSpace<blocksize=2, mode="DCR">(k)
      k2 = Conv(v, w2b)
      o = DepthToSpace<blocksize=2, mode="CRD">(k2)
      w = Concat<axis=1>(q, o)
      e = SpaceToDepth<blocksize=2>(w)
      h = Conv(e, w3)
      g = GlobalAveragePool(h)
      f = Flatten(g)
      y = MatMul(f, fc)
    }"""
    )
    shapes = {
        "w0": (6, 3, 3, 3),
        "w1": (10, 6, 2, 2),
        "w2": (24, 10, 1, 1),
        "w2b": (24, 10, 1, 1),
        "w3": (8, 48, 1, 1),
        "fc": (8, 4),
    }
    scales = np.array([1, 1, 2, 2], dtype=np.float32)
    return net(
        text.replace("N,", "2,", 2),
        shapes,
        sizes=ints(2, 10, 6, 6),
        pads=ints(0, 0, 1, 1, 0, 0, 0, 0),
        scales=scales,
    )


def shared_target() -> ir.Model:
    """Two reshapes read one target, but only one of them loses channels."""
    text = (
        IMAGE
        + """{
      a = Conv(x, w0)
      b = Conv(x, w1)
      ar = Reshape(a, target)
      br = Reshape(b, target)
      bs = Softmax<axis=1>(br)
      f = MatMul(ar, fa)
      k = MatMul(bs, fb)
      fr = Transpose<perm=[0,2,1]>(f)
      kr = Transpose<perm=[0,2,1]>(k)
      p = MatMul(fr, va)
      q = MatMul(kr, vb)
      s = Add(p, q)
      y = Squeeze(s, axes)
    }"""
    )
    shapes = {
        "w0": (8, 3, 1, 1),
        "w1": (8, 3, 1, 1),
        "fa": (64, 1),
        "fb": (64, 1),
        "va": (8, 4),
        "vb": (8, 4),
    }
    return net(text, shapes, target=ints(0, 8, 64), axes=ints(1))
