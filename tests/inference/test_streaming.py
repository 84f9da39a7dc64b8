"""Stages while a night is recorded: the same as of the whole night, and nothing of the future."""

import numpy as np
import pytest

from kd_sleep.errors import KdSleepError
from kd_sleep.features.running_series import DELAY_S
from kd_sleep.inference.export import noise
from kd_sleep.inference.staged_night import StagingError
from kd_sleep.signals.resampling import on_grid
from kd_sleep.signals.timeseries import Series


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


@pytest.mark.parametrize(
    ("rate_hz", "context", "front_end"),
    [(62.5, 3, "beats"), (100.0, 3, "autocorrelation")],
)
def test_a_stream_gives_the_nights_stages(make_student, damaged, rate_hz, context, front_end):
    student = make_student(sqi=True, causal=True, context_windows=context, front_end=front_end)
    values = np.repeat(damaged, 1)
    if rate_hz != 100.0:
        values = on_grid(Series.of(np.nan_to_num(damaged), 100.0), rate_hz).values
        values[5000:12_000] = np.nan
    night = student.stage(values, rate_hz, causal=True)
    windows = _streamed(student, values, rate_hz)
    assert [window.number for window in windows] == list(range(len(night)))
    assert [window.start_s for window in windows] == [30.0 * n for n in range(len(night))]
    assert 0 < (~night.staged).sum() < 10
    np.testing.assert_array_equal([window.stage for window in windows], night.stages)
    np.testing.assert_allclose([window.probs for window in windows], night.probs, atol=2e-5)
    np.testing.assert_allclose([window.sqi for window in windows], night.sqi, atol=2e-5)
    np.testing.assert_array_equal([window.flagged for window in windows], night.flagged)
    assert {window.name for window in windows if window.stage < 0} == {""}


@pytest.mark.parametrize(
    "samples", [np.zeros((30, 2)), np.zeros((30, 1)), 1.0, ["1.0"], [None], np.zeros(3, complex)]
)
def test_what_is_no_channel_is_refused_and_the_stream_goes_on(make_student, samples):
    stream = make_student(causal=True).stream(100.0)
    with pytest.raises(StagingError, match=r"one channel|real numbers"):
        stream.push(samples)
    assert stream.push(np.zeros(30, np.int16)) == []


def test_masked_infinite_and_nan_samples_are_missing_alike(make_student, bcg):
    student = make_student(causal=True)
    values, gone = bcg.values[: 180 * 100], np.arange(180 * 100) % 2000 < 800
    nan, infinite = (np.where(gone, other, values) for other in (np.nan, -np.inf))
    expected = _streamed(student, nan, 100.0)
    for samples in (np.ma.masked_array(values, gone), infinite):
        for one, other in zip(_streamed(student, samples, 100.0), expected, strict=True):
            np.testing.assert_array_equal(one.probs, other.probs)
    night = student.stage(
        np.ma.masked_array(bcg.values, np.arange(len(bcg.values)) % 2000 < 800), 100.0
    )
    assert night.missing.mean() == pytest.approx(0.4, abs=0.02)


def test_a_closed_stream_takes_no_more(make_student):
    stream = make_student(causal=True).stream(100.0)
    stream.push(np.zeros(300))
    stream.close()
    with pytest.raises(KdSleepError, match="closed"):
        stream.push(np.zeros(300))
    assert stream.close() == []


def test_a_window_is_there_a_delay_after_its_end(make_student, bcg):
    stream = make_student(causal=True).stream(bcg.rate_hz)
    ready = round((30 + DELAY_S) * bcg.rate_hz)
    assert stream.push(bcg.values[:ready]) == []  # the change of rate looks 0.2 s ahead
    assert [window.number for window in stream.push(bcg.values[ready : ready + 30])] == [0]
    assert stream.push([]) == []
    later = stream.push(bcg.values[ready + 30 : ready + 9030])
    assert [window.number for window in later] == [1, 2, 3]
    assert stream.close() == []


def test_what_comes_later_changes_no_stage_before(make_student, bcg):
    student = make_student(causal=True, sqi=True)
    values = bcg.values[: 1200 * 100].copy()
    before = student.stage(values, bcg.rate_hz)
    cut = 20 * 3000 + round((DELAY_S + 0.3) * 100)
    values[cut:] = 3 * values[len(values) - cut - 1 :: -1][: len(values) - cut]
    after = student.stage(values, bcg.rate_hz)
    np.testing.assert_array_equal(after.probs[:20], before.probs[:20])
    np.testing.assert_array_equal(after.sqi[:20], before.sqi[:20])
    assert (after.probs[20:] != before.probs[20:]).any()
    whole = student.stage(values, bcg.rate_hz, causal=False)  # the same network, the whole night
    assert (whole.probs[:20] != before.probs[:20]).any()


@pytest.mark.parametrize(
    "config",
    [
        {"causal": True},
        {"causal": False, "front_end": "autocorrelation"},
        {"context_windows": 0},
    ],
)
def test_a_stage_depends_on_the_windows_that_its_card_names(make_student, config):
    """On all of `reach` before and after it, and on none beyond."""
    student = make_student(**({"context_windows": 1} | config))
    windows, here = 24, 12
    inputs, valid_BL = noise(student.program.card["inputs"], 1, windows, 0)
    inputs = {name: np.nan_to_num(values) for name, values in inputs.items()}

    def logits() -> np.ndarray:
        return student.program.call(inputs, valid_BL)[0, here]

    before, felt = logits(), []
    for window in range(windows):
        kept = {name: values[0, window].copy() for name, values in inputs.items()}
        for values in inputs.values():
            values[0, window] *= 1.5
        felt += [window] if np.abs(logits() - before).max() > 1e-6 else []
        for name, values in kept.items():
            inputs[name][0, window] = values
    assert felt == [*range(here - student.before, here + student.after + 1)]


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
        parts = [*vars(stream._running).values(), *vars(stream._running._grid).values()]
        for row in stream._inputs:
            parts += row.values()
        return sum(part.nbytes for part in parts if isinstance(part, np.ndarray))

    sizes = []
    for _ in range(3):
        stream.push(bcg.values[: 450 * 100])
        sizes.append(held())
    assert sizes[1] == sizes[2] < 1e6
    # And of each window some numbers: a night's are a third of a megabyte.
    assert len(stream._past) == 44
    assert sum(part.nbytes for part in stream._past[0].series.values()) < 100
