"""Parameters and multiply-adds, against the published figures and against counting by hand."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from sevenloops.analysis.costs import count, macs_of, total
from sevenloops.errors import GraphError
from sevenloops.graph.builder import GraphBuilder
from sevenloops.graph.ir import OWN, Graph, Node, Value
from sevenloops.models import ZOO, build

#: parameters and MACs of one image, at the size and with the classes of the zoo
FIGURES = {
    "lenet5": (61_706, 416_520),
    "alexnet": (61_100_840, 714_188_480),
    "alexnet_two_towers": (60_965_224, 724_406_816),
    "alexnet_one_tower": (62_378_344, 1_135_256_096),
    "alexnet_slim": (645_258, 16_645_632),
    "vgg11": (132_863_336, 7_609_090_048),
    "vgg16": (138_357_544, 15_470_264_320),
    "vgg19": (143_667_240, 19_632_062_464),
    "googlenet": (6_998_552, 1_582_671_872),
    "resnet18": (11_689_512, 1_814_073_344),
    "resnet34": (21_797_672, 3_663_761_408),
    "resnet50": (25_557_032, 4_089_184_256),
    "resnet20": (272_474, 40_813_184),
    "resnet56": (855_770, 125_747_840),
    "resnet110": (1_730_714, 253_149_824),
    "shiftresnet20": (95_642, 16_433_792),
    "shiftresnet20_sc2": (95_642, 16_433_792),
    "shiftresnet56": (294_554, 44_745_344),
    "shiftresnet56_sc2": (294_554, 44_745_344),
    "shiftresnet110": (592_922, 87_212_672),
    "shiftresnet110_sc2": (592_922, 87_212_672),
    "shiftnet_a": (4_187_720, 1_424_306_176),
    "shiftnet_b": (1_183_000, 370_956_288),
    "shiftnet_c": (784_984, 277_026_816),
    "mobilenetv1": (4_231_976, 568_740_352),
    "mobilenetv2": (3_504_872, 300_774_272),
    "squeezenet1_1": (1_235_496, 349_151_936),
    "efficientnet_lite0": (4_652_008, 385_187_552),
}


def pytorch_macs(graph: Graph) -> int:
    """What PyTorch's own counter says of the operators that it is asked for, without computing them.

    A shift, which multiplies nothing, is a copy for it: as the depthwise convolution that other engines are given, each
    would have nine multiply-adds an element.
    """
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    from sevenloops.torch.graphs import from_graph

    plain = tuple(node if node.domain != OWN else Node("Identity", node.inputs, node.outputs) for node in graph.nodes)
    module = from_graph(graph.replace(nodes=plain), device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*(torch.empty(value.sizes, device="meta") for value in graph.inputs))
    flops = int(counter.get_total_flops())
    assert flops % 2 == 0
    return flops // 2


@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_has_the_published_figures(name: str) -> None:
    """Those of the papers and of torchvision, and PyTorch's count; parameters are what a state dict has but statistics."""
    graph = build(name, batch=1)
    everything = total(count(graph))
    assert (everything.params, everything.macs) == FIGURES[name]
    assert everything.params == sum(a.size for key, a in graph.constants.items() if key.endswith((".weight", ".bias")))
    assert everything.macs == pytorch_macs(graph)


def test_the_page_has_the_same_figures() -> None:
    page = (Path(__file__).parents[1] / "docs" / "zoo.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` .*\| ([\d,]+) \| ([\d,]+) \|$", page, flags=re.MULTILINE)
    assert {name: (int(p.replace(",", "")), int(m.replace(",", ""))) for name, p, m in rows} == FIGURES


def test_the_layers_of_the_original_alexnet() -> None:
    rows = [row for row in count(build("alexnet_two_towers", batch=1)) if row.macs]
    assert [round(row.macs / 1e6, 1) for row in rows[:5]] == [105.4, 223.9, 149.5, 112.1, 74.8]
    assert round(sum(row.macs for row in rows[5:]) / 1e6, 1) == 58.6
    weights = [row.params - row.shape[1] for row in rows]
    assert weights[:3] == [34_848, 307_200, 884_736] and weights[5:] == [37_748_736, 16_777_216, 4_096_000]


def test_shiftnets_have_the_published_sizes_without_their_normalisations() -> None:
    def millions(name: str) -> float:
        return round(sum(row.params for row in count(build(name, batch=1)) if row.op != "BatchNormalization") / 1e6, 2)

    assert [millions(name) for name in ("shiftnet_a", "shiftnet_b", "shiftnet_c")] == [4.16, 1.17, 0.78]


