"""SHHS's folders: every night is found, read whole, or refused by name."""

import dataclasses
import datetime
import re

import numpy as np
import pytest

from kd_sleep.errors import DatasetError, RecordingError
from kd_sleep.recordings import edf, shhs
from kd_sleep.recordings.beat_files import write_rpoints
from kd_sleep.recordings.stage_files import write_nsrr_stages

START = datetime.datetime(1996, 3, 1, 22, 30)


def write_night(
    root, recording_id, *, windows=3, labels=(0, 2, 1), rpoints=True, text="", without=()
):
    files = shhs.paths_of(root, recording_id)
    seconds = int(30 * windows)
    rng = np.random.default_rng(0)
    signals = [
        (channel, edf.saturated(channel, rng.uniform(-1, 1, seconds * channel.rate_hz)))
        for channel in shhs.channels(files.visit, "cardiac")
        if channel.label not in without
    ]
    edf.write_signals(files.edf, signals, START, text)
    write_nsrr_stages(files.stages_xml, labels, START.time(), seconds)
    if rpoints:
        write_rpoints(files.rpoints_csv, [0.5, 1.5], [1, 0], files.subject_id, 125)


def read_only_night(root):
    (files,) = shhs.find_nights(root).nights
    return files.read()


def write_profusion(path, codes):
    path.parent.mkdir(parents=True, exist_ok=True)
    stages = "".join(f"<SleepStage>{code}</SleepStage>" for code in codes)
    path.write_text(
        "<CMPStudyConfig><EpochLength>30</EpochLength>"
        f"<SleepStages>{stages}</SleepStages></CMPStudyConfig>"
    )


def test_both_visits_are_found_in_order_and_read(tmp_path):
    write_night(tmp_path, "shhs2-200001", rpoints=False, text="kd_sleep simulator 1.0")
    write_night(tmp_path, "shhs1-200077")
    nights = shhs.find_nights(tmp_path).nights
    assert [night.recording_id for night in nights] == ["shhs1-200077", "shhs2-200001"]
    first, second = (night.read() for night in nights)
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
    assert (nights[1].rpoints_csv, nights[1].profusion_xml) == (None, None)
    assert second.rpoints is None


def test_other_files_are_passed_over_and_listed(tmp_path):
    write_night(tmp_path, "shhs1-200001")
    night = shhs.paths_of(tmp_path, "shhs1-200001")
    strays = [
        *(night.edf.parent / name for name in ("shhs1-200001", "shhs1-200001 (1).edf")),
        *(night.edf.parent / name for name in ("shhs1-20001.edf", "shhs1-2000030.edf")),
        *(night.edf.parent / name for name in ("shhs1-٢٠٠٠٠١.edf", "shhs2-200002.edf")),
        night.stages_xml.with_name("shhs1-200001-profusion.xml"),
        night.rpoints_csv.with_name("shhs1-200001-rpoints.csv"),
    ]
    for stray in strays:
        stray.touch()
    for name in ("shhs1-200002.edf.part", "shhs1-200002.edf.partial", ".DS_Store"):
        (night.edf.parent / name).touch()
    (night.edf.parent / "older").mkdir()
    listing = shhs.find_nights(tmp_path)
    assert [night.recording_id for night in listing.nights] == ["shhs1-200001"]
    assert listing.strays == sorted(strays)


def test_case_makes_no_difference_and_lower_case_goes_first(tmp_path):
    write_night(tmp_path, "shhs1-200001")
    write_night(tmp_path, "shhs1-200002")
    first, second = shhs.find_nights(tmp_path).nights
    upper = second.edf.rename(second.edf.with_name("SHHS1-200002.EDF"))
    double = first.edf.with_suffix(".EDF")
    double.touch()
    if double.samefile(first.edf):
        pytest.skip("a file system that does not tell case")
    listing = shhs.find_nights(tmp_path)
    assert listing.nights == [first, dataclasses.replace(second, edf=upper)]
    assert listing.strays == [double]
    assert listing.nights[1].read().recording_id == "shhs1-200002"


def test_folders_may_be_links_and_a_dead_link_is_a_missing_file(tmp_path):
    write_night(tmp_path / "elsewhere", "shhs1-200001")
    (tmp_path / "polysomnography").symlink_to(tmp_path / "elsewhere" / "polysomnography")
    assert read_only_night(tmp_path).labels.tolist() == [0, 2, 1]
    edf_file = shhs.paths_of(tmp_path, "shhs1-200001").edf
    edf_file.rename(tmp_path / "moved.edf")
    edf_file.symlink_to(tmp_path / "gone.edf")
    with pytest.raises(RecordingError, match="is missing"):
        read_only_night(tmp_path)


