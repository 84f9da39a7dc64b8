"""Files to a night record: what must be in it, what must not, and every way to be left out."""

import dataclasses
import datetime
import json
import os
import shutil

import numpy as np
import pytest

from kd_sleep import schema
from kd_sleep.config import DatasetConfig
from kd_sleep.errors import RecordingError
from kd_sleep.features import night
from kd_sleep.features.bcg import on_windows
from kd_sleep.features.night import Exclusion, process_night
from kd_sleep.recordings import edf, shhs
from kd_sleep.recordings.beat_files import read_beats, write_rpoints
from kd_sleep.recordings.stage_files import read_scoring, write_nsrr_stages
from kd_sleep.signals.timeseries import Series

SIMULATED, PAIRED = DatasetConfig(bcg_source="simulated"), DatasetConfig(bcg_source="paired")
ID = "shhs1-200001"


@pytest.fixture
def files(cohort, tmp_path):
    """A night's files, copied, to be damaged."""
    source = shhs.paths_of(cohort, ID, cohort / "bcg")
    target = shhs.paths_of(tmp_path, ID, tmp_path / "bcg")
    for field in ("edf", "stages_xml", "rpoints_csv", "bcg"):
        getattr(target, field).parent.mkdir(parents=True)
        shutil.copy(getattr(source, field), getattr(target, field))
    return target


@pytest.mark.parametrize("config", [SIMULATED, PAIRED], ids=lambda config: config.bcg_source)
def test_a_night_is_what_the_table_says(files, config):
    record = process_night(files, config)
    schema.validate(record)
    assert record["bcg_source"] == config.bcg_source
    assert record["cohort"].startswith("kd_sleep simulator")
    assert record["subject_id"] == "200001"
    assert record["rr_missing"].mean() < 0.05
    heart = record["bcg"] * record["bcg_scale"]
    assert 0.3 < np.median(np.abs(np.diff(heart))) < 3.0  # in heartbeat amplitudes


def test_simulated_bcg_never_saw_the_hypnogram(files):
    """Other stages in the XML, the same BCG to the bit."""
    before = process_night(files, SIMULATED)
    labels = read_scoring(files.stages_xml).labels
    shuffled = np.random.default_rng(0).permutation(labels)
    contents = edf.read_signals(files.edf, {})
    write_nsrr_stages(files.stages_xml, shuffled, contents.start.time(), 30.0 * len(labels))
    after = process_night(files, SIMULATED)
    assert not np.array_equal(after["label"], before["label"])
    for field in ("bcg", "bcg_scale", "bcg_missing", "tachogram", "hrv"):
        np.testing.assert_array_equal(after[field], before[field])


def test_paired_bcg_lands_on_the_ecgs_clock(cohort, files):
    truth = json.loads((cohort / "truth" / f"{ID}.json").read_text())["bcg_clock"]
    recording = files.read()
    beats, _, _ = night.heartbeats(files, recording)
    j_times = np.load(cohort / "truth" / f"{ID}-r-and-j.npy")[1]
    found, clock = night.aligned_bcg(files, PAIRED, recording, beats)
    bcg = on_windows(clock.corrected(found), len(recording.labels)).values
    assert abs(truth["offset_s"]) > 1.0  # else nothing was shown
    energy = night.alignment.beat_energy(bcg, schema.BCG_HZ)
    inside = j_times[(j_times > 120) & (j_times < recording.duration_s - 120)]
    at = np.rint(inside * schema.BCG_HZ).astype(int)
    shifts = np.arange(-20, 21)
    profile = energy[at[:, None] + shifts].mean(0)
    assert abs(shifts[np.argmax(profile)]) / schema.BCG_HZ <= 0.08


def test_the_detector_stands_in_for_r_points(files):
    given = process_night(files, SIMULATED)
    detected = process_night(dataclasses.replace(files, rpoints_csv=None), SIMULATED)
    both = np.isfinite(given["tachogram"]) & np.isfinite(detected["tachogram"])
    assert both.mean() > 0.95
    assert np.median(np.abs(given["tachogram"] - detected["tachogram"])[both]) < 0.005


def rewrite_edf(files, label, values=None):
    """The night's EDF with one channel renamed to nothing known, or with other samples."""
    contents = edf.read_signals(files.edf, {"ecg": ["ECG"], "chest": ["THOR RES"]})
    ecg, chest = contents.signals["ecg"], contents.signals["chest"]
    channels = {channel.label: channel for channel in shhs.channels(1, "cardiac")}
    first = dataclasses.replace(channels["ECG"], label=label)
    samples = ecg.values if values is None else values(ecg.values)
    edf.write_signals(
        files.edf, [(first, samples), (channels["THOR RES"], chest.values)], contents.start, "x"
    )


