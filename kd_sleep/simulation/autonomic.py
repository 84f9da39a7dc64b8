"""Heart, breath and movement of a night, from its stages.

The RR interval is a sum, RR(t) = mean(stage, clock) + slow + RSA + responses, each of a size that
depends on the stage: slow variability is 1/f in Wake and REM and white in NREM, RSA is bound to the
phase of breathing, and arousals, awakenings, movements and the ends of apnoeas speed the heart up.
Processes slower than a heartbeat are drawn once a second, breathing and movement on DRIVE_HZ.

[Penzel] PMC5078504, table 1 (189 healthy people); [Bunde] Phys Rev Lett 85:3736, [Kantelhardt]
Physica A 319:447, long-range correlations of heart and breath; [Bartsch] Phys Rev Lett 98:054102,
synchronisation; [Bonnet] Electroencephalogr Clin Neurophysiol 102:390; [Long] 10.1155/2015/583620;
[Ibrahim] PMC10424171, large movements of 100 healthy people; "unsourced" marks common knowledge.
By stage, tables are in the order Wake, REM, Light, Deep.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from kd_sleep.schema import WINDOW_S
from kd_sleep.simulation.subject import Subject
from kd_sleep.stages import Stage

DRIVE_HZ = 10.0  # grid of breathing and movement; SHHS records effort at 10 Hz
RR_LIMITS_S = (0.4, 1.9)  # of a sinus rhythm

# Of the REM rate: 1.06, 1, 0.98, 0.99 [Penzel] once responses to movement, most of them in Wake,
# and the overnight fall, before which most of Deep comes, are added.
HEART_RATE = np.array([1.05, 1.00, 0.97, 0.97])
BREATHING_RATE = np.array([1.02, 1.00, 0.95, 0.92])  # of the REM rate [Penzel]
RSA = np.array([0.90, 1.00, 1.33, 1.37])  # of the REM amplitude [Penzel]
# Power of the slow part in 0.04-0.15 Hz over that of RSA. With slow breaths and responses in the
# band, and what a tachogram loses of RSA, LF/HF is 2-3, 2, 1.2, 0.7: at rest, awake, at 55-65 years
# 2.1 (Heart 1998;80:156), the order by stage PMC3299415, other sizes unsourced.
LF_HF = np.array([0.72, 0.85, 0.80, 0.45])
ONE_OVER_F = np.array([1.0, 0.9, 0.0, 0.0])  # share of LF power that is part of a 1/f [Bunde]
BREATH_CV = np.array([0.22, 0.17, 0.105, 0.08])  # of breath intervals; unsourced, and see WANDER
BREATH_CV_MAX = 0.45
DEPTH_MAX = 3.0  # of a sigh, in breaths; unsourced

# RR shortens as the chest expands. The phase by which heart rate follows the chest grows with the
# breathing rate: none at 12 breaths a minute, about an eighth of a turn behind at 18 and ahead at 6
# (Angelone & Coulter, J Appl Physiol 1964;19:479; Hirsch & Bishop, Am J Physiol 1981;241:H620;
# Eckberg, J Appl Physiol 1983;54:961; Saul, Am J Physiol 1991;261:H1231). The studies agree on sign
# and trend; the two constants are rounded from them.
RSA_IN_PHASE_HZ = 0.20
RSA_LAG_S = 1.2  # growth of the phase with breathing rate, as a time

WHITE_TO_HZ = 0.20  # above it breathing rules; unsourced
SLOPE = 0.7  # of the 1/f: DFA exponents of 0.85-1 [Bunde]

# The tone glides over minutes: heart rate variability changes before scored REM begins and after it
# ends, by several minutes [Bonnet].
GLIDE_S = 50.0  # SD of a Gaussian

# Slow wandering that no stage explains, log SD. Physiology between and within people makes up more
# than 80 % of the variance of heart and breath features, stage the rest [Long].
WANDER = {"rate": 0.019, "rsa": 0.30, "slow": 0.35, "breath": 0.04, "breath_cv": 0.45}
WANDER_HZ = 1 / 200.0
# Of heart rate by the fifth hour, then level: it falls from one episode of sleep to the next
# (Cajochen, Physiol Behav 1994;55:769), size unsourced.
OVERNIGHT_FALL = 0.06

# Without movement. With movements and apnoeas 10 an hour in controls and 19 in apnoea (PMC7606815);
# by stage unsourced.
AROUSALS_PER_H = np.array([0.0, 8.0, 10.0, 3.0])
# Heart rate around an arousal, of its peak: it rises ten beats before [Bonnet], and a slower heart
# follows, within some 15 beats after (PubMed 12169335).
RESPONSE_S = np.array([-9.0, -3.0, 2.0, 5.0, 9.0, 14.0, 22.0])
RESPONSE = np.array([0.0, 0.15, 1.0, 0.5, -0.25, -0.35, 0.0])
AROUSAL_RISE = 0.035  # of the rate, median; with a movement MOVEMENT_RISE; unsourced
MOVEMENT_RISE = 0.075
RISE_LOG_SD = 0.4
RISE_PER_Y = -0.015  # log; smaller at 50-65 years than at 20-35 (PubMed 12169335), size unsourced

# Large ones; asleep, with those of awakenings, 6.8 [4.5-10.8] an hour [Ibrahim]; in Wake 30-60 and
# by stage unsourced.
MOVEMENTS_PER_H = np.array([38.0, 4.5, 4.0, 1.5])
MOVEMENT_LOG_SD = 0.4  # between nights
MOVEMENT_S = (10.5, 0.55)  # median and log SD of a length: mean 12.4 s [Ibrahim]
MOVES_ON_WAKING = 0.5  # unsourced

# Cardio-respiratory synchronisation: Wake 1.6 %, REM 0.6 %, NREM 3.8 % of the time [Bartsch]. Where
# bound, a breath takes a whole number of heartbeats. Most of it comes about by steady rhythms; this
# is what coupling adds, spells an hour, of a size that gives the ratios of [Penzel].
BOUND_PER_H = np.array([28.0, 0.0, 22.0, 50.0])
BOUND_S = 45.0

# Apnoeas by stage, relative: more in REM, few in Deep, none awake; unsourced.
APNOEA_IN = np.array([0.0, 1.25, 1.0, 0.35])
APNOEA_MEAN = 0.93  # over sleep with 20 % REM and 17 % Deep
APNOEA_SHARE = (0.35, 0.6)  # of a cycle without breath, or with little
APNOEA_SLOWING = 0.05  # of heart rate within, unsourced
APNOEA_RISE = 0.09  # at its end; with an arousal in nearly all
APNOEA_MOVES = 0.2  # share of events that end in a movement, unsourced

AF_CV = 0.22  # of RR intervals in atrial fibrillation, unsourced


@dataclasses.dataclass(frozen=True)
class Events:
    """What happens to the heart at moments, and to breathing in spells; times in seconds."""

    times_s: NDArray[np.float64]
    rises: NDArray[np.float64]  # of heart rate, at each time
    movement: NDArray[np.float64]  # on DRIVE_HZ, in heartbeat amplitudes
    depth: NDArray[np.float64]  # of breathing, on DRIVE_HZ; 1 where no apnoea
    slowing: NDArray[np.float64]  # of heart rate in apnoeas, once a second


def band_noise(
    rng: np.random.Generator,
    samples: int,
    low_hz: float,
    high_hz: float,
    slope: float = 0.0,
    rate_hz: float = DRIVE_HZ,
) -> NDArray[np.float64]:
    """Gaussian noise of unit variance in a band, power ~ 1 / f^slope, [samples] at `rate_hz`."""
    size = int(fft.next_fast_len(samples, real=True))
    frequency = np.fft.rfftfreq(size, 1 / rate_hz)
    inside = (frequency >= low_hz) & (frequency <= high_hz) & (frequency > 0)
    if not inside.any():  # a night shorter than the band's periods: its slowest wave
        inside[1] = True
    first, last = np.flatnonzero(inside)[[0, -1]]
    used = slice(first, last + 1)
    real, imaginary = rng.normal(size=(2, last + 1 - first))
    spectrum = np.zeros(len(frequency), complex)
    spectrum[used] = frequency[used] ** (-slope / 2) * (real + 1j * imaginary)
    values = fft.irfft(spectrum, size)[:samples]
    values -= values.mean()
    return values / (values.std() + 1e-12)


def _wander(rng: np.random.Generator, seconds: int, log_sd: float) -> NDArray[np.float64]:
    """A factor around 1 that wanders over minutes to hours, once a second."""
    return np.exp(log_sd * band_noise(rng, seconds, 0.0, WANDER_HZ, 1.0, rate_hz=1.0))


def _per_second(values: NDArray, stages: NDArray[np.int8]) -> NDArray[np.float64]:
    """A table by stage along the night, once a second, gliding."""
    steps = np.repeat(values[stages].astype(float), int(WINDOW_S))
    return ndimage.gaussian_filter1d(steps, GLIDE_S, mode="nearest")


def _fine(values: NDArray, samples: int) -> NDArray[np.float64]:
    """A once-a-second series on DRIVE_HZ."""
    return np.interp(np.arange(samples) / DRIVE_HZ, np.arange(len(values)), values)


def _at_random(
    rng: np.random.Generator, per_h: NDArray, stages: NDArray[np.int8]
) -> NDArray[np.float64]:
    """Times of a Poisson process whose rate depends on the stage, sorted."""
    count = rng.poisson(per_h[stages] * WINDOW_S / 3600.0)
    window = np.repeat(np.arange(len(stages)), count)
    return np.sort((window + rng.random(len(window))) * WINDOW_S)


def _apnoeas(
    rng: np.random.Generator, subject: Subject, stages: NDArray[np.int8]
) -> list[tuple[float, float]]:
    """Start and end of each apnoea or hypopnoea, in runs at the person's cycle."""
    if subject.apnoea_per_h <= 0.0:
        return []
    cycle_s, most = subject.apnoea_cycle_s, APNOEA_IN.max()
    run_length = 1.0 + 0.4 * subject.apnoea_per_h  # severe apnoea comes in long runs
    # Share of sleep that runs take up, for what stages other than REM then leave out.
    busy = min(subject.apnoea_per_h * cycle_s / 3600.0 * most / APNOEA_MEAN, 0.95)
    pause_s = run_length * cycle_s * (1.0 - busy) / busy
    events: list[tuple[float, float]] = []
    at, night_s = rng.exponential(pause_s), len(stages) * WINDOW_S
    while at < night_s:
        for _ in range(rng.geometric(1.0 / run_length)):
            length_s = cycle_s * np.exp(0.12 * rng.normal())
            end = at + length_s * rng.uniform(*APNOEA_SHARE)
            if end + 10.0 > night_s:
                return events
            if rng.random() < APNOEA_IN[stages[int(end / WINDOW_S)]] / most:
                events.append((float(at), float(end)))
            at += length_s
        at += rng.exponential(pause_s)
    return events


