"""Writes a trained student as an ONNX model, for onnxruntime where there is no jax.

The network is written out once more in ONNX's operators, in the order of `models.frontends`,
`models.sequence` and `models.quality`: general converters either fix B and L or take minutes, and
one of them wants an older Orbax. Before a model is in place onnxruntime runs it, and its logits are
held to the student's; a network that has changed on one side alone is refused there.

Inputs `bcg` [B, L, S] in heartbeat amplitudes at 50 Hz and `valid` [B, L], outputs `logits`
[B, L, K] and, where the student has an SQI, `sqi` [B, L]; float32, any B and L. The card, as of
`inference.program.Program`, is the model's metadata under "card", in JSON.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kd_sleep.errors import ConfigError, ExportError
from kd_sleep.inference import container
from kd_sleep.inference.export import TOLERANCE, largest_difference
from kd_sleep.inference.program import Program, Trained, Weights, bound, trained
from kd_sleep.schema import BCG_SAMPLES
from kd_sleep.stages import NUM_STAGES

OPSET, IR_VERSION = 18, 9  # of 2022 and 2023: onnxruntime 1.15 and later read them


def assert_installed() -> None:
    """Raises ConfigError where the packages are not there."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"--onnx: {error}.", "Run `pip install -e '.[onnx]'`.") from error


def export_onnx(workdir: Path, out: Path) -> float:
    """Writes the student of `workdir` to `out`, and runs the model before it is in place.

    Returns:
      The largest difference of its logits, and SQI, from the student's.

    Raises:
      TrainingError: no trained student in the folder.
      ExportError: the model does not say what the student says, or the student computes in
        bfloat16, which ONNX's float32 is not equal to.
    """
    assert_installed()
    student = trained(workdir)
    if (dtype := student.card["train"]["compute_dtype"]) != "float32":
        raise ExportError(
            out, f"not written: this student computes in {dtype}.", "Use the .kdsleep file."
        )
    data = model_of(student)
    difference = largest_difference(
        Program(student.card, onnx_call(data)),
        Program(student.card, bound(student.function, student.weights)),
    )
    if not difference < TOLERANCE:
        raise ExportError(
            out,
            f"not written: its logits would differ from the student's by {difference:.2g}.",
            "Please report this; the .kdsleep file is not concerned.",
        )
    container.write(out, data)
    return difference