DAMAGE = {
    "missing XML": (lambda f: f.stages_xml.unlink(), "is missing"),
    "missing EDF": (lambda f: f.edf.unlink(), "is missing"),
    "truncated EDF": (lambda f: f.edf.write_bytes(f.edf.read_bytes()[:-5000]), "cut short"),
    "no ECG": (lambda f: rewrite_edf(f, "Mystery"), "has no ECG"),
    "XML without stages": (
        lambda f: f.stages_xml.write_text("<PSGAnnotation><ScoredEvents/></PSGAnnotation>"),
        "no sleep stages",
    ),
    "XML that is none": (lambda f: f.stages_xml.write_text("not XML"), ""),
    "R points that are none": (lambda f: f.rpoints_csv.write_text("a,b\n1,2\n"), "seconds"),
    "missing BCG": (lambda f: f.bcg.unlink(), "has no BCG file"),
    "truncated BCG": (lambda f: f.bcg.write_bytes(f.bcg.read_bytes()[:3000]), "cut short"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_night_is_left_out_by_name(files, damage):
    harm, word = DAMAGE[damage]
    harm(files)
    result = process_night(files, PAIRED)
    assert isinstance(result, Exclusion)
    assert result.recording_id == ID
    assert word in result.reason
    assert ID in result.path


def half_the_rpoints(files):
    lines = files.rpoints_csv.read_text().splitlines()
    files.rpoints_csv.write_text("\n".join(lines[: len(lines) // 2]))


def artefacts_alone(files):
    points = read_beats(files.rpoints_csv)
    write_rpoints(files.rpoints_csv, points.times_s, 0 * points.times_s.astype(int), "1", 125)


@pytest.mark.parametrize(
    ("harm", "word"), [(half_the_rpoints, "beats run from"), (artefacts_alone, "no heartbeat")]
)
def test_r_points_that_are_not_the_nights_heart_are_refused(files, harm, word):
    harm(files)
    result = process_night(files, SIMULATED)
    assert isinstance(result, Exclusion)
    assert word in result.reason
    assert result.path == str(files.rpoints_csv)


def test_what_nobody_foresaw_is_an_exclusion_too(files, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("surprise")

    monkeypatch.setattr(night.fields.rr, "hrv", broken)
    result = process_night(files, SIMULATED)
    assert isinstance(result, Exclusion)
    assert "unforeseen ZeroDivisionError: surprise" in result.reason


@pytest.mark.parametrize("wrong_s", [5.5 * 3600, 5.75 * 3600, -3600, 86_400 * 900 + 7 * 3600])
def test_a_start_that_does_not_fit_loses_no_night(files, wrong_s):
    """Another zone, a clock set wrong: the heartbeats tell."""
    expected = process_night(files, PAIRED)
    contents = edf.read_signals(files.bcg, {"bcg": ("BCG",)})
    signal = contents.signals["bcg"]
    channel = edf.Channel("BCG", signal.unit, signal.rate_hz, (-1, 1), (-32768, 32767))
    scaled = signal.values / np.nanmax(np.abs(signal.values))
    start = contents.start + datetime.timedelta(seconds=wrong_s)
    edf.write_signals(files.bcg, [(channel, scaled)], start, "x")
    record = process_night(files, PAIRED)
    assert not isinstance(record, Exclusion), record
    assert abs(record["clock_offset"] - expected["clock_offset"]) < 0.05


def test_a_flat_ecg_without_r_points_shows_no_heartbeat(files):
    rewrite_edf(files, "ECG", lambda values: 0 * values)
    result = process_night(dataclasses.replace(files, rpoints_csv=None), SIMULATED)
    assert isinstance(result, Exclusion)
    assert "no heartbeat" in result.reason


def test_another_nights_bcg_is_refused(cohort, files):
    shutil.copy(cohort / "bcg" / "shhs1-200002.edf", files.bcg)
    result = process_night(files, PAIRED)
    assert isinstance(result, Exclusion)
    assert "BCG's clock cannot be told" in result.reason


def test_a_dropout_of_the_sensor_is_missing_in_the_record(files):
    contents = edf.read_signals(files.bcg, {"bcg": ["BCG"]})
    values = contents.signals["bcg"].values.copy()
    values[200_000:212_000] = 0.0  # two minutes
    channel = edf.Channel("BCG", "uV", 100, (-4000.0, 4000.0), (-32768, 32767))
    before = process_night(files, PAIRED)["bcg_missing"]
    edf.write_signals(files.bcg, [(channel, values)], contents.start, "x")
    after = process_night(files, PAIRED)["bcg_missing"]
    assert 3.5 < after.sum() - before.sum() < 4.5


def test_a_sensors_values_may_be_as_far_apart_as_float32_goes():
    largest = np.finfo(np.float32).max
    ends = Series.of(np.array([-largest, largest] * 100, np.float32), 100.0)
    assert not ends.without_flat().missing.any()


def test_a_night_without_any_bcg_in_it_says_what_to_do(files):
    with pytest.raises(RecordingError, match="no BCG lies within") as error:
        night._sampled(files, Series.of(np.full(3000, np.nan), 50.0), 2, PAIRED)
    assert error.value.remedy


def test_an_exclusion_can_be_written_whatever_a_file_is_called():
    left_out = Exclusion("", os.fsdecode(b"shhs1-\xff.edf"), "its name is none.", "Rename it.")
    assert left_out.path.encode() == b"shhs1-\\udcff.edf"


def test_a_lead_that_fell_off_leaves_the_teacher_nothing(files):
    """Windows of noise without a heart: no quality, no RR, and so no weight in any loss."""

    def fallen(ecg):
        noise = 0.2 * np.random.default_rng(0).normal(size=40 * 30 * 125)
        return np.concatenate([ecg[: 40 * 30 * 125], noise, ecg[80 * 30 * 125 :]])

    rewrite_edf(files, "ECG", fallen)
    record = process_night(dataclasses.replace(files, rpoints_csv=None), SIMULATED)
    off, on = slice(41, 79), np.r_[5:38, 82:120]
    assert record["ecg_quality"][off].max() == 0.0
    assert record["rr_missing"][off].min() == 1.0
    assert record["ecg_quality"][on].mean() > 0.9
    assert record["rr_missing"][on].mean() < 0.1
