"""Clocks of sensors: late packets, coarse stamps, gaps, units and starts, as they were made."""

import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from kd_sleep.errors import RecordingError
from kd_sleep.recordings import bcg_clock, time_stamps

HOUR_S = 3600
UTC = datetime.UTC


def late(kind, scale):
    return lambda rng, n: scale * (rng.random(n) if kind == "even" else rng.exponential(size=n))


def placed(stamps):
    """What the clock of these stamps says: its rate, and each row's place."""
    clock = bcg_clock.uniform_clock("night.csv", stamps - stamps[0], "row {}".format)
    return clock, np.arange(len(stamps)) if clock.index is None else clock.index


@pytest.mark.parametrize("rate_hz", [100, 200.0 / 3])
@pytest.mark.parametrize(
    ("rows", "lateness", "within_s"),
    [(1, late("even", 0.009), 0), (1, late("tail", 0.005), 0), (2, late("even", 0.01), 0),
     (10, late("even", 0.0), 0), (10, late("even", 0.06), 0), (10, late("tail", 0.04), 0),
     (20, late("even", 0.15), 1e-5), (20, late("even", 0.06), None), (50, late("tail", 0.1), 0)],
)  # fmt: skip
def test_late_packets_are_no_gaps_and_hide_none(rows, lateness, within_s, rate_hz):
    rng = np.random.default_rng(7)
    n = int(HOUR_S * rate_hz)
    first = np.arange(0, n, rows)
    came = (first + rows) / rate_hz + lateness(rng, len(first))
    between_s = 1 / rate_hz if within_s is None else within_s
    stamps = np.repeat(came, rows)[:n] + between_s * np.resize(np.arange(rows), n)
    if (
        within_s is not None
    ):  # else each row has its own time, counted back from when its packet came
        stamps = np.maximum.accumulate(stamps)
    stamps = stamps.round(3 if within_s == 0 else 6)
    clock, index = placed(stamps)
    assert abs(clock.rate_hz / rate_hz - 1) < 20e-6
    assert np.array_equal(index, np.arange(n))
    lost = np.zeros(n, bool)
    for start, packets in ((700, 3), (n // 3 // rows, 1000), (n // 2 // rows, 5)):
        lost[start * rows : (start + packets) * rows] = True
    clock, index = placed(stamps[~lost])
    assert abs(clock.rate_hz / rate_hz - 1) < 20e-6
    shift = index - np.flatnonzero(~lost)
    assert np.mean(shift != np.median(shift)) < 0.01  # a late packet right before a gap
    assert index[-1] - index[0] == n - 1


@pytest.mark.parametrize("rate_hz", [60, 128, 140.01, 250, 999, 1000])
@pytest.mark.parametrize("resolution_s", [1.0, 1e-3])
def test_rounded_stamps_keep_their_gaps(rate_hz, resolution_s):
    n = int(600 * rate_hz)
    stamps = np.floor((np.arange(n) + 17) / rate_hz / resolution_s) * resolution_s
    clock, index = placed(stamps)
    assert abs(clock.rate_hz / rate_hz - 1) < 20e-6
    assert np.array_equal(index, np.arange(n))
    kept = np.ones(n, bool)
    kept[n // 3 : n // 3 + int(30.5 * rate_hz)] = False
    clock, index = placed(stamps[kept])
    assert abs(clock.rate_hz / rate_hz - 1) < 100e-6
    assert abs(index[-1] - (n - 1)) <= 0.02 * rate_hz
    assert np.abs(index - np.flatnonzero(kept)).max() <= max(1, resolution_s * rate_hz)


@pytest.mark.parametrize(
    ("rows", "late_s", "share"), [(1, 0, 0.005), (1, 0, 0.01), (10, 0.06, 0.01)]
)
def test_samples_and_packets_that_are_lost_all_over_the_hour(rows, late_s, share):
    rng = np.random.default_rng(1)
    came = np.arange(100 * HOUR_S // rows) * rows / 100 + late_s * rng.random(100 * HOUR_S // rows)
    kept = np.repeat(rng.random(len(came)) > share, rows)
    clock, index = placed(np.repeat(came.round(3), rows)[kept])
    assert clock.rate_hz == 100
    assert np.array_equal(index, np.flatnonzero(kept) - np.flatnonzero(kept)[0])


@pytest.mark.parametrize("seed", range(4))
def test_stamps_that_come_a_second_late_are_refused_or_their_doubt_is_noted(seed):
    came = np.arange(6000) / 10 + np.random.default_rng(seed).random(6000)
    stamps = np.repeat(np.maximum.accumulate(came), 10)
    stamps[30_000:] += 180.0
    try:
        clock, _ = placed(stamps)
    except RecordingError:
        return
    noted = any("so much may its rate be off" in note for note in clock.notes)
    assert noted or abs(clock.rate_hz / 100 - 1) < 50e-6


def test_stamps_that_keep_to_no_rate_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(RecordingError, match="no uniform rate"):
        placed(np.cumsum(rng.exponential(0.01, 100_000)))
    with pytest.raises(RecordingError, match=r"run back by 1000 s at row 50000"):
        placed(np.r_[np.arange(50_000) / 50, np.arange(10_000) / 50 - 0.02])


@pytest.mark.parametrize("spelling", ["seconds", "milliseconds", "microseconds", "auto"])
@pytest.mark.parametrize(
    "zone", ["Europe/Berlin", "Asia/Kathmandu", "America/St_Johns", "Asia/Kolkata"]
)
@pytest.mark.parametrize("start", [(2024, 3, 30, 20), (2024, 10, 26, 21), (2024, 11, 3, 1)])
def test_stamps_with_a_zone_go_through_summer_time(spelling, zone, start):
    first = datetime.datetime(*start, tzinfo=UTC)
    times = [first + datetime.timedelta(seconds=7.25 * k) for k in range(6000)]
    texts = [t.astimezone(ZoneInfo(zone)).isoformat(timespec=spelling) for t in times]
    stamps = time_stamps.text_stamps(
        *time_stamps.clock_times(np.array(texts, "S")), texts[0].encode()
    )
    tolerance_s = 1.0 if spelling == "seconds" else 1e-3
    np.testing.assert_allclose(stamps.seconds, 7.25 * np.arange(6000), atol=tolerance_s)
    assert stamps.start == first.astimezone(ZoneInfo(zone)).replace(tzinfo=None)


@pytest.mark.parametrize(("day", "way"), [("2024-03-31T01:50:00", 1), ("2024-10-27T02:50:00", -1)])
def test_a_clock_without_zone_that_is_changed_has_no_gap(day, way):
    seconds = np.arange(12_000) / 10
    wall = np.datetime64(day) + np.rint(1e6 * (seconds + 3600 * way * (seconds >= 600))).astype(
        "m8[us]"
    )
    stamps = time_stamps.text_stamps(*time_stamps.clock_times(wall.astype("S26")), b"-")
    np.testing.assert_allclose(stamps.seconds, seconds, atol=1e-9)
    assert "summer time" in stamps.notes[0]
    held = wall[(seconds < 500) | (seconds > 700)]  # an hour and more: a gap, not the change alone
    stamps = time_stamps.text_stamps(*time_stamps.clock_times(held.astype("S26")), b"-")
    assert not stamps.notes


def test_a_clock_without_a_date_goes_on_at_midnight():
    cells = np.array([b"23:59:58.5", b"23:59:59.5", b"00:00:00.5", b"00:00:01"])
    stamps = time_stamps.text_stamps(*time_stamps.clock_times(cells), cells[0])
    assert stamps.seconds.tolist() == [0, 1, 2, 2.5]
    assert stamps.start is None


@pytest.mark.parametrize(
    ("cell", "row"),
    [
        (cell, 2)
        for cell in (b"2024-02-30 10:00:00", b"10.03.2024 10:00", b"2024-02-28 24:00:00", b"")
    ],
)
def test_what_is_no_time_is_found(cell, row):
    cells = np.array([b"2024-02-28 10:00:00", b"2024-2-9 1:2:3.5+05:45", cell])
    with pytest.raises(time_stamps.NoTime) as error:
        time_stamps.clock_times(cells)
    assert error.value.args == (row,)


@pytest.mark.parametrize(
    ("label", "per_s", "base_s", "stated_hz", "start"),
    [("time_us", 1e6, 3600, 0, None), ("time_us", 1e6, 2.3 * 3600, 0, None),
     ("time", 1e6, 30 * 3600, 0, None), ("time", 1e3, 30 * 3600, 0, None),
     ("ts", 1e9, 3600, 0, None), ("x", 1.0, 0, 0, None), ("x", 1e3, 0, 0, None),
     ("x", 1 / 86400, 45_361, 0, None), ("seq", 100.0, 10, 100, None),
     ("x", 1.0, 1.7e9, 0, 2023), ("x", 1e3, 1.7e9, 0, 2023), ("Zeit [s]", 1.0, 1.7e9, 0, 2023),
     ("ms", 1e3, 1.7e9, 0, 2023), ("timestamp", 1e9, 1.7e9, 100, 2023)],
)  # fmt: skip
def test_units_and_starts_of_numeric_stamps(label, per_s, base_s, stated_hz, start):
    stamps = (base_s + np.arange(60_000) / 100) * per_s
    found = time_stamps.stamps_of(stamps, label, stated_hz, str)
    assert isinstance(found, time_stamps.Stamps)
    np.testing.assert_allclose(found.seconds, np.arange(60_000) / 100, atol=1e-4)
    assert (found.start and found.start.year) == start


def test_counts_tell_no_rate_and_window_numbers_no_clock():
    assert "counts by ones" in time_stamps.stamps_of(np.arange(60_000.0), "t", 0, str)
    assert "no sensor's" in time_stamps.stamps_of(np.arange(60_000) // 500 / 1.0, "x", 100, str)


@pytest.mark.parametrize(
    ("values", "is_ramp"),
    [(np.arange(9000), True), (-np.arange(9000) ** 1.5, True), (np.arange(9000) // 1000, True),
     (np.arange(9000) % 256, True), (1.7e9 + np.arange(9000) / 100, True),
     (np.arange(9000) + 3 * np.sin(np.arange(9000)), False), (np.full(9000, 7.0), False),
     (np.repeat(np.arange(450), 20) * 0.2 + np.resize(np.arange(20) * 0.01, 9000), True),
     (np.random.default_rng(0).normal(size=9000).cumsum(), False)],
)  # fmt: skip
def test_a_ramp_is_a_clock_or_nothing(values, is_ramp):
    assert time_stamps.ramp(values) == is_ramp
