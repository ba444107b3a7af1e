"""What a family tells: name, kind, members, consumers; values counted by hand."""

import numpy as np
import onnx_ir as ir

from mlcompress.graph import dependency
from tests.graph.dependency import nets, nets_moves, nets_time


def families(model: ir.Model) -> dict[str, dependency.Family]:
    return {family.name: family for family in dependency.analyse(model).families}


def test_residual_family_holds_everything_that_goes_together() -> None:
    model = nets.residual()
    (family,) = families(model).values()
    assert (family.name, family.kind, family.units, family.soft, family.conv) == (
        "w0",
        "channel",
        16,
        False,
        True,
    )
    assert [(m.tensor, m.axis, m.reads) for m in family.members] == [
        ("w0", 0, False), ("s0", 0, False), ("b0", 0, False), ("m0", 0, False), ("v0_var", 0, False),
        ("w1", 0, False), ("w1", 1, True), ("bias1", 0, False), ("fc", 1, True),
    ]  # fmt: skip


def test_slices_are_the_weights_of_each_unit() -> None:
    model = nets.residual()
    (family,) = families(model).values()
    weight = model.graph.initializers["w1"].const_value.numpy()
    of = {(m.tensor, m.axis): family.slices(model, m) for m in family.members}
    np.testing.assert_array_equal(of["w1", 0], weight.reshape(16, -1))
    np.testing.assert_array_equal(of["w1", 1], weight.transpose(1, 0, 2, 3).reshape(16, -1))
    assert of["s0", 0].shape == (16, 1)


def test_a_channel_that_is_flattened_has_many_features() -> None:
    first = families(nets.flatten_fc())["w0"]
    (reader,) = [member for member in first.members if member.reads]
    assert reader.index.shape == (8, 36)
    np.testing.assert_array_equal(reader.index[2], np.arange(72, 108))


def test_depthwise_and_one_channel_convolutions() -> None:
    found = families(nets.depthwise_se())
    assert {name: family.units for name, family in found.items()} == {"w0": 8, "se1": 6, "from_one": 10}
    index = {m.tensor: m.index for m in found["w0"].members if not m.reads}
    np.testing.assert_array_equal(index["dw"][3], [3])
    np.testing.assert_array_equal(index["dw2"][3], [6, 7])  # multiplier 2: outputs 2c and 2c + 1


def test_grouped_convolutions_lose_the_same_from_each_group() -> None:
    found = families(nets.grouped())
    index = {(m.tensor, m.axis): m.index for m in found["w0"].members}
    np.testing.assert_array_equal(index["w0", 0][1], [1, 5, 9, 13])
    np.testing.assert_array_equal(index["w1", 1][1], [1])


def test_heads_are_units_of_fused_and_separate_attention() -> None:
    fused = families(nets_time.attention(True))
    assert [(f.name, f.kind, f.units) for f in fused.values()] == [("wqkv", "head", 4)]
    (made,) = [m.index for m in fused["wqkv"].members if m.tensor == "wqkv"]
    np.testing.assert_array_equal(made[1], [4, 5, 6, 7, 20, 21, 22, 23, 36, 37, 38, 39])
    apart = families(nets_time.attention(False))
    assert [(f.kind, f.units) for f in apart.values()] == [("head", 4)]
    (read,) = [m.index for m in apart["wq"].members if m.tensor == "wo"]
    np.testing.assert_array_equal(read, np.arange(16).reshape(4, 4))


def test_recurrent_units_run_over_all_gates_and_directions() -> None:
    found = families(nets_time.recurrent())
    assert [(f.name, f.kind, f.units) for f in found.values()] == [("w0", "rnn", 8), ("w1", "rnn", 6)]
    index = {(m.tensor, m.axis): m.index for m in found["w0"].members}
    np.testing.assert_array_equal(index["w0", 1][5], [5, 13, 21, 29])
    np.testing.assert_array_equal(index["b0", 1][5], np.arange(5, 64, 8))
    np.testing.assert_array_equal(index["w1", 2][5], [5, 13])  # both directions, joined


def test_group_norm_goes_by_whole_groups() -> None:
    found = families(nets.group_norm(21))
    np.testing.assert_array_equal(found["w0"].members[0].index, np.arange(12).reshape(4, 3))
    assert not found["w0"].soft


def test_group_norm_before_opset_21_has_a_scale_per_group() -> None:
    model = nets.group_norm(18)
    (family,) = [f for f in families(model).values() if f.name == "w0"]
    index = {m.tensor: m.index for m in family.members if not m.reads}
    np.testing.assert_array_equal(index["s"], np.arange(4)[:, None])
    dependency.remove(model, dependency.analyse(model), {"w0": np.array([1])})
    (norm,) = [node for node in model.graph if node.op_type == "GroupNormalization"]
    assert norm.attributes["num_groups"].value == 3
    assert model.graph.initializers["s"].shape == (3,)
    assert model.graph.initializers["w0"].shape[0] == 9


def test_parts_of_one_weight_are_families_of_their_own() -> None:
    """Split after Concat: 3 + 5 channels of w1. Slice 5..9 and picks 3, 11, 0, 7, 7 of the 12 of w2."""
    found = families(nets_moves.split_concat())
    assert sorted(f.units for name, f in found.items() if name.startswith("w1")) == [3, 5]
    assert sorted(f.units for name, f in found.items() if name.startswith("w2")) == [1, 3, 4, 4]
    assert {"w2", "w2[1]", "w2[2]", "w2[3]"} <= set(found)
