"""The exported file: the student's logits from jax alone, and one clear error for a bad file."""

import dataclasses
import hashlib
import json
import struct
import subprocess
import sys
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export

from kd_sleep.config import StudentConfig, to_dict
from kd_sleep.errors import ConfigError, ExportError
from kd_sleep.inference import container, export, onnx, program
from kd_sleep.models.quality import Quality, QualityHead
from kd_sleep.models.student import Student
from kd_sleep.schema import BCG_SAMPLES
from kd_sleep.stages import NUM_STAGES

FITTED = {"temperature": 1.5, "flag_below": 0.3}
KINDS = {
    "autocorrelation": {},
    "convolution": {"front_end": "convolution"},
    "causal": {"causal": True},
}
FORBIDDEN = {"flax", "optax", "orbax", "tensorflow_datasets", "grain", "sleepecg", "edfio"}


def noisy(params, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: leaf + 0.1 * rng.standard_normal(leaf.shape, np.float32), params
    )


def made_up(*, sqi=True, width=8, context_windows=3, **config):
    """A student of parameters without zeros, as `program.trained` gives one."""
    model = StudentConfig(width=width, context_windows=context_windows, **config)
    student = Student(model)
    example = {
        "bcg": jnp.zeros((1, 1, BCG_SAMPLES)),
        "bcg_scale": jnp.ones((1, 1)),
        "valid_BL": jnp.ones((1, 1)),
    }
    params = noisy(jax.jit(student.init)(jax.random.PRNGKey(0), example)["params"], 0)
    quality = None
    if sqi:
        head = QualityHead().init(
            jax.random.PRNGKey(0), jnp.zeros((1, width)), jnp.zeros((1, NUM_STAGES))
        )
        quality = Quality(noisy(head["params"], 1), jnp.float32(1.2), jnp.float32(0.1))
    function, weights = program.pure(student, params, quality)
    settings = {
        "model": to_dict(model),
        "distill": {},
        "train": {"compute_dtype": "float32"},
        "augment": {},
        "teacher": "t",
        "labelled": 2,
    }
    about = {"versions": {"kd_sleep": "0.1.0"}, "git_revision": "unknown"}
    fitted = FITTED if sqi else {"temperature": 1.0, "flag_below": None}
    return program.Trained(function, weights, program._card(about, settings, "s", fitted))


