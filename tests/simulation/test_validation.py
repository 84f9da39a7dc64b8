"""The simulator against the literature: the table itself, and the instruments it is read with."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from kd_sleep import metrics
from kd_sleep.simulation import measures, validation, validation_report
from kd_sleep.simulation.physiology import Drive, Physiology, draw_subject, simulate_night
from kd_sleep.stages import NUM_STAGES, Stage

# Outside, each with its reason in its note and in BUILD_NOTES.md.
NAMED = {"RR, 1st percentile, at 23 years"}


@pytest.fixture(scope="module")
def rows():
    nights = [validation.measure_night(3, None, number) for number in range(28)]
    young = [validation.measure_night(4, validation.YOUNG_Y, number) for number in range(10)]
    return validation.statistics(nights, young, people=300)


def literature():
    """Rows of the published figures, by name."""
    path = Path(validation.__file__).with_name("literature.csv")
    with path.open(newline="", encoding="utf-8") as file:
        return {row["name"] + row["group"]: row for row in csv.DictReader(file)}


def test_thirty_nights_lie_about_the_literature(rows):
    """Loose: the mean of thirty people wanders. The 200 nights of the slow test are exact."""
    far = []
    for row in rows:
        slack = 0.4 * (row.high - row.low) + 0.1 * abs(row.value)
        if not row.low - slack <= row.value <= row.high + slack:
            far.append(row)
    assert len(far) <= 1, far
    assert sum(row.inside for row in rows) > 0.8 * len(rows)
    by_name = {row.name: row for row in rows}
    # Figures that two ways of counting give: a night's mean, and the people's.
    assert by_name["heart rate, mean of people"].value == pytest.approx(62.0, abs=4.0)
    assert by_name["two scorers agree on"].value > by_name["kappa of two scorers"].value


def test_every_published_figure_has_a_source_and_is_measured(rows):
    table = literature()
    assert len(table) == 107
    assert {row.name for row in rows} == {
        row["name"] for row in table.values() if row["people"] != "sensors"
    }
    for name, row in table.items():
        assert row["published"], name
        assert row["source"], name
        assert float(row["low"]) < float(row["high"]), name
        assert row["note"] or row["name"] not in NAMED


def test_files_and_page_agree(tmp_path, monkeypatch):
    monkeypatch.setattr(validation, "PEOPLE", 100)
    monkeypatch.setattr(validation, "YOUNG_NIGHTS", 2)
    monkeypatch.setattr(validation, "SENSOR_NIGHTS", 1)
    monkeypatch.setattr(validation, "HOURS", (6.0, 0.0))
    written = validation_report.validate(tmp_path, nights=4, workers=1, seed=1)
    with (tmp_path / "validation.csv").open() as file:
        table = list(csv.DictReader(file))
    card = json.loads((tmp_path / "validation.json").read_text())
    page = (tmp_path / "validation.html").read_text()
    assert len(table) == len(written) == len(card["statistics"]) == 122
    assert card["simulator"] == "1.1"
    for row, line, entry in zip(written, table, card["statistics"], strict=True):
        assert line["name"] == entry["name"] == row.name
        assert float(line["value"]) == entry["value"] == row.value
        assert (line["inside"] == "True") == entry["inside"] == row.inside
        assert row.source in page.replace("&#x27;", "'").replace("&amp;", "&")
    assert page.count("<svg") == page.count('role="img" aria-label="') == 3
    verdicts = [row.inside for row in written]
    assert page.count("<td>inside</td>") == sum(verdicts)
    assert page.count("<td><strong>outside</strong></td>") == len(verdicts) - sum(verdicts) > 0
    assert {"ten_seconds.svg", "night.svg"} <= {path.name for path in tmp_path.iterdir()}
    text = validation_report.text_table(written)
    assert f"{sum(verdicts)} of {len(written)} statistics" in text


# The instruments, each on a signal whose answer is known.


def power_law(slope, size, seed):
    """Noise whose power falls as 1 / f^slope."""
    rng = np.random.default_rng(seed)
    f = np.fft.rfftfreq(size)
    spectrum = np.zeros(len(f), complex)
    spectrum[1:] = f[1:] ** (-slope / 2) * np.exp(2j * np.pi * rng.random(len(f) - 1))
    return np.fft.irfft(spectrum, size)


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_dfa_finds_the_exponent_of_noise_and_sees_no_trend(exponent):
    series = power_law(2 * exponent - 1, 2**15, 1)
    found = measures.dfa(series)
    assert found == pytest.approx(exponent, abs=0.06)
    trend = series.std() * np.linspace(0, 3, len(series))
    assert measures.dfa(series + trend) == pytest.approx(found, abs=0.02)


def test_the_slope_is_found_through_holes():
    noise = power_law(1.0, 30_000, 3)
    rr = 1.0 + 0.03 * noise / noise.std()
    end = np.arange(len(rr), dtype=float)
    there = end % 152 > 10
    assert measures.spectrum_slope(end[there], rr[there]) == pytest.approx(1.0, abs=0.25)


def rsa_night(behind, breaths_per_min, seconds=900.0):
    """A steady night whose RR is shortest `behind` radians after the chest's peak."""
    clock = np.arange(0.0, seconds, 0.1)
    turn = 2 * np.pi * breaths_per_min / 60.0
    rate = 1.0 / (0.9 - 0.05 * np.sin(turn * (clock + 0.05) - behind))  # of each step's middle
    beats = np.interp(np.arange(1.0, rate.sum() / 10.0), np.cumsum(rate) / 10.0, clock + 0.1)
    stages = np.full(int(seconds / 30), Stage.LIGHT, np.int8)
    chest = np.sin(turn * clock + 1e-6)
    drive = Drive(seconds, beats, np.ones(len(beats), bool), chest, np.zeros(len(clock)))
    return Physiology(stages, stages, drive)


