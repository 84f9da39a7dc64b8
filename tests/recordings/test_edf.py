"""EDF: what is written reads back; what is damaged is refused by name."""

import datetime
import os
import pathlib

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from kd_sleep.errors import RecordingError
from kd_sleep.recordings import edf, shhs

REAL_DATA = pathlib.Path(
    os.environ.get(
        "KD_SLEEP_REAL_DATA", pathlib.Path(__file__).resolve().parents[3] / "shared" / "data"
    )
)
FIXTURES = sorted((REAL_DATA / "edf_fixtures").glob("*/*.[be]df"))
SHHS_HEADER = REAL_DATA / "edf_fixtures" / "edfize" / "zero-data-records.edf"

START = datetime.datetime(1996, 3, 1, 22, 30, 15)
ECG = edf.Channel("ECG", "mV", 125, (-1.25, 1.25), (-128, 127))
EFFORT = edf.Channel("THOR RES", "", 10, (1, -1), (-128, 127))
SECONDS = 4
HEADER_BYTES = 256 * 3
RECORD_BYTES = 2 * (125 + 10)


@pytest.fixture
def night(tmp_path):
    """A sound EDF file of two channels, 4 s long."""
    path = tmp_path / "night.edf"
    time_s = np.arange(SECONDS * 125) / 125
    signals = [
        (ECG, np.sin(2 * np.pi * time_s)),
        (EFFORT, np.linspace(-1, 1, SECONDS * 10)),
    ]
    edf.write_signals(path, signals, START, "kd_sleep simulator 1.0")
    return path


def patch(path, offset, text):
    """Overwrites bytes of a header."""
    data = bytearray(path.read_bytes())
    data[offset : offset + len(text)] = text
    path.write_bytes(bytes(data))


def field_of(channel, width_before, width):
    """Offset of a per-signal field in `night`, whose two channels lie side by side."""
    return 256 + 2 * width_before + channel * width


def test_round_trip(night):
    contents = edf.read_signals(
        night, {"ecg": ("EKG", "ecg"), "effort": ("thorres",), "none": ("x",)}
    )
    assert contents.start == START
    assert contents.duration_s == SECONDS
    assert contents.recording_text == "kd_sleep simulator 1.0"
    assert contents.labels == ("ECG", "THOR RES")
    assert set(contents.signals) == {"ecg", "effort"}
    ecg, effort = contents.signals["ecg"], contents.signals["effort"]
    assert (ecg.rate_hz, ecg.unit, ecg.label) == (125, "mV", "ECG")
    assert ecg.values.dtype == np.float32
    half_step = 2.5 / 255 / 2 * 1.001
    expected = np.sin(2 * np.pi * np.arange(SECONDS * 125) / 125)
    np.testing.assert_allclose(ecg.values, expected, atol=half_step)
    # The physical range is inverted; the values must not be.
    np.testing.assert_allclose(effort.values, np.linspace(-1, 1, 40), atol=2 / 255 / 2 * 1.001)


def test_same_input_gives_same_bytes_and_no_other_file(night):
    before = night.read_bytes()
    contents = edf.read_signals(night, {"ecg": ("ECG",), "effort": ("THOR RES",)})
    signals = [(ECG, contents.signals["ecg"].values), (EFFORT, contents.signals["effort"].values)]
    edf.write_signals(night, signals, START, "kd_sleep simulator 1.0")
    assert night.read_bytes() == before
    assert [file.name for file in night.parent.iterdir()] == ["night.edf"]


