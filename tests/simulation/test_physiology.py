"""The simulated body: what sensors may rely on, and the laws that its nights obey.

How its figures compare with published ones is test_validation's matter.
"""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from kd_sleep.simulation import autonomic, hypnogram, physiology
from kd_sleep.simulation.physiology import DRIVE_HZ, Drive, draw_subject, simulate_night
from kd_sleep.stages import NUM_STAGES, Stage


def someone(**changes):
    """A person without apnoea, ectopic beats or fibrillation, changed at will."""
    plain = {"apnoea_per_h": 0.0, "ectopic_per_h": 0.0, "fibrillation": 0.0, "age_y": 60.0}
    return dataclasses.replace(draw_subject(np.random.default_rng(8)), **(plain | changes))


def night_of(seed, subject, hours, null=False):
    return simulate_night(np.random.default_rng(seed), subject, hours, null)


def assert_keeps_the_contract(night, hours):
    """What `sensors` and the files of a cohort rely on."""
    drive, windows = night.drive, int(hours * 120)
    assert len(night.latent) == len(night.scored) == windows
    assert night.latent.dtype == night.scored.dtype == np.int8
    for stages in (night.latent, night.scored):
        assert stages.min() >= 0
        assert stages.max() < NUM_STAGES
    assert drive.duration_s == windows * 30.0
    assert len(drive.breathing) == len(drive.movement) == round(drive.duration_s * DRIVE_HZ)
    assert np.isfinite(drive.breathing).all()
    assert np.abs(drive.breathing).max() <= 3.0
    assert drive.movement.min() >= 0.0
    times = drive.beat_times_s
    assert len(times) == len(drive.beat_normal)
    assert drive.beat_normal.dtype == bool
    assert times[0] >= 0.0
    assert times[-1] <= drive.duration_s
    rr = np.diff(times)
    assert (rr > 0.2).all()  # the shortest coupling of a premature beat
    assert rr.max() <= 2.5
    normal = drive.beat_normal[1:] & drive.beat_normal[:-1]
    assert (rr[normal] >= 0.3).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), hours=st.sampled_from([0.5, 0.51, 1.0, 2.0]))
def test_every_person_and_night_keeps_the_contract(seed, hours):
    rng = np.random.default_rng(seed)
    subject = draw_subject(rng)
    assert_keeps_the_contract(simulate_night(rng, subject, hours), hours)


@pytest.mark.parametrize(
    ("person", "hours"),
    [
        ({"apnoea_per_h": 60.0, "ectopic_per_h": 80.0, "fibrillation": 0.4}, 14.0),
        ({"fibrillation": 1.0, "heart_rate_bpm": 42.0}, 3.0),
    ],
)
def test_the_longest_and_the_most_irregular_night_keep_the_contract(person, hours):
    assert_keeps_the_contract(night_of(1, someone(**person), hours), hours)


def test_a_night_without_sleep_keeps_the_contract(monkeypatch):
    monkeypatch.setattr(hypnogram, "LATENCY_MIN", (1000.0, 1.0))
    night = night_of(3, someone(apnoea_per_h=60.0), 2.0)
    assert (night.latent == Stage.WAKE).all()
    assert (night.scored == Stage.WAKE).all()
    assert_keeps_the_contract(night, 2.0)


def test_what_a_sensor_sees_has_no_stage():
    assert {field.name for field in dataclasses.fields(Drive)} == {
        "duration_s", "beat_times_s", "beat_normal", "breathing", "movement",
    }  # fmt: skip


def test_a_null_night_has_its_stages_and_a_body_that_knows_nothing_of_them():
    """The same body whatever the hypnogram; the same hypnogram whether null or not."""
    good, bad = someone(deep_share=0.35, wake_factor=0.3), someone(deep_share=0.01, wake_factor=3.0)
    one, two = night_of(5, good, 4.0, null=True), night_of(5, bad, 4.0, null=True)
    assert (one.latent != two.latent).mean() > 0.1
    np.testing.assert_array_equal(one.drive.beat_times_s, two.drive.beat_times_s)
    np.testing.assert_array_equal(one.drive.breathing, two.drive.breathing)
    np.testing.assert_array_equal(one.drive.movement, two.drive.movement)
    real = night_of(5, good, 4.0)
    np.testing.assert_array_equal(real.latent, one.latent)
    np.testing.assert_array_equal(real.scored, one.scored)
    assert not np.array_equal(real.drive.beat_times_s[:1000], one.drive.beat_times_s[:1000])