@pytest.mark.parametrize("degrees", [-50.0, 0.0, 40.0, 170.0])
def test_the_phase_of_rsa_is_found(degrees):
    slow = measures.of_breath(rsa_night(np.radians(degrees), 10.0))
    fast = measures.of_breath(rsa_night(np.radians(degrees), 18.0))
    assert slow["rsa_behind_slow"] == pytest.approx(degrees, abs=3.0)
    assert fast["rsa_behind_fast"] == pytest.approx(degrees, abs=3.0)
    assert np.isnan([slow["rsa_behind_fast"], fast["rsa_behind_slow"]]).all()
    assert fast["rsa_lag_s"] == pytest.approx(degrees / 360.0 * 60.0 / 18.0, abs=0.05)
    assert fast["rsa_correlation"] == pytest.approx(-np.cos(np.radians(degrees)), abs=0.1)


def test_architecture_of_a_night_drawn_by_hand():
    night = np.repeat([0, 2, 3, 2, 0, 2, 1, 0], [20, 30, 40, 60, 10, 20, 40, 20]).astype(np.int8)
    out = measures.of_stages(night)
    assert out["latency_min"] == 10.0
    assert out["waso_min"] == 5.0
    assert out["asleep_min"] == 95.0
    assert out["rem_latency_min"] == 80.0
    assert out["deep_share"] == pytest.approx(40 / 190)
    assert out["deep_first_third"] == pytest.approx(36 / 40)
    assert out["rem_last_third"] == 1.0
    assert list(out["wake_within"]) == [10]
    assert out["changes_per_h"] == pytest.approx(5 / (95 / 60))


def test_a_night_awake_has_no_sleep_to_measure():
    out = measures.of_stages(np.zeros(100, np.int8))
    assert np.isnan(out["latency_min"])
    assert out["wake_share"] == 1.0