def onnx_call(data: bytes) -> Any:
    """`Program.call` of an ONNX model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def call(bcg_BLS: ArrayLike, valid_BL: ArrayLike) -> tuple[NDArray, NDArray]:
        inputs = {
            "bcg": np.asarray(bcg_BLS, np.float32),
            "valid": np.asarray(valid_BL, np.float32),
        }
        logits_BLK, *sqi = session.run(None, inputs)
        return logits_BLK, sqi[0] if sqi else np.full(logits_BLK.shape[:2], np.nan, np.float32)

    return call


def model_of(student: Trained) -> bytes:
    """The model's bytes."""
    from onnx import TensorProto, checker, helper

    graph = _Graph(student.weights)
    outputs = _network(graph, student.card["model"])
    shapes = {"logits": ["B", "L", NUM_STAGES], "sqi": ["B", "L"]}
    floats = TensorProto.FLOAT
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "kd_sleep_student",
            [
                helper.make_tensor_value_info("bcg", floats, ["B", "L", BCG_SAMPLES]),
                helper.make_tensor_value_info("valid", floats, ["B", "L"]),
            ],
            [helper.make_tensor_value_info(name, floats, shapes[name]) for name in outputs],
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
    """Nodes and constants, as they are added; values go by their names."""

    def __init__(self, weights: Weights):
        self.weights = weights
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def op(self, kind: str, *inputs: Any, **attributes: Any) -> str:
        """The value of an operator; inputs that are no names are constants."""
        from onnx import helper

        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        out = attributes.pop("out", f"v{len(self.nodes)}")
        self.nodes.append(helper.make_node(kind, names, [out], **attributes))
        return out

    def constant(self, value: Any) -> str:
        from onnx import numpy_helper

        array = np.asarray(value)
        array = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
        self.constants.append(numpy_helper.from_array(array, f"c{len(self.constants)}"))
        return self.constants[-1].name

    def dense(self, x: str, name: str) -> str:
        kernel, bias = self.weights[f"{name}/kernel"], self.weights[f"{name}/bias"]
        return self.op("Add", self.op("MatMul", x, kernel), bias)

    def relu(self, x: str) -> str:
        return self.op("Relu", x)

    def norm(self, x: str) -> str:
        """`models.sequence.Norm`: root mean square 1 over the last axis."""
        mean = self.op("ReduceMean", self.op("Mul", x, x), [-1])
        return self.op("Div", x, self.op("Sqrt", self.op("Add", mean, 1e-6)))

    def join(self, *inputs: str) -> str:
        return self.op("Concat", *inputs, axis=-1)

    def part(self, x: str, axis: int, start: int, stop: int | None = None) -> str:
        stop = np.iinfo(np.int64).max if stop is None else stop
        return self.op("Slice", x, [start], [stop], [axis])

    def shift(self, x: str, name: str, reach: int = 1, *, causal: bool = False) -> str:
        """`models.sequence.Shift`."""
        third = self.weights[f"{name}/Dense_0/kernel"].shape[0] // 3
        earlier = self.op("Pad", self.part(x, 2, 0, third), [0, reach, 0, 0, 0, 0])
        moved = [self.part(earlier, 1, 0, -reach)]
        if causal:
            moved.append(self.part(x, 2, third))
        else:
            later = self.op("Pad", self.part(x, 2, 2 * third), [0, 0, 0, 0, reach, 0])
            moved += [self.part(x, 2, third, 2 * third), self.part(later, 1, reach)]
        return self.dense(self.join(*moved), f"{name}/Dense_0")

    def pool(self, x: str) -> str:
        """`models.sequence.pool`."""
        mean = self.op("ReduceMean", x, [1], keepdims=0)
        return self.join(mean, self.op("ReduceMax", x, [1], keepdims=0))


def _network(g: _Graph, config: dict[str, Any]) -> list[str]:
    """Adds the student to a graph; names of its outputs."""
    from kd_sleep.models.frontends import FRONT_ENDS

    mask = g.op("Unsqueeze", "valid", [-1])
    bcg = g.op("Where", g.op("Greater", mask, 0.0), "bcg", 0.0)
    bcg = g.op("Reshape", bcg, [-1, BCG_SAMPLES])
    part = f"student/{FRONT_ENDS[config['front_end']].__name__}_0"
    x = {"autocorrelation": _autocorrelation, "convolution": _convolution}[config["front_end"]](
        g, bcg, part
    )
    shape = g.op("Concat", g.op("Shape", "valid"), [config["width"]], axis=0)
    x = g.op("Reshape", x, shape)
    for layer in range((config["context_windows"] + 1).bit_length() - 1):
        y = g.op("Mul", g.norm(x), mask)
        name = f"student/Context_0/Shift_{layer}"
        y = g.relu(g.shift(y, name, 2**layer, causal=config["causal"]))
        x = g.op("Add", x, g.dense(y, f"student/Context_0/Dense_{layer}"))
    x = g.norm(x)
    logits = g.op("Identity", g.dense(x, "student/Dense_0"), out="logits")
    if "sqi/scale" not in g.weights:
        return [logits]
    log_probs = g.op("LogSoftmax", logits, axis=-1)
    surprise = g.op("Mul", g.op("Exp", log_probs), log_probs)
    entropy = g.op("Neg", g.op("ReduceSum", surprise, [-1]))
    x = g.join(x, g.op("Max", log_probs, -10.0), entropy)
    for layer in range(2):
        x = g.relu(g.dense(x, f"sqi/params/Dense_{layer}"))
    logit = g.op("Squeeze", g.dense(x, "sqi/params/Dense_2"), [-1])
    curve = g.op("Add", g.op("Mul", logit, g.weights["sqi/scale"]), g.weights["sqi/shift"])
    return [logits, g.op("Sigmoid", curve, out="sqi")]


