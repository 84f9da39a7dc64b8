"""Stages while a night is recorded: the same as of the whole night, and nothing of the future."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_sleep.config import StudentConfig
from kd_sleep.errors import KdSleepError
from kd_sleep.features.bcg import RunningBcg
from kd_sleep.inference.staging import StagingError
from kd_sleep.models.student import Student
from kd_sleep.schema import BCG_SAMPLES
from kd_sleep.signals.filters import resample


def _streamed(student, values, rate_hz, seed=0):
    """All windows of samples that come in pieces of any size, some of them empty."""
    stream, rng = student.stream(rate_hz), np.random.default_rng(seed)
    windows, place = [], 0
    while place < len(values):
        size = int(rng.choice([0, 1, 37, 1000, 20_000]))
        windows += stream.push(values[place : place + size])
        place += size
    return windows + stream.close()


@pytest.fixture(scope="module")
def damaged(bcg):
    """Half an hour with gaps, a sensor that stands still, and a start without samples."""
    values = bcg.values[: 1800 * 100].astype(np.float64)
    values[:450] = np.nan
    values[30_000:36_500] = np.nan
    values[60_000:62_900] = values[60_000]
    return values


@pytest.mark.parametrize("rate_hz", [100.0, 62.5])
@pytest.mark.parametrize("context", [0, 7])
def test_a_stream_gives_the_nights_stages(make_student, damaged, rate_hz, context):
    student = make_student(sqi=True, causal=True, context_windows=context)
    values = np.repeat(damaged, 1)
    if rate_hz != 100.0:
        values = resample(np.nan_to_num(damaged), 100.0, rate_hz)
        values[5000:12_000] = np.nan
    night = student.stage(values, rate_hz)
    windows = _streamed(student, values, rate_hz)
    assert [window.number for window in windows] == list(range(len(night)))
    assert [window.start_s for window in windows] == [30.0 * n for n in range(len(night))]
    assert 0 < (~night.staged).sum() < 10
    np.testing.assert_array_equal([window.stage for window in windows], night.stages)
    np.testing.assert_allclose([window.probs for window in windows], night.probs, atol=2e-5)
    np.testing.assert_allclose([window.sqi for window in windows], night.sqi, atol=2e-5)
    np.testing.assert_array_equal([window.flagged for window in windows], night.flagged)
    assert {window.name for window in windows if window.stage < 0} == {""}


def test_a_window_is_told_as_it_ends(make_student, bcg):
    stream = make_student(causal=True).stream(bcg.rate_hz)
    assert stream.push(bcg.values[:3000]) == []  # the change of rate looks 0.2 s ahead
    assert [window.number for window in stream.push(bcg.values[3000:3030])] == [0]
    assert stream.push([]) == []
    assert [window.number for window in stream.push(bcg.values[3030:12_100])] == [1, 2, 3]


def test_what_comes_later_changes_no_stage_before(make_student, bcg):
    student = make_student(causal=True, sqi=True)
    values = bcg.values[: 1200 * 100].copy()
    before = student.stage(values, bcg.rate_hz)
    values[20 * 3000 + 50 :] = 3 * values[20 * 3000 - 51 :: -1]
    after = student.stage(values, bcg.rate_hz)
    np.testing.assert_array_equal(after.probs[:20], before.probs[:20])
    assert (after.probs[20:] != before.probs[20:]).any()
    whole = student.stage(values, bcg.rate_hz, causal=False)  # the same network, whole-night unit
    assert (whole.probs[:20] != before.probs[:20]).any()


@pytest.mark.parametrize("causal", [True, False])
def test_a_causal_students_gradient_is_in_the_past_alone(made_up_params, causal):
    windows, context = 12, 3
    student = Student(StudentConfig(width=8, context_windows=context, causal=causal))
    params = made_up_params(student)
    bcg = jax.random.normal(jax.random.PRNGKey(3), (1, windows, BCG_SAMPLES))

    def of_stage(bcg, window):
        batch = {
            "bcg": bcg,
            "bcg_scale": jnp.ones((1, windows)),
            "valid_BL": jnp.ones((1, windows)),
        }
        logits = student.apply({"params": params}, batch)
        return (logits[0, window] * jnp.arange(1.0, 5.0)).sum()

    gradient = jax.jit(jax.grad(of_stage), static_argnums=1)(bcg, 6)
    felt = np.flatnonzero(np.abs(gradient[0]).sum(-1) > 0).tolist()
    assert felt == list(range(6 - context, 7 if causal else 7 + context))


def test_a_student_that_looks_ahead_is_refused(make_student):
    with pytest.raises(KdSleepError, match=r"sees 3 windows of the future.*--causal"):
        make_student().stream(100.0)
    with pytest.raises(StagingError, match="need 40 Hz"):
        make_student(causal=True).stream(30.0)
    assert make_student(context_windows=0).stream(100.0).push(np.zeros(10)) == []


def test_without_an_sqi_of_its_own_the_last_minutes_tell(make_student, bcg):
    values = bcg.values[: 900 * 100].copy()
    values[20 * 3000 :] += 300 * np.std(values) * np.random.default_rng(0).normal(size=10 * 3000)
    windows = _streamed(make_student(causal=True), values, bcg.rate_hz)
    assert all(window.flagged for window in windows[20:])
    assert not all(window.flagged for window in windows[:20])
    assert all(np.isnan(window.sqi) for window in windows)


def test_a_stream_holds_minutes_however_long_it_runs(make_student, bcg):
    stream = make_student(causal=True, sqi=True).stream(bcg.rate_hz)

    def held() -> int:
        parts = [*vars(stream).values(), *vars(stream._running).values()]
        return sum(part.nbytes for part in parts if isinstance(part, np.ndarray))

    sizes = []
    for _ in range(3):
        stream.push(bcg.values[: 1200 * 100])
        sizes.append(held())
    assert sizes[1] == sizes[2] < 1e6


@pytest.mark.parametrize("rate_hz", [40.0, 50.0, 99.97, 128.0, 1000.0 / 7])
def test_pieces_make_no_difference(rate_hz):
    rng = np.random.default_rng(0)
    values = np.cumsum(rng.normal(size=round(200 * rate_hz)))
    values[rng.random(len(values)) < 0.01] = np.nan
    values[1000:2500] = 1.0
    whole = RunningBcg(rate_hz)
    expected = [whole.push(values), whole.finish()]
    pieces = RunningBcg(rate_hz)
    cuts = np.sort(rng.integers(0, len(values), 40))
    found = [pieces.push(part) for part in np.split(values, cuts)]
    found.append(pieces.finish())
    for name in ("values_NS", "missing_N", "heart_N"):
        expected_N, found_N = (
            np.concatenate([getattr(part, name) for part in parts]) for parts in (expected, found)
        )
        assert len(found_N) == 6
        np.testing.assert_array_equal(found_N, expected_N)


def test_an_empty_stream_ends_empty():
    running = RunningBcg(100.0)
    assert len(running.push(np.full(3100, np.nan)).values_NS) == 1
    assert RunningBcg(100.0).finish().missing_N.shape == (0,)
