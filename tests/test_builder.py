"""Networks written by hand: names, shapes, weights, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sevenloops.errors import GraphError
from sevenloops.graph.builder import GraphBuilder
from sevenloops.shift import Shift


def image(*shape: int | str, **options: Any) -> tuple[GraphBuilder, str]:
    net = GraphBuilder("test", **options)
    return net, net.input("x", shape)


def test_a_small_network() -> None:
    net, x = image("N", 3, 32, 32)
    with net.scope("stem"):
        y = net.relu(net.batch_norm(net.conv(x, 16, 3, stride=2, padding=1, bias=False)))
    y = net.linear(net.flatten(net.global_average_pool(y)), 10, name="fc")
    graph = net.graph(scores=y)
    assert [node.op for node in graph.nodes] == [
        "Conv",
        "BatchNormalization",
        "Relu",
        "GlobalAveragePool",
        "Flatten",
        "Gemm",
    ]
    assert [node.name for node in graph.nodes][:3] == ["stem.conv1", "stem.bn1", "stem.relu1"]
    assert graph.outputs == ("scores",) and graph.type_of("scores").shape == ("N", 10)
    assert graph.type_of("stem.relu1").shape == ("N", 16, 16, 16)
    assert set(graph.constants) == {
        "stem.conv1.weight", "stem.bn1.weight", "stem.bn1.bias", "stem.bn1.running_mean", "stem.bn1.running_var",
        "fc.weight", "fc.bias",
    }  # fmt: skip
    assert all(constant.dtype == np.float32 for constant in graph.constants.values())
    assert graph.constants["stem.bn1.running_var"].min() > 0.5


def test_random_weights_depend_on_seed_and_name_only() -> None:
    def weights(seed: int, *names: str) -> dict[str, Any]:
        net, x = image(1, 4, 8, 8, seed=seed)
        for name in names:
            y = net.conv(x, 4, 3, name=name)
        return dict(net.graph(y=y).constants)

    first, other = weights(1, "a", "b"), weights(1, "b")
    assert np.array_equal(first["b.weight"], other["b.weight"])
    assert not np.array_equal(first["a.weight"], first["b.weight"])
    assert not np.array_equal(weights(2, "b")["b.weight"], other["b.weight"])


def test_random_weights_have_the_variance_of_he() -> None:
    net, x = image(1, 64, 8, 8)
    graph = net.graph(y=net.conv(x, 256, 3, name="c"))
    assert np.isclose(graph.constants["c.weight"].std(), np.sqrt(2 / (64 * 9)), rtol=0.02)


def test_given_weights_are_used_and_all_of_them_must_fit() -> None:
    weights = {"c.weight": np.arange(4.0).reshape(2, 2, 1, 1), "c.num_batches_tracked": np.zeros(())}
    net, x = image(1, 2, 4, 4, weights=weights)
    graph = net.graph(y=net.conv(x, 2, 1, bias=False, name="c"))
    assert graph.constants["c.weight"].dtype == np.float32 and graph.constants["c.weight"][1, 0] == 2
    net, x = image(1, 2, 4, 4, weights=weights)
    with pytest.raises(GraphError, match=r"'c.weight' .* must have the shape \(3, 2, 1, 1\), got \(2, 2, 1, 1\)"):
        net.conv(x, 3, 1, name="c")
    net, x = image(1, 2, 4, 4, weights=weights)
    with pytest.raises(GraphError, match=r"needs the weight 'd.weight'"):
        net.conv(x, 2, 1, name="d")
    net, x = image(1, 2, 4, 4, weights={**weights, "e.weight": np.zeros(1)})
    y = net.conv(x, 2, 1, bias=False, name="c")
    with pytest.raises(GraphError, match=r"no layer for the weight 'e.weight'"):
        net.graph(y=y)


Sizes = tuple[Any, ...]


@pytest.mark.parametrize(
    ("step", "shape"),
    [
        (lambda net, x: net.conv(x, 6, (3, 5), stride=(2, 1), padding=((1, 0), (2, 2)), dilation=2), (1, 6, 4, 7)),
        (lambda net, x: net.conv(x, 8, 3, stride=2, padding="same", groups=4), (1, 8, 6, 6)),
        (lambda net, x: net.conv_transpose(x, 6, 3, stride=2, padding=1, output_padding=1), (1, 6, 22, 22)),
        (lambda net, x: net.max_pool(x, 3, stride=2), (1, 4, 5, 5)),
        (lambda net, x: net.max_pool(x, 2, ceil=True), (1, 4, 6, 6)),
        (lambda net, x: net.average_pool(x, 3, stride=4, padding=1, ceil=True), (1, 4, 3, 3)),
        (lambda net, x: net.conv(x, 2, 1, stride=3, padding=1), (1, 2, 5, 5)),
        (lambda net, x: net.lrn(x, 5, 1e-4, 0.75, 1.0), (1, 4, 11, 11)),
        (lambda net, x: net.concat([x, net.relu(x)], axis=1), (1, 8, 11, 11)),
        (lambda net, x: net.softmax(net.dropout(net.flatten(x))), (1, 484)),
        (lambda net, x: net.shift(net.add(x, x), Shift((3, 5))), (1, 4, 11, 11)),
    ],
)
def test_shapes_are_those_of_onnx(step: Callable[[GraphBuilder, str], str], shape: Sizes) -> None:
    """Against the shapes that the ONNX package's own evaluator gives."""
    net, x = image(1, 4, 11, 11)
    graph = net.graph(y=step(net, x))
    assert graph.type_of("y").shape == shape
    if all(not node.domain for node in graph.nodes):
        assert _shape_by_onnx(graph) == shape