def _autocorrelation(g: _Graph, bcg: str, name: str) -> str:
    """`models.frontends.Autocorrelation`."""
    from kd_sleep.models import frontends as f

    frame, hop = round(f.FRAME_S * f.BCG_HZ), round(f.HOP_S * f.BCG_HZ)
    frames = np.arange((BCG_SAMPLES - frame) // hop + 1)[:, None] * hop + np.arange(frame)
    forward, back = f.heart_matrices()
    spectrum = g.op("MatMul", g.op("Gather", bcg, frames, axis=1), forward)
    half = forward.shape[1] // 2
    cosine, sine = g.part(spectrum, 2, 0, half), g.part(spectrum, 2, half)
    power = g.op("Add", g.op("Mul", cosine, cosine), g.op("Mul", sine, sine))
    energy = g.op("Add", g.op("ReduceSum", power, [-1]), 1e-3)
    correlation = g.op("Div", g.op("MatMul", power, back), energy)
    loudness = g.op("Mul", g.op("Sub", g.op("Log", energy), 8.0), 0.3)
    heart = g.dense(g.join(g.op("Mul", correlation, 2.0), loudness), f"{name}/Dense_0")
    for layer in range(2):
        change = g.shift(g.relu(g.norm(heart)), f"{name}/Shift_{layer}")
        heart = g.op("Add", heart, change)

    samples, side = round(BCG_SAMPLES * f.SLOW_HZ / f.BCG_HZ), f.SLOW_FRAME // 2
    wave = g.op("Reshape", bcg, [-1, samples, BCG_SAMPLES // samples])
    wave = g.op("ReduceMean", wave, [-1], keepdims=0)
    wave = g.op("Sub", wave, g.op("ReduceMean", wave, [-1]))
    mean = g.op("ReduceMean", g.op("Mul", wave, wave), [-1])
    shape = g.op("Div", wave, g.op("Sqrt", g.op("Add", mean, 1e-3)))
    size = g.op("Div", g.op("Asinh", wave), 3.0)
    both = g.join(g.op("Unsqueeze", shape, [-1]), g.op("Unsqueeze", size, [-1]))
    both = g.op("Pad", both, [0, side, 0, 0, side, 0])
    places = np.arange(0, samples, f.SLOW_HOP)[:, None] + np.arange(f.SLOW_FRAME)
    slow = g.op("Gather", both, places, axis=1)
    slow = g.op("Reshape", slow, [-1, len(places), 2 * f.SLOW_FRAME])
    slow = g.relu(g.norm(g.dense(slow, f"{name}/Dense_1")))
    slow = g.relu(g.norm(g.shift(slow, f"{name}/Shift_2")))
    return g.dense(g.join(g.pool(g.relu(heart)), g.pool(slow)), f"{name}/Dense_2")


def _convolution(g: _Graph, bcg: str, name: str) -> str:
    """`models.frontends.Convolution`."""

    def conv(x_NCW: str, layer: int, stride: int, samples: int) -> tuple[str, int]:
        kernel = g.weights[f"{name}/Conv_{layer}/kernel"]  # [size, in, out]
        count = -(-samples // stride)
        padding = max((count - 1) * stride + len(kernel) - samples, 0)  # "SAME"
        x_NCW = g.op(
            "Conv", x_NCW, kernel.transpose(2, 1, 0), g.weights[f"{name}/Conv_{layer}/bias"],
            strides=[stride], pads=[padding // 2, padding - padding // 2],
        )  # fmt: skip
        return x_NCW, count

    def turned(x: str) -> str:
        return g.op("Transpose", x, perm=[0, 2, 1])

    slope = g.op("Sub", g.part(bcg, 1, 1), g.part(bcg, 1, 0, -1))
    slope = g.op("Pad", slope, [0, 1, 0, 0])
    x = g.op(
        "Concat",
        g.op("Unsqueeze", g.op("Div", g.op("Asinh", bcg), 3.0), [1]),
        g.op("Unsqueeze", g.op("Asinh", slope), [1]),
        axis=1,
    )
    samples = BCG_SAMPLES
    for layer, stride in enumerate((3, 5, 3)):
        x, samples = conv(x, layer, stride, samples)
        x = turned(g.relu(g.norm(turned(x))))
    x = turned(g.op("Add", x, conv(x, 3, 1, samples)[0]))
    return g.dense(g.pool(g.relu(x)), f"{name}/Dense_0")
