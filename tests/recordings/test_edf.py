"""EDF: what is written reads back; what is damaged is refused by name."""

import dataclasses
import datetime
import os
import pathlib
import random
import tracemalloc

import edfio
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from kd_sleep.errors import RecordingError
from kd_sleep.recordings import edf, shhs
from kd_sleep.recordings.beat_files import read_beats
from kd_sleep.recordings.stage_files import read_scoring

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


def test_values_beyond_the_range_are_clipped_on_demand_alone(tmp_path):
    path, loud = tmp_path / "loud.edf", np.repeat([-9.0, 9.0], 125)
    with pytest.raises(ValueError, match=r"ECG: samples from -9 to 9 mV do not fit .* -1.25 to 1"):
        edf.write_signals(path, [(ECG, loud)], START, "")
    assert not path.exists()
    edf.write_signals(path, [(ECG, edf.saturated(ECG, loud))], START, "")
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
        (192, b"EDF+D", "has no annotations that say when"),
        (244, b"99999999", "lasts 1.111e\\+05 h by its header"),
        (244, b"1e300   ", "lasts .* h by its header"),
        (
            field_of(0, 104, 8),
            b"-1,250,0",
            "has '-1,250,0' as the physical minimum of channel 'ECG'. Correct",
        ),
        (field_of(0, 112, 8), b"1e300   ", "no usable samples"),
        (field_of(0, 128, 8), b"127.5   ", "'127.5' as the digital maximum"),
        (field_of(0, 216, 8), b"99999999", "cut short: 0 of 4"),
        (236, b"0       ", "no data records"),
        (236, b"5       ", "4 of 5 data records"),
        (236, b"many    ", "'many' as its number of records. Correct this field"),
        (236, b"\xff\xfe\x03\x04many", "as its number of records. Download"),
        (244, b"0       ", "no sampled signals"),
        (244, b"nan     ", "'nan' as its record duration"),
        (184, b"256 ".ljust(52) + b"4       1       0   ", "header of another size"),
        (252, b"0   ", "header of another size"),
        (field_of(0, 104, 8), b"1.25    ", "has no scale"),  # physical minimum
        (field_of(0, 104, 8), b"low     ", "'low' as the physical minimum"),
        (field_of(0, 104, 8), b"nan     ", "'nan' as the physical minimum"),
        (field_of(0, 120, 8), b"127     ", "has no scale"),  # digital minimum
        (field_of(0, 216, 8), b"-125    ", "no sampled signals"),
    ],
)
def test_damaged_header_is_refused_by_name(night, offset, text, problem):
    patch(night, offset, text)
    with pytest.raises(RecordingError, match=problem):
        edf.read_signals(night, {"ecg": ("ECG",)})


@pytest.mark.parametrize(
    "edits",
    [
        [(field_of(0, 104, 8), b"-1,25   "), (field_of(0, 112, 8), b"1,25    ")],
        [(field_of(0, 104, 8), b" -1.250 "), (field_of(0, 112, 8), b"+1.25   ")],
        [(field_of(0, 104, 8), b"-125E-2 "), (field_of(0, 112, 8), b"0,125e1 ")],
        [(field_of(0, 104, 8), b"- 1.25  "), (field_of(0, 112, 8), b"1.25\0junk"[:8])],
        [(field_of(0, 120, 8), b"-128.0  "), (field_of(0, 128, 8), b"+127,00 ")],
        [(field_of(0, 216, 8), b"125.0   "), (field_of(1, 216, 8), b"   1e1  ")],
        [
            (184, b"768\0\0\0\0\0"),
            (236, b" +4\0\0\0\0\0"),
            (244, b"1,0\0\0\0\0\0"),
            (252, b"2\0\0\0"),
        ],
        [
            (0, b"0\0\0\0\0\0\0\0"),
            (256, b"ECG".ljust(16, b"\0")),
            (168, b"01/03-96"),
            (176, b"22:30.15"),
        ],
        [(field_of(0, 96, 8), b"mV\0\0\0\0\0\0"), (8, bytes(80)), (192, bytes(44))],
    ],
    ids=lambda edits: edits[0][1].decode(),
)
def test_numbers_and_padding_of_other_spellings_read_the_same(night, edits):
    wanted = {"ecg": ("ECG",), "effort": ("THOR RES",)}
    before = edf.read_signals(night, wanted)
    for offset, text in edits:
        patch(night, offset, text)
    content = night.read_bytes()
    after = edf.read_signals(night, wanted)
    assert night.read_bytes() == content
    assert (after.start, after.labels, after.notes) == (before.start, before.labels, ())
    for name in wanted:
        np.testing.assert_array_equal(after.signals[name].values, before.signals[name].values)
        assert after.signals[name].unit == before.signals[name].unit


