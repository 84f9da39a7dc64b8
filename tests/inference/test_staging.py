"""A BCG to stages: what must not matter, what has no stage, what is refused and what is flagged."""

import subprocess
import sys

import numpy as np
import pytest
from scipy.special import log_softmax

from kd_sleep.benchmark.synthetic import write_student
from kd_sleep.config import PRESETS
from kd_sleep.errors import KdSleepError
from kd_sleep.evaluation.sleep_measures import sleep_measures
from kd_sleep.features.bcg import on_windows, prepared
from kd_sleep.features.inputs import summary
from kd_sleep.features.series import bcg_series
from kd_sleep.inference import staging
from kd_sleep.inference.staged_night import REASONS, Staging, StagingError
from kd_sleep.models.kept_share import window_features
from kd_sleep.signals.quality import snr_db
from kd_sleep.signals.resampling import on_grid
from kd_sleep.signals.timeseries import Series
from kd_sleep.stages import STAGE_NAMES

KNOWN_SNR = {"data": {"simulated": True, "snr_db": {"p01": -50.0, "p50": 8.0, "p99": 50.0}}}


@pytest.fixture(scope="module")
def student(make_student):
    return make_student(sqi=True, card=KNOWN_SNR)


@pytest.fixture(scope="module")
def night(student, bcg):
    return student.stage(bcg.values, bcg.rate_hz)


@pytest.mark.parametrize("front_end", ["beats", "autocorrelation"])
def test_stages_are_the_networks_of_what_training_shows_it(make_student, bcg, front_end):
    """By the functions that the dataset's build calls."""
    student = make_student(sqi=True, front_end=front_end)
    night = student.stage(bcg.values, bcg.rate_hz)
    windows = len(night)
    assert windows == int(len(bcg.values) / bcg.rate_hz / 30)
    uniform = on_windows(Series.of(bcg.values, bcg.rate_hz).without_flat(), windows)
    ready, series = prepared(uniform), bcg_series(uniform, windows).fields()
    inputs = {"bcg": ready.values_NS}
    if front_end == "beats":
        inputs = {n: series[n] for n in ("jj", "beat_confidence", "breath", "movement")}
        inputs["summary_night"] = summary(series, ready.missing_N, "night")
    logits = student.program.call(
        {name: values[None].astype(np.float32) for name, values in inputs.items()},
        np.ones((1, windows)),
    )
    there = night.staged
    log_probs = log_softmax(logits[0] / 1.5, axis=-1)
    np.testing.assert_allclose(night.probs[there], np.exp(log_probs)[there], atol=1e-5)
    np.testing.assert_array_equal(night.stages[there], log_probs[there].argmax(-1))
    expected = student.kept_share(
        window_features(
            log_probs, series["jj"], series["beat_confidence"], ready.missing_N,
            snr_db(ready.values_NS, 50.0),
        )
    )  # fmt: skip
    np.testing.assert_allclose(night.sqi[there], expected[there], atol=1e-5)
    assert len(np.unique(night.probs[there].round(3), axis=0)) > 10
    assert not night.warnings


def test_a_window_without_beats_is_staged_from_breath_and_movement(student, night, bcg):
    """A shaken bed shows no beat."""
    values = bcg.values.astype(float)
    shaken = slice(40 * 3000, 44 * 3000)
    values[shaken] += 100 * np.std(values) * np.random.default_rng(0).normal(size=4 * 3000)
    uniform = on_windows(Series.of(values, bcg.rate_hz), len(night))
    assert np.isnan(bcg_series(uniform, len(night)).jj[41:43]).all()
    other = student.stage(values, bcg.rate_hz)
    assert other.staged[41:43].all()
    assert np.isnan(other.heart_bpm[41:43]).all()
    assert np.isfinite(other.probs[41:43]).all()


