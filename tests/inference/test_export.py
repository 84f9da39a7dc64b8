"""The exported file: the student's logits from jax alone, and one clear error for a bad file."""

import contextlib
import dataclasses
import functools
import hashlib
import io
import struct
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export

from kd_sleep.config import StudentConfig
from kd_sleep.errors import ConfigError, ExportError
from kd_sleep.extras import MissingPackage
from kd_sleep.inference import container, export, onnx
from kd_sleep.models import frontends
from kd_sleep.stages import NUM_STAGES

KINDS = {
    "beats": {},
    "causal": {"causal": True},
    "autocorrelation": {"front_end": "autocorrelation"},
}
FORBIDDEN = {"flax", "optax", "orbax", "tensorflow_datasets", "grain", "sleepecg", "edfio"}


@pytest.fixture(scope="module")
def students(make_trained):
    return {name: make_trained(sqi=True, **config) for name, config in KINDS.items()}


@pytest.fixture(scope="module")
def content(students):
    student = students["beats"]
    return container.Content(student.card, dict(student.weights), export.serialized(student))


@pytest.fixture(scope="module")
def data(content):
    return container.pack(content)


def assert_alike(one, other, shapes, tolerance):
    for seed, (batch, length) in enumerate(((1, 1), (3, 9))):
        inputs, valid_BL = export.noise(shapes, batch, length, seed)
        valid_BL[-1, length // 2 + 1 :] = 0.0
        there = valid_BL > 0
        mine, theirs = one(inputs, valid_BL)[there], other(inputs, valid_BL)[there]
        assert np.isfinite(theirs).all()
        np.testing.assert_allclose(mine, theirs, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_says_what_the_student_says(students, kind, tmp_path, monkeypatch):
    student, out = students[kind], tmp_path / "made" / "s.kdsleep"
    done = export.export_student(student, out)
    assert done.difference < 1e-5
    assert done.size == out.stat().st_size
    loaded = export.read_student(out)
    assert loaded.card == done.card
    assert loaded.card["sqi"]["temperature"] == 1.5
    assert_alike(loaded.call, student.call, student.card["inputs"], 1e-5)
    assert [path.name for path in out.parent.iterdir()] == ["s.kdsleep"]


def test_the_default_student_fits_in_700_kb(make_trained):
    default = StudentConfig()
    student = make_trained(width=default.width, context_windows=default.context_windows)
    data = container.pack(
        container.Content(student.card, dict(student.weights), export.serialized(student))
    )
    assert len(data) < 700_000


def test_the_program_is_for_every_platform(content):
    assert jax_export.deserialize(bytearray(content.program)).platforms == ("cpu", "cuda", "tpu")


def test_running_a_file_takes_jax_alone(data, tmp_path):
    (tmp_path / "s.kdsleep").write_bytes(data)
    code = (
        "import sys, numpy as np\n"
        "from kd_sleep.inference.export import read_student\n"
        f"found = read_student({str(tmp_path / 's.kdsleep')!r})\n"
        "inputs = {n: np.ones((1, 2, *s)) for n, s in found.card['inputs'].items()}\n"
        "assert np.isfinite(found.call(inputs, np.ones((1, 2)))).all()\n"
        "print(*sorted({m.split('.')[0] for m in sys.modules}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(out.stdout.split())
    assert "jax" in loaded
    assert not loaded & FORBIDDEN


def test_a_file_that_says_another_thing_is_not_put_in_place(students, tmp_path, monkeypatch):
    out = tmp_path / "s.kdsleep"
    out.write_bytes(b"the old one")
    real = export.serialized

    def other(student):
        def function(weights, inputs, valid_BL):
            logits_BLK = student.function(weights, inputs, valid_BL)
            return logits_BLK + 1e-3

        return real(dataclasses.replace(student, function=function))

    monkeypatch.setattr(export, "serialized", other)
    with pytest.raises(ExportError, match="not written: its logits would differ"):
        export.export_student(students["beats"], out)
    assert out.read_bytes() == b"the old one"


def test_logits_that_are_not_numbers_are_a_difference(students):
    right = students["beats"]

    def wrong(inputs, valid_BL):
        return np.full_like(right.call(inputs, valid_BL), np.nan)

    assert not export.largest_difference(wrong, right) < export.TOLERANCE


def test_a_folder_is_no_file(students, tmp_path):
    with pytest.raises(ConfigError, match="is a folder"):
        export.export_student(students["beats"], tmp_path)


# Bad files


def signed(body, number=container.FORMAT):
    """A file of a body, with a length and a checksum that are right."""
    digest = hashlib.sha256(body).digest()
    return container.MAGIC + struct.pack("<IQ", number, 52 + len(body)) + digest + body


def with_parts(data, **changes):
    """A file of which some parts are others, or absent where None, signed anew."""
    parts = dict(np.load(io.BytesIO(data[52:]))) | changes
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{k: v for k, v in parts.items() if v is not None})
    return signed(buffer.getvalue())


def test_what_is_packed_comes_back(content, data):
    back = container.unpack(data, "s")
    assert back.card == content.card
    assert back.program == content.program
    assert list(back.arrays) == list(content.arrays)
    for name, array in content.arrays.items():
        np.testing.assert_array_equal(back.arrays[name], array)
    assert container.pack(content) == data
    assert signed(data[52:]) == data
    assert with_parts(data) == data


def test_every_flipped_cut_or_appended_byte_is_one_clear_error(data):
    rng = np.random.default_rng(0)
    places = [*range(64), *range(len(data) - 64, len(data)), *rng.integers(64, len(data), 300)]
    for place in places:
        mutant = bytearray(data)
        mutant[place] ^= 1 << rng.integers(8)
        with pytest.raises(ExportError, match=r"^s\.kdsleep: "):
            container.unpack(bytes(mutant), "s.kdsleep")
    for length in [*range(100), *rng.integers(0, len(data), 200), len(data) - 1]:
        with pytest.raises(ExportError, match=r"^s\.kdsleep: (cut short|no \.kdsleep file)"):
            container.unpack(data[:length], "s.kdsleep")
    for more in (b"\0", b"x" * 1000, data):
        with pytest.raises(ExportError, match=r"damaged: .* bytes where it says"):
            container.unpack(data + more, "s.kdsleep")


def test_a_newer_format_and_another_kind_of_file_are_told_apart(data, tmp_path):
    newer = signed(data[52:], 5)
    with pytest.raises(ExportError, match=r"of format 5; .* reads format 4\. Install the kd_sleep"):
        container.unpack(newer, "s")
    for other in (b"", b"PK\3\4 a zip", b"\x80\x04\x95 a pickle"):
        (tmp_path / "other").write_bytes(other)
        with pytest.raises(ExportError, match=r"no \.kdsleep file"):
            export.read_student(tmp_path / "other")


class Unpickled:
    def __reduce__(self):
        return (pytest.fail, ("it was unpickled",))


def as_bytes(text):
    return np.frombuffer(text.encode(), np.uint8)


BAD_PARTS = {
    "weights of float64": {"weights/more": np.zeros(3)},
    "objects": {"weights/more": np.array([Unpickled()], object)},
    "a part that is no weight": {"more": np.zeros(3, np.float32)},
    "no program": {"program": None},
    "no card": {"card": None},
    "a card that is a list": {"card": as_bytes("[]")},
    "a card that nests": {"card": as_bytes("[" * 100_000)},
    "no JSON": {"card": as_bytes("{")},
    "a number that is none": {"card": as_bytes('{"a": NaN}')},
    "a bomb": {"program": np.zeros(container.LARGEST, np.uint8)},
}


@pytest.mark.parametrize("name", BAD_PARTS)
def test_bad_parts_under_a_right_checksum_are_refused(data, name):
    mutant = with_parts(data, **BAD_PARTS[name])
    with pytest.raises(ExportError, match="its checksum is right and its contents are not"):
        container.unpack(mutant, "s")


def test_bytes_under_a_right_checksum_that_are_no_parts_are_refused_or_change_nothing(
    data, content
):
    rng = np.random.default_rng(0)
    places = [
        *range(52, 152),
        *range(len(data) - 400, len(data)),
        *rng.integers(52, len(data), 200),
    ]
    errors = 0
    for place in places:
        mutant = bytearray(data)
        mutant[place] ^= 1 << rng.integers(8)
        with contextlib.suppress(ExportError):
            errors += 1
            found = container.unpack(signed(bytes(mutant[52:])), "s")
            errors -= 1
            assert (found.card, found.program) == (content.card, content.program)
    assert errors > 0.3 * len(places)


def test_a_file_too_large_is_not_read(tmp_path, monkeypatch, data):
    (tmp_path / "s").write_bytes(data)
    monkeypatch.setattr(container, "LARGEST", len(data) - 1)
    with pytest.raises(ExportError, match="more than an exported student has"):
        container.read(tmp_path / "s")


CARDS = {
    "stages of another order": {"stages": ["Wake", "Light", "Deep", "REM"]},
    "an SQI of nothing": {"sqi": {}},
    "a reach that is a list": {"reach": [3, 3]},
    "a reach below 0": {"reach": {"before": -1, "after": 0}},
    "no inputs": {"inputs": {}},
    "inputs that nobody makes": {"inputs": {"eeg": [3000]}},
    "inputs of another shape": {"inputs": {"jj": [121]}},
    "versions that are a list": {"versions": []},
    "no model": {"model": None},
}


@pytest.mark.parametrize("name", CARDS)
def test_a_card_that_cannot_be_is_refused(content, name):
    bad = dataclasses.replace(content, card={**content.card, **CARDS[name]})
    with pytest.raises(ExportError, match="its program cannot be used"):
        export.of_content(bad, "s")


@pytest.mark.parametrize(
    ("name", "there", "differing"),
    [
        ("bcg.HIGHPASS_HZ", 0.1, r"bcg\.HIGHPASS_HZ 0\.1 there, 0\.05 here"),
        ("schema", "1.0.0", r"schema 1\.0\.0 there, "),
        ("series.LEVEL_S", 4.0, r"series\.LEVEL_S 4\.0 there, 5\.0 here"),
        ("inputs.OF_OLD", 1.0, r"inputs\.OF_OLD 1\.0 there, None here"),
    ],
)
def test_inputs_made_by_another_version_are_refused_by_name(content, name, there, differing):
    other = {**content.card["preprocessing"], name: there}
    bad = dataclasses.replace(content, card={**content.card, "preprocessing": other})
    with pytest.raises(ExportError, match=f"in another way: {differing}.*kd_sleep it is of .0.1.0"):
        export.of_content(bad, "s")


def test_weights_of_another_program_are_refused(content):
    arrays = dict(content.arrays)
    name = next(name for name in arrays if name.endswith("kernel"))
    for bad in (
        {**arrays, name: arrays[name][:-1]},
        {key: array for key, array in arrays.items() if key != name},
    ):
        with pytest.raises(ExportError, match="its program cannot be used"):
            export.of_content(dataclasses.replace(content, arrays=bad), "s")


def test_programs_that_are_none_are_refused(content):
    rng = np.random.default_rng(0)
    mutants = [b"no program", content.program[:1000]]
    for place in rng.integers(0, len(content.program), 8):
        mutant = bytearray(content.program)
        mutant[place] ^= 0xFF
        mutants.append(bytes(mutant))
    refused = 0
    for mutant in mutants:
        try:
            export.of_content(dataclasses.replace(content, program=mutant), "s")
        except ExportError as error:
            refused += "its program cannot be used by jax" in str(error)
    assert refused >= 2  # others changed a constant


def test_a_program_that_calls_other_code_is_refused(students):
    student = students["beats"]

    def function(weights, inputs, valid_BL):
        logits_BLK = student.function(weights, inputs, valid_BL)
        return logits_BLK + jnp.linalg.cholesky(jnp.eye(NUM_STAGES)).sum()

    calling = dataclasses.replace(student, function=function)
    bad = container.Content(student.card, dict(student.weights), export.serialized(calling))
    with pytest.raises(ExportError, match="it calls what no student calls"):
        export.of_content(bad, "s")


# ONNX


def test_without_its_packages_onnx_is_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingPackage, match=r"onnx is not .* `pip install 'kd_sleep\[onnx\]'`"):
        onnx.assert_installed()


@pytest.mark.parametrize("kind", KINDS)
def test_onnx_says_what_the_student_says(students, kind, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="onnx and onnxruntime: pip install -e '.[onnx]'")
    student, out = students[kind], tmp_path / "s.onnx"
    assert onnx.export_onnx(student, out) < 1e-4
    shapes = student.card["inputs"]
    call = onnx.onnx_call(out.read_bytes(), shapes)
    assert_alike(call, student.call, shapes, 1e-4)


class Odd(nn.Module):
    """A front end of many primitives, and with `sort` of one that ONNX is not told of."""

    width: int
    dtype: type = jnp.float32
    sort: bool = False

    @nn.compact
    def __call__(self, bcg_NS):
        x = bcg_NS.reshape(-1, 30, 50)
        if self.sort:
            x = jnp.sort(x, axis=-1)
        kernel = self.param("kernel", nn.initializers.normal(), (30, 50, 4))
        x = jnp.einsum("nts,tsc->ntc", jnp.tanh(x / 10.0), kernel)
        x = jnp.log1p(jnp.abs(x)) - jax.lax.clamp(-1.0, nn.sigmoid(x) ** 3, 0.5)
        x = jnp.where((x > 0.2) & (x != 0.3), jnp.minimum(x, 1.0), -(x**2))
        x = nn.gelu(jnp.moveaxis(x, 1, 2)[:, ::2, 1:-1:3])
        x = x.reshape(x.shape[0], -1)
        x = jnp.concatenate([x, jnp.floor(x), x.min(-1, keepdims=True)], axis=-1)
        return nn.Dense(self.width)(jnp.pad(x, ((0, 0), (1, 2)), constant_values=0.5))


def test_a_front_end_that_is_added_exports_without_a_line_of_onnx(
    make_trained, tmp_path, monkeypatch
):
    pytest.importorskip("onnxruntime", reason="onnx and onnxruntime: pip install -e '.[onnx]'")
    monkeypatch.setitem(frontends.FRONT_ENDS, "autocorrelation", Odd)
    student = make_trained(front_end="autocorrelation")
    assert onnx.export_onnx(student, tmp_path / "s.onnx") < 1e-4


def test_onnx_names_a_primitive_that_it_cannot_translate(make_trained, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="onnx and onnxruntime: pip install -e '.[onnx]'")
    sorting = functools.partial(Odd, sort=True)
    monkeypatch.setitem(frontends.FRONT_ENDS, "autocorrelation", sorting)
    student = make_trained(front_end="autocorrelation")
    with pytest.raises(ExportError, match="not written: the primitive sort has no translation"):
        onnx.export_onnx(student, tmp_path / "s.onnx")
    assert not (tmp_path / "s.onnx").exists()


def test_onnx_refuses_a_student_in_bfloat16(students, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="onnx and onnxruntime: pip install -e '.[onnx]'")
    card = {**students["beats"].card, "train": {"compute_dtype": "bfloat16"}}
    half = dataclasses.replace(students["beats"], card=card)
    with pytest.raises(ExportError, match="computes in bfloat16"):
        onnx.export_onnx(half, tmp_path / "s.onnx")
    assert not (tmp_path / "s.onnx").exists()