def test_sleep_begins_in_light_and_deep_never_follows_rem_at_once():
    rng = np.random.default_rng(6)
    for _ in range(40):
        stages = hypnogram.draw_stages(rng, draw_subject(rng), 960)
        assert stages[0] == Stage.WAKE
        assert stages[np.flatnonzero(stages != Stage.WAKE)[0]] == Stage.LIGHT
        assert not ((stages[:-1] == Stage.REM) & (stages[1:] == Stage.DEEP)).any()


def test_rem_comes_back_after_a_cycle():
    """The autocorrelation of REM over the night has its first peak near 90 min."""
    rng = np.random.default_rng(7)
    total = np.zeros(400)
    for _ in range(150):
        stages = hypnogram.draw_stages(rng, someone(wake_factor=0.5), 960)
        rem = (stages == Stage.REM) - (stages == Stage.REM).mean()
        total += np.correlate(rem, rem, "full")[959 : 959 + 400]
    peak = 100 + np.argmax(total[100:300])
    assert 75 < peak / 2 < 115
    assert total[peak] > total[peak // 2] + 0.05 * total[0]


def test_a_scorer_is_wrong_beside_a_transition_more_than_far_from_one():
    rng = np.random.default_rng(9)
    near, far = [], []
    for _ in range(60):
        latent = hypnogram.draw_stages(rng, draw_subject(rng), 960)
        wrong = hypnogram.score(rng, latent) != latent
        border = np.flatnonzero(np.diff(latent))
        distance = np.abs(np.arange(960)[:, None] - border - 0.5).min(1)
        near.append(wrong[distance < 2].mean())
        far.append(wrong[distance > 10].mean())
    assert np.mean(near) > 4 * np.mean(far)
    assert np.mean(far) < 0.06


def test_a_scorer_never_writes_what_no_confusion_leads_to():
    """Deep in the middle of Deep may be called Light, never REM or Wake."""
    scored = hypnogram.score(np.random.default_rng(0), np.full(2000, Stage.DEEP, np.int8))
    assert set(scored) == {Stage.DEEP, Stage.LIGHT}
    assert (scored == Stage.DEEP).mean() > 0.9


def test_rr_shortens_as_the_chest_expands():
    drive = night_of(5, someone(rsa_s=0.05), 4.0).drive
    rr, end = np.diff(drive.beat_times_s), drive.beat_times_s[1:]
    clock = np.arange(len(drive.breathing)) / DRIVE_HZ
    breath = np.interp(end - rr / 2, clock, drive.breathing)
    fast = rr - np.convolve(rr, np.ones(9) / 9, mode="same")
    other = np.interp((end + 1000.0) % clock[-1], clock, drive.breathing)
    assert np.corrcoef(fast, breath)[0, 1] < -0.4
    assert abs(np.corrcoef(fast, other)[0, 1]) < 0.1


def test_apnoea_makes_breath_and_heart_go_in_its_cycle():
    def power_near_the_cycle(apnoea_per_h):
        subject = someone(apnoea_per_h=apnoea_per_h, apnoea_cycle_s=40.0, beta_blocker=False)
        drive = night_of(11, subject, 4.0).drive
        times = np.arange(0.0, drive.duration_s - 1.0)
        rr = np.interp(times, drive.beat_times_s[1:], np.diff(drive.beat_times_s))
        depth = np.abs(drive.breathing).reshape(-1, 10).max(1)[: len(rr)]
        out = []
        for series in (rr, depth):
            f, p = signal.welch(series, 1.0, nperseg=600)
            out.append(p[(f > 1 / 50) & (f < 1 / 32)].mean() / p[(f > 1 / 600) & (f < 0.1)].mean())
        breath = np.abs(drive.breathing).reshape(-1, 50).max(1)  # five seconds hold its crest
        return *out, np.percentile(breath, 10)

    heart, depth, shallow = power_near_the_cycle(50.0)
    no_heart, no_depth, at_rest = power_near_the_cycle(0.0)
    assert heart > 1.3 * no_heart
    assert depth > 1.5 * no_depth
    assert shallow < 0.6 * at_rest


def test_a_movement_and_an_arousal_speed_the_heart_up():
    drive = night_of(12, someone(beta_blocker=False), 6.0).drive
    starts = np.flatnonzero(np.diff((drive.movement > 0).astype(int)) == 1) / DRIVE_HZ
    rate = np.interp(
        np.arange(0.0, drive.duration_s), drive.beat_times_s[1:], 60 / np.diff(drive.beat_times_s)
    )
    starts = starts[(starts > 60) & (starts < drive.duration_s - 60)].astype(int)
    at = np.mean([rate[s : s + 6].mean() for s in starts])
    before = np.mean([rate[s - 40 : s - 15].mean() for s in starts])
    assert at > 1.02 * before
    # Without movement, too: events hold more arousals than movements.
    stages = np.full(480, Stage.LIGHT, np.int8)
    events = autonomic.draw_events(np.random.default_rng(0), someone(), stages, 144_000)
    still = events.movement[(events.times_s * DRIVE_HZ).astype(int)] == 0
    assert still.sum() > 10


def test_fibrillation_has_no_memory_and_sinus_rhythm_has():
    def memory(fibrillation):
        rr = np.diff(night_of(13, someone(fibrillation=fibrillation), 2.0).drive.beat_times_s)
        return np.corrcoef(rr[1:], rr[:-1])[0, 1], rr.std() / rr.mean()

    (still, irregular), (lasting, regular) = memory(1.0), memory(0.0)
    assert abs(still) < 0.05
    assert lasting > 0.3
    assert irregular > 0.15 > regular


def test_ectopic_beats_come_early_and_are_marked():
    drive = night_of(6, someone(ectopic_per_h=60.0), 4.0).drive
    rr = np.diff(drive.beat_times_s)
    early = np.flatnonzero(~drive.beat_normal)
    assert 120 < len(early) < 360
    assert (rr[early - 1] < 0.85 * np.median(rr)).mean() > 0.9


@pytest.mark.parametrize("slope", [0.0, 1.0])
@pytest.mark.parametrize("samples", [907 * 300, 18_000])
def test_band_noise_lies_in_its_band_with_its_slope(slope, samples):
    noise = autonomic.band_noise(np.random.default_rng(1), samples, 0.01, 1.0, slope)
    assert len(noise) == samples
    assert noise.std() == pytest.approx(1.0)
    f, p = signal.welch(noise, DRIVE_HZ, nperseg=4096)
    inside = (f > 0.015) & (f < 0.9)
    assert p[f > 1.2].sum() < 1e-3 * p.sum()
    assert -np.polyfit(np.log(f[inside]), np.log(p[inside]), 1)[0] == pytest.approx(slope, abs=0.12)


def test_a_band_below_a_short_nights_reach_is_its_slowest_wave():
    noise = autonomic.band_noise(np.random.default_rng(1), 600, 0.0, 1e-4)
    assert np.isfinite(noise).all()
    assert noise.std() == pytest.approx(1.0, abs=0.01)


def test_the_version_is_of_the_frozen_simulator():
    """A change of what a seed gives is another version: then this number changes with it."""
    night = night_of(2024, draw_subject(np.random.default_rng(2024)), 2.0)
    assert physiology.SIMULATOR_VERSION == "1.1"
    assert len(night.drive.beat_times_s) == 7647  # 7646 in 1.0, before RSA's sign was right
    assert int(night.latent.astype(int) @ np.arange(240)) == 23112
    assert int(night.scored.astype(int) @ np.arange(240)) == 23062
    assert night.drive.beat_times_s[5000] == pytest.approx(4838.083642422, rel=1e-9)
    assert (~night.drive.beat_normal).sum() == 126
    assert np.abs(night.drive.breathing).mean() == pytest.approx(0.6402286855, rel=1e-8)
    assert night.drive.movement.mean() == pytest.approx(0.5620516775, rel=1e-8)