def test_nights_are_listed_by_what_they_are_read_from(tmp_path):
    for number in range(1, 5):
        write_night(tmp_path, f"shhs1-20000{number}")
    one, two, three, four = shhs.find_nights(tmp_path).nights
    one.edf.unlink()  # R points and stages
    for path in (two.edf, two.stages_xml):  # R points alone
        path.unlink()
    for path in (three.stages_xml, three.rpoints_csv):  # EDF alone
        path.unlink()
    four.edf.unlink()
    four.rpoints_csv.unlink()
    write_profusion(
        four.profusion_xml or shhs.paths_of(tmp_path, "shhs1-200004").profusion_xml, [0]
    )
    four.stages_xml.unlink()  # Profusion's stages alone
    ids = {
        source: [night.subject_id for night in shhs.find_nights(tmp_path, None, source).nights]
        for source in ("edf", "rpoints")
    }
    assert ids == {"edf": ["200001", "200003", "200004"], "rpoints": ["200001", "200002", "200004"]}


@pytest.mark.parametrize("name", ["shhs1-200001.csv", "SHHS1-200001.NPY", "shhs1-200001.hdf5"])
def test_bcg_is_whichever_file_there_is(tmp_path, name):
    write_night(tmp_path, "shhs1-200001")
    write_night(tmp_path, "shhs1-200002")
    bcg = tmp_path / "bcg"
    bcg.mkdir()
    (bcg / name).touch()
    (bcg / "shhs1-200001.txt").touch()
    first, second = shhs.find_nights(tmp_path, bcg).nights
    assert first.bcg == first.bcg_file() == bcg / name
    assert bcg / name in first.all_files()
    assert second.bcg == bcg / "shhs1-200002.edf"
    without = shhs.find_nights(tmp_path).nights[0]
    for night in (second, without):
        with pytest.raises(RecordingError, match="has no BCG file"):
            night.bcg_file()


def test_two_bcg_files_of_a_night_are_refused_by_name(tmp_path):
    write_night(tmp_path, "shhs1-200001")
    bcg = tmp_path / "bcg"
    bcg.mkdir()
    for name in ("shhs1-200001.h5", "shhs1-200001.csv"):
        (bcg / name).touch()
    (night,) = shhs.find_nights(tmp_path, bcg).nights
    assert night.bcg == bcg / "shhs1-200001.csv"
    with pytest.raises(RecordingError, match=r"shhs1-200001\.csv and shhs1-200001\.h5.*Leave one"):
        night.bcg_file()
    assert {*bcg.iterdir()} < {*night.all_files()}


def test_profusions_stages_are_read_where_nsrrs_are_absent_and_only_there(tmp_path):
    write_night(tmp_path, "shhs1-200001")
    layout = shhs.paths_of(tmp_path, "shhs1-200001")
    write_profusion(layout.profusion_xml, [5, 5, 5])
    assert read_only_night(tmp_path).labels.tolist() == [0, 2, 1]
    layout.stages_xml.unlink()
    assert read_only_night(tmp_path).labels.tolist() == [1, 1, 1]
    write_profusion(layout.profusion_xml, 5 * [5])
    with pytest.raises(RecordingError, match="stages 5 windows") as caught:
        read_only_night(tmp_path)
    assert caught.value.path == str(layout.profusion_xml)
    write_profusion(layout.profusion_xml, [5])  # times nothing: a stage lost shifts the others
    with pytest.raises(RecordingError, match=r"lists 1 stages .* 3 windows.*shifted"):
        read_only_night(tmp_path)
    layout.profusion_xml.unlink()
    with pytest.raises(RecordingError, match="is missing") as caught:
        read_only_night(tmp_path)
    assert caught.value.path == str(layout.stages_xml)


CODES = np.repeat([0, 2, 3, 2, 5, 0, 1, 2, 3, 5], [7, 13, 9, 11, 5, 2, 3, 14, 6, 10])  # 80 windows
CLASSES = np.array([0, 2, 2, 3, 3, 1])[CODES]


@pytest.mark.parametrize(
    ("second", "problem"),
    [
        (CODES, None),
        (np.where(np.arange(80) < 8, 5, CODES), None),  # seven Wake and a Light window: a tenth
        (np.where(np.arange(80) < 9, 5, CODES), r"on 11.2% of the windows\.$"),
        (np.roll(CODES, 1), "its stages come 30 s later"),
        (np.append(CODES[3:], [5, 5, 5]), "its stages come 90 s earlier"),
        (np.append([9] * 20, CODES[:60]), "its stages come 600 s later"),
        (np.append(CODES[:20], [9] * 60), None),
        ([], None),  # unusable, and no witness
    ],
)
@pytest.mark.parametrize("signals", [True, False])
def test_two_scorings_of_a_night_agree_or_are_refused(tmp_path, second, problem, signals):
    write_night(tmp_path, "shhs1-200001", windows=80, labels=CLASSES)
    (night,) = shhs.find_nights(tmp_path).nights
    layout = shhs.paths_of(tmp_path, "shhs1-200001")
    write_profusion(layout.profusion_xml, second)
    night = dataclasses.replace(night, profusion_xml=layout.profusion_xml)
    if problem is None:
        np.testing.assert_array_equal(night.read(signals=signals).labels, CLASSES)
        return
    with pytest.raises(RecordingError) as caught:
        night.read(signals=signals)
    assert re.search(problem, caught.value.problem)
    assert caught.value.path == str(layout.stages_xml)
    assert str(layout.profusion_xml) in caught.value.problem
    layout.profusion_xml.unlink()  # as the remedy says
    assert night.read(signals=signals).labels.size == 80