def test_damage_to_an_unwanted_channel_does_no_harm(night):
    patch(night, field_of(0, 104, 8), b"1.25    ")
    assert set(edf.read_signals(night, {"effort": ("THOR RES",)}).signals) == {"effort"}


def test_missing_file_and_folder_are_refused(tmp_path):
    with pytest.raises(RecordingError, match="is missing"):
        edf.read_signals(tmp_path / "none.edf", {})
    with pytest.raises(RecordingError, match="cannot be read"):
        edf.read_signals(tmp_path, {})


@pytest.mark.parametrize(
    "text",
    [b"01.03.9622.60.15", b"01.03.96        ", b"00.00.0000.00.00", b"01.01.8500.00.00"],
)
def test_an_unusable_time_costs_the_start_alone(night, text):
    patch(night, 168, text)
    contents = edf.read_signals(night, {"ecg": ("ECG",)})
    assert contents.start is None
    assert "tells no start" in contents.notes[0]
    assert contents.duration_s == SECONDS


@pytest.mark.parametrize("text", [b"00.00.00", b"        ", b"31.02.99", b"\xff" * 8])
def test_without_a_date_the_time_of_day_stays(night, text):
    patch(night, 168, text)
    contents = edf.read_signals(night, {})
    assert contents.start == START.replace(1985, 1, 1)
    assert "is none: its start is a time of day" in contents.notes[0]


@pytest.mark.parametrize(
    ("text", "start"),
    [
        (b"01.03.9622:30:15", START),
        (b"1.3.96 \x0022-30.15", START),
        (b"1/3/199622h30m15", START),
        (b"01.01.8522.30.15", START.replace(1985, 1, 1)),
        (b"01.03.9600.00.00", datetime.datetime(1996, 3, 1)),
        (b"01.01.8500.00.01", datetime.datetime(1985, 1, 1, 0, 0, 1)),
        (b"31.12.8423.59.59", datetime.datetime(2084, 12, 31, 23, 59, 59)),
    ],
)
def test_starts_as_recorders_write_them(night, text, start):
    patch(night, 168, text)
    assert edf.read_signals(night, {}).start == start


@pytest.mark.parametrize("kind", ["EDF+C", ""])
@pytest.mark.parametrize(
    ("recording", "onsets", "start"),
    [
        ("Startdate X X X X", [0.25, 1.25], START.replace(microsecond=250_000)),
        ("Startdate 01-MRZ-1996 X X X", [0, 1], START),
        ("Startdate 1996-03-01 X X X", [0, 1], START),
        ("Startdate 02-MAR-1996 X X X", [0, 1], START.replace(day=2)),
        ("Startdate 31-DEC-9999 X X X", [b"+999999999\x14\x14\0", 1], None),
        ("", [b"", b""], START),
        ("", [b"\xff\xfe", 1], START),
        ("", [b"+0,5\x14\x14\0", b"+1,5\x14\x14\0"], START.replace(microsecond=500_000)),
    ],
)
def test_odd_fields_of_edf_plus_leave_the_headers_start(tmp_path, recording, onsets, start, kind):
    path = tmp_path / "night.edf"
    write_edf_plus(path, onsets, kind)
    patch(path, 88, recording.encode().ljust(80))
    assert edf.read_signals(path, EDF_PLUS).start == start


@pytest.mark.parametrize("kind", ["EDF+C", ""])
def test_an_annotation_channel_without_samples_leaves_the_headers_start(night, kind):
    patch(night, 192, kind.encode())
    patch(night, field_of(1, 0, 16), b"EDF Annotations ")
    patch(night, field_of(1, 216, 8), b"0       ")
    patch(night, 236, b"-1      ")
    contents = edf.read_signals(night, {"ecg": ("ECG",)})
    assert (contents.start, contents.labels) == (START, ("ECG",))