def test_a_write_that_breaks_off_leaves_the_old_file(night, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    before = night.read_bytes()
    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        edf.write_signals(night, [(ECG, np.zeros(125))], START, "")
    assert night.read_bytes() == before
    assert [file.name for file in night.parent.iterdir()] == ["night.edf"]


def test_values_beyond_the_range_saturate(tmp_path):
    path = tmp_path / "loud.edf"
    edf.write_signals(path, [(ECG, np.repeat([-9.0, 9.0], 125))], START, "")
    values = edf.read_signals(path, {"ecg": ("ECG",)}).signals["ecg"].values
    assert set(values.tolist()) == {-1.25, 1.25}


@pytest.mark.parametrize(
    ("signals", "start", "text"),
    [
        ([], START, ""),
        ([(ECG, np.zeros(0))], START, ""),
        ([(ECG, np.zeros(130))], START, ""),
        ([(ECG, np.zeros((1, 125)))], START, ""),
        ([(ECG, np.full(125, np.nan))], START, ""),
        ([(ECG, np.zeros(125)), (EFFORT, np.zeros(20))], START, ""),
        ([(ECG, np.zeros(125))], START.replace(year=1984), ""),
        ([(ECG, np.zeros(125))], START, "x" * 81),
        ([(ECG, np.zeros(125))], START, "µ"),
        ([(ECG, np.zeros(125))], START, "two\nlines"),
    ],
)
def test_writer_refuses_what_edf_cannot_hold(tmp_path, signals, start, text):
    with pytest.raises(ValueError):
        edf.write_signals(tmp_path / "no.edf", signals, start, text)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not SHHS_HEADER.exists(), reason=f"{SHHS_HEADER} is absent")
def test_written_header_is_that_of_a_genuine_shhs_file(tmp_path):
    path = tmp_path / "shhs1-200001.edf"
    signals = [(channel, np.zeros(channel.rate_hz)) for channel in shhs.channels(1, "all")]
    start = datetime.datetime(1985, 1, 31, 20, 14, 57)
    edf.write_signals(path, signals, start, "")
    written, genuine = path.read_bytes()[: 256 * 15], SHHS_HEADER.read_bytes()
    ranges = slice(256 + 14 * (16 + 80 + 8), 256 + 14 * (16 + 80 + 8 + 8 + 8))
    assert written[256 : ranges.start] == genuine[256 : ranges.start]
    assert written[ranges.stop :] == genuine[ranges.stop :]
    # Equal numbers in other letters: edfio writes 1 where SHHS's recorder wrote 1.00.
    assert list(map(float, written[ranges].split())) == list(map(float, genuine[ranges].split()))
    # Of the fixed part only the number of records differs: the fixture has none.
    assert written[:236] == genuine[:236]
    assert written[244:256] == genuine[244:256]


def test_every_cut_is_refused(night):
    data = night.read_bytes()
    by_name = {
        0: "is empty",
        5: "inside its header, at byte 5",
        255: "inside its header, at byte 255",
    }
    for cut, problem in by_name.items():
        night.write_bytes(data[:cut])
        with pytest.raises(RecordingError, match=problem):
            edf.read_signals(night, {})
    cuts = {*range(0, len(data), 37), 1, 8, 256, HEADER_BYTES - 1, HEADER_BYTES, len(data) - 1}
    for cut in cuts:
        night.write_bytes(data[:cut])
        with pytest.raises(RecordingError, match=r"night\.edf"):
            edf.read_signals(night, {"ecg": ("ECG",)})


@pytest.mark.parametrize(
    ("offset", "text", "problem"),
    [
        (0, b"\xffBIOSEMI", "is a BDF file"),
        (0, b"\x89PNG\r\n", "is no EDF file"),
        (184, b"1024    ", "header of another size"),
        (192, b"EDF+D", "discontinuous"),
        (236, b"0       ", "no data records"),
        (236, b"5       ", "4 of 5 data records"),
        (236, b"many    ", "number of records"),
        (244, b"0       ", "no sampled signals"),
        (244, b"nan     ", "no sampled signals"),
        (184, b"256 ".ljust(52) + b"4       1       0   ", "header of another size"),
        (252, b"0   ", "header of another size"),
        (252, b"9999", "header of another size"),
        (field_of(0, 104, 8), b"1.25    ", "has no scale"),  # physical minimum
        (field_of(0, 104, 8), b"low     ", "no readable EDF"),
        (field_of(0, 104, 8), b"nan     ", "no usable samples"),
        (field_of(0, 120, 8), b"127     ", "has no scale"),  # digital minimum
        (field_of(0, 216, 8), b"-125    ", "no sampled signals"),
        (field_of(0, 216, 8), b"0       0       ", "no sampled signals"),
    ],
)
def test_damaged_header_is_refused_by_name(night, offset, text, problem):
    patch(night, offset, text)
    with pytest.raises(RecordingError, match=problem):
        edf.read_signals(night, {"ecg": ("ECG",)})


