"""A BCG file beside a night: found by name or by being alone, refused by name."""

import datetime

import numpy as np
import pytest

from kd_sleep.errors import RecordingError
from kd_sleep.recordings import edf, paired_bcg

START = datetime.datetime(2024, 5, 1, 23, 0, 7)


@pytest.fixture
def write(tmp_path):
    """Writes 2 s of noise under each (label, rate) and returns the file."""

    def write_channels(*channels, scale=1.0):
        path = tmp_path / "shhs1-200001.edf"
        rng = np.random.default_rng(0)
        signals = [
            (
                edf.Channel(label, "mV", rate_hz, (-4, 4), (-32768, 32767)),
                scale * rng.uniform(-1, 1, 2 * rate_hz),
            )
            for label, rate_hz in channels
        ]
        edf.write_signals(path, signals, START, "")
        return path

    return write_channels


@pytest.mark.parametrize("label", ["BCG", "bed", "Mattress", "FILM", "LoadCell"])
def test_bcg_is_found_by_name_among_others(write, label):
    bcg = paired_bcg.read_bcg(write(("Temp", 1), (label, 50)))
    assert (bcg.signal.label, bcg.signal.rate_hz, bcg.signal.unit) == (label, 50, "mV")
    assert bcg.signal.values.size == 100
    assert bcg.start == START


def test_the_only_channel_is_the_bcg(write):
    assert paired_bcg.read_bcg(write(("Sensor 7", 100))).signal.label == "Sensor 7"


def test_no_bcg_among_several_is_refused_with_what_is_there(write):
    with pytest.raises(RecordingError, match="no BCG channel among Temp, Sensor 7"):
        paired_bcg.read_bcg(write(("Temp", 1), ("Sensor 7", 100)))


def test_slow_and_constant_signals_are_refused(write):
    with pytest.raises(RecordingError, match="has 39 Hz"):
        paired_bcg.read_bcg(write(("BCG", 39)))
    with pytest.raises(RecordingError, match="never changes"):
        paired_bcg.read_bcg(write(("BCG", 40), scale=0.0))


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(RecordingError, match="is missing"):
        paired_bcg.read_bcg(tmp_path / "none.edf")
