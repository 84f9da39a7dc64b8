"""Writes a trained student as an ONNX model, for onnxruntime where there is no jax.

The student's jaxpr, with B and L left open, is translated primitive by primitive (`_OPERATORS`,
`_TRANSLATIONS`), so that a front end that is added needs no line here. A primitive that is
not among them is refused by name. Before a model is in place onnxruntime runs it, and its logits
are held to the student's.

Inputs are those of the card's "inputs", [B, L, ...] each by name, and `valid` [B, L]; the output is
`logits` [B, L, K]; float32, any B and L. The card, as of `inference.program.Program`, is the
model's metadata under "card", in JSON.
"""

from __future__ import annotations

import ast
import json
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.extend import core
from numpy.typing import ArrayLike, NDArray

from kd_sleep.errors import ExportError
from kd_sleep.extras import optional_packages
from kd_sleep.inference.export import TOLERANCE, largest_difference, open_arguments
from kd_sleep.inference.program import Program, Shapes, checked
from kd_sleep.recordings.files import write_bytes

OPSET, IR_VERSION = 18, 9  # of 2022 and 2023: onnxruntime 1.15 and later read them
# Primitives that are one operator, or a few, of the same inputs.
_OPERATORS = {
    name: name.capitalize()
    for name in (
        "abs", "add", "and", "asinh", "cos", "div", "erf", "exp", "floor", "log", "max", "min",
        "mul", "neg", "not", "or", "pow", "sign", "sin", "sqrt", "sub", "tanh",
    )
} | {
    "add_any": "Add", "copy": "Identity", "eq": "Equal", "ge": "GreaterOrEqual", "gt": "Greater",
    "le": "LessOrEqual", "logistic": "Sigmoid", "lt": "Less",
}  # fmt: skip
_CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "remat", "checkpoint")


def assert_installed() -> None:
    """Raises MissingPackage where the packages are not there."""
    with optional_packages():
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401


def export_onnx(student: Program, out: Path) -> float:
    """Writes a student to `out`, and runs the model before it is in place.

    Returns:
      The largest difference of its logits from the student's.

    Raises:
      ExportError: the student computes what cannot be translated, or in bfloat16, which ONNX's
        float32 is not equal to; or the model's logits are not the student's.
    """
    assert_installed()
    if (dtype := student.card["train"]["compute_dtype"]) != "float32":
        raise ExportError(
            out, f"not written: this student computes in {dtype}.", "Use the .kdsleep file."
        )
    try:
        data = model_of(student)
        call = onnx_call(data, student.card["inputs"])
    except Exception as error:  # no translation, or one that onnxruntime does not load
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300].rstrip(".")
        raise ExportError(
            out, f"not written: {reason}.", "Use the .kdsleep file, or extend inference/onnx.py."
        ) from error
    difference = largest_difference(call, student)
    if not difference < TOLERANCE:
        raise ExportError(
            out,
            f"not written: its logits would differ from the student's by {difference:.2g}.",
            "Please report this; the .kdsleep file is not concerned.",
        )
    write_bytes(out, data)
    return difference


