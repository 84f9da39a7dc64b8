"""A recorded night's movement, held against the one that a simulated night was made from."""

import dataclasses

import numpy as np
import pytest

from kd_sleep.recordings import shhs
from kd_sleep.recordings.recording import Recording, Signal
from kd_sleep.simulation import sensors
from kd_sleep.simulation.cohort import true_drive
from kd_sleep.simulation.physiology import DRIVE_HZ, draw_subject, simulate_night
from kd_sleep.simulation.recorded_drive import drive_of, inferred

NIGHTS = ("shhs1-200001", "shhs1-200002", "shhs2-200012")  # the last one's ECG at 250 Hz


def changed(signal, change):
    return dataclasses.replace(signal, values=np.asarray(change(signal.values), np.float32))


def infer(recording, truth):
    return drive_of(recording, truth.beat_times_s, truth.beat_normal)


def read(cohort, recording_id):
    files = dataclasses.replace(shhs.paths_of(cohort, recording_id), rpoints_csv=None)
    return files.read(), true_drive(cohort, recording_id)


def agreement(found, truth):
    """Share of movement that is seen; of seen that is true; correlation of the 1-s log level."""
    both = ((found > 0) & (truth > 0)).sum()
    level = [np.log1p(m.reshape(-1, int(DRIVE_HZ)).mean(1)) for m in (found, truth)]
    return both / (truth > 0).sum(), both / (found > 0).sum(), np.corrcoef(*level)[0, 1]


@pytest.fixture(scope="module")
def still():
    """An hour's recording of somebody who does not move, and what he did."""
    rng = np.random.default_rng(5)
    night = simulate_night(rng, draw_subject(rng), 1.0)
    drive = dataclasses.replace(night.drive, movement=np.zeros(len(night.drive.movement)))
    noise = 0.02 * rng.normal(size=(2, len(drive.breathing)))
    belts = np.array([[0.3], [0.35]]) * drive.breathing + noise
    ecg = Signal(sensors.ecg(rng, drive, 125.0), 125.0, "mV", "ECG")
    effort = tuple(Signal(belt.astype(np.float32), DRIVE_HZ, "", "x") for belt in belts)
    stages = night.scored
    recording = Recording(
        "shhs1-200001", "200001", 1, "recorded", None, drive.duration_s, ecg, effort, stages, None
    )
    return recording, drive


@pytest.mark.parametrize("recording_id", NIGHTS)
def test_movement_is_seen_where_it_is(cohort, recording_id):
    """Measured on 15 nights of 6 h: 0.90, 0.99 and 0.995."""
    recording, truth = read(cohort, recording_id)
    found = infer(recording, truth)
    seen, right, correlation = agreement(found.movement, truth.movement)
    assert seen > 0.85
    assert right > 0.95
    assert correlation > 0.97
    assert found.movement.sum() == pytest.approx(truth.movement.sum(), rel=0.2)


@pytest.mark.parametrize(("left", "share"), [("ecg", 0.85), ("effort", 0.75)])
def test_one_kind_of_channel_shows_most_of_it(cohort, left, share):
    recording, truth = read(cohort, NIGHTS[1])
    without = {"ecg": {"effort": ()}, "effort": {"ecg": None}}[left]
    found = infer(dataclasses.replace(recording, **without), truth)
    seen, right, _ = agreement(found.movement, truth.movement)
    assert seen > share
    assert right > 0.95


def test_neither_gain_nor_polarity_counts(cohort):
    recording, truth = read(cohort, NIGHTS[0])
    thorax, abdomen = recording.effort
    other = dataclasses.replace(
        recording,
        ecg=changed(recording.ecg, lambda x: -30.0 * x),
        effort=(changed(thorax, lambda x: -0.01 * x), changed(abdomen, lambda x: 20.0 * x)),
    )
    before, after = infer(recording, truth), infer(other, truth)
    np.testing.assert_allclose(after.movement, before.movement, atol=1e-3)
    np.testing.assert_allclose(after.breathing, -before.breathing, atol=1e-3)


def test_who_does_not_move_shows_no_movement(still):
    recording, truth = still
    for shown in (
        recording,
        dataclasses.replace(recording, ecg=None),
        dataclasses.replace(recording, effort=()),
    ):
        assert infer(shown, truth).movement.max() == 0.0