def draw_events(
    rng: np.random.Generator, subject: Subject, stages: NDArray[np.int8], samples: int
) -> Events:
    """Arousals, awakenings, movements and apnoeas of a night."""
    seconds = round(len(stages) * WINDOW_S)
    apnoeas = _apnoeas(rng, subject, stages)
    ends = np.array([end for _, end in apnoeas])
    depth, slowing = np.ones(samples), np.zeros(seconds)
    for start, end in apnoeas:
        a, b = int(start * DRIVE_HZ), int(end * DRIVE_HZ)
        depth[a:b] = rng.uniform(0.08, 0.6)
        depth[b : b + int(10 * DRIVE_HZ)] = 1.6  # deep breaths after it
        slowing[int(start) : int(end)] = APNOEA_SLOWING
    if apnoeas:
        depth = ndimage.uniform_filter1d(depth, int(2 * DRIVE_HZ))
        slowing = ndimage.uniform_filter1d(slowing, 8)

    asleep = stages != Stage.WAKE
    waking = (np.flatnonzero(asleep[:-1] & ~asleep[1:]) + 1) * WINDOW_S
    waking = np.maximum(waking + rng.uniform(-15.0, 5.0, len(waking)), 0.0)
    own = _at_random(rng, MOVEMENTS_PER_H * np.exp(MOVEMENT_LOG_SD * rng.normal()), stages)
    moves = np.concatenate(
        [
            own,
            waking[rng.random(len(waking)) < MOVES_ON_WAKING],
            ends[rng.random(len(ends)) < APNOEA_MOVES],
        ]
    )
    arousals = _at_random(rng, AROUSALS_PER_H, stages)
    times = np.concatenate([arousals, waking, own, ends])
    peak = np.repeat(
        [AROUSAL_RISE, MOVEMENT_RISE, MOVEMENT_RISE, APNOEA_RISE],
        [len(arousals), len(waking), len(own), len(ends)],
    )
    damped = np.exp(RISE_PER_Y * (subject.age_y - 62.0)) * (0.6 if subject.beta_blocker else 1.0)
    rises = damped * peak * np.exp(RISE_LOG_SD * rng.normal(size=len(peak)))
    return Events(times, rises, _movement(rng, moves, samples), depth, slowing)


