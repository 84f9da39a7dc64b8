"""Nights from arrays: the columns that files with the same give; errors name the argument."""

import dataclasses

import numpy as np
import pytest

from kd_sleep.config import DatasetConfig
from kd_sleep.datasets.nights import Nights, stack
from kd_sleep.errors import DatasetError
from kd_sleep.features import night
from kd_sleep.recordings.shhs import find_nights
from kd_sleep.simulation.night_arrays import COHORT, simulated_arrays

WINDOWS = 60


@pytest.fixture(scope="module")
def drawn():
    return simulated_arrays(range(2), hours=0.5)


@pytest.mark.parametrize("samples", [True, False])
def test_a_night_from_files_and_one_from_arrays_have_equal_columns(cohort, samples):
    files = next(files for files in find_nights(cohort).nights if not files.rpoints_csv)
    config = DatasetConfig(bcg_source="simulated", bcg_samples=samples)
    record = dict(night.process_night(files, config))
    recording = files.read()
    beats, normal, _ = night.heartbeats(files, recording)
    bcg = night.simulated_bcg(recording, beats, normal, config.simulated_sensor)
    made = Nights.from_arrays(
        subject_ids=[record["subject_id"]],
        recording_ids=[record["recording_id"]],
        stages=[recording.labels],
        ecg=[recording.ecg.values],
        ecg_rate_hz=recording.ecg.rate_hz,
        bcg=[np.where(bcg.missing, np.nan, bcg.values)],
        bcg_rate_hz=bcg.rate_hz,
        cohort=record["cohort"],
        bcg_samples=samples,
    )
    built = dataclasses.replace(stack([record]), bcg_source="paired")  # what arrays are
    for field in dataclasses.fields(Nights):
        one, other = getattr(made, field.name), getattr(built, field.name)
        np.testing.assert_array_equal(one, other, err_msg=field.name)
    assert (made.bcg is not None) == samples


def test_a_night_may_lack_anything_but_all(drawn):
    both = Nights.from_arrays(**drawn)
    assert both.recording_ids == ("0-1", "1-1")
    assert both.origin() == {"cohort": COHORT, "bcg_source": "paired", "simulated": True}
    some = Nights.from_arrays(
        **drawn | {
            "beat_times_s": [None, drawn["beat_times_s"][1]],
            "bcg": [drawn["bcg"][0], None],
            "stages": [None, drawn["stages"][1]],
        }
    )  # fmt: skip
    assert some.has_ecg.tolist() == [False, True]
    assert some.has_bcg.tolist() == [True, False]
    assert some.is_scored.tolist() == [False, True]
    assert some.bcg_source == "none and paired"
    np.testing.assert_array_equal(some.split(some.jj)[0], both.split(both.jj)[0])
    np.testing.assert_array_equal(some.split(some.hrv)[1], both.split(both.hrv)[1])
    assert np.isfinite(some.hrv).all()
    assert some.digest() != both.digest()


def test_gain_and_rate_of_a_bcg_change_nothing(drawn):
    twice = [np.repeat(1e3 * bcg, 2) for bcg in drawn["bcg"]]
    other = Nights.from_arrays(**drawn | {"bcg": twice, "bcg_rate_hz": 100})
    one = Nights.from_arrays(**drawn)
    both = np.isfinite(one.jj) & np.isfinite(other.jj)
    assert np.abs(one.jj - other.jj)[both].mean() < 0.02
    assert both.mean() > 0.8 * np.isfinite(one.jj).mean()


STAGES, ECG = np.zeros(WINDOWS, int), np.zeros(WINDOWS * 30 * 100)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"subject_ids": []}, "subject_ids: expected a name"),
        ({"subject_ids": "ab"}, "subject_ids: expected a name"),
        ({"recording_ids": ["a"]}, "recording_ids: expected one for each of 2 nights, got 1"),
        ({"recording_ids": ["a", "a"]}, "recording_ids: expected texts, each once"),
        ({"stages": [STAGES]}, "stages: expected one for each of 2 nights, got 1"),
        ({"stages": [STAGES, STAGES[:-9]]}, r"bcg\[1\]: it lasts 1800 s .* stages 1530 s"),
        ({"stages": [STAGES, STAGES.astype(float)]}, r"stages\[1\]: expected integers, got float"),
        ({"stages": [STAGES, STAGES + 4]}, r"stages\[1\]: 4 to 4; expected Wake 0"),
        ({"stages": [STAGES, STAGES[None]]}, r"stages\[1\]: expected an array \[n\]"),
        ({"bcg_rate_hz": 25.0}, "bcg_rate_hz: 25.0 of night 0; expected at least 40"),
        ({"bcg_rate_hz": None}, "bcg_rate_hz: None of night 0"),
        ({"bcg_rate_hz": [50.0, float("nan")]}, "bcg_rate_hz: nan of night 1"),
        ({"bcg_rate_hz": [50.0]}, "bcg_rate_hz: expected one for each of 2 nights, got 1"),
        ({"bcg_rate_hz": 100.0}, r"bcg\[0\]: it lasts 900 s at this rate, stages 1800 s"),
        ({"bcg": [np.zeros(90_000), None]}, r"bcg\[0\]: .*Leave this night's BCG out"),
        ({"bcg": [np.full(90_000, np.inf), None]}, r"bcg\[0\]: no BCG lies within"),
        ({"bcg": [np.array(["a"]), None]}, r"bcg\[0\]: expected real numbers, got <U1"),
        ({"beat_times_s": [[1.0, 0.5], None]}, r"beat_times_s\[0\]: expected finite times"),
        ({"beat_times_s": [np.arange(900.0), None]}, r"beat_times_s\[0\]: its beats run from"),
        ({"beat_times_s": [np.arange(0, 1800.0, 9), None]}, r"beat_times_s\[0\]: it shows no"),
        ({"ecg": [ECG, None], "ecg_rate_hz": 100}, r"beat_times_s\[0\]: this night has an ECG"),
        (
            {"ecg": [ECG, None], "ecg_rate_hz": 20, "beat_times_s": None},
            "ecg_rate_hz: 20 of night 0; expected at least 50",
        ),
        (
            {"ecg": [ECG, None], "ecg_rate_hz": 100, "beat_times_s": None},
            r"ecg\[0\]: it shows no heartbeat",
        ),
        ({"beat_times_s": None, "bcg": None}, r"ecg\[0\]: this night has no ECG"),
    ],
)  # fmt: skip
def test_an_argument_that_cannot_be_is_named(drawn, change, words):
    with pytest.raises(DatasetError, match=words):
        Nights.from_arrays(**drawn | change)