@pytest.mark.parametrize(("gain", "offset"), [(1e-6, 0.0), (1e6, 3e9)])
def test_gain_and_offset_do_not_matter(student, night, bcg, gain, offset):
    other = student.stage(gain * bcg.values.astype(float) + offset, bcg.rate_hz)
    np.testing.assert_allclose(other.probs, night.probs, atol=2e-3)
    np.testing.assert_array_equal(other.flagged, night.flagged)


@pytest.mark.parametrize("rate_hz", [62.5])
def test_the_rate_does_not_matter(student, night, bcg, rate_hz):
    other = student.stage(on_grid(Series.of(bcg.values, bcg.rate_hz), rate_hz).values, rate_hz)
    assert len(other) == len(night)
    both = other.staged & night.staged
    assert both.mean() > 0.9
    assert np.quantile(np.abs(other.probs - night.probs)[both], 0.95) < 0.1
    assert np.median(np.abs(other.probs - night.probs)[both]) < 0.02
    assert abs(np.nanmedian(other.heart_bpm) / np.nanmedian(night.heart_bpm) - 1) < 0.02


def test_gaps_stay_gaps(student, night, bcg):
    values = bcg.values.copy()
    window = round(30 * bcg.rate_hz)
    values[10 * window : 13 * window] = np.nan
    values[20 * window : 20 * window + round(0.49 * window)] = np.nan
    values[30 * window : 30 * window + round(0.51 * window)] = 7.0  # a sensor that stands still
    values[40 * window :] = np.inf  # its end
    gone = student.stage(values, bcg.rate_hz)
    assert len(gone) == len(night)
    here = np.arange(len(gone))
    missing = np.isin(here, (10, 11, 12, 30)) | (here >= 40)
    np.testing.assert_array_equal(gone.staged[:40], (~missing & night.staged)[:40])
    assert not gone.staged[40:].any()
    for values in (gone.probs.sum(-1), gone.sqi, gone.amplitude, gone.snr_db):
        np.testing.assert_array_equal(np.isfinite(values), gone.staged)
    assert not gone.flagged[missing].any()
    assert gone.flags()[10] == "missing"
    assert gone.stage_names()[10] == "Unscored"
    assert "have no stage" in gone.reliability()


def _noise(bcg):
    return np.random.default_rng(0).normal(size=len(bcg.values))


