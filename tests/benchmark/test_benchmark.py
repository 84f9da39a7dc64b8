"""Every part at a tiny size: rows with figures, a file; and that the PyTorch peer is ours."""

import contextlib
import dataclasses
import functools
import json
import math

import jax
import numpy as np
import pytest

from kd_sleep.benchmark import (
    device_speed,
    night_speed,
    score_speed,
    synthetic,
    timing,
    train_speed,
)
from kd_sleep.benchmark.report import PARTS, benchmark
from kd_sleep.config import PRESETS
from kd_sleep.errors import ConfigError
from kd_sleep.training.mesh import data_mesh

TINY = PRESETS["tiny"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Short turns, programs from the cache, and none of PyTorch's compiler."""
    monkeypatch.setattr(timing, "SLICE_S", 0.0)
    monkeypatch.setattr(train_speed, "SMALL_WIDTH", TINY.student.width)
    monkeypatch.setattr(device_speed, "SMALL_WIDTH", TINY.student.width)
    monkeypatch.setattr(train_speed, "_no_compilation_cache", contextlib.nullcontext)
    monkeypatch.setattr(train_speed, "seconds_to_start", lambda: 1.0)
    try:
        import torch
    except ImportError:
        return
    monkeypatch.setattr(torch, "compile", lambda function: function)


def assert_good(rows, part):
    assert rows
    for row in rows:
        assert row.part == part
        assert row.what
        figures = [row.ratio, row.ours, row.theirs, *(row.quartiles or ())]
        assert all(
            math.isfinite(figure) and figure >= 0 for figure in figures if figure is not None
        )
        if row.ratio is None and row.ours is None:
            assert "torch" in row.note or "not reported" in row.note
        if row.ratio is not None:
            assert row.peer
            assert row.ours > 0
            assert row.theirs > 0


MEASURES = {
    "step": lambda: train_speed.step(TINY, 2),
    "loss": lambda: train_speed.loss(2, windows=64),
    "sweep": lambda: train_speed.sweep(TINY, 2, members=2),
    "input": lambda: train_speed.loop_input(TINY, 2, nights=2),
    "device": lambda: device_speed.measure(TINY, 2, nights=3, night_windows=20, members=2),
    "recordings": lambda: night_speed.recordings(1, hours=1.0, pooled=2),
    "scoring": lambda: score_speed.scoring(2, subjects=5, night_windows=20),
    "staging": lambda: night_speed.staging(TINY, 1, hours=0.5, nights=3),
}


@pytest.mark.parametrize(
    "part",
    [pytest.param(p, marks=[pytest.mark.slow] * (p in ("recordings", "staging"))) for p in PARTS],
)
def test_a_part_yields_rows_with_finite_figures(part):
    assert_good(MEASURES[part](), part)


def test_the_whole_writes_a_file_and_a_table(tmp_path):
    rows = benchmark(TINY, ["loss", "device"], repeats=1, out=tmp_path)
    found = json.loads((tmp_path / "benchmark.json").read_text())
    assert len(found["rows"]) == len(rows)
    assert {"jax", "torch"} <= set(found["machine"]["versions"])
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["cpu"]
    text = timing.table(rows)
    assert "against one jnp expression by hand" in text
    if jax.default_backend() == "cpu":
        assert "--what=device --nights=8" in text


def test_an_unknown_part_is_refused():
    with pytest.raises(ConfigError, match="speed"):
        benchmark(TINY, ["speed"])


def test_peers_take_turns_and_ratios_come_from_pairs():
    calls = []
    peers = {name: functools.partial(calls.append, name) for name in "ab"}
    times = timing.in_turns(peers, 4)
    assert [len(times[name]) for name in "ab"] == [4, 4]
    assert "".join(calls) == "aaabbb" + "baabbaab"  # looked at first, then to and fro
    ours, theirs = np.array([1.0, 2.0, 4.0]), np.array([2.0, 4.0, 12.0])
    row = timing.compared("step", "x", "y", ours, theirs)
    assert (row.ratio, row.quartiles) == (2.0, (2.0, 2.5))


def test_our_loss_is_the_one_by_hand():
    case = train_speed.loss_case(128)
    for mine, other in zip(
        jax.tree.leaves(jax.value_and_grad(train_speed.package_loss)(*case)),
        jax.tree.leaves(jax.value_and_grad(train_speed.loss_by_hand)(*case)),
        strict=True,
    ):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-7)