def test_damage_to_an_unwanted_channel_does_no_harm(night):
    patch(night, field_of(0, 104, 8), b"1.25    ")
    assert set(edf.read_signals(night, {"effort": ("THOR RES",)}).signals) == {"effort"}


def test_missing_file_and_folder_are_refused(tmp_path):
    with pytest.raises(RecordingError, match="is missing"):
        edf.read_signals(tmp_path / "none.edf", {})
    with pytest.raises(RecordingError, match="cannot be read"):
        edf.read_signals(tmp_path, {})


@pytest.mark.parametrize("date", [b"00.00.00", b"        ", b"31.02.99"])
def test_unusable_date_costs_the_start_alone(night, date):
    patch(night, 168, date)
    contents = edf.read_signals(night, {"ecg": ("ECG",)})
    assert contents.start is None
    assert contents.duration_s == SECONDS


def test_recording_that_was_never_closed_counts_its_whole_records(night):
    patch(night, 236, b"-1      ")
    night.write_bytes(night.read_bytes()[: HEADER_BYTES + 2 * RECORD_BYTES + 11])
    contents = edf.read_signals(night, {"ecg": ("ECG",)})
    assert contents.duration_s == 2
    assert contents.signals["ecg"].values.size == 250


def test_samples_beyond_the_promised_records_stay_unread(night):
    patch(night, 236, b"3       ")
    contents = edf.read_signals(night, {"ecg": ("ECG",)})
    assert contents.duration_s == 3
    assert contents.signals["ecg"].values.size == 375


def test_rate_need_not_be_whole(night):
    patch(night, 244, b"1.6     ")
    contents = edf.read_signals(night, {"ecg": ("ECG",)})
    assert contents.signals["ecg"].rate_hz == pytest.approx(125 / 1.6)
    assert contents.duration_s == pytest.approx(6.4)


def test_of_equal_labels_the_fastest_and_first_is_read(tmp_path):
    path = tmp_path / "twice.edf"
    slow, fast = (
        edf.Channel("ECG", "", 1, (0, 9), (0, 9)),
        edf.Channel("ECG", "", 2, (0, 9), (0, 9)),
    )
    signals = [(slow, [1.0]), (fast, [2.0, 2.0]), (fast, [3.0, 3.0])]
    edf.write_signals(path, signals, START, "")
    assert edf.read_signals(path, {"ecg": ("ECG",)}).signals["ecg"].values.tolist() == [2, 2]


@pytest.mark.skipif(not FIXTURES, reason=f"{REAL_DATA} is absent")
def test_other_libraries_fixtures_are_read_or_refused():
    read = 0
    for path in FIXTURES:
        try:
            labels = edf.read_signals(path, {}).labels
            contents = edf.read_signals(path, {label: (label,) for label in labels})
        except RecordingError:
            continue
        read += 1
        for signal in contents.signals.values():
            assert signal.values.size == round(contents.duration_s * signal.rate_hz)
    assert read >= len(FIXTURES) // 2


@hypothesis.settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
    edits=st.lists(
        st.tuples(st.integers(0, HEADER_BYTES + 8), st.binary(min_size=1, max_size=9)), max_size=4
    )
)
def test_any_bytes_are_read_or_refused(night, edits):
    data = bytearray(night.read_bytes())
    for offset, text in edits:
        data[offset : offset + len(text)] = text
    mutant = night.with_name("mutant.edf")
    mutant.write_bytes(bytes(data))
    try:
        contents = edf.read_signals(mutant, {"ecg": ("ECG",), "effort": ("THOR RES",)})
    except RecordingError:
        return
    assert all(np.isfinite(signal.values).all() for signal in contents.signals.values())