@pytest.mark.parametrize(
    "page",
    [
        b"<!DOCTYPE html>\n<html lang='en'><head><title>Sign in</title></head></html>",
        b"\xef\xbb\xbf\r\n<HTML>",
        b"<?xml version='1.0'?>\n<!-- x --><html xmlns='http://www.w3.org/1999/xhtml'>",
        b'{"error": "invalid token"}',
        b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
        b"404: Not Found",
        b"HTTP/1.1 401 Unauthorized",
        "<!doctype html><html>".encode("utf-16"),
    ],
)
def test_a_web_page_saved_as_data_is_called_so(tmp_path, page):
    readers = {".edf": lambda p: edf.read_signals(p, {}), ".xml": read_scoring, ".csv": read_beats}
    for suffix, read in readers.items():
        path = tmp_path / f"night{suffix}"
        path.write_bytes(page)
        with pytest.raises(RecordingError, match=r"web page.*Fetch it again; is the token valid"):
            read(path)


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


REFUSED_FIXTURES = {
    "SC4001EC-Hypnogram.edf": "holds no sampled signals",
    "test_edfann.edf": "holds no sampled signals",
    "invalid-date.edf": "holds no data records, only a header",
    "zero-data-records.edf": "holds no data records, only a header",
    "short_psg.bdf": "is a BDF file",
    "test_generator_datarec_generator_0_5.bdf": "is a BDF file",
}


@pytest.mark.skipif(not FIXTURES, reason=f"{REAL_DATA} is absent")
def test_other_libraries_fixtures_are_read_or_refused():
    for path in FIXTURES:
        if path.name in REFUSED_FIXTURES:
            with pytest.raises(RecordingError, match=REFUSED_FIXTURES[path.name]):
                edf.read_signals(path, {})
        else:
            read_as_edfio_does(path)


def read_as_edfio_does(path):
    labels = edf.read_signals(path, {}).labels
    contents = edf.read_signals(path, {label: (label,) for label in labels})
    assert contents.start is not None
    assert set(contents.signals) == set(labels)
    original = edfio.read_edf(path)
    for signal in contents.signals.values():
        assert signal.values.size == round(contents.duration_s * signal.rate_hz)
        same = [channel for channel in original.signals if channel.label == signal.label]
        fastest = max(same, key=lambda channel: channel.sampling_frequency)
        np.testing.assert_array_equal(signal.values, fastest.data.astype(np.float32))


def write_edf_plus(path, onsets, kind="EDF+D", record_s="1", annotation_samples=12):
    """Records of 25 samples of ECG and 5 of effort, each with its number for a value.

    Args:
      onsets: of each record; a number, or the raw bytes of its time-keeping annotation.
    """
    channels = [
        ("ECG", "mV", -100, 100, 25),
        ("EDF Annotations", "", -1, 1, annotation_samples),
        ("THOR RES", "", 100, -100, 5),
    ]
    rows = [
        [label, "", unit, low, high, -1000, 1000, "", samples, ""]
        for label, unit, low, high, samples in channels
    ]
    fixed = ["0", "X X X X", "Startdate 01-MAR-1996 X X X", "01.03.96", "22.30.15", 1024, kind]
    fixed += [len(onsets), record_s, 3]
    header = [
        *zip(fixed, (8, 80, 80, 8, 8, 8, 44, 8, 8, 4), strict=True),
        *(
            (row[field], width)
            for field, width in enumerate((16, 80, 8, 8, 8, 8, 8, 80, 8, 32))
            for row in rows
        ),
    ]
    body = b""
    for number, onset in enumerate(onsets):
        tal = onset if isinstance(onset, bytes) else f"{onset:+.6f}\x14\x14\0".encode()
        body += np.full(25, 10 * number, "<i2").tobytes()
        body += tal.ljust(2 * annotation_samples, b"\0")
        body += np.full(5, -10 * number, "<i2").tobytes()
    path.write_bytes(b"".join(str(text).encode().ljust(width) for text, width in header) + body)


EDF_PLUS = {"ecg": ("ECG",), "effort": ("THOR RES",)}


@pytest.mark.parametrize("kind", ["EDF+D", "EDF+C"])  # the second says it has no gaps, and lies
def test_a_gap_is_missing_and_shifts_nothing(tmp_path, kind):
    write_edf_plus(tmp_path / "night.edf", [0.5, 1.5, 11.5, 12.5, 100.75], kind)
    contents = edf.read_signals(tmp_path / "night.edf", EDF_PLUS)
    assert contents.start == START.replace(microsecond=500_000)
    assert contents.duration_s == 101.25
    ecg = contents.signals["ecg"].values
    expected = np.full(2531, np.nan, np.float32)  # 101.25 s are half a sample more
    for number, first in enumerate((0, 25, 275, 300, 2506)):
        expected[first : first + 25] = number
    np.testing.assert_allclose(ecg, expected, atol=1e-5)
    effort = contents.signals["effort"].values
    assert np.flatnonzero(np.isfinite(effort)).tolist() == [
        *range(10),
        *range(55, 65),
        *range(501, 506),
    ]