def test_alexnet_of_dive_into_deep_learning() -> None:
    net = GraphBuilder("alexnet")
    x = net.input("x", (1, 1, 224, 224))
    x = net.max_pool(net.relu(net.conv(x, 96, 11, stride=4, padding=1)), 3, stride=2)
    x = net.max_pool(net.relu(net.conv(x, 256, 5, padding=2)), 3, stride=2)
    for out in (384, 384, 256):
        x = net.relu(net.conv(x, out, 3, padding=1))
    x = net.flatten(net.max_pool(x, 3, stride=2))
    for out in (4096, 4096, 10):
        x = net.linear(x, out)
    costs = count(net.graph(y=x))
    assert (total(costs).params, total(costs).macs) == (46_764_746, 938_146_176)
    assert next(row.macs for row in costs if row.name == "conv2") == pytest.approx(415.3e6, rel=1e-3)


def test_costs_grow_with_the_batch_and_parameters_do_not() -> None:
    one, eight = (total(count(build("resnet20", batch=batch))) for batch in (1, 8))
    assert eight.macs == 8 * one.macs and eight.params == one.params


def brute_force(size: tuple[int, int], kernel: int, stride: int, padding: int) -> int:
    """Products of one input channel with one output channel, counted one by one; padding counts."""
    outputs = [range((n + 2 * padding - kernel) // stride + 1) for n in size]
    return sum(1 for _ in itertools.product(*outputs, range(kernel), range(kernel)))


@pytest.mark.parametrize(("kernel", "stride", "padding", "groups"), [(3, 1, 1, 1), (5, 2, 3, 2), (1, 3, 0, 4)])
def test_convolutions_count_as_the_definition(kernel: int, stride: int, padding: int, groups: int) -> None:
    net = GraphBuilder("one")
    x = net.input("x", (2, 4, 7, 9))
    graph = net.graph(y=net.conv(x, 8, kernel, stride=stride, padding=padding, groups=groups))
    (row,) = count(graph)
    assert row.macs == 2 * 4 * 8 // groups * brute_force((7, 9), kernel, stride, padding)
    assert row.params == 8 * 4 // groups * kernel**2 + 8
    assert row.unique_bytes == 4 * (2 * 4 * 63 + row.params + np.prod(row.shape))


def test_transposed_convolutions_count_with_the_size_of_their_input() -> None:
    net = GraphBuilder("one")
    x = net.input("x", (1, 6, 5, 5))
    graph = net.graph(y=net.conv_transpose(x, 4, 3, stride=2, groups=2))
    (row,) = count(graph)
    assert row.shape == (1, 4, 11, 11)
    assert row.macs == 25 * 9 * 6 * 4 // 2  # every input meets every tap of its group once


def test_groups_dilation_and_transposed_convolutions_equal_pytorchs_count() -> None:
    net = GraphBuilder("many")
    x = net.conv(net.input("x", (2, 8, 17, 15)), 16, 3, stride=2, padding=2, groups=4, bias=False)
    x = net.batch_norm(net.conv(x, 12, 3, dilation=2))
    x = net.conv_transpose(net.max_pool(net.relu(x), 2, stride=1), 18, 4, stride=2, padding=1, groups=3)
    graph = net.graph(y=net.linear(net.flatten(net.global_average_pool(x)), 10))
    assert total(count(graph)).macs == pytorch_macs(graph)


def product(op: str, a: tuple[int, ...], b: tuple[int, ...], y: tuple[int, ...], **attributes: int) -> Graph:
    """One matrix product of an input and a constant."""
    node = Node(op, ("a", "b"), ("y",), attributes)
    return Graph((node,), (Value("a", a),), ("y",), {"b": np.ones(b, np.float32)}, {"y": Value("y", y)})


@pytest.mark.parametrize(
    ("graph", "macs"),
    [
        (product("Gemm", (256, 1152), (1152, 192), (256, 192)), 56_623_104),
        (product("Gemm", (1152, 256), (192, 1152), (256, 192), transA=1, transB=1), 56_623_104),
        (product("MatMul", (3, 2, 4, 5), (5, 6), (3, 2, 4, 6)), 3 * 2 * 4 * 5 * 6),
        (product("MatMul", (5,), (5, 6), (6,)), 30),
        (product("Add", (4, 5), (5,), (4, 5)), 0),
    ],
)
def test_products(graph: Graph, macs: int) -> None:
    (row,) = count(graph)
    assert row.macs == macs == macs_of(graph, graph.nodes[0])
    assert row.params == graph.constants["b"].size


def test_a_shared_constant_counts_once_and_settings_do_not_count() -> None:
    net = GraphBuilder("shared")
    x = net.input("x", (1, 4))
    y = net.clip(net.linear(x, 4, bias=False, name="fc"), 0, 6)
    graph = net.graph(y=net.node("Gemm", [y, "fc.weight"], (1, 4), transB=1))
    assert [row.params for row in count(graph)] == [16, 0, 0]
    assert total(count(graph)).params == 16


def test_unknown_sizes_are_refused() -> None:
    with pytest.raises(GraphError, match="the size of input is not known"):
        count(build("lenet5"))