def test_a_shift_of_few_windows_is_a_disagreement_though_most_windows_agree(tmp_path):
    write_night(tmp_path, "shhs1-200001", windows=160, labels=np.repeat([0, 2, 3, 1], 40))
    layout = shhs.paths_of(tmp_path, "shhs1-200001")
    write_profusion(layout.profusion_xml, np.roll(np.repeat([0, 2, 3, 5], 40), 1))
    with pytest.raises(RecordingError, match=r"on 2\.5% of the windows; .* 30 s later"):
        read_only_night(tmp_path)


def test_a_start_that_the_edf_lost_is_nsrrs(tmp_path):
    write_night(tmp_path, "shhs1-200001")
    layout = shhs.paths_of(tmp_path, "shhs1-200001")
    data = bytearray(layout.edf.read_bytes())
    data[168:176] = b"00.00.00"
    layout.edf.write_bytes(bytes(data))
    assert read_only_night(tmp_path).start == START.replace(1985, 1, 1)


def test_rpoints_alone_need_no_edf_and_say_the_same(tmp_path):
    write_night(tmp_path, "shhs1-200001")
    (night,) = shhs.find_nights(tmp_path, None, "rpoints").nights
    whole = night.read()
    night.edf.unlink()
    alone = night.read(signals=False)
    assert (alone.ecg, alone.effort, alone.duration_s) == (None, (), 90)
    assert alone.labels.tolist() == whole.labels.tolist()
    assert alone.rpoints.times_s.tolist() == whole.rpoints.times_s.tolist()
    for field in ("recording_id", "subject_id", "visit", "cohort"):
        assert getattr(alone, field) == getattr(whole, field)
    assert alone.start == START.replace(year=1985, month=1, day=1)


def test_a_night_without_rpoints_says_so(tmp_path):
    write_night(tmp_path, "shhs1-200001", rpoints=False)
    (night,) = shhs.find_nights(tmp_path, None, "rpoints").nights
    with pytest.raises(RecordingError, match=r"no R points.*--recordings=edf") as caught:
        night.read(signals=False)
    assert caught.value.path == str(shhs.paths_of(tmp_path, "shhs1-200001").rpoints_csv)


@pytest.mark.parametrize("signals", [True, False])
def test_a_simulated_night_is_called_so_by_any_of_its_files(tmp_path, signals):
    simulator = "kd_sleep simulator 1.0"
    write_night(tmp_path, "shhs1-200001")
    (night,) = shhs.find_nights(tmp_path).nights
    assert night.read(signals=signals).cohort == "recorded"
    write_nsrr_stages(night.stages_xml, [0, 2, 1], START.time(), 90, software=simulator)
    assert night.read(signals=signals).cohort == simulator
    write_nsrr_stages(night.stages_xml, [0, 2, 1], START.time(), 90)
    (tmp_path / "simulation.json").write_text("{}")
    assert night.read(signals=signals).cohort == "kd_sleep simulator"
    (tmp_path / "simulation.json").write_text('{"settings": {"cohort_seed": 7}}')
    assert night.read(signals=signals).cohort == "kd_sleep simulator, seed 7"


@pytest.mark.parametrize("signals", [True, False])
@pytest.mark.parametrize("source", ["nsrr", "profusion"])
def test_nights_scored_sleep_and_wake_only_are_refused(tmp_path, signals, source):
    write_night(tmp_path, "shhs1-200001", windows=140, labels=20 * [0] + 120 * [2])
    layout = shhs.paths_of(tmp_path, "shhs1-200001")
    write_profusion(layout.profusion_xml, 20 * [0] + 120 * [3])
    if source == "profusion":
        layout.stages_xml.unlink()
    (night,) = shhs.find_nights(tmp_path).nights
    with pytest.raises(RecordingError, match="scores sleep and wake only") as caught:
        night.read(signals=signals)
    assert source in caught.value.path


@pytest.mark.parametrize("partner", ["edf", "stages_xml"])
def test_night_without_a_partner_is_listed_and_says_so_when_read(tmp_path, partner):
    write_night(tmp_path, "shhs1-200001")
    (night,) = shhs.find_nights(tmp_path).nights
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
    write_nsrr_stages(files.stages_xml, [0], START.time(), 30.0)
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