def test_least_work_is_what_xla_counts_of_the_forward_pass():
    """XLA also counts element-wise operations, so it counts a little more."""
    run = synthetic.student(dataclasses.replace(TINY, student=PRESETS["cpu"].student))
    batch = synthetic.example_batch(run)
    module = run.module
    params = module.init(jax.random.key(0), *module.inputs(batch))["params"]
    forward = jax.jit(lambda params, batch: module.apply({"params": params}, *module.inputs(batch)))
    cost = forward.lower(params, batch).compile().cost_analysis()
    by_hand, _ = device_speed.least_work(run, params, batch)
    assert 0.75 < by_hand / 3 / cost["flops"] < 1.0


def test_nights_on_the_device_are_the_hosts_over_and_over():
    nights = synthetic.synthetic_nights(2, 20)
    columns = synthetic.columns_of(synthetic.student(TINY), nights)
    made = device_speed.repeated(columns, 50, data_mesh())
    for name, column in columns.items():
        expected = np.concatenate([column, column[:10]])
        assert made[name].dtype == column.dtype
        np.testing.assert_array_equal(made[name], expected)


@pytest.mark.parametrize(
    "student",
    [{}, {"context_windows": 0}],
)
def test_the_pytorch_student_is_ours(student):
    """Logits, loss and gradients; then loss and parameters over steps of the optimiser."""
    torch = pytest.importorskip("torch")
    from kd_sleep.benchmark import torch_peer

    model = dataclasses.replace(TINY.student, dropout=0.0, **student)
    preset = dataclasses.replace(TINY, student=model)
    torch_peer.assert_supported(preset)
    run = synthetic.student(preset)
    batch = synthetic.example_batch(run)
    batch["valid_BL"][0, -3:] = False
    batch["label"][0, -3:] = -1
    for name in ("jj", "breath", "movement"):
        batch[name][1, :2] = np.nan
    ours = synthetic.Training(run, batch, data_mesh())
    # Layers that start from zero would hide all that lies before them.
    noise = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: x + 0.1 * noise.normal(size=x.shape).astype(np.float32), ours.state.params
    )
    ours.state = ours.state.replace(params=params)

    def value(params):
        logits = run.module.apply({"params": params}, *run.module.inputs(batch))
        weights = run.objective.weigh(batch)
        totals = {f"{name}_total": weight.sum() for name, weight in weights.items()}
        named = {**batch, **weights, **totals}
        return run.objective.loss(logits, named, run.loss_settings)[0], logits

    (expected, logits), gradient = jax.jit(jax.value_and_grad(value, has_aux=True))(params)
    theirs = torch_peer.Training(preset, params, batch)
    found = torch_peer.logits_of(theirs.params, theirs.batch, model)
    np.testing.assert_allclose(found.detach(), logits, atol=1e-4)
    loss = theirs.loss(theirs.params, theirs.batch)
    assert loss.item() == pytest.approx(float(expected), rel=1e-4)
    loss.backward()
    for name, value in torch_peer.from_flax(gradient).items():
        assert torch.any(value != 0), name
        np.testing.assert_allclose(
            theirs.params[name].grad, value, rtol=1e-2, atol=1e-4, err_msg=name
        )
    for _ in range(6):
        assert float(theirs()) == pytest.approx(float(ours()["loss"]), rel=1e-4)
    for name, value in torch_peer.from_flax(ours.state.params).items():
        np.testing.assert_allclose(theirs.params[name].detach(), value, atol=2e-3, err_msg=name)


def test_what_pytorch_cannot_do_is_said_in_its_row():
    pytest.importorskip("torch")
    samples = dataclasses.replace(TINY.student, front_end="autocorrelation")
    rows = train_speed.step(dataclasses.replace(TINY, student=samples), 1)
    assert [row.ratio for row in rows] == [None, None]
    assert all("front end beats" in row.note for row in rows)


def test_without_torch_a_row_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(train_speed.importlib.util, "find_spec", lambda name: None)
    rows = train_speed.step(TINY, 1)
    assert all("pip install 'kd_sleep[benchmark]'" in row.note for row in rows)