REFUSED = {
    "samples": lambda bcg: (bcg.values[:, None], 100.0),
    "rate": lambda bcg: (bcg.values[::3], 33.3),
    "length": lambda bcg: (bcg.values[: 299 * 100], 100.0),
    "constant": lambda bcg: (np.full(len(bcg.values), 3.0), 100.0),
    "gaps": lambda bcg: (np.full(len(bcg.values), np.nan), 100.0),
    "no_heartbeat": lambda bcg: (_noise(bcg), 100.0),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_would_be_noise_is_refused_by_name(student, bcg, reason):
    with pytest.raises(StagingError) as refused:
        student.stage(*REFUSED[reason](bcg))
    assert refused.value.reason == reason
    assert reason in REASONS


def test_other_shapes_and_slow_rates_are_refused(student, bcg):
    with pytest.raises(StagingError, match="one channel"):
        student.stage(np.zeros((2, 100)), 100.0)
    for rate_hz in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(StagingError, match="need 40 Hz"):
            student.stage(bcg.values, rate_hz)
    holes = bcg.values[: len(bcg.values) // 3000 * 3000].copy()
    holes.reshape(-1, 3000)[:, :1600] = np.nan
    with pytest.raises(StagingError, match="more than half"):
        student.stage(holes, bcg.rate_hz)


def _warned(staging):
    return {warned.reason for warned in staging.warnings}


def test_what_is_unlike_the_training_data_is_said(make_student, student, night, bcg):
    assert _warned(night) == set()
    # The same samples, said to be faster than they are.
    faster = 115.0 / np.nanmedian(night.heart_bpm)
    assert "heart_rate" in _warned(student.stage(bcg.values, faster * bcg.rate_hz))
    unit = prepared(on_windows(Series.of(bcg.values, bcg.rate_hz), len(night))).unit
    assert "coarse" in _warned(student.stage(np.round(bcg.values / (1.5 * unit)), bcg.rate_hz))
    assert "coarse" not in _warned(student.stage(np.round(bcg.values / (0.3 * unit)), bcg.rate_hz))
    empty = 0.3 * unit * np.random.default_rng(0).normal(size=6000 * 100)
    left = np.concatenate([bcg.values[: 1200 * 100], empty])  # got up, and did not come back
    assert "few_heartbeats" in _warned(student.stage(left, bcg.rate_hz))
    holes = bcg.values.copy()
    holes[: round(0.6 * len(holes))] = np.nan
    assert "gaps" in _warned(student.stage(holes, bcg.rate_hz))
    loud = make_student(card={"data": {"snr_db": {"p01": 30.0, "p50": 35.0, "p99": 40.0}}})
    warned = loud.stage(bcg.values, bcg.rate_hz)
    assert _warned(warned) == {"snr"}
    assert "between 30.0 and 40.0 dB" in warned.warnings[0].text
    assert warned.summary()["warnings"][0]["reason"] == "snr"
    assert set(warned.columns()["warnings"]) == {"snr"}


def _night_of(counts, heart_bpm=60.0, card=None):
    """A night with so many windows of each stage."""
    probs = np.eye(4)[np.repeat(np.arange(4), counts)]
    windows = len(probs)
    return Staging.of(probs, np.zeros(windows), np.full(windows, heart_bpm), card or {})


@pytest.mark.parametrize(
    ("counts", "reasons"),
    [
        ((100, 100, 500, 100), set()),
        ((100, 0, 600, 100), {"absent_stage"}),
        ((0, 0, 700, 100), {"absent_stage"}),
        ((0, 0, 800, 0), {"single_stage"}),
        ((60, 0, 0, 0), {"single_stage"}),
        ((20, 0, 100, 20), set()),  # a nap need not have REM
        ((0, 0, 20, 0), set()),
    ],
)
def test_stages_that_never_occur_are_warned_of(counts, reasons):
    night = _night_of(counts)
    assert _warned(night) == reasons
    text = " ".join(warned.text for warned in night.warnings)
    for stage, count in zip(STAGE_NAMES, counts, strict=True):
        assert (stage in text) == (count == 0) or reasons != {"absent_stage"}
    if reasons == {"single_stage"}:
        assert f"are {STAGE_NAMES[np.argmax(counts)]}" in text


@pytest.mark.parametrize(
    ("heart_bpm", "reasons"),
    [(60.0, set()), (49.0, {"heart_rate_range"}), (85.0, {"heart_rate_range"}), (np.nan, set()),
     (35.0, {"heart_rate", "heart_rate_range"})],
)  # fmt: skip
def test_a_heart_rate_outside_the_training_datas_is_warned_of(heart_bpm, reasons):
    card = {"data": {"heart_bpm": {"p01": 50.0, "p50": 60.0, "p99": 80.0}}}
    night = _night_of((10, 10, 10, 10), heart_bpm, card)
    assert _warned(night) == reasons
    if "heart_rate_range" in reasons:
        assert any("lie between 50.0 and 80.0 beats/min" in w.text for w in night.warnings)
    assert not _warned(_night_of((10, 10, 10, 10), 60.0, {"data": None}))


def test_the_flag_is_by_the_students_sqi_or_else_by_the_signals(make_student, night, bcg):
    there = night.staged
    np.testing.assert_array_equal(night.flagged, there & (night.sqi < 0.5))
    assert 0 < night.flagged_share < 1
    assert "student's own SQI of them is below 0.50" in night.reliability()
    assert f"{night.flagged.sum()} of {there.sum()}" in night.reliability()
    plain = make_student()
    values = bcg.values.copy()
    shaken = slice(40 * 3000, 44 * 3000)
    values[shaken] += 100 * np.std(values) * np.random.default_rng(0).normal(size=4 * 3000)
    shaken_night = plain.stage(values, bcg.rate_hz)
    assert np.isnan(shaken_night.sqi).all()
    assert shaken_night.flagged[40:44].all()
    assert not shaken_night.flagged.all()
    assert "by the BCG alone" in shaken_night.reliability()
    assert shaken_night.signal_sqi[40:44].max() < 0.2


def test_five_minutes_are_enough(student, bcg):
    assert len(student.stage(bcg.values[: 300 * 100], bcg.rate_hz)) == 10


@pytest.mark.slow
def test_a_day_is_staged(student, bcg):
    slow = on_grid(Series.of(bcg.values, bcg.rate_hz), 50.0).values
    day = np.tile(slow, 18)[: 24 * 3600 * 50]
    long = student.stage(day, 50.0)
    assert len(long) == 2880
    assert long.staged.mean() > 0.9


def test_the_summary_is_the_sleep_measures(night):
    summary = night.summary()
    for name, value in sleep_measures(night.stages).items():
        expected = float(value)
        assert summary[name] == (expected if np.isfinite(expected) else None)
    assert summary["flagged_share"] == night.flagged_share
    assert summary["trained_on"]["simulated"] is True


def test_to_frame(night):
    pandas = pytest.importorskip("pandas")
    frame = night.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert len(frame) == len(night)
    probs = frame[[f"p_{name.lower()}" for name in STAGE_NAMES]].to_numpy()
    np.testing.assert_array_equal(probs, night.probs)


def test_to_frame_without_pandas_says_so(night, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(KdSleepError, match=r"pandas is not .* `pip install 'kd_sleep\[frame\]'`"):
        night.to_frame()


def test_the_heart_rate_of_a_real_bed_mat_is_the_oximeters(student, real_data):
    """18 min of a mat under a mattress, beside a pulse oximeter's rate: 36 of 37 windows."""
    folder = real_data / "bed_mat"
    (path,) = sorted(folder.glob("*.csv"))
    table = np.genfromtxt(path, delimiter=",", names=True)
    night = student.stage(table["raw_data_sleepMat"], 50.0)
    windows = len(night)
    oximeter = table["PulseOximeter_results"][: windows * 1500].reshape(windows, -1)
    reference = np.nanmedian(np.where(oximeter > 0, oximeter, np.nan), axis=1)
    close = np.abs(night.heart_bpm - reference) <= 5.0
    assert close.mean() >= 0.95, f"{close.mean():.1%}"


def test_an_exported_student_stages_without_training_libraries(bcg, tmp_path):
    exported = tmp_path / "student.kdsleep"
    write_student(PRESETS["tiny"], exported)
    np.save(tmp_path / "night.npy", bcg.values[: 600 * 100])
    code = (
        "import sys, kd_sleep\n"
        "assert 'scipy' not in sys.modules, 'the loss pays for staging'\n"
        "import numpy as np\n"
        f"student = kd_sleep.load_student({str(exported)!r})\n"
        f"night = student.stage(np.load({str(tmp_path / 'night.npy')!r}), 100.0)\n"
        "import kd_sleep.inference.outputs, kd_sleep.inference.streaming\n"
        "print(len(night))\n"
        "print(*sorted({m.split('.')[0] for m in sys.modules}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    windows, modules = out.stdout.splitlines()
    assert windows == "20"
    heavy = {"flax", "optax", "orbax", "tensorflow_datasets", "grain", "sleepecg", "matplotlib"}
    assert not heavy & set(modules.split())


def test_a_students_path_that_is_not_there_is_said(tmp_path):
    import kd_sleep

    with pytest.raises(KdSleepError, match="no student here"):
        kd_sleep.load_student(tmp_path / "nowhere.kdsleep")
    assert staging.load_student is kd_sleep.load_student
