"""R peaks on a real record and under changes that must not matter; beat energy in a BCG."""

import numpy as np
import pytest

from kd_sleep.signals.heartbeats import bcg_beat_energy, r_peaks

# Beat codes of the WFDB annotation format (ecgcodes.h) that mark a QRS complex.
BEATS = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 25, 30, 34, 35, 38, 41}


def read_mitdb_100(folder):
    """ECG of the first lead (format 212), its rate, and the samples of the annotated beats."""
    raw = np.frombuffer((folder / "100.dat").read_bytes(), np.uint8).astype(np.int16).reshape(-1, 3)
    first = ((raw[:, 1] & 0x0F) << 8) | raw[:, 0]
    first = np.where(first > 2047, first - 4096, first)
    words = np.frombuffer((folder / "100.atr").read_bytes(), "<u2")
    sample, beats, place = 0, [], 0
    while place < len(words):
        code, value = int(words[place]) >> 10, int(words[place]) & 0x3FF
        place += 1
        if code == 0 and value == 0:
            break
        if code == 59:  # SKIP: the next two words are a long interval
            high, low = words[place : place + 2].astype(np.int64)
            sample += int((high << 16) | low)
            place += 2
        elif code == 63:  # AUX: a text follows
            place += (value + 1) // 2
        elif code in (60, 61, 62):
            pass
        else:
            sample += value
            if code in BEATS:
                beats.append(sample)
    return first.astype(float), 360.0, np.array(beats)


@pytest.fixture(scope="module")
def mitdb(real_data):
    return read_mitdb_100(real_data / "rpeaks_mitdb_100")


def hits(found_s, true_s, tolerance_s=0.150):
    """How many of the true beats have a found one within the tolerance, each used once."""
    count = place = 0
    for time in true_s:
        while place < len(found_s) and found_s[place] < time - tolerance_s:
            place += 1
        if place < len(found_s) and found_s[place] <= time + tolerance_s:
            count, place = count + 1, place + 1
    return count


def test_mit_bih_100(mitdb):
    ecg, rate_hz, beats = mitdb
    assert len(beats) == 2273
    found = r_peaks(ecg, rate_hz)
    matched = hits(found, beats / rate_hz)
    assert matched / len(beats) >= 0.99  # sensitivity
    assert matched / len(found) >= 0.99  # positive predictive value


@pytest.mark.parametrize("change", [lambda x: 1e4 * x, lambda x: 1e-4 * x, lambda x: x + 1000.0])
def test_gain_and_offset_do_not_matter(mitdb, change):
    ecg, rate_hz, _ = mitdb
    part = ecg[: int(120 * rate_hz)]
    np.testing.assert_allclose(r_peaks(change(part), rate_hz), r_peaks(part, rate_hz), atol=2e-3)


def test_an_inverted_lead_has_as_many_beats(mitdb):
    ecg, rate_hz, beats = mitdb
    found = r_peaks(-ecg, rate_hz)
    assert hits(found, beats / rate_hz) / len(beats) >= 0.99


def test_the_parabola_beats_the_sample(mitdb):
    """At 90 Hz the refined times stand nearer to those at 360 Hz than the sample grid allows."""
    ecg, rate_hz, _ = mitdb
    part = ecg[: int(300 * rate_hz)]
    fine, coarse = r_peaks(part, rate_hz), r_peaks(part[::4], rate_hz / 4)
    nearest = np.abs(coarse[:, None] - fine).min(1)
    on_grid = np.abs(np.round(coarse * 90) / 90 - fine[np.abs(coarse[:, None] - fine).argmin(1)])
    assert np.median(nearest) < 0.7 * np.median(on_grid)


@pytest.mark.parametrize(
    "ecg",
    [np.zeros(5000), np.full(5000, 3.0), np.full(5000, np.nan), np.zeros(10), np.zeros(0)],
    ids=["zeros", "constant", "nan", "short", "empty"],
)
def test_nothing_beats_in_nothing(ecg):
    assert len(r_peaks(ecg, 125.0)) == 0


def test_beat_energy_knows_no_gain_nor_polarity():
    rng = np.random.default_rng(0)
    bcg = rng.normal(size=6000)
    for gain in (-1.0, 1e3, 1e-3):
        np.testing.assert_allclose(
            bcg_beat_energy(gain * bcg, 100.0), bcg_beat_energy(bcg, 100.0), atol=1e-6
        )


def test_beat_energy_has_a_bump_at_each_beat_and_none_larger_for_a_movement():
    time = np.arange(0, 120, 0.01)
    beats = np.arange(1.0, 119.0, 0.9)
    near = np.exp(-0.5 * ((time[:, None] - beats) / 0.08) ** 2)
    bcg = (near * np.cos(2 * np.pi * 5 * (time[:, None] - beats))).sum(1)
    bcg += 0.05 * np.random.default_rng(0).normal(size=len(time))
    bcg[6000:6300] += 40.0 * np.random.default_rng(1).normal(size=300)
    energy = bcg_beat_energy(bcg, 100.0)
    calm = beats[(beats < 50) | (beats > 75)]
    at_beat = energy[np.rint(calm * 100).astype(int)]
    between = energy[np.rint((calm + 0.45) * 100).astype(int)]
    assert np.median(at_beat) > np.median(between) + 1.0
    assert energy.max() <= 3.0
