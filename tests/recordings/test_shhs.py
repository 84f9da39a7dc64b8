"""SHHS's folders: every night is found, read whole, or refused by name."""

import dataclasses
import datetime

import numpy as np
import pytest

from kd_sleep.errors import DatasetError, RecordingError
from kd_sleep.recordings import edf, nsrr, shhs

START = datetime.datetime(1996, 3, 1, 22, 30)


def write_night(
    root, recording_id, *, windows=3, labels=(0, 2, 1), rpoints=True, text="", without=()
):
    files = shhs.paths_of(root, recording_id)
    seconds = int(30 * windows)
    rng = np.random.default_rng(0)
    signals = [
        (channel, rng.uniform(-1, 1, seconds * channel.rate_hz))
        for channel in shhs.channels(files.visit, "cardiac")
        if channel.label not in without
    ]
    edf.write_signals(files.edf, signals, START, text)
    nsrr.write_stages(files.stages_xml, labels, START.time(), seconds)
    if rpoints:
        nsrr.write_rpoints(files.rpoints_csv, [0.5, 1.5], [1, 0], files.subject_id, 125)


def read_only_night(root):
    (files,) = shhs.find_nights(root)
    return shhs.read_recording(files)


def test_both_visits_are_found_in_order_and_read(tmp_path):
    write_night(tmp_path, "shhs2-200001", rpoints=False, text="kd_sleep simulator 1.0")
    write_night(tmp_path, "shhs1-200077")
    nights = shhs.find_nights(tmp_path)
    assert [night.recording_id for night in nights] == ["shhs1-200077", "shhs2-200001"]
    first, second = (shhs.read_recording(night) for night in nights)
    assert (first.subject_id, first.visit, first.cohort) == ("200077", 1, "recorded")
    assert (second.subject_id, second.visit, second.cohort) == (
        "200001",
        2,
        "kd_sleep simulator 1.0",
    )
    assert (first.ecg.rate_hz, second.ecg.rate_hz) == (125, 250)
    assert first.start == START
    assert first.duration_s == 90
    assert [signal.label for signal in first.effort] == ["THOR RES", "ABDO RES"]
    assert first.labels.dtype == np.int8
    assert first.labels.tolist() == [0, 2, 1]
    assert first.rpoints is not None
    assert first.rpoints.normal.tolist() == [True, False]
    assert nights[1].rpoints_csv is None
    assert second.rpoints is None


def test_found_paths_are_those_of_the_layout(tmp_path):
    write_night(tmp_path, "shhs1-200001")
    (found,) = shhs.find_nights(tmp_path, tmp_path / "bcg")
    assert found == shhs.paths_of(tmp_path, "shhs1-200001", tmp_path / "bcg")
    assert found.bcg == tmp_path / "bcg" / "shhs1-200001.edf"
    polysomnography = tmp_path / "polysomnography"
    assert sorted(path for path in polysomnography.rglob("*") if path.is_file()) == [
        polysomnography / "annotations-events-nsrr" / "shhs1" / "shhs1-200001-nsrr.xml",
        polysomnography / "annotations-rpoints" / "shhs1" / "shhs1-200001-rpoint.csv",
        polysomnography / "edfs" / "shhs1" / "shhs1-200001.edf",
    ]


def test_other_files_are_passed_over(tmp_path):
    write_night(tmp_path, "shhs1-200001")
    folder = shhs.paths_of(tmp_path, "shhs1-200001").edf.parent
    for name in (
        "shhs1-200001.edf.part",
        "shhs1-20001.edf",
        "shhs2-200002.edf",
        "shhs1-2000030.edf",
    ):
        (folder / name).touch()
    (folder / "shhs1-٢٠٠٠٠١.edf").touch()
    assert [night.recording_id for night in shhs.find_nights(tmp_path)] == ["shhs1-200001"]


@pytest.mark.parametrize("partner", ["edf", "stages_xml"])
def test_night_without_a_partner_is_listed_and_says_so_when_read(tmp_path, partner):
    write_night(tmp_path, "shhs1-200001")
    (night,) = shhs.find_nights(tmp_path)
    missing = getattr(night, partner)
    missing.unlink()
    with pytest.raises(RecordingError, match="is missing") as caught:
        read_only_night(tmp_path)
    assert caught.value.path == str(missing)


@pytest.mark.parametrize("recording_id", ["shhs3-200001", "shhs1-200001\n", "../shhs1-200001", ""])
def test_other_ids_are_refused(tmp_path, recording_id):
    with pytest.raises(DatasetError, match="no recording of SHHS"):
        shhs.paths_of(tmp_path, recording_id)


def test_empty_and_absent_folders_are_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DatasetError, match=r"edfs.shhs1.shhs1-200001\.edf"):
            shhs.find_nights(folder)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ((0, 2), [0, 2, -1]),
        ((0, 2, 1, 3), [0, 2, 1]),
    ],
)
def test_signals_set_the_number_of_windows(tmp_path, labels, expected):
    write_night(tmp_path, "shhs1-200001", labels=labels)
    assert read_only_night(tmp_path).labels.tolist() == expected


def test_an_incomplete_last_window_does_not_count(tmp_path):
    write_night(tmp_path, "shhs1-200001", windows=3.5, labels=(0, 2, 1, 1))
    assert read_only_night(tmp_path).labels.tolist() == [0, 2, 1]


def test_stages_that_outlast_the_signals_are_refused(tmp_path):
    write_night(tmp_path, "shhs1-200001", labels=(0, 2, 1, 1, 1))
    with pytest.raises(RecordingError, match=r"stages 5 windows where .* has 3"):
        read_only_night(tmp_path)


def test_signals_without_ecg_are_refused(tmp_path):
    write_night(tmp_path, "shhs1-200001", without=("ECG",))
    with pytest.raises(RecordingError, match=r"has no ECG among SaO2, H\.R\."):
        read_only_night(tmp_path)


def test_less_than_one_window_is_refused(tmp_path):
    write_night(tmp_path, "shhs1-200001", windows=0.5, labels=(0,))
    with pytest.raises(RecordingError, match="less than one window"):
        read_only_night(tmp_path)


def test_effort_may_be_absent(tmp_path):
    write_night(tmp_path, "shhs1-200001", without=("THOR RES", "ABDO RES"))
    assert read_only_night(tmp_path).effort == ()


@pytest.mark.parametrize("label", ["EKG", "ecg l-r", "ECG(LL-RA)", "ECG 1"])
def test_ecg_is_found_under_its_other_names(tmp_path, label):
    files = shhs.paths_of(tmp_path, "shhs1-200001")
    channel = edf.Channel(label, "mV", 125, (-1.25, 1.25), (-128, 127))
    edf.write_signals(files.edf, [(channel, np.zeros(125 * 30))], START, "")
    nsrr.write_stages(files.stages_xml, [0], START.time(), 30.0)
    assert read_only_night(tmp_path).ecg.label == label


@pytest.mark.parametrize("visit", [1, 2])
def test_channels_of_a_visit(visit):
    every, cardiac = shhs.channels(visit, "all"), shhs.channels(visit, "cardiac")
    assert len(every) == 14
    dropped = {channel.label for channel in every} - {channel.label for channel in cardiac}
    assert dropped == {"EEG(sec)", "EEG", "EMG", "EOG(L)", "EOG(R)"}
    ecg = next(channel for channel in cardiac if channel.label == "ECG")
    assert ecg.rate_hz == 125 * visit
    assert dataclasses.replace(ecg, rate_hz=125) in shhs.channels(1, "cardiac")
