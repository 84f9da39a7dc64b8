"""A BCG file beside a night: one channel of any format, found by name or quality, or refused."""

import datetime

import h5py
import numpy as np
import pytest

from kd_sleep.errors import RecordingError
from kd_sleep.recordings import edf
from kd_sleep.recordings.paired_bcg import read_bcg

START = datetime.datetime(2024, 5, 1, 23, 0, 7)
SECONDS = 320
RATE = 100


def heartbeats(rate_hz=RATE, noise=0.1, seconds=SECONDS):
    """Something that beats: energy below 8 Hz, and little above."""
    time_s = np.arange(seconds * rate_hz) / rate_hz
    beats = sum(np.sin(2 * np.pi * k * 1.1 * time_s) for k in range(1, 6))
    return beats + noise * np.random.default_rng(rate_hz).normal(size=len(time_s))


def hiss(rate_hz=RATE):
    return np.random.default_rng(1).normal(size=SECONDS * rate_hz)


@pytest.fixture
def write_edf(tmp_path):
    def write(*channels):
        path = tmp_path / "shhs1-200001.edf"
        signals = []
        for label, rate_hz, values in channels:
            channel = edf.Channel(label, "mV", rate_hz, (-9, 9), (-32768, 32767))
            signals.append((channel, edf.saturated(channel, values)))
        edf.write_signals(path, signals, START, "")
        return path

    return write


@pytest.mark.parametrize("label", ["BCG", "bed", "Mattress", "FILM", "LoadCell", "my bcg 2"])
def test_bcg_is_found_by_name_among_others(write_edf, label):
    bcg = read_bcg(write_edf(("Temp", 1, np.zeros(SECONDS)), ("Sensor 7", RATE, heartbeats()),
                             (label, RATE, hiss())))  # fmt: skip
    assert (bcg.signal.label, bcg.signal.rate_hz, bcg.signal.unit) == (label, RATE, "mV")
    np.testing.assert_allclose(bcg.signal.values, hiss(), atol=18 / 65535)
    assert bcg.start == START
    assert bcg.other_channels == ("Temp", "Sensor 7")


def test_the_only_channel_is_the_bcg(write_edf):
    assert read_bcg(write_edf(("Sensor 7", RATE, hiss()))).signal.label == "Sensor 7"


def test_of_several_the_clearest_is_taken(write_edf):
    path = write_edf(
        ("BCG 1", RATE, hiss()), ("BCG 2", RATE, 0 * hiss()), ("BCG 3", RATE, heartbeats()),
        ("BCG 4", RATE, heartbeats(noise=3.0)), ("BCG 5", 20, heartbeats(20)),
    )  # fmt: skip
    assert read_bcg(path).signal.label == "BCG 3"
    assert read_bcg(path, " bcg1").signal.label == "BCG 1"
    with pytest.raises(RecordingError, match="no channel 'BCG 6' among BCG 1, BCG 2"):
        read_bcg(path, "BCG 6")


def test_what_says_that_it_is_something_else_is_no_candidate(write_edf):
    names = ("Resp", "Temperature", "ECG", "Thor Effort", "HR", "sleep_stage")
    others = [(name, RATE, heartbeats(noise=0.01)) for name in names]
    path = write_edf(*others, ("Channel B", RATE, heartbeats(noise=5.0)))
    assert read_bcg(path).signal.label == "Channel B"
    with pytest.raises(RecordingError, match="no BCG channel among Resp, Temperature"):
        read_bcg(write_edf(*others))


def save(tmp_path, suffix, values, **more):
    """The same samples in each format, with a rate where the format has room for one."""
    path = tmp_path / f"night{suffix}"
    if suffix == ".edf":
        edf.write_signals(
            path, [(edf.Channel("BCG", "", RATE, (-9, 9), (-32768, 32767)), values)], START, ""
        )
    elif suffix in (".csv", ".tsv"):
        rows = "\n".join(f"{value:.17g}" for value in values[1:])
        path.write_text(f"BCG,Timestamp,fs\n{values[0]:.17g},{START},{RATE}\n{rows}\n")
    elif suffix == ".npy":
        np.save(path, values)
    elif suffix == ".npz":
        np.savez(path, bcg=values, fs=RATE, start=START.isoformat(), **more)
    else:
        with h5py.File(path, "w") as file:
            data = file.create_dataset("a/b/bcg", data=values, compression="gzip")
            data.attrs["fs"] = RATE
            file.attrs["start"] = START.isoformat()
    return path