def onnx_call(data: bytes, shapes: Shapes) -> Callable:
    """`Program.call` of an ONNX model, and of the shapes of its inputs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def call(inputs: Mapping[str, ArrayLike], valid_BL: ArrayLike) -> NDArray[np.float32]:
        arrays, valid_BL = checked(inputs, valid_BL, shapes)
        fed = dict(zip(shapes, arrays, strict=True)) | {"valid": valid_BL}
        (logits_BLK,) = session.run(None, fed)
        return logits_BLK

    return call


def model_of(student: Program) -> bytes:
    """The model's bytes.

    Raises:
      NotImplementedError: a primitive that has no translation.
    """
    from onnx import TensorProto, checker, helper

    traced = jax.jit(student.function).trace(*open_arguments(student)).jaxpr
    graph = _Graph()
    names = [*student.card["inputs"], "valid"]
    size = graph.op("Shape", "valid")
    for place, dim in enumerate(("b", "l")):
        graph.dims[dim] = graph.op("Slice", size, [place], [place + 1], [0])
    weights = [np.asarray(weight, np.float32) for weight in student.weights.values()]
    (logits,) = graph.jaxpr(traced.jaxpr, traced.consts, [*weights, *names])
    graph.op("Identity", logits, out="logits")

    def described(name: str, aval: Any) -> Any:
        shape = [dim if isinstance(dim, int) else str(dim) for dim in aval.shape]
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "kd_sleep_student",
            list(map(described, names, traced.in_avals[len(weights) :])),
            [described("logits", *traced.out_avals)],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="kd_sleep",
    )
    model.ir_version = IR_VERSION
    helper.set_model_props(model, {"card": json.dumps(student.card, allow_nan=False)})
    checker.check_model(model)
    return model.SerializeToString()


class _Graph:
    """Nodes and constants, as they are added.

    A value is the name of a tensor, or a NumPy array that is not in the graph yet.
    """

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.dims: dict[str, str] = {}  # the open dimensions, [1] int64 each

    def op(self, kind: str, *inputs: Any, **attributes: Any) -> str:
        """The output of an operator; inputs that are no names are constants."""
        from onnx import helper

        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        out = attributes.pop("out", f"v{len(self.nodes)}")
        self.nodes.append(helper.make_node(kind, names, [out], **attributes))
        return out

    def constant(self, value: Any) -> str:
        from onnx import numpy_helper

        array = np.asarray(value)
        self.constants.append(numpy_helper.from_array(array, f"c{len(self.constants)}"))
        return self.constants[-1].name

    def shape(self, dims: Sequence[Any]) -> Any:
        """Dimensions as int64 [n]: a constant, or computed where some are open."""
        if all(isinstance(dim, int) for dim in dims):
            return np.array(dims, np.int64)
        parts = [self.size(dim) for dim in dims]
        return self.op("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]

    def size(self, dim: Any) -> Any:
        """One dimension as int64 [1]."""

        def of(node: ast.AST) -> Any:
            match node:
                case ast.Expression(body=body):
                    return of(body)
                case ast.Name(id=name) if name in self.dims:
                    return self.dims[name]
                case ast.Constant(value=int(value)):
                    return np.array([value], np.int64)
                case ast.UnaryOp(op=ast.USub(), operand=operand):
                    return self.op("Neg", of(operand))
                case ast.BinOp(left=left, op=ast.Add(), right=right):
                    return self.op("Add", of(left), of(right))
                case ast.BinOp(left=left, op=ast.Sub(), right=right):
                    return self.op("Sub", of(left), of(right))
                case ast.BinOp(left=left, op=ast.Mult(), right=right):
                    return self.op("Mul", of(left), of(right))
            raise NotImplementedError(f"a dimension of {dim} has no translation")

        return of(ast.parse(str(dim), mode="eval"))

    def jaxpr(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        """The values of a jaxpr's outputs."""
        known: dict[Any, Any] = dict(
            zip([*jaxpr.constvars, *jaxpr.invars], [*map(np.asarray, consts), *inputs], strict=True)
        )

        def read(atom: Any) -> Any:
            if isinstance(atom, core.Literal):
                aval: Any = atom.aval
                return np.asarray(atom.val, aval.dtype)
            return known[atom]

        for equation in jaxpr.eqns:
            values = self.equation(equation, [read(atom) for atom in equation.invars])
            known.update(zip(equation.outvars, values, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, equation: Any, values: list[Any]) -> list[Any]:
        """The values of an equation's outputs."""
        name, parameters = equation.primitive.name, equation.params
        if name in _CALLS:
            inner = parameters.get("jaxpr", parameters.get("call_jaxpr"))
            inner = inner if isinstance(inner, core.ClosedJaxpr) else core.ClosedJaxpr(inner, ())
            return self.jaxpr(inner.jaxpr, inner.consts, values)
        shapes = [dim for out in equation.outvars for dim in out.aval.shape]
        if not any(isinstance(v, str) for v in values) and all(isinstance(d, int) for d in shapes):
            out = equation.primitive.bind(*values, **parameters)
            return [*map(np.asarray, out if equation.primitive.multiple_results else [out])]
        if name in _OPERATORS:
            return [self.op(_OPERATORS[name], *values)]
        if name not in _TRANSLATIONS:
            raise NotImplementedError(f"the primitive {name} has no translation to ONNX")
        out = _TRANSLATIONS[name](self, equation, *values)
        return out if isinstance(out, list) else [out]


def _slice(graph: _Graph, x: Any, starts: Any, ends: Any, steps: Sequence[int]) -> str:
    return graph.op("Slice", x, np.array(starts), ends, np.arange(len(steps)), np.array(steps))


def _broadcast(graph: _Graph, equation: Any, x: Any, *_: Any) -> str:
    dims, shape = equation.params["broadcast_dimensions"], equation.params["shape"]
    new = [axis for axis in range(len(shape)) if axis not in dims]
    if new:
        x = graph.op("Unsqueeze", x, np.array(new))
    return graph.op("Expand", x, graph.shape(shape))


def _cast(graph: _Graph, equation: Any, x: Any) -> str:
    from onnx import helper

    dtype = np.dtype(equation.params["new_dtype"])
    return graph.op("Cast", x, to=helper.np_dtype_to_tensor_dtype(dtype))


def _convolution(graph: _Graph, equation: Any, x: Any, kernel: Any) -> str:
    p = equation.params
    lhs, rhs, out = p["dimension_numbers"]
    if any(d != 1 for d in p["lhs_dilation"]) or p["batch_group_count"] != 1:
        raise NotImplementedError("a transposed convolution has no translation to ONNX")
    before, after = zip(*p["padding"], strict=True)
    y = graph.op(
        "Conv",
        graph.op("Transpose", x, perm=lhs),
        graph.op("Transpose", kernel, perm=rhs),
        strides=p["window_strides"],
        pads=[*before, *after],
        dilations=p["rhs_dilation"],
        group=p["feature_group_count"],
    )
    return graph.op("Transpose", y, perm=np.argsort(out).tolist())


def _dot(graph: _Graph, equation: Any, x: Any, y: Any) -> str:
    (sum_x, sum_y), (batch_x, batch_y) = equation.params["dimension_numbers"]
    axes_x, axes_y = (range(len(atom.aval.shape)) for atom in equation.invars)
    if not batch_x and sum_x == (len(axes_x) - 1,) and sum_y == (0,) and len(axes_y) == 2:
        return graph.op("MatMul", x, y)
    letters = iter(string.ascii_lowercase)
    of_x = {axis: next(letters) for axis in axes_x}
    shared = dict(zip([*sum_y, *batch_y], [of_x[axis] for axis in (*sum_x, *batch_x)], strict=True))
    of_y = {axis: shared.get(axis) or next(letters) for axis in axes_y}
    out = [of_x[axis] for axis in batch_x]
    out += [of_x[axis] for axis in axes_x if axis not in (*sum_x, *batch_x)]
    out += [of_y[axis] for axis in axes_y if axis not in shared]
    terms = "".join(of_x.values()), "".join(of_y.values()), "".join(out)
    return graph.op("Einsum", x, y, equation="{},{}->{}".format(*terms))


def _gather(graph: _Graph, equation: Any, x: Any, index: Any) -> str:
    """A slice from a constant place, or constant places along each of some axes, as x[:, ::2]."""
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    mapped, dropped = numbers.start_index_map, numbers.collapsed_slice_dims
    if isinstance(index, str) or numbers.operand_batching_dims:
        raise NotImplementedError("a gather from computed places has no translation to ONNX")
    index = index.astype(np.int64)
    if index.ndim == 1:
        starts = np.zeros(len(sizes), np.int64)
        starts[list(mapped)] = index
        ends = [int(start) + size for start, size in zip(starts, sizes, strict=True)]
        x = _slice(graph, x, starts, graph.shape(ends), [1] * len(sizes))
        return graph.op("Squeeze", x, np.array(dropped)) if dropped else x
    # Places [..., len(mapped)]: those of an axis change along one dimension, which replaces it.
    in_place = [axis for axis in range(len(sizes)) if axis not in numbers.offset_dims]
    for number, axis in enumerate(mapped):
        of_axis = np.moveaxis(index[..., number], min(number, index.ndim - 2), 0)
        places = of_axis.reshape(len(of_axis), -1)
        if (places != places[:, :1]).any() or not list(mapped) == list(dropped) == in_place:
            raise NotImplementedError("a gather of scattered places has no translation to ONNX")
        x = graph.op("Gather", x, places[:, 0], axis=axis)
    return x


def _padded(graph: _Graph, equation: Any, x: Any, value: Any) -> str:
    before, after, inside = zip(*equation.params["padding_config"], strict=True)
    if any(inside):
        raise NotImplementedError("padding between samples has no translation to ONNX")
    return graph.op("Pad", x, np.array([*before, *after]), value)


def _select(graph: _Graph, equation: Any, which: Any, *cases: Any) -> str:
    if len(cases) != 2 or equation.invars[0].aval.dtype != bool:
        raise NotImplementedError("a choice of more than two has no translation to ONNX")
    return graph.op("Where", which, cases[1], cases[0])


def _sliced(graph: _Graph, equation: Any, x: Any) -> str:
    p = equation.params
    steps = p["strides"] or [1] * len(p["start_indices"])
    return _slice(graph, x, p["start_indices"], graph.shape(p["limit_indices"]), steps)


def _split(graph: _Graph, equation: Any, x: Any) -> list[Any]:
    axis, sizes = equation.params["axis"], equation.params["sizes"]
    ends = np.cumsum(sizes)
    return [
        graph.op("Slice", x, [int(end - size)], [int(end)], [axis])
        for end, size in zip(ends, sizes, strict=True)
    ]


def _reduction(kind: str) -> Callable:
    return lambda graph, equation, x: graph.op(
        kind, x, np.array(equation.params["axes"]), keepdims=0
    )


# Primitives that are no single operator: (graph, equation, values) -> value, or all values.
_TRANSLATIONS: dict[str, Callable] = {
    "broadcast_in_dim": _broadcast,
    "clamp": lambda g, _, low, x, high: g.op("Min", g.op("Max", x, low), high),
    "concatenate": lambda g, eqn, *x: g.op("Concat", *x, axis=eqn.params["dimension"]),
    "conv_general_dilated": _convolution,
    "convert_element_type": _cast,
    "dot_general": _dot,
    "expand_dims": lambda g, eqn, x: g.op("Unsqueeze", x, np.array(eqn.params["dimensions"])),
    "gather": _gather,
    "integer_pow": lambda g, eqn, x: g.op("Pow", x, np.array(eqn.params["y"], np.float32)),
    "is_finite": lambda g, _, x: g.op("Not", g.op("Or", g.op("IsNaN", x), g.op("IsInf", x))),
    "ne": lambda g, _, x, y: g.op("Not", g.op("Equal", x, y)),
    "log1p": lambda g, _, x: g.op("Log", g.op("Add", x, np.float32(1.0))),
    "pad": _padded,
    "reduce_max": _reduction("ReduceMax"),
    "reduce_min": _reduction("ReduceMin"),
    "reduce_sum": _reduction("ReduceSum"),
    "reshape": lambda g, eqn, x, *_: g.op("Reshape", x, g.shape(eqn.params["new_sizes"])),
    "rsqrt": lambda g, _, x: g.op("Reciprocal", g.op("Sqrt", x)),
    "select_n": _select,
    "slice": _sliced,
    "split": _split,
    "square": lambda g, _, x: g.op("Mul", x, x),
    "squeeze": lambda g, eqn, x: g.op("Squeeze", x, np.array(eqn.params["dimensions"])),
    "stack": lambda g, eqn, *x: g.op(
        "Concat",
        *(g.op("Unsqueeze", v, [eqn.params["axis"]]) for v in x),
        axis=eqn.params["axis"],
    ),
    "stop_gradient": lambda g, _, x: x,
    "transpose": lambda g, eqn, x: g.op("Transpose", x, perm=eqn.params["permutation"]),
}
