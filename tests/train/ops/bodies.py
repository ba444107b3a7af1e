"""Nets with bodies, as ONNX text: one peculiarity each."""

import onnx

CONSTANTS = """<float[3, 3] w = {0.1, 0.2, -0.3, 0.4, 0.5, -0.6, 0.7, 0.8, 0.9}, float[3] b = {1, -2, 3},
 int64[1] zero = {0}, int64[1] one = {1}, int64[1] three = {3}, int64 limit = {3}, bool yes = {1}, bool no = {0}>"""


def parse(text: str, opset: int = 18) -> onnx.ModelProto:
    head = f'<ir_version: 10, opset_import: ["" : {opset}]>'
    return onnx.parser.parse_model(f"{head} {text.replace('CONSTANTS', CONSTANTS)}")


def branches(then: str, other: str, *, outputs: str = "float[n, 3] y") -> str:
    return f"""net (bool c, float[n, 3] x) => ({outputs}) CONSTANTS
    {{ [choice] y = If (c) <then_branch = first () => (float[n, 3] q) {then},
                            else_branch = second () => (float[n, 3] q) {other}> }}"""


NETS = {
    "weights_of_the_same_name": branches(
        "<float[3] v = {1, 2, 3}> { [in] q = Add (x, v) }", "<float[3] v = {5, 6, 7}> { [on] q = Mul (x, v) }"
    ),
    "constants_of_the_same_name": branches(
        "{ v = Constant <value = float[3] {1, 2, 3}> ()  q = Add (x, v) }",
        "{ v = Constant <value = float[3] {5, 6, 7}> ()  q = Mul (x, v) }",
    ),
    "values_from_around": """net (bool c, float[n, 3] x) => (float[n, 3] y) CONSTANTS
    { h = MatMul (x, w)
      y = If (c) <then_branch = first () => (float[n, 3] q) { q = Add (h, b) },
                  else_branch = second () => (float[n, 3] q) { t = Tanh (h)  q = Sub (t, x) }> }""",
    "a_choice_of_weights": """net (bool c, float[n, 3] x) => (float[n, 3] y)
    { m = If (c) <then_branch = first () => (float[3, 3] v)
                    <float[3, 3] v = {1, 2, 3, 4, 5, 6, 7, 8, 9}> {},
                  else_branch = second () => (float[3, 3] v)
                    { v = Constant <value = float[3, 3] {9, 8, 7, 6, 5, 4, 3, 2, 1}> () }>
      y = MatMul (x, m) }""",
    "nested": branches(
        """{ q = If (no) <then_branch = inner () => (float[n, 3] r) <float[3] v = {1, 2, 3}> { r = Add (x, v) },
               else_branch = other () => (float[n, 3] r) <float[3] v = {3, 2, 1}> { r = Mul (x, v) }> }""",
        """{ h = MatMul (x, w)  s = ReduceSum <keepdims = 0> (h)  z = Constant <value_float = 0.0> ()
             big = Greater (s, z)
             q = If (big) <then_branch = inner () => (float[n, 3] r) { r = Add (h, b) },
               else_branch = other () => (float[n, 3] r) { r = Sub (h, x) }> }""",
    ),
    "a_condition_from_shapes": """net (float[n, 3] x) => (float[n, 3] y) CONSTANTS
    { s = Shape <start = 0, end = 1> (x)  k = Squeeze (s)  c = Equal (k, limit)
      y = If (c) <then_branch = first () => (float[n, 3] q) { q = MatMul (x, w) },
                  else_branch = second () => (float[n, 3] q) { q = Add (x, b) }> }""",
    "shapes_inside": """net (bool c, float[n, 3] x) => (float[i, j] y, int64 a, int32[1] d) CONSTANTS
    { s = Shape (x)  r = Gather (s, zero)
      y, a, d = If (c) <then_branch = first () => (float[i, j] q, int64 e, int32[1] f)
          { t = Concat <axis = 0> (three, r)  q = Reshape (x, t)  e = Size (x)  f = Cast <to = 6> (r) },
        else_branch = second () => (float[i, j] q, int64 e, int32[1] f)
          { u = Mul (r, three)  t = Concat <axis = 0> (u, one)  q = Reshape (x, t)  e = Squeeze (r)
            f = Cast <to = 6> (one) }> }""",
    "normalisation": """net (bool c, float[n, 3] x) => (float[n, 3] y)
    <float[3] scale = {1, 2, 3}, float[3] shift = {1, 1, 1}, float[3] mean = {0.1, 0.2, 0.3}, float[3] var = {1, 2, 1}>
    { y = If (c) <then_branch = first () => (float[n, 3] q)
                    { q = BatchNormalization (x, scale, shift, mean, var) },
                  else_branch = second () => (float[n, 3] q) { q = Neg (x) }> }""",
    "loop": """net (int64 m, float[n, 3] x) => (float[n, 3] y, float[k, n, 3] rows) CONSTANTS
    { [again] y, rows = Loop (m, , x) <body = step (int64 i, bool go, float[n, 3] v)
        => (bool more, float[n, 3] u, float[n, 3] row) <float[3] v0 = {0.1, 0.2, 0.3}>
        { more = Identity (go)  p = MatMul (v, w)  q = Add (p, v0)  u = Tanh (q)  row = Identity (u) }> }""",
    "loop_until": """net (bool c, float[n, 3] x) => (float[n, 3] y, int64[k] rows) CONSTANTS
    { y, rows = Loop (, c, x) <body = step (int64 i, bool go, float[n, 3] v)
        => (bool more, float[n, 3] u, int64 row)
        { more = Less (i, limit)  p = MatMul (v, w)  u = Tanh (p)  row = Add (i, limit) }> }""",
    "loop_over_rows": """net (float[n, 3] x) => (float[k, 3] y) CONSTANTS
    { s = Shape <start = 0, end = 1> (x)  m = Squeeze (s)
      y = Loop (m, yes) <body = step (int64 i, bool go) => (bool more, float[3] row)
        { more = Identity (go)  r = Gather (x, i)  row = Mul (r, b) }> }""",
    "loop_that_grows": """net (int64 m, float[n, 3] x) => (float[k, 3] y) CONSTANTS
    { y = Loop (m, , x) <body = step (int64 i, bool go, float[k, 3] v) => (bool more, float[j, 3] u)
        { more = Identity (go)  s = Shape (v)  n1 = Gather (s, zero)  two = Add (n1, n1)
          t = Concat <axis = 0> (two, three)  p = Concat <axis = 0> (v, v)  u = Reshape (p, t) }> }""",
    "loop_that_never_runs": """net (float[n, 3] x) => (float[n, 3] y, float[k, 3, 3] rows, int32[l, 2] more) CONSTANTS
    { y, rows, more = Loop (limit, no, x) <body = step (int64 i, bool go, float[n, 3] v)
        => (bool on, float[n, 3] u, float[3, 3] row, int32[2] last)
        { on = Identity (go)  u = MatMul (v, w)  row = Identity (w)  s = Shape (v)  last = Cast <to = 6> (s) }> }""",
    "if_in_loop": """net (float[n, 3] x) => (float[n, 3] y) CONSTANTS
    { y = Loop (limit, , x) <body = step (int64 i, bool go, float[n, 3] v) => (bool more, float[n, 3] u)
        <int64 second = {1}>
        { more = Identity (go)  c = Equal (i, second)
          u = If (c) <then_branch = first () => (float[n, 3] q) { q = MatMul (v, w) },
            else_branch = other () => (float[n, 3] q) <float[3] f = {0.5, 0.25, 2}> { q = Mul (v, f) }> }> }""",
    "scan": """net (float[3] start, float[n, 3] x) => (float[3] y, float[n, 3] rows) CONSTANTS
    { y, rows = Scan <num_scan_inputs = 1, body = step (float[3] a, float[3] v) => (float[3] next, float[3] row)
        { p = Mul (a, b)  next = Add (p, v)  row = Tanh (next) }> (start, x) }""",
    "scan_axes_and_directions": """net (float[3] start, float[2, n] x, float[n, 3] z)
    => (float[3] y, float[2, n] rows, float[3, n] more) CONSTANTS
    { y, rows, more = Scan <num_scan_inputs = 2, scan_input_axes = [1, 0], scan_input_directions = [1, 0],
          scan_output_axes = [1, -1], scan_output_directions = [0, 1],
          body = step (float[3] a, float[2] v, float[3] u) => (float[3] next, float[2] row, float[3] last)
        { p = Mul (a, b)  next = Add (p, u)  row = Neg (v)  last = Identity (next) }> (start, x, z) }""",
    "scan_over_weights": """net (float[n, 3] x) => (float[n, 3] y)
    <float[2, 3, 3] ws = {1, 2, 3, 4, 5, 6, 7, 8, 9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9}>
    { y = Scan <num_scan_inputs = 1, body = step (float[n, 3] a, float[3, 3] each) => (float[n, 3] next)
        { p = MatMul (a, each)  next = Tanh (p) }> (x, ws) }""",
}