SUFFIXES = (".edf", ".csv", ".npy", ".npz", ".h5")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_tells_the_same(tmp_path, suffix):
    path = save(tmp_path, suffix, heartbeats())
    bcg = read_bcg(path, rate_hz=RATE)
    assert bcg.signal.values.dtype == np.float32
    np.testing.assert_allclose(bcg.signal.values, heartbeats(), atol=18 / 65535)
    assert bcg.signal.rate_hz == RATE
    assert bcg.start == (None if suffix == ".npy" else START)
    if suffix == ".npy":
        with pytest.raises(RecordingError, match="does not tell its sampling rate"):
            read_bcg(path)
        assert read_bcg(path, rate_hz=200 / 3).signal.rate_hz == 200 / 3
    else:
        assert read_bcg(path).signal.rate_hz == RATE
        with pytest.raises(RecordingError, match=r"has 100 Hz, not the 101\.5 Hz"):
            read_bcg(path, rate_hz=101.5)
        assert read_bcg(path, rate_hz=100.5).signal.rate_hz == RATE


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("named", SUFFIXES)
def test_a_suffix_that_the_content_belies_is_refused(tmp_path, suffix, named):
    path = save(tmp_path, suffix, heartbeats())
    wrong = path.with_name(f"wrong{named}")
    path.rename(wrong)
    if suffix == named:
        assert read_bcg(wrong, rate_hz=RATE)
    else:
        with pytest.raises(RecordingError, match=rf"is named \{named} but|no EDF|no readable HDF5"):
            read_bcg(wrong, rate_hz=RATE)


def test_missing_empty_and_unknown_files_are_refused(tmp_path):
    for suffix in SUFFIXES:
        with pytest.raises(RecordingError, match="is missing"):
            read_bcg(tmp_path / f"none{suffix}")
        empty = tmp_path / f"empty{suffix}"
        empty.touch()
        with pytest.raises(RecordingError, match="is empty"):
            read_bcg(empty)
    with pytest.raises(RecordingError, match=r"suffix '\.mat', which is no known format"):
        read_bcg(tmp_path / "night.mat")


@pytest.mark.parametrize(
    ("values", "rate_hz", "problem"),
    [
        (heartbeats(), 39.0, "has 39 Hz"),
        (heartbeats(), 1001.0, "has 1001 Hz"),
        (heartbeats(), 107.0, r"lasts 4\.984 minutes"),
        (np.arange(50 * 86_401) % 7, 50.0, "lasts 1440 minutes"),
        (np.full(32_000, 3.5), 100.0, "never changes"),
        (np.where(np.arange(32_000) % 2, np.nan, 3.5), 100.0, "never changes"),
        (np.full(32_000, np.nan), 100.0, "only gaps"),
        (np.full(32_000, np.inf), 100.0, "only gaps"),
    ],
)
def test_what_cannot_be_a_night_is_refused_with_the_figure(tmp_path, values, rate_hz, problem):
    np.save(tmp_path / "night.npy", values)
    with pytest.raises(RecordingError, match=problem):
        read_bcg(tmp_path / "night.npy", rate_hz=rate_hz)


@pytest.mark.parametrize("dtype", ["i1", "u2", ">i4", "i8", "u8", "f2", ">f4", "f8"])
def test_gain_and_polarity_pass_unchanged(tmp_path, dtype):
    values = np.rint(20 * heartbeats()).clip(-100, 100) * (1 if dtype[-2] != "u" else -1)
    values = (values - values.min() * (dtype[0] == "u")).astype(dtype)
    np.save(tmp_path / "night.npy", values)
    bcg = read_bcg(tmp_path / "night.npy", rate_hz=RATE)
    np.testing.assert_array_equal(bcg.signal.values, values.astype(np.float64))
    assert bcg.notes == ()


def test_a_huge_offset_costs_no_precision_and_infinities_are_gaps(tmp_path):
    values = heartbeats()
    for offset, noted in ((0.0, False), (1e9, True)):
        np.save(tmp_path / "night.npy", values + offset)
        bcg = read_bcg(tmp_path / "night.npy", rate_hz=RATE)
        np.testing.assert_allclose(np.diff(bcg.signal.values), np.diff(values), atol=1e-5)
        assert ("median" in " ".join(bcg.notes)) == noted
    values[100:110] = (np.inf, -np.inf) * 5
    values[200] = 1e300
    np.save(tmp_path / "night.npy", values)
    bcg = read_bcg(tmp_path / "night.npy", rate_hz=RATE)
    assert list(np.flatnonzero(np.isnan(bcg.signal.values))) == [*range(100, 110), 200]
    assert "11 samples were infinite" in " ".join(bcg.notes)
    assert "0.03% of the samples are missing" in " ".join(bcg.notes)


def test_an_explicit_channel_may_be_written_in_short(tmp_path):
    with h5py.File(tmp_path / "night.h5", "w") as file:
        file.attrs["rate_hz"] = RATE
        file["left/bcg"], file["right/Raw"] = heartbeats(), hiss()
    assert read_bcg(tmp_path / "night.h5", "raw").signal.label == "/right/Raw"
    assert read_bcg(tmp_path / "night.h5", "/LEFT/bcg").signal.label == "/left/bcg"
    assert read_bcg(tmp_path / "night.h5").signal.label == "/left/bcg"