def test_wake_bouts_exponent_is_found():
    rng = np.random.default_rng(4)
    lengths = np.floor(1.5 * rng.random(20_000) ** (-1 / 1.2) + 0.5)
    assert validation.wake_exponent(lengths) == pytest.approx(2.2, abs=0.08)


def test_the_recorded_nights_ranges_are_those_of_the_files(real_data):
    """The recorder drops ten seconds in 152: nothing here adds intervals up to a clock."""
    ranges = {
        row["measure"]: [float(row["low"]), float(row["high"])]
        for row in literature().values()
        if row["people"] == "young"
    }
    assert len(ranges) == 4
    found = {key: [] for key in ranges}
    for path in sorted((real_data / "overnight_rr").glob("*_RR.csv")):
        cells = path.read_text().strip().replace("\n", ",").split(",")[3:]
        stamps, rr = cells[::3], np.array(cells[2::3], float)
        seconds = [3600 * int(h) + 60 * int(m) + int(s) for h, m, s in
                   (stamp.split()[1].split(":") for stamp in stamps)]  # fmt: skip
        end = np.unwrap(np.array(seconds, float), period=86_400.0)  # over midnight
        good = measures.clean(rr, np.ones(len(rr), bool))
        good &= np.diff(end, prepend=end[:1]) <= 4  # the interval across a hole
        found["rr_p1"].append(np.percentile(rr[good], 1))
        found["rr_p99"].append(np.percentile(rr[good], 99))
        found["rmssd"].append(measures.rmssd(rr, good))
        found["slope"].append(measures.spectrum_slope(end[good], rr[good]))
    for key, published in ranges.items():
        assert len(found[key]) == 20
        assert np.percentile(found[key], [10, 90]) == pytest.approx(published, rel=0.005)


# Minutes.


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_two_hundred_nights_lie_inside_but_for_the_named(seed):
    nights, young = validation.simulate(200, seed=seed)
    rows = validation.statistics(nights, young)
    outside = {row.name: row.value for row in rows if not row.inside}
    assert set(outside) <= NAMED, outside


def _features_and_labels(nights, null):
    """HRV of the beats alone around each window, in units of the person's own night."""
    from kd_sleep.features import rr

    features, labels = [], []
    for seed in range(nights):
        rng = np.random.default_rng([31, seed])
        night = simulate_night(rng, draw_subject(rng), 8.0, null)
        intervals = rr.nn_intervals(night.drive.beat_times_s, night.drive.beat_normal)
        tachogram = rr.tachogram(intervals, len(night.latent))
        hrv = rr.hrv(intervals, tachogram)
        own = (hrv - np.nanmedian(hrv, 0)) / (np.nanstd(hrv, 0) + 1e-9)
        own = np.clip(np.nan_to_num(own), -4, 4)
        features.append(np.concatenate([np.roll(own, k, 0) for k in (-10, -4, 0, 4, 10)], axis=1))
        labels.append(night.scored)
    return features, labels


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("null", [False, True])
def test_a_small_classifier_lands_where_heart_rate_systems_land(null):
    """A check, not a target: above it the body would be too kind; a null one tells nearly nothing.

    Published: accuracy 0.70-0.82 and kappa 0.5-0.7, by networks that see the whole night.
    """
    from sklearn.linear_model import LogisticRegression

    features, labels = _features_and_labels(90, null)
    model = LogisticRegression(max_iter=300, C=0.1)
    model.fit(np.concatenate(features[:60]), np.concatenate(labels[:60]))
    guess = model.predict(np.concatenate(features[60:]))
    counts = metrics.confusion_counts(np.concatenate(labels[60:]), guess, NUM_STAGES)
    kappa = metrics.kappa(counts)
    if null:
        assert kappa < 0.10
    else:
        assert 0.35 < kappa < 0.70
        assert 0.58 < metrics.accuracy(counts) < 0.82
        assert (np.diag(counts) / counts.sum(1))[Stage.WAKE] > 0.5