@hypothesis.settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
    gaps_s=st.lists(
        st.one_of(st.just(0.0), st.floats(-0.009, 0.009), st.floats(0.0, 900.0)),
        min_size=1,
        max_size=12,
    ),
    start_s=st.floats(0.0, 1000.0),
)
def test_every_record_lies_at_its_own_onset(tmp_path, gaps_s, start_s):
    onsets = start_s + np.concatenate([[0.0], np.cumsum(1.0 + np.round(gaps_s, 3))])
    path = tmp_path / "night.edf"
    write_edf_plus(path, onsets, annotation_samples=20)
    contents = edf.read_signals(path, EDF_PLUS)
    assert contents.duration_s == pytest.approx(onsets[-1] - onsets[0] + 1, abs=1e-4)
    for signal in contents.signals.values():
        assert abs(signal.values.size - contents.duration_s * signal.rate_hz) <= 0.51
        for number, onset in enumerate(onsets - onsets[0]):
            at = np.flatnonzero(np.round(signal.values) == number) / signal.rate_hz
            assert at.size >= signal.rate_hz - 1  # a sample may be shared with the next record
            assert at[0] == pytest.approx(onset, abs=0.5001 / signal.rate_hz + 0.0101)
            assert at[-1] - at[0] == pytest.approx((at.size - 1) / signal.rate_hz)
        finite = np.isfinite(signal.values).sum()
        assert finite <= signal.rate_hz * len(onsets)


@pytest.mark.parametrize(
    ("onsets", "problem"),
    [
        ([0, 1, 1.5, 4], "overlap: number 3 starts 1.5 s after"),
        ([0, 5, 2, 9], "overlap: number 3"),
        ([0, 1, b"", 4], "data record 3 of 4 does not say when"),
        ([b"\xff\xfe\xfd", 1, 2, 9], "data record 1 of 4 does not say"),
        ([0, 1, b"2\x14\x14\0", 9], "data record 3 of 4 does not say"),  # no sign
        ([0, 1, b"+2\x14\0", 9], "data record 3 of 4 does not say"),  # no empty text
        ([0, 1, b"+" + b"9" * 23, 9], "data record 3 of 4 does not say"),
        ([0, 1, b"+5\x14Lights off\x14\0", 9], "data record 3 of 4 does not say"),
        ([0, 1, 2, 86_400], "lasts 24 h by its header"),
    ],
)
def test_a_gap_of_unknown_or_impossible_length_is_refused(tmp_path, onsets, problem):
    write_edf_plus(tmp_path / "night.edf", onsets)
    with pytest.raises(RecordingError, match=problem):
        edf.read_signals(tmp_path / "night.edf", EDF_PLUS)


def test_an_onset_may_have_a_duration_and_be_followed_by_events(tmp_path):
    path = tmp_path / "night.edf"
    write_edf_plus(path, [0, b"+1.5\x14\x14\0+1\x14Arousal\x14\0", b"+3.\x150\x14\x14\0"])
    assert edf.read_signals(path, EDF_PLUS).duration_s == 4


def test_damaged_onsets_of_a_continuous_file_cost_at_most_the_start(tmp_path):
    path = tmp_path / "night.edf"
    for onsets in ([b"", b"", b""], [0, 0, 0], [5, b"\xff", 1], [0, 1, b"junk"]):
        write_edf_plus(path, onsets, "EDF+C")
        contents = edf.read_signals(path, EDF_PLUS)
        assert contents.duration_s == 3
        assert np.isfinite(contents.signals["ecg"].values).all()