def _movement(
    rng: np.random.Generator, times_s: NDArray[np.float64], samples: int
) -> NDArray[np.float64]:
    """Bursts of 3-40 s, 10-50 heartbeats strong (unsourced), on DRIVE_HZ."""
    movement = np.zeros(samples)
    median, log_sd = MOVEMENT_S
    lengths = np.clip(median * np.exp(log_sd * rng.normal(size=len(times_s))), 3.0, 40.0)
    sizes = np.exp(rng.uniform(np.log(10.0), np.log(50.0), len(times_s)))
    for start, length, size in zip(times_s, lengths, sizes, strict=True):
        a, b = int(start * DRIVE_HZ), min(int((start + length) * DRIVE_HZ), samples)
        if b - a > 2:
            movement[a:b] = np.maximum(movement[a:b], size * np.hanning(b - a))
    return movement


def _responses(events: Events, seconds: int) -> NDArray[np.float64]:
    """What events add to heart rate, as a share of it, once a second."""
    kernel_s = np.arange(RESPONSE_S[0], RESPONSE_S[-1] + 1.0)
    kernel = np.interp(kernel_s, RESPONSE_S, RESPONSE)
    at = np.clip(events.times_s.astype(int), 0, seconds - 1)
    impulses = np.bincount(at, weights=events.rises, minlength=seconds)
    lag = -int(RESPONSE_S[0])
    return np.convolve(impulses, kernel)[lag : lag + seconds].clip(-0.15, 0.45)


