"""The simulated body against the figures it is built from. Many nights, loose bounds."""

import dataclasses

import numpy as np
import pytest

from kd_sleep.simulation import physiology
from kd_sleep.simulation.physiology import Drive, draw_subject, simulate_night
from kd_sleep.stages import Stage


@pytest.fixture(scope="module")
def nights():
    """30 nights of 7.5 h, each of another subject."""
    made = []
    for seed in range(30):
        rng = np.random.default_rng([77, seed])
        subject = draw_subject(rng)
        made.append((subject, simulate_night(rng, subject, 7.5)))
    return made


def clean_intervals(night):
    """Time, length and latent stage of each interval between normal beats at rest."""
    drive = night.drive
    rr, end = np.diff(drive.beat_times_s), drive.beat_times_s[1:]
    at = np.minimum((end * physiology.DRIVE_HZ).astype(int), len(drive.movement) - 1)
    good = drive.beat_normal[1:] & drive.beat_normal[:-1] & (drive.movement[at] == 0)
    stage = night.latent[np.minimum((end / 30).astype(int), len(night.latent) - 1)]
    return end[good], rr[good], stage[good]


def test_shares_of_sleep_are_those_of_the_cohorts(nights):
    counts = sum(np.bincount(night.latent, minlength=4) for _, night in nights)
    asleep = counts[1:].sum()
    assert 0.15 < counts[Stage.REM] / asleep < 0.27  # PMC10354680: REM 20 %
    assert 0.10 < counts[Stage.DEEP] / asleep < 0.23  # N3 17 %
    assert 0.15 < counts[Stage.WAKE] / counts.sum() < 0.40


def test_deep_comes_early_and_rem_late(nights):
    third = len(nights[0][1].latent) // 3
    first = np.concatenate([night.latent[:third] for _, night in nights])
    last = np.concatenate([night.latent[-third:] for _, night in nights])
    assert (first == Stage.DEEP).mean() > 2 * (last == Stage.DEEP).mean()
    assert (last == Stage.REM).mean() > 1.5 * (first == Stage.REM).mean()


def test_a_scorer_agrees_as_scorers_do(nights):
    agreement = np.mean([(night.latent == night.scored).mean() for _, night in nights])
    assert 0.82 < agreement < 0.90


def test_heart_rate_and_rmssd_of_the_cohort(nights):
    heart_rate, rmssd = [], []
    for _, night in nights:
        end, rr, _ = clean_intervals(night)
        heart_rate.append(60 / rr.mean())
        step = np.diff(rr)[np.diff(end) < 2.0]
        rmssd.append(1000 * np.sqrt(np.mean(step**2)))
    assert 55 < np.mean(heart_rate) < 68
    assert 6 < np.std(heart_rate) < 13
    assert 18 < np.median(rmssd) < 34
    assert 0.3 < np.std(np.log(rmssd)) < 0.7


def test_stages_differ_little_in_heart_rate_and_much_in_slow_variability(nights):
    mean = np.zeros((len(nights), 4))
    slow = np.zeros((len(nights), 4))
    for row, (_, night) in enumerate(nights):
        end, rr, _ = clean_intervals(night)
        edges = np.searchsorted(end, 30.0 * np.arange(1, len(night.latent)))
        per_window = list(zip(np.split(rr, edges), night.latent, strict=True))
        for k in range(4):
            windows = [r for r, latent in per_window if latent == k and len(r) > 15]
            mean[row, k] = 60 / np.concatenate(windows).mean() if windows else np.nan
            slow[row, k] = np.mean([r.std() for r in windows]) if windows else np.nan
    relative = np.nanmean(mean / mean[:, [Stage.REM]], axis=0)
    assert 1.01 < relative[Stage.WAKE] < 1.08
    assert np.abs(relative[[Stage.LIGHT, Stage.DEEP]] - 1).max() < 0.04
    ratio = np.nanmean(slow[:, Stage.DEEP] / slow[:, Stage.REM])
    assert ratio < 0.9


def test_breathing_is_steadier_in_deep_sleep(nights):
    spread = {Stage.WAKE: [], Stage.DEEP: []}
    for _, night in nights:
        breathing = night.drive.breathing
        starts = np.flatnonzero((breathing[1:] > 0) & (breathing[:-1] <= 0)) / physiology.DRIVE_HZ
        stage = night.latent[np.minimum((starts[1:] / 30).astype(int), len(night.latent) - 1)]
        length = np.diff(starts)
        for k, values in spread.items():
            if (stage == k).sum() > 50:
                values.append(length[stage == k].std() / length[stage == k].mean())
    assert np.mean(spread[Stage.DEEP]) < 0.6 * np.mean(spread[Stage.WAKE])


def test_the_rsa_follows_the_breath():
    rng = np.random.default_rng(5)
    subject = dataclasses.replace(draw_subject(rng), rsa_s=0.05, ectopic_per_h=0.0)
    drive = simulate_night(rng, subject, 4.0).drive
    rr, end = np.diff(drive.beat_times_s), drive.beat_times_s[1:]
    clock = np.arange(len(drive.breathing)) / physiology.DRIVE_HZ
    breath = np.interp(end - rr / 2, clock, drive.breathing)
    fast = rr - np.convolve(rr, np.ones(9) / 9, mode="same")
    other = np.interp((end + 1000.0) % clock[-1], clock, drive.breathing)
    assert np.corrcoef(fast, breath)[0, 1] > 0.5
    assert abs(np.corrcoef(fast, other)[0, 1]) < 0.1


def test_ectopic_beats_come_early_and_are_marked():
    rng = np.random.default_rng(6)
    subject = dataclasses.replace(draw_subject(rng), ectopic_per_h=60.0)
    drive = simulate_night(rng, subject, 4.0).drive
    rr = np.diff(drive.beat_times_s)
    early = np.flatnonzero(~drive.beat_normal)
    assert 120 < len(early) < 360
    assert (rr[early - 1] < 0.85 * np.median(rr)).mean() > 0.9
    assert (rr > 0.2).all()


def test_a_seed_gives_one_night():
    def night():
        rng = np.random.default_rng(3)
        return simulate_night(rng, draw_subject(rng), 1.0)

    one, two = night(), night()
    np.testing.assert_array_equal(one.scored, two.scored)
    np.testing.assert_array_equal(one.drive.beat_times_s, two.drive.beat_times_s)


def test_what_a_sensor_sees_has_no_stage():
    assert {field.name for field in dataclasses.fields(Drive)} == {
        "duration_s", "beat_times_s", "beat_normal", "breathing", "movement",
    }  # fmt: skip
