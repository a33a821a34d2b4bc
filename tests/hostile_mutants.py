"""Small valid models, and models that differ from them in a few places: seeded, so that a mutant has a number."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from onnx import AttributeProto, defs, helper, numpy_helper

from hostile_models import N, floats, ints, loop, make_model

__all__ = ["SEEDS", "mutated"]

NUMBERS = [0, 1, 2, -1, 3, 7, 64, 2**31 - 1, 2**31, 2**40, 2**62, -(2**62)]
FLOATS = [0.0, -1.0, 1.5, 1e30, float("nan"), float("inf")]
OPERATORS = sorted({schema.name for schema in defs.get_all_schemas() if not schema.domain})


def convolutions() -> Any:
    nodes = [
        N("Conv", ["x", "w", "b"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
        N("BatchNormalization", ["a", "b", "b", "b", "v"], ["n"]),
        N("Relu", ["n"], ["r"]),
        N("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[1, 1]),
        N("Resize", ["p", "", "s"], ["z"], mode="nearest"),
        N("Concat", ["z", "z"], ["c"], axis=1),
        N("GlobalAveragePool", ["c"], ["g"]),
        N("Flatten", ["g"], ["f"]),
        N("Gemm", ["f", "m"], ["y"], transB=1),
    ]
    weights = {"w": floats(4, 3, 3, 3), "b": floats(4), "v": floats(4) + 2, "m": floats(5, 8)}
    return make_model(nodes, s=np.array([1, 1, 2, 2], np.float32), **weights)


def shapes() -> Any:
    nodes = [
        N("Shape", ["x"], ["s"]),
        N("Gather", ["s", "zero"], ["n"], axis=0),
        N("Concat", ["n", "minus"], ["to"], axis=0),
        N("Reshape", ["x", "to"], ["r"]),
        N("Slice", ["r", "zero", "end", "one"], ["c"]),
        N("Transpose", ["c"], ["t"], perm=[1, 0]),
        N("Expand", ["t", "wide"], ["e"]),
        N("Pad", ["e", "pads"], ["p"]),
        N("Split", ["p"], ["u", "v"], axis=2, num_outputs=2),
        N("Where", ["yes", "u", "v"], ["q"]),
        N("ReduceSum", ["q", "one"], ["m"], keepdims=0),
        N("Softmax", ["m"], ["y"], axis=1),
    ]
    numbers = {"zero": ints(0), "one": ints(1), "minus": ints(-1), "end": ints(8), "wide": ints(2, 8, 1)}
    return make_model(nodes, pads=ints(0, 0, 0, 0, 0, 1), yes=floats(1) > 0, **numbers)


def loops() -> Any:
    body = [N("Concat", ["a", "a"], ["d2"], axis=0), N("Slice", ["d2", "from", "to"], ["b"]), N("Neg", ["b"], ["e"])]
    return loop(3, body, floats(2), ["e"], **{"from": ints(0), "to": ints(2)})


SEEDS = {"convolutions": convolutions, "shapes": shapes, "loops": loops}


def mutated(seed: str, number: int) -> Any:
    """The mutant of that number; None for a change that `onnx` itself cannot write."""
    rng, model = random.Random(f"{seed} {number}"), SEEDS[seed]()
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        change = rng.choice(CHANGES)
        try:
            change(rng, model)
        except (
            TypeError,
            ValueError,
            IndexError,
            NotImplementedError,
            defs.SchemaError,
        ):  # nothing there to change, or not so
            return None
    return model


def _node(rng: random.Random, model: Any) -> Any:
    nodes = list(model.graph.node)
    nodes += [inner for node in nodes for a in node.attribute if a.HasField("g") for inner in a.g.node]
    return rng.choice(nodes)


def _inputs(rng: random.Random, model: Any) -> None:
    node = _node(rng, model)
    names = [name for other in model.graph.node for name in (*other.input, *other.output)]
    at = rng.randrange(len(node.input))
    kind = rng.randrange(4)
    if kind == 0:
        del node.input[at]
    elif kind == 1:
        node.input.append(rng.choice(names))
    else:
        node.input[at] = rng.choice([*names, ""])


def _outputs(rng: random.Random, model: Any) -> None:
    node = _node(rng, model)
    if rng.random() < 0.5:
        node.output.append(f"extra{rng.randrange(3)}")
        model.graph.output.append(helper.make_empty_tensor_value_info(node.output[-1]))
    else:
        node.output[rng.randrange(len(node.output))] = ""


def _operator(rng: random.Random, model: Any) -> None:
    _node(rng, model).op_type = rng.choice(OPERATORS)


def _value(rng: random.Random) -> Any:
    makers = [lambda: rng.choice(NUMBERS), lambda: rng.choice(FLOATS), lambda: "text", lambda: floats(2)]
    makers += [lambda: rng.choices(NUMBERS, k=rng.randrange(1, 5)), lambda: rng.choices(FLOATS, k=2), lambda: ["a", "b"]]
    value = rng.choice(makers)()
    return numpy_helper.from_array(value) if hasattr(value, "shape") else value


def _attribute(rng: random.Random, model: Any) -> None:
    node = _node(rng, model)
    known = sorted(defs.get_schema(node.op_type, 21).attributes)
    name = rng.choice([a.name for a in node.attribute] + known)
    kept = [a for a in node.attribute if a.name != name]
    old = next((a for a in node.attribute if a.name == name), None)
    del node.attribute[:]
    node.attribute.extend(kept)
    if old is not None and old.type == AttributeProto.INTS and rng.random() < 0.6:
        old.ints[rng.randrange(len(old.ints))] = rng.choice(NUMBERS)
        node.attribute.append(old)
    elif old is not None and old.type == AttributeProto.INT and rng.random() < 0.6:
        old.i = rng.choice(NUMBERS)
        node.attribute.append(old)
    elif rng.random() < 0.8:
        node.attribute.append(helper.make_attribute(name, _value(rng)))


def _constant(rng: random.Random, model: Any) -> None:
    tensor = rng.choice(model.graph.initializer)
    array = numpy_helper.to_array(tensor).copy()
    kind = rng.randrange(4)
    if kind == 0 and array.size:
        array.reshape(-1)[rng.randrange(array.size)] = rng.choice(NUMBERS if array.dtype.kind == "i" else FLOATS)
    elif kind == 1:
        array = array.astype(rng.choice(["float32", "float64", "int32", "int64", "bool", "float16", "uint8", "object"]))
    elif kind == 2:
        array = array.reshape(rng.choice([(-1,), (1, *array.shape), (*array.shape, 1), (1,) * 66 + array.shape]))
    else:
        array = array.reshape(-1)[: rng.randrange(array.size + 1)]
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _input(rng: random.Random, model: Any) -> None:
    info = rng.choice(model.graph.input)
    sizes: list[int | str | None] = [0, 1, 3, 8, 17, "N"]
    shape = [rng.choice(sizes) for _ in range(rng.randrange(6))]
    info.CopyFrom(helper.make_tensor_value_info(info.name, rng.choice([1, 1, 1, 6, 7, 8, 9, 10, 11, 16]), shape))


def _nodes(rng: random.Random, model: Any) -> None:
    nodes = list(model.graph.node)
    at = rng.randrange(len(nodes))
    kind = rng.randrange(3)
    if kind == 0:
        del nodes[at]
    elif kind == 1:
        nodes.insert(at, nodes[at])
    else:
        rng.shuffle(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _opset(rng: random.Random, model: Any) -> None:
    model.opset_import[0].version = rng.randrange(1, 27)


CHANGES = [_inputs, _inputs, _outputs, _operator, _operator, _attribute, _attribute, _attribute, _constant, _constant]
CHANGES += [_input, _nodes, _opset]
