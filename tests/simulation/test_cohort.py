"""A cohort on disk: SHHS's folders and formats, and the same bytes from the same seed."""

import json

import numpy as np
import pytest

from kd_sleep.config import CohortConfig
from kd_sleep.errors import ConfigError, DatasetError
from kd_sleep.recordings import shhs
from kd_sleep.recordings.edf import read_signals
from kd_sleep.simulation.cohort import true_drive, visits_of, write_cohort

SMALL = CohortConfig(subjects=3, hours=0.5, second_visit_share=0.34)


def files_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_same_seed_gives_the_same_bytes_however_many_workers(tmp_path):
    write_cohort(tmp_path / "one", SMALL, workers=1)
    write_cohort(tmp_path / "two", SMALL, workers=2)
    one = files_of(tmp_path / "one")
    assert one == files_of(tmp_path / "two")
    other = CohortConfig(subjects=3, hours=0.5, second_visit_share=0.34, cohort_seed=1)
    write_cohort(tmp_path / "three", other, workers=1)
    assert one != files_of(tmp_path / "three")


def test_the_folders_are_those_of_shhs(cohort):
    nights = shhs.find_nights(cohort, cohort / "bcg").nights
    assert len(nights) == 15
    visits = {night.subject_id: set() for night in nights}
    for night in nights:
        visits[night.subject_id].add(night.visit)
        assert night.edf.is_file()
        assert night.stages_xml.is_file()
        assert night.bcg.is_file()
    assert sum(v == {1, 2} for v in visits.values()) == 3
    with_rpoints = [night for night in nights if night.rpoints_csv is not None]
    assert 0 < len(with_rpoints) < len(nights)


def test_a_night_reads_back_as_what_it_is(cohort):
    for recording_id, rate_hz in (("shhs1-200001", 125), ("shhs2-200012", 250)):
        night = shhs.paths_of(cohort, recording_id)
        recording = night.read()
        truth = json.loads((cohort / "truth" / f"{recording_id}.json").read_text())
        assert recording.cohort.startswith("kd_sleep simulator")
        assert recording.ecg.rate_hz == rate_hz
        assert len(recording.labels) == len(truth["latent"])
        assert (recording.labels == truth["latent"]).mean() > 0.7  # a scorer's eye between
        assert len(recording.effort) == 2


def test_all_signals_are_the_fourteen_of_shhs(tmp_path):
    config = CohortConfig(subjects=1, hours=0.5, second_visit_share=0.0, signals="all")
    write_cohort(tmp_path, config, workers=1)
    contents = read_signals(shhs.paths_of(tmp_path, "shhs1-200001").edf, {"eeg": ["EEG"]})
    assert len(contents.labels) == 14
    assert np.std(contents.signals["eeg"].values) > 0


def test_the_quickstarts_cohort_stays_under_one_and_a_half_gigabytes(cohort):
    nights = shhs.find_nights(cohort, cohort / "bcg").nights
    hours = sum(night.read().duration_s for night in nights) / 3600
    size = sum(p.stat().st_size for p in cohort.rglob("*") if p.is_file())
    default = CohortConfig()
    assert size / hours * default.hours * len(visits_of(default)) < 1.5e9


def test_a_folder_with_anything_else_in_it_is_left_alone(tmp_path):
    """The cohort's files have SHHS's own names: genuine nights must not be overwritten."""
    genuine = shhs.paths_of(tmp_path, "shhs1-200001").edf
    genuine.parent.mkdir(parents=True)
    genuine.write_bytes(b"a person's night")
    with pytest.raises(ConfigError, match="not empty"):
        write_cohort(tmp_path, SMALL, workers=1)
    assert genuine.read_bytes() == b"a person's night"


def test_a_cohort_that_was_stopped_goes_on_with_the_same_settings_alone(tmp_path):
    write_cohort(tmp_path, SMALL, workers=1)
    whole = files_of(tmp_path)
    card = json.loads((tmp_path / "simulation.json").read_text())
    (tmp_path / "simulation.json").write_text(json.dumps(card | {"complete": False}))
    (tmp_path / "bcg" / "shhs1-200003.edf").unlink()
    with pytest.raises(ConfigError, match="another cohort"):
        write_cohort(tmp_path, CohortConfig(subjects=2, hours=0.5), workers=1)
    write_cohort(tmp_path, SMALL, workers=1)
    assert files_of(tmp_path) == whole
    before = (tmp_path / "bcg" / "shhs1-200001.edf").stat().st_mtime_ns
    write_cohort(tmp_path, SMALL, workers=1)  # complete: nothing is written
    assert (tmp_path / "bcg" / "shhs1-200001.edf").stat().st_mtime_ns == before


def test_the_true_drive_is_that_of_the_files(cohort):
    """Its beats are those of `truth/`, its breathing moves the effort channel."""
    for recording_id in ("shhs1-200003", "shhs2-200012"):
        drive = true_drive(cohort, recording_id)
        beats = np.load(cohort / "truth" / f"{recording_id}-r-and-j.npy")[0]
        np.testing.assert_array_equal(drive.beat_times_s, beats)
        recording = shhs.paths_of(cohort, recording_id).read()
        assert drive.duration_s == recording.duration_s
        still = drive.movement == 0
        chest = recording.effort[0].values[still]
        assert np.corrcoef(chest, drive.breathing[still])[0, 1] > 0.95


def test_a_drive_that_is_not_known_is_refused(cohort, tmp_path):
    with pytest.raises(DatasetError, match="no simulated cohort"):
        true_drive(tmp_path, "shhs1-200001")
    for unknown in ("shhs1-200013", "shhs2-200001", "../shhs1-200001"):
        with pytest.raises(DatasetError, match="none of its 15 nights"):
            true_drive(cohort, unknown)
    own = json.loads((cohort / "simulation.json").read_text())["settings"]
    for settings, word in (
        (own | {"simulator": "1.0"}, "made by simulator 1.0"),
        (own | {"beds": 2}, "unknown fields"),
        (own | {"hours": -1.0}, "hours"),
        ({}, "cannot be read"),
    ):
        (tmp_path / "simulation.json").write_text(json.dumps({"settings": settings}))
        with pytest.raises(DatasetError, match=word):
            true_drive(tmp_path, "shhs1-200001")