def _shape_by_onnx(graph: Any) -> tuple[int, ...]:
    """By running it: ONNX's shape inference is wrong for pools whose last window would begin in the padding."""
    from onnx import TensorProto, helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    nodes = [helper.make_node(n.op, n.inputs, n.outputs, **dict(n.attributes)) for n in graph.nodes]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, graph.inputs[0].shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    constants = [numpy_helper.from_array(array, name) for name, array in graph.constants.items()]
    opset = [helper.make_opsetid("", 21)]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], constants), opset_imports=opset)
    (result,) = ReferenceEvaluator(model).run(None, {"x": np.ones(graph.inputs[0].shape, np.float32)})
    return np.shape(result)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda net, x: net.conv(x, 6, 3, groups=4), "groups of test must divide"),
        (lambda net, x: net.conv(x, 6, 0), r"kernel\[0\] must be at least 1, got 0"),
        (lambda net, x: net.conv(x, 6, 15), "does not fit"),
        (lambda net, x: net.conv(x, 6, 3, padding="valid"), "padding must be numbers or 'same'"),
        (lambda net, x: net.conv(x, 6, 3, padding=((1, -1), (0, 0))), "padding must be a number or 2 pairs"),
        (lambda net, x: net.conv_transpose(x, 6, 3, padding="same"), "needs its padding in numbers"),
        (lambda net, x: net.linear(x, 6), "flatten it first"),
        (lambda net, x: net.add(x, net.max_pool(x, 2)), "cannot add"),
        (lambda net, x: net.concat([x, net.max_pool(x, 2)]), "cannot join"),
        (lambda net, x: net.shift(x, 0), "kernel of a shift must be at least 1"),
        (lambda net, x: net.relu(net.relu(x, "twice"), "twice"), "has a layer 'twice' already"),
        (lambda net, x: net.conv(net.conv(x, 4, 1, name="c"), 4, 1, name="c"), "'c.weight' is there already"),
        (lambda net, x: net.relu("nothing"), "no value 'nothing'"),
        (lambda net, x: x, "must be results of layers"),
    ],
)
def test_mistakes_are_refused(step: Callable[[GraphBuilder, str], str], message: str) -> None:
    net, x = image(1, 4, 11, 11)
    with pytest.raises(GraphError, match=message):
        net.graph(y=step(net, x))


def test_unknown_sizes_pass_through_and_are_refused_where_they_must_be_known() -> None:
    net, x = image("N", 3, "H", "W")
    y = net.max_pool(net.conv(x, 8, 3, name="c"), 2, name="p")
    assert net.shape(y) == ("N", 8, "p_0", "p_1")
    assert net.shape(net.flatten(net.global_average_pool(y))) == ("N", 8)
    with pytest.raises(GraphError, match="axis 2 of 'p' must be known"):
        net.flatten(y)
    with pytest.raises(GraphError, match="axis 2 of 'x' must be known"):
        net.conv(x, 8, 3, padding="same")


def test_a_constant_is_shared_only_where_it_is_the_same() -> None:
    net, x = image(1, 3)
    y = net.clip(net.clip(x, 0, 6), 0, 6)
    assert len(net.graph(y=y).constants) == 2
    with pytest.raises(GraphError, match="with another value"):
        net.constant("clip.6", np.float32(7))