def heart_and_breath(
    rng: np.random.Generator, subject: Subject, stages: NDArray[np.int8], events: Events
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The RR interval that the sinus node aims at, in s, and chest excursion; both on DRIVE_HZ."""
    samples = len(events.movement)
    seconds = round(len(stages) * WINDOW_S)
    hours = np.arange(seconds) / 3600.0

    def noise(low_hz: float, high_hz: float, slope: float = 0.0) -> NDArray[np.float64]:
        return band_noise(rng, seconds, low_hz, high_hz, slope, rate_hz=1.0)

    def tone(table: NDArray) -> NDArray[np.float64]:
        """A table relative to REM, as strong as this person's response."""
        return _per_second((table / table[Stage.REM]) ** subject.tone_response, stages)

    # Mean rate: stage (small, and absent in some people), a fall over the night, wandering.
    rate = 1.0 + subject.stage_response * (_per_second(HEART_RATE, stages) - 1.0)
    rate *= 1.0 - OVERNIGHT_FALL * np.sin(np.pi / 2 * np.minimum(hours / 5.0, 1.0))
    rate *= _wander(rng, seconds, WANDER["rate"])
    rate *= 1.0 + _responses(events, seconds) - events.slowing
    mean_rr_s = 60.0 / (subject.heart_rate_bpm * rate)

    # Slow variability: LF power relative to that of RSA in REM; 1/f below and within, or white.
    rsa = tone(RSA) * _wander(rng, seconds, WANDER["rsa"])
    lf_power = 0.5 * subject.rsa_s**2 * LF_HF[Stage.REM] * subject.lf_hf_factor
    lf_power = lf_power * tone(LF_HF * RSA**2) * _wander(rng, seconds, 2 * WANDER["slow"])
    one_over_f = _per_second(ONE_OVER_F, stages)
    # Of unit noise, the share of power in 0.04-0.15 Hz: of 1/f over 0.0005-0.15, of white noise.
    rest = 1.0 - SLOPE
    in_lf = (
        (0.15**rest - 0.04**rest) / (0.15**rest - 0.0005**rest),
        (0.15 - 0.04) / (WHITE_TO_HZ - 0.003),
    )
    slow_s = np.sqrt(lf_power) * (
        np.sqrt(one_over_f / in_lf[0]) * noise(0.0005, 0.15, SLOPE)
        + np.sqrt((1.0 - one_over_f) / in_lf[1]) * noise(0.003, WHITE_TO_HZ)
    )

    # Breathing: rate and depth vary from breath to breath; 1/f in Wake and REM [Kantelhardt].
    cv = subject.breath_cv_factor * BREATH_CV[Stage.REM] * tone(BREATH_CV)
    cv = np.minimum(cv * _wander(rng, seconds, WANDER["breath_cv"]), BREATH_CV_MAX)
    varied = np.sqrt(one_over_f) * noise(0.002, 0.25, 1.0) + np.sqrt(1 - one_over_f) * noise(
        0.0, 0.25
    )
    breaths_hz = subject.breaths_per_min / 60.0 * _per_second(BREATHING_RATE, stages)
    breaths_hz *= _wander(rng, seconds, WANDER["breath"]) * np.exp(cv * varied)
    bound = _bound(rng, stages, seconds)
    beats_hz = 1.0 / (mean_rr_s + slow_s).clip(*RR_LIMITS_S)
    breaths_hz = np.where(
        bound, beats_hz / np.round(beats_hz / breaths_hz).clip(2, 7), breaths_hz
    ).clip(0.08, 0.6)
    phase = 2 * np.pi * np.cumsum(_fine(breaths_hz, samples)) / DRIVE_HZ
    depth = _fine(np.exp(0.7 * cv * noise(0.0, 0.1)), samples) * events.depth
    depth = np.minimum(depth, DEPTH_MAX)

    rsa_s = subject.rsa_s * _fine(rsa, samples) * np.minimum(events.depth, 1.3)
    behind = 2 * np.pi * RSA_LAG_S * (_fine(breaths_hz, samples) - RSA_IN_PHASE_HZ)
    rr_s = _fine(mean_rr_s + slow_s, samples) - rsa_s * np.sin(phase - behind)
    return np.clip(rr_s, *RR_LIMITS_S), depth * np.sin(phase)


def _bound(rng: np.random.Generator, stages: NDArray[np.int8], seconds: int) -> NDArray[np.bool_]:
    """Where breathing is bound to the heartbeat, once a second."""
    bound = np.zeros(seconds, bool)
    for start in _at_random(rng, BOUND_PER_H, stages):
        bound[int(start) : int(start + 30.0 + rng.exponential(BOUND_S - 30.0))] = True
    return bound


def beats(
    rng: np.random.Generator, subject: Subject, rr_s: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Beat times, and which are normal, by integral pulse frequency modulation of rr(t).

    A beat falls where the integral of 1 / rr crosses an integer; some come early, and the pause
    after such a one compensates. In atrial fibrillation intervals are drawn without memory.
    """
    phase = np.concatenate([[0.0], np.cumsum(1.0 / rr_s) / DRIVE_HZ])
    clock = np.arange(len(phase)) / DRIVE_HZ
    times = np.interp(np.arange(rng.random(), phase[-1]), phase, clock)
    normal = np.ones(len(times), bool)
    chance = subject.ectopic_per_h / 3600.0 * np.diff(times, append=times[-1:])
    early = np.flatnonzero(rng.random(len(times)) < chance)
    early = early[(early > 0) & (early < len(times) - 1)]
    early = early[np.diff(early, prepend=-9) > 1]  # never two in a row
    interval = times[early] - times[early - 1]
    times[early] -= interval * rng.uniform(0.25, 0.4, len(early))
    normal[early] = False
    if subject.fibrillation > 0.0:
        return _with_fibrillation(rng, subject, rr_s, times, normal)
    return times, normal


def _with_fibrillation(
    rng: np.random.Generator,
    subject: Subject,
    rr_s: NDArray[np.float64],
    times: NDArray[np.float64],
    normal: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Beats with one spell of atrial fibrillation, as long as the person's share of the night."""
    night_s = len(rr_s) / DRIVE_HZ
    start = rng.uniform(0.0, 1.0 - subject.fibrillation) * night_s
    stop = start + subject.fibrillation * night_s
    mean_s = float(np.mean(rr_s)) * 0.88  # faster than sinus, unsourced
    count = int(1.3 * (stop - start) / mean_s) + 20
    irregular = rng.gamma(AF_CV**-2, mean_s * AF_CV**2, count)
    irregular = start + np.cumsum(np.clip(irregular, 0.33, 2.2))
    irregular = irregular[irregular < stop]
    outside = (times < start) | (times > stop + 0.4)
    all_times = np.concatenate([times[outside], irregular])
    # Conducted beats are narrow: normal by their shape.
    all_normal = np.concatenate([normal[outside], np.ones(len(irregular), bool)])
    order = np.argsort(all_times)
    return all_times[order], all_normal[order]