def test_a_tiny_file_cannot_claim_a_huge_gap(tmp_path):
    """25 samples in 10 µs are 2.5 MHz: 80,000 s of them would fill a terabyte."""
    path = tmp_path / "night.edf"
    write_edf_plus(path, [0, 80_000], record_s="0.00001")
    tracemalloc.start()
    with pytest.raises(RecordingError, match="nearly all of them in gaps"):
        edf.read_signals(path, EDF_PLUS)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_only_wanted_channels_take_memory(tmp_path):
    """A quarter of an hour of all 14 channels; edfio scales in float64, 26 bytes a sample."""
    path = tmp_path / "night.edf"
    signals = [(channel, np.zeros(900 * channel.rate_hz)) for channel in shhs.channels(1, "all")]
    edf.write_signals(path, signals, START, "")
    edf.read_signals(path, {"ecg": ("ECG",)})  # imports what it needs
    tracemalloc.start()
    edf.read_signals(path, {"ecg": ("ECG",), "thorax": ("THOR RES",)})
    assert tracemalloc.get_traced_memory()[1] < 30 * 900 * 135
    tracemalloc.stop()


def test_units_may_be_blank_and_labels_padded_or_in_any_case(tmp_path):
    path = tmp_path / "night.edf"
    edf.write_signals(path, [(dataclasses.replace(ECG, unit=""), np.ones(125))], START, "")
    patch(path, 256, b"  ekg  l - R    ")
    contents = edf.read_signals(path, {"ecg": ("EKG L-R",)})
    assert contents.signals["ecg"].unit == ""
    assert contents.labels == ("  ekg  l - R",)


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 12))]
)
def test_mutants_are_read_or_refused(tmp_path, seed):
    """Flipped bytes, cuts, junk, swapped fields, odd numbers, damaged onsets: 1,200 in all."""
    rng = random.Random(seed)
    path = tmp_path / "mutant.edf"
    odd = [b"99999999", b"-1      ", b"1e300   ", b"nan     ", b"inf     ", b"0       "]
    odd += [b"0.0001  ", b"-99999  ", b"\0" * 8, b"\xff" * 8, b"EDF+D", b"EDF+C", b"1_0     "]
    odd += [b"+86398\x14\x14\0", b"+999999999\x14\x14\0", b"-7\x14\x14\0", b"EDF Annotations "]
    fields = [0, 168, 176, 184, 192, 236, 244, 252]
    fields += [256 + 3 * at for at in (0, 96, 104, 112, 120, 128, 216)]
    for _ in range(100):
        onsets, kind = rng.choice(
            [(range(6), "EDF+C"), ([0, 1, 2, 10, 11, 100.5], "EDF+D"), (range(6), "")]
        )
        write_edf_plus(path, onsets, kind)
        data = bytearray(path.read_bytes())
        for _ in range(rng.randint(1, 4)):
            record = 1024 + 84 * rng.randrange(6) + 50
            choice = rng.randrange(7)
            if choice == 0:
                data[rng.randrange(1024) % len(data)] = rng.randrange(256)
            elif choice == 1:
                del data[rng.randrange(1, len(data)) :]
            elif choice == 2:
                data += rng.randbytes(rng.randrange(400))
            elif choice == 3:
                one, two = (slice(at, at + 8) for at in rng.choices(range(0, 1024, 8), k=2))
                data[one], data[two] = data[two], data[one]
            elif choice == 4:
                at, text = rng.choice(fields), rng.choice(odd)
                data[at : at + len(text)] = text
            elif choice == 5 and record < len(data):
                data[min(record + rng.randrange(8), len(data) - 1)] = rng.choice(
                    b"\0\x14\x15+-.09\xff"
                )
            else:
                text = rng.choice(odd)
                data[record : record + len(text)] = text
        path.write_bytes(bytes(data))
        try:
            contents = edf.read_signals(path, EDF_PLUS)
        except RecordingError:
            continue
        for signal in contents.signals.values():
            assert signal.values.size <= edf.MAX_SAMPLES
            assert np.isfinite(signal.values).any()
            if data[192:196] != b"EDF+":
                assert np.isfinite(signal.values).all()


@pytest.mark.parametrize("extra", [1, 64, RECORD_BYTES + 2])
def test_bytes_that_are_no_whole_record_may_have_shifted_the_samples(night, extra):
    data = night.read_bytes()
    for at in (HEADER_BYTES + 10, len(data)):
        night.write_bytes(data[:at] + bytes(extra) + data[at:])
        with pytest.raises(RecordingError, match=r"no whole data record: .* are shifted"):
            edf.read_signals(night, {})
    patch(night, 236, b"-1      ")  # a recorder that never closed the file may have been mid-record
    assert edf.read_signals(night, {}).duration_s >= SECONDS