def gap(value, minutes):
    """Replaces that much of an hour, with bursts beside it and near the ends."""
    burst = np.tile([1.0, 1.0, -1.0, -1.0], 16)  # 31 Hz in the ECG, 2.5 Hz in a belt

    def change(values):
        second = len(values) // 3600
        first, last = 1200 * second, (1200 + 60 * minutes) * second
        values = values.copy()
        for at in (second // 4, first - second // 2, last, len(values) - second):
            values[at : at + 4 * (second // 8)] += burst[: 4 * (second // 8)]
        values[first:last] = value
        return values

    return change


@pytest.mark.parametrize("minutes", [2, 25])
@pytest.mark.parametrize("value", [np.nan, 0.0, 20.0], ids=["gap", "flat", "rail"])
def test_a_gap_is_no_movement(still, value, minutes):
    recording, truth = still
    damaged = dataclasses.replace(
        recording,
        ecg=changed(recording.ecg, gap(value, minutes)),
        effort=tuple(changed(belt, gap(value, minutes)) for belt in recording.effort),
    )
    found = infer(damaged, truth)
    assert found.movement.max() == 0.0
    assert np.isfinite(found.breathing).all()


@pytest.mark.parametrize("value", [np.nan, 0.0, -1.0])
def test_dead_channels_add_nothing(still, value):
    recording, truth = still
    dead = {
        "ecg": changed(recording.ecg, lambda x: np.full(len(x), value)),
        "effort": (changed(recording.effort[0], lambda x: np.full(len(x), value)),),
    }
    found = infer(dataclasses.replace(recording, **dead), truth)
    assert not found.movement.any()
    nothing = dataclasses.replace(recording, ecg=None, effort=())
    np.testing.assert_array_equal(found.breathing, infer(nothing, truth).breathing)
    one = dataclasses.replace(recording, effort=(*dead["effort"], recording.effort[1]))
    still_breathes = infer(one, truth).breathing
    assert np.corrcoef(still_breathes, truth.breathing)[0, 1] > 0.9


def test_channels_too_slow_add_nothing(still):
    recording, truth = still
    slow = tuple(
        dataclasses.replace(belt, values=belt.values[::8], rate_hz=1.25)
        for belt in recording.effort
    )
    found = infer(dataclasses.replace(recording, effort=slow, ecg=None), truth)
    nothing = dataclasses.replace(recording, ecg=None, effort=())
    np.testing.assert_array_equal(found.breathing, infer(nothing, truth).breathing)
    assert not found.movement.any()


def swing(rate_hz, size):
    """Adds half a wave of 6 s, 30 min into the recording."""

    def change(values):
        clock = np.arange(len(values)) / rate_hz
        return values + size * np.sin(np.pi * ((clock - 1800.0) / 6.0).clip(0.0, 1.0))

    return change


def test_a_swing_of_several_breaths_is_movement_and_a_sigh_is_not(still):
    recording, truth = still
    for size, seen in ((0.6, False), (4.0, True)):
        belts = tuple(changed(belt, swing(DRIVE_HZ, size)) for belt in recording.effort)
        moved = np.flatnonzero(infer(dataclasses.replace(recording, effort=belts), truth).movement)
        assert (len(moved) > 0) == seen
        assert not len(moved) or (moved.min() > 17_900 and moved.max() < 18_160)


def test_a_swing_of_the_ecgs_baseline_is_movement(still):
    recording, truth = still
    ecg = changed(recording.ecg, swing(125.0, 1.0))
    moved = np.flatnonzero(infer(dataclasses.replace(recording, ecg=ecg), truth).movement)
    assert len(moved) > 0
    assert moved.min() > 17_900
    assert moved.max() < 18_160


def test_without_a_belt_breathing_comes_from_the_heartbeats(cohort):
    """Respiratory sinus arrhythmia of the simulator, over 5 nights correlated by 0.64 to 0.85."""
    recording, truth = read(cohort, NIGHTS[0])
    bare = dataclasses.replace(recording, effort=())
    found = infer(bare, truth)
    assert found.breathing.shape == truth.breathing.shape
    assert np.corrcoef(found.breathing, truth.breathing)[0, 1] > 0.5
    assert 0.5 < found.breathing.std() < 1.0
    assert inferred(recording) == []
    assert inferred(bare) == ["breathing from the heartbeats"]
    few = drive_of(bare, truth.beat_times_s[:2], truth.beat_normal[:2])
    assert not few.breathing.any()