def some_bcg(batch, length, seed=0):
    rng = np.random.default_rng(seed)
    size = np.exp(rng.uniform(-1.0, 5.0, (batch, length, 1)))
    bcg_BLS = (size * rng.normal(size=(batch, length, BCG_SAMPLES))).astype(np.float32)
    valid_BL = np.ones((batch, length), np.float32)
    valid_BL[-1, length // 2 + 1 :] = 0.0
    return bcg_BLS, valid_BL


@pytest.fixture(scope="module")
def students():
    return {name: made_up(**config) for name, config in KINDS.items()}


@pytest.fixture(scope="module")
def content(students):
    student = students["autocorrelation"]
    return container.Content(student.card, dict(student.weights), export.serialized(student))


@pytest.fixture(scope="module")
def data(content):
    return container.pack(content)


def exported(monkeypatch, student, out, **options):
    monkeypatch.setattr(export, "trained", lambda workdir: student)
    return export.export_student(out.parent, out, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_says_what_the_student_says(students, kind, tmp_path, monkeypatch):
    student, out = students[kind], tmp_path / "made" / "s.kdsleep"
    done = exported(monkeypatch, student, out)
    assert done.difference < 1e-5
    assert done.size == out.stat().st_size
    loaded = program.load_program(out)
    assert loaded.card == done.card
    assert (loaded.card["temperature"], loaded.card["flag_below"]) == (1.5, 0.3)
    assert (loaded.card["weights"], loaded.card["int8"]) == ("float32", None)
    call = program.bound(student.function, student.weights)
    for shape in ((1, 1), (3, 9)):
        inputs = some_bcg(*shape)
        for mine, theirs in zip(loaded.call(*inputs), call(*inputs), strict=True):
            there = inputs[1] > 0
            assert np.isfinite(theirs[there]).all()
            np.testing.assert_allclose(mine[there], theirs[there], atol=1e-5)
    assert [path.name for path in out.parent.iterdir()] == ["s.kdsleep"]


def test_without_an_sqi_there_is_none(monkeypatch, tmp_path):
    exported(monkeypatch, made_up(sqi=False), tmp_path / "s.kdsleep")
    loaded = program.load_program(tmp_path / "s.kdsleep")
    assert loaded.card["flag_below"] is None
    assert np.isnan(loaded.call(*some_bcg(1, 2))[1]).all()


def test_the_default_student_fits_in_500_kb():
    student = made_up(width=StudentConfig().width, context_windows=StudentConfig().context_windows)
    data = container.pack(
        container.Content(student.card, dict(student.weights), export.serialized(student))
    )
    assert len(data) < 500_000


def test_the_program_is_for_every_platform(content):
    assert jax_export.deserialize(bytearray(content.program)).platforms == ("cpu", "cuda", "tpu")


def test_running_a_file_takes_jax_alone(data, tmp_path):
    (tmp_path / "s.kdsleep").write_bytes(data)
    code = (
        "import sys, numpy as np\n"
        "from kd_sleep.inference.program import load_program\n"
        f"call = load_program({str(tmp_path / 's.kdsleep')!r}).call\n"
        "assert np.isfinite(call(np.ones((1, 2, 1500)), np.ones((1, 2)))[0]).all()\n"
        "print(*sorted({m.split('.')[0] for m in sys.modules}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(out.stdout.split())
    assert "jax" in loaded
    assert not loaded & FORBIDDEN


def test_int8_is_symmetric_by_output_channel(students):
    weights = students["convolution"].weights
    arrays = export.quantised(weights)
    back = program.dequantised(arrays)
    assert list(back) == list(weights)
    for name, weight in weights.items():
        if weight.ndim < 2:
            np.testing.assert_array_equal(arrays[name], weight)
            continue
        rows = weight.reshape(-1, weight.shape[-1])
        scale = np.abs(rows).max(0) / 127.0
        assert arrays[name].dtype == np.int8
        np.testing.assert_allclose(arrays[name + program.SCALE], scale, rtol=1e-6)
        assert np.all(np.abs(back[name].reshape(rows.shape) - rows) <= 0.5001 * scale)
    assert np.array_equal(
        export.quantised({"w": np.zeros((2, 3), np.float32)})["w"], np.zeros((2, 3))
    )


def test_int8_is_smaller_and_says_that_nobody_measured_it(students, tmp_path, monkeypatch):
    student = students["autocorrelation"]
    whole = exported(monkeypatch, student, tmp_path / "s.kdsleep")
    small = exported(monkeypatch, student, tmp_path / "i.kdsleep", int8=True)
    matrices = sum(weight.size for weight in student.weights.values() if weight.ndim > 1)
    assert whole.size - small.size > 2 * matrices
    assert small.card["int8"] == {"measured": False}
    assert "was not measured" in export.summary(small)
    loaded = program.load_program(small.path)
    inputs = some_bcg(2, 5)
    int8, whole_ = loaded.call(*inputs)[0], program.load_program(whole.path).call(*inputs)[0]
    there = inputs[1] > 0
    assert 0.0 < np.abs(int8 - whole_)[there].max() < 1.0


def test_what_int8_costs_is_measured_on_validation_nights(
    data_dir, students, tmp_path, monkeypatch
):
    from kd_sleep.datasets.nights import read_split

    nights = read_split(data_dir, "validation")
    done = exported(
        monkeypatch, students["autocorrelation"], tmp_path / "s", int8=True, data_dir=data_dir
    )
    cost = program.load_program(tmp_path / "s").card["int8"]
    assert (cost["measured"], cost["split"], cost["nights"]) == (True, "validation", len(nights))
    assert cost["windows"] == nights.windows.sum()
    assert 0.0 <= cost["changed"] < 0.3
    assert set(cost["int8"]) == set(cost["float32"]) == {"accuracy", "kappa"}
    assert "have another stage; accuracy" in export.summary(done)


def test_a_file_that_says_another_thing_is_not_put_in_place(students, tmp_path, monkeypatch):
    out = tmp_path / "s.kdsleep"
    out.write_bytes(b"the old one")
    real = export.serialized

    def other(student):
        def function(weights, bcg_BLS, valid_BL):
            logits_BLK, sqi_BL = student.function(weights, bcg_BLS, valid_BL)
            return logits_BLK + 1e-3, sqi_BL

        return real(dataclasses.replace(student, function=function))

    monkeypatch.setattr(export, "serialized", other)
    with pytest.raises(ExportError, match="not written: its logits would differ"):
        exported(monkeypatch, students["autocorrelation"], out)
    assert out.read_bytes() == b"the old one"


def test_flags_that_do_not_go_together(tmp_path):
    with pytest.raises(ConfigError, match="is a folder"):
        export.export_student(tmp_path, tmp_path)
    with pytest.raises(ConfigError, match="Add --int8"):
        export.export_student(tmp_path, tmp_path / "s", data_dir=tmp_path)


# Bad files


def signed(data):
    """The same with a length and a checksum that are right."""
    body = data[:16] + struct.pack("<Q", len(data)) + data[24:-32]
    return body + hashlib.sha256(body).digest()


def with_header(data, change):
    """A file whose header was changed, signed anew."""
    length = struct.unpack_from("<I", data, 12)[0]
    header = json.loads(data[24 : 24 + length])
    text = change(header)
    text = (json.dumps(header) if text is None else text).encode()
    return signed(
        data[:12] + struct.pack("<I", len(text)) + data[16:24] + text + data[24 + length :]
    )


def test_what_is_packed_comes_back(content, data):
    back = container.unpack(data, "s")
    assert back.card == content.card
    assert back.program == content.program
    assert list(back.arrays) == list(content.arrays)
    for name, array in content.arrays.items():
        np.testing.assert_array_equal(back.arrays[name], array)
    assert container.pack(content) == data
    assert signed(data) == data


def test_every_flipped_cut_or_appended_byte_is_one_clear_error(data):
    rng = np.random.default_rng(0)
    places = [*range(64), *range(len(data) - 64, len(data)), *rng.integers(64, len(data), 1000)]
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
    newer = data[:8] + struct.pack("<I", 2) + data[12:]
    with pytest.raises(ExportError, match=r"of format 2; .* up to 1\. Install a newer kd_sleep"):
        container.unpack(newer, "s")
    for other in (b"", b"PK\3\4 a zip", b"\x80\x04\x95 a pickle"):
        (tmp_path / "other").write_bytes(other)
        with pytest.raises(ExportError, match=r"no \.kdsleep file"):
            program.load_program(tmp_path / "other")


BOMBS = {
    "an array larger than memory": lambda h: h["arrays"][0].update(shape=[2**20, 2**20, 2**10]),
    "a negative shape": lambda h: h["arrays"][0].update(shape=[-1]),
    "a shape that is no number": lambda h: h["arrays"][0].update(shape=["8"]),
    "a dtype of objects": lambda h: h["arrays"][0].update(dtype="object"),
    "a name twice": lambda h: h["arrays"][1].update(name=h["arrays"][0]["name"]),
    "a program that inflates": lambda h: h["program"].update(inflated=2**40),
    "a program larger than it says": lambda h: h["program"].update(inflated=10),
    "a program that is not all": lambda h: h["program"].update(bytes=10),
    "no card": lambda h: h.update(card=[]),
    "no arrays": lambda h: h.update(arrays=None),
    "a header that nests": lambda h: "[" * 100_000,
    "no JSON": lambda h: "{",
    "a number that is none": lambda h: json.dumps(h).replace("1.5", "NaN"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_header_with_a_right_checksum_that_asks_for_too_much(data, name):
    mutant = with_header(data, BOMBS[name])
    with pytest.raises(ExportError, match="its checksum is right and its contents are not"):
        container.unpack(mutant, "s")


def test_a_bomb_takes_no_memory(data, content):
    bomb = zlib.compress(bytes(container.LARGEST * 4), 9)
    whole = zlib.compress(content.program, 9)
    mutant = data[: -32 - len(whole)] + bomb + bytes(32)
    mutant = with_header(mutant, lambda h: h["program"].update(bytes=len(bomb)))
    with pytest.raises(ExportError, match="another size than it says"):
        container.unpack(mutant, "s")


def test_a_file_too_large_is_not_read(tmp_path, monkeypatch, data):
    (tmp_path / "s").write_bytes(data)
    monkeypatch.setattr(container, "LARGEST", len(data) - 1)
    with pytest.raises(ExportError, match="more than an exported student has"):
        container.read(tmp_path / "s")


CARDS = {
    "stages of another order": {"stages": ["Wake", "Light", "Deep", "REM"]},
    "no temperature": {"temperature": None},
    "an endless temperature": {"temperature": float("inf")},
    "a flag that is a word": {"flag_below": "low"},
    "versions that are a list": {"versions": []},
    "no model": {"model": None},
}


@pytest.mark.parametrize("name", CARDS)
def test_a_card_that_cannot_be_is_refused(content, name):
    bad = dataclasses.replace(content, card={**content.card, **CARDS[name]})
    with pytest.raises(ExportError, match="its program cannot be used"):
        program.of_content(bad, "s")


def test_a_bcg_prepared_in_another_way_is_refused(content):
    other = {**content.card["preprocessing"], "highpass_hz": 0.1}
    bad = dataclasses.replace(content, card={**content.card, "preprocessing": other})
    with pytest.raises(ExportError, match=r"in another way: highpass_hz 0\.1 there, 0\.05 here"):
        program.of_content(bad, "s")


def test_weights_of_another_program_are_refused(content):
    arrays = dict(content.arrays)
    name = next(name for name in arrays if name.endswith("kernel"))
    for bad in (
        {**arrays, name: arrays[name][:-1]},
        {key: array for key, array in arrays.items() if key != name},
        {**arrays, name: arrays[name].astype(np.int8)},
    ):
        with pytest.raises(ExportError, match="its program cannot be used"):
            program.of_content(dataclasses.replace(content, arrays=bad), "s")


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
            program.of_content(dataclasses.replace(content, program=mutant), "s")
        except ExportError as error:
            refused += "its program cannot be used by jax" in str(error)
    assert refused >= 2  # others changed a constant


def test_a_program_that_calls_other_code_is_refused(students):
    student = students["autocorrelation"]

    def function(weights, bcg_BLS, valid_BL):
        logits_BLK, sqi_BL = student.function(weights, bcg_BLS, valid_BL)
        return logits_BLK + jnp.linalg.cholesky(jnp.eye(NUM_STAGES)).sum(), sqi_BL

    calling = dataclasses.replace(student, function=function)
    bad = container.Content(student.card, dict(student.weights), export.serialized(calling))
    with pytest.raises(ExportError, match="it calls what no student calls"):
        program.of_content(bad, "s")


# ONNX


def test_without_its_packages_onnx_is_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match=r"--onnx: .* Run `pip install -e '\.\[onnx\]'`"):
        onnx.assert_installed()


@pytest.mark.parametrize("kind", KINDS)
def test_onnx_says_what_the_student_says(students, kind, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="onnx and onnxruntime: pip install -e '.[onnx]'")
    student, out = students[kind], tmp_path / "s.onnx"
    monkeypatch.setattr(onnx, "trained", lambda workdir: student)
    assert onnx.export_onnx(tmp_path, out) < 1e-4
    call = program.bound(student.function, student.weights)
    for shape in ((1, 1), (3, 9)):
        inputs = some_bcg(*shape)
        there = inputs[1] > 0
        for mine, theirs in zip(
            onnx.onnx_call(out.read_bytes())(*inputs), call(*inputs), strict=True
        ):
            np.testing.assert_allclose(mine[there], theirs[there], atol=1e-4)


def test_onnx_refuses_a_student_in_bfloat16(students, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="onnx and onnxruntime: pip install -e '.[onnx]'")
    student = students["autocorrelation"]
    half = dataclasses.replace(
        student, card={**student.card, "train": {"compute_dtype": "bfloat16"}}
    )
    monkeypatch.setattr(onnx, "trained", lambda workdir: half)
    with pytest.raises(ExportError, match="computes in bfloat16"):
        onnx.export_onnx(tmp_path, tmp_path / "s.onnx")
    assert not (tmp_path / "s.onnx").exists()
