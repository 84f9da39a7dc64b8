"""The simulator against the literature: one statistic a row, inside its published range or not.

A range is what published cohorts or studies span. Where one study alone has a figure it is that
figure with some 15 % of a mean, 30 % of a ratio or an exponent, or a factor of 1.6 for chances of
change, on either side: as far as studies of other people lie from each other. A statistic outside
it is mended in the physiology, or its row says why; none is ever bent to what a model makes of the
nights.

Sources: [SHHS-parents] PMC10354680, table 1, ARIC, CHS and FHS; [SHHS-2] Chronobiology in Medicine
2023;5(2), 2,363 nights of SHHS; [Mixed-500] a chain of 500 mixed-age nights, as in BUILD_NOTES.md;
[Penzel] PMC5078504, table 1. Figures of healthy people are measured here on people with fewer than
five apnoeas an hour, no fibrillation and no beta blocker.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_sleep import metrics
from kd_sleep.parallel import map_nights
from kd_sleep.simulation import hypnogram, measures
from kd_sleep.simulation.physiology import Drive, Physiology, draw_subject, simulate_night
from kd_sleep.simulation.subject import Subject
from kd_sleep.stages import NUM_STAGES, STAGE_NAMES, Stage

HOURS = (8.2, 0.5)  # of a recording: 475 min in bed [SHHS-2], and until the sensors are off
YOUNG_Y = 23.0  # of the people of the overnight RR recordings, 22-26
YOUNG_NIGHTS = 120
SENSOR_NIGHTS = 12  # of which ECG and BCG are made: the slowest part
PEOPLE = 4000  # drawn for shares of people: more than nights, as they cost nothing

# 20 nights of 10 people of 22-26 years, 10th and 90th percentile: "A ballistocardiogram dataset
# with reference sensor signals in long-term natural sleep environments", Scientific Data 2024.
REAL_NIGHTS = {
    "rr_p1": (0.553, 0.746),
    "rr_p99": (0.904, 1.412),
    "rmssd": (18.5, 91.7),
    "slope": (0.484, 0.944),
}

PENZEL = "PMC5078504, 189 healthy people of 20-95 years"
PARENTS = "PMC10354680: ARIC, CHS, FHS"
SHHS_2 = "Chronobiol Med 2023;5(2): 2,363 nights of SHHS"
MIXED = "500 mixed-age nights, not SHHS"
LO = "10.1073/pnas.0408242101"
RSA_PHASE = (
    "sign and trend Angelone & Coulter 1964, Hirsch & Bishop 1981, Eckberg 1983, Saul 1991; sign in"
    " deep sleep PMC5078504, figure 4; the range unsourced"
)
RSA_NOTE = (
    "the studies agree on sign and trend; none was at hand with a table of phases, and the"
    " simulator's constants are rounded from the same studies"
)
OLDER = "at 55-76 years smaller or absent (10.1161/01.CIR.103.1.84; J Sleep Res 2003;12(3))"


@dataclasses.dataclass(frozen=True)
class Statistic:
    """One row of the validation table.

    Attributes:
      group: such as `stages`, `heart`, `breathing`, `movement`, `scorers`, `ecg`, `bcg`.
      name: what is measured, in words.
      unit: of the values; "" for a share or a ratio.
      value: on the simulated nights.
      spread: 5th and 95th percentile over nights or subjects; None where it is one figure for all.
      published: smallest and largest value that counts as agreeing.
      said: what was published, in words: mean and SD, population.
      source: where, with DOI or PMC number; `unsourced` where nobody was found to say it.
      note: why it lies outside, or what differs between the populations.
    """

    group: str
    name: str
    unit: str
    value: float
    spread: tuple[float, float] | None
    published: tuple[float, float]
    said: str
    source: str
    note: str = ""

    @property
    def inside(self) -> bool:
        """Whether the simulated value lies in the published range."""
        return self.published[0] <= self.value <= self.published[1]


@dataclasses.dataclass(frozen=True)
class Measured:
    """A simulated night and what was measured in it."""

    subject: Subject
    scored: NDArray[np.int8]
    again: NDArray[np.int8]  # by a second scorer
    numbers: dict[str, Any]

    @property
    def healthy(self) -> bool:
        """Whether a study of healthy sleepers would have taken this person."""
        subject = self.subject
        return subject.apnoea_per_h < 5.0 and not subject.fibrillation and not subject.beta_blocker


def draw_night(seed: int, number: int, age_y: float | None = None) -> tuple[Subject, Physiology]:
    """Night `number` of a validation's seed: another person each."""
    rng = np.random.default_rng([seed, number])
    subject = draw_subject(rng, age_y)
    hours = float(np.clip(rng.normal(*HOURS), 6.0, 11.0))
    return subject, simulate_night(rng, subject, hours)


def measure_night(seed: int, age_y: float | None, number: int) -> Measured:
    """Simulates one night and measures it."""
    subject, night = draw_night(seed, number, age_y)
    numbers = measures.of_stages(night.scored) | measures.of_movement(night)
    numbers |= measures.of_breath(night)
    if subject.fibrillation == 0.0:
        numbers |= measures.of_heart(night)
    again = hypnogram.score(np.random.default_rng([seed, number, 1]), night.latent)
    return Measured(subject, night.scored, again, numbers)


def simulate(nights: int, workers: int = 0, seed: int = 0) -> tuple[list[Measured], list[Measured]]:
    """Measured nights of the cohort, and of young people to hold against recorded nights.

    Args:
      nights: of the cohort.
      workers: processes; 0 takes one per core.
      seed: of all of it.
    """
    old = functools.partial(measure_night, seed, None)
    young = functools.partial(measure_night, seed + 1, YOUNG_Y)
    few = min(nights, YOUNG_NIGHTS)
    return (
        list(map_nights(old, range(nights), workers, "Nights")),
        list(map_nights(young, range(few), workers, "Nights of the young")),
    )


def drives(nights: int, seed: int = 0) -> list[Drive]:
    """What sensors see of the first nights of the same cohort."""
    return [draw_night(seed, number)[1].drive for number in range(nights)]


def statistics(
    nights: Sequence[Measured], young: Sequence[Measured], people: int = PEOPLE
) -> list[Statistic]:
    """Every row of the physiology's half of the table.

    Args:
      nights: of the cohort.
      young: nights of the young.
      people: drawn for what concerns people rather than nights.
    """
    return [
        *stage_statistics(nights),
        *scorer_statistics(nights),
        *people_statistics(people),
        *heart_statistics(nights),
        *recorded_statistics(young),
        *breath_statistics(nights),
        *movement_statistics(nights),
    ]


def _row(
    group: str,
    name: str,
    unit: str,
    values: NDArray,
    published: tuple[float, float],
    said: str,
    source: str,
    note: str = "",
    middle: Callable[[NDArray], Any] = np.median,
) -> Statistic:
    """A row from one value per night; those that a night does not have are left out."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    value = float(middle(values)) if len(values) else float("nan")
    low, high = np.percentile(values, [5, 95]) if len(values) else (np.nan, np.nan)
    return Statistic(
        group, name, unit, value, (float(low), float(high)), published, said, source, note
    )


def _of(nights: Sequence[Measured], name: str) -> NDArray[np.float64]:
    """One number per night, or four by stage, of the nights that have it."""
    return np.array([night.numbers[name] for night in nights if name in night.numbers], float)


def _against_rem(nights: Sequence[Measured], name: str, stage: Stage) -> NDArray[np.float64]:
    """A stage's number relative to REM's, in each night that has both."""
    values = _of(nights, name)
    return values[:, stage] / values[:, Stage.REM]


def stage_statistics(nights: Sequence[Measured]) -> list[Statistic]:
    """Shares, latencies, cycles, bouts and transitions."""

    def row(
        name: str,
        unit: str,
        key: str,
        published: tuple[float, float],
        said: str,
        source: str,
        middle: Callable[[NDArray], Any] = np.mean,
    ) -> Statistic:
        return _row("stages", name, unit, _of(nights, key), published, said, source, middle=middle)

    rows = [
        row("time asleep, mean", "min", "tst_min", (340.0, 410.0), "376 ± 69", SHHS_2),
        row("sleep latency, mean", "min", "latency_min", (18.0, 33.0), "25.5 ± 28.9", SHHS_2),
        row("awake after sleep onset, median", "min", "waso_min", (44.0, 79.0),
            "medians 44-62; mean 79 ± 55 up to lights on", f"{PARENTS}; {SHHS_2}",
            middle=np.median),
        row("awake, share of the recording", "", "wake_share", (0.20, 0.30),
            "0.205 of the time in bed; recordings run on after it", SHHS_2),
        row("REM latency, mean", "min", "rem_latency_min", (80.0, 111.0), "96 ± 61", SHHS_2),
        row("REM, share of sleep, mean", "", "rem_share", (0.18, 0.22),
            "0.207, 0.192, 0.207, SD 0.06", PARENTS),
        row("Deep, share of sleep, median", "", "deep_share", (0.15, 0.195),
            "0.179, 0.165, 0.182, quartiles 0.08-0.26", PARENTS, middle=np.median),
        row("Light, share of sleep, mean", "", "light_share", (0.58, 0.65),
            "N1 0.045 and N2 0.556, 0.574, 0.555", PARENTS),
        row("Deep, part of it in the first third", "", "deep_first_third", (0.50, 0.75),
            "most of it", "textbook (Carskadon & Dement), no figure found"),
        row("Deep, part of it in the last third", "", "deep_last_third", (0.0, 0.20),
            "little", "textbook (Carskadon & Dement), no figure found"),
        row("REM, part of it in the last third", "", "rem_last_third", (0.36, 0.60),
            "most of it; at 82 years even over the night", "textbook; Sleep 1982;5(3):277"),
        row("changes among Wake, NREM and REM, lower quartile", "1/h asleep", "changes_per_h",
            (6.5, 9.0), "7.76", "Laffan 2010, 5,684 nights of SHHS",
            middle=lambda x: np.percentile(x, 25)),
    ]  # fmt: skip
    within = np.concatenate([night.numbers["wake_within"] for night in nights])
    rows.append(
        Statistic("stages", "exponent of wake bouts' lengths", "", _exponent(within), None,
                  (1.8, 2.4), "2.2, healthy; a heavy tail", LO)
    )  # fmt: skip
    expected = {
        Stage.WAKE: ((8.0, 14.0), "11.6", MIXED),
        Stage.REM: ((12.0, 18.0), "15.7; at 67 years 13", f"{MIXED}; PMC4857208"),
        Stage.LIGHT: ((8.5, 13.5), "11.0", MIXED),
        Stage.DEEP: ((4.0, 10.0), "8.2; at 67 years 4", f"{MIXED}; PMC4857208"),
    }
    for stage, (published, said, source) in expected.items():
        length = np.concatenate([night.numbers["bouts"][stage] for night in nights])
        rows.append(
            _row("stages", f"{STAGE_NAMES[stage]} bout, mean", "windows", length, published, said,
                 source, middle=np.mean)
        )  # fmt: skip
    counts = np.sum([night.numbers["transitions"] for night in nights], axis=0)
    chance = counts / counts.sum(1, keepdims=True)
    for a, b, said_chance in _TRANSITIONS:
        low, high = said_chance / 1.6, said_chance * 1.6
        rows.append(
            Statistic("stages", f"{STAGE_NAMES[a]} to {STAGE_NAMES[b]}, per window", "",
                      float(chance[a, b]), None, (low, high), f"{said_chance}", MIXED)
        )  # fmt: skip
    rows.append(
        Statistic("stages", "time of night alone, kappa", "", time_of_night_kappa(nights), None,
                  (0.20, 0.34), "0.279, five cohorts, children among them", "Jones 2024",
                  "a table of 10-min bins from both ends, on the other half of the people; the"
                  " cohort here is all adult, and how the published figure was had is not known")
    )  # fmt: skip
    return rows


# Chances per 30 s that are not near 0 [Mixed-500].
_TRANSITIONS = (
    (Stage.WAKE, Stage.LIGHT, 0.0783), (Stage.REM, Stage.WAKE, 0.0363),
    (Stage.REM, Stage.LIGHT, 0.0276), (Stage.LIGHT, Stage.WAKE, 0.0421),
    (Stage.LIGHT, Stage.REM, 0.0135), (Stage.LIGHT, Stage.DEEP, 0.0349),
    (Stage.DEEP, Stage.WAKE, 0.0098), (Stage.DEEP, Stage.LIGHT, 0.1120),
)  # fmt: skip


def _exponent(lengths: NDArray) -> float:
    """Of a power law's density, by maximum likelihood, from two windows on."""
    long = lengths[lengths >= 2]
    return float(1.0 + 1.0 / np.mean(np.log(long / 1.5))) if len(long) else float("nan")


def _place(windows: int, bin_windows: int = 20, end_windows: int = 120) -> NDArray[np.int64]:
    """A window's place in the night: a bin from the start, or from the end within the last hour."""
    index = np.arange(windows)
    left = windows - 1 - index
    return np.where(left < end_windows, left // bin_windows, 10 + index // bin_windows)


def time_of_night_kappa(nights: Sequence[Measured]) -> float:
    """Kappa of a guess from the place in the night, learnt on one half of the people.

    A stage's votes are divided by the root of its share: by plain majority nearly all is Light.
    """
    half = len(nights) // 2
    votes = np.zeros((1000, NUM_STAGES))
    for night in nights[:half]:
        np.add.at(votes, (_place(len(night.scored)), night.scored), 1)
    votes /= np.sqrt(votes.sum(0) + 1e-9)
    counts = np.zeros((NUM_STAGES, NUM_STAGES), np.int64)
    for night in nights[half:]:
        guess = votes[_place(len(night.scored))].argmax(1)
        counts += metrics.confusion_counts(night.scored, guess, NUM_STAGES)
    return float(metrics.kappa(counts))


def scorer_statistics(nights: Sequence[Measured]) -> list[Statistic]:
    """Two scorers of the same nights."""
    counts = np.zeros((NUM_STAGES, NUM_STAGES), np.int64)
    for night in nights:
        counts += metrics.confusion_counts(night.scored, night.again, NUM_STAGES)
    agreement = [float(np.mean(night.scored == night.again)) for night in nights]
    rows = [
        _row("scorers", "two scorers agree on", "", np.array(agreement), (0.82, 0.88),
             "0.82, R&K 0.81, in five stages; 0.82-0.88", "10.1111/j.1365-2869.2008.00700.x",
             middle=np.mean),
        Statistic("scorers", "kappa of two scorers", "", float(metrics.kappa(counts)), None,
                  (0.71, 0.85), "0.76 [0.71, 0.81] in five stages; above 0.80 in SHHS",
                  "10.5664/jcsm.9538; Whitney 1998"),
    ]  # fmt: skip
    for stage, said in ((Stage.WAKE, 0.70), (Stage.REM, 0.69), (Stage.DEEP, 0.57)):
        two = np.array([[counts[stage, stage], counts[stage].sum() - counts[stage, stage]],
                        [counts[:, stage].sum() - counts[stage, stage], 0]])  # fmt: skip
        two[1, 1] = counts.sum() - two.sum()
        rows.append(
            Statistic("scorers", f"kappa of two scorers, {STAGE_NAMES[stage]}", "",
                      float(metrics.kappa(two)), None, (said - 0.1, 0.90),
                      f"{said}; in SHHS Deep the best", "10.5664/jcsm.9538; Whitney 1998")
        )  # fmt: skip
    return rows


def people_statistics(people: int = PEOPLE) -> list[Statistic]:
    """Shares of people with apnoea and fibrillation, and what sex and age do to the stages."""
    rng = np.random.default_rng(0)
    drawn = [draw_subject(rng) for _ in range(people)]
    windows = round(HOURS[0] * 120)
    slept = [
        measures.of_stages(hypnogram.score(rng, hypnogram.draw_stages(rng, subject, windows)))
        for subject in drawn
    ]
    apnoea = np.array([subject.apnoea_per_h for subject in drawn])
    ill = np.array([subject.fibrillation > 0 for subject in drawn])
    male = np.array([subject.male for subject in drawn])
    decade = np.array([subject.age_y for subject in drawn]) / 10.0
    deep = np.array([night["deep_share"] for night in slept])
    waso = np.array([night["waso_min"] for night in slept])
    good = np.isfinite(deep) & np.isfinite(waso)

    def per_decade(values: NDArray, who: NDArray) -> float:
        return float(np.polyfit(decade[who], values[who], 1)[0])

    def one(name: str, unit: str, value: float, *rest: Any) -> Statistic:
        return Statistic("people", name, unit, float(value), None, *rest)

    shhs = "10.1093/sleep/27.2.293, 470 healthy people of SHHS"
    return [
        one("five apnoeas an hour or more", "", (apnoea >= 5).mean(), (0.45, 0.62),
            "0.50, 0.61, 0.45", PARENTS),
        one("fifteen apnoeas an hour or more", "", (apnoea >= 15).mean(), (0.16, 0.27),
            "0.20, 0.26, 0.17", PARENTS),
        one("atrial fibrillation", "", ill.mean(), (0.009, 0.048),
            "0.009 without apnoea, 0.048 with thirty an hour", "PMC2662909, SHHS"),
        one("Deep share, women less men", "", deep[good & ~male].mean() - deep[good & male].mean(),
            (0.045, 0.09), "0.067", shhs),
        one("Deep share per decade, men", "", per_decade(deep, good & male), (-0.027, -0.011),
            "-0.019", shhs),
        one("Deep share per decade, women", "", per_decade(deep, good & ~male), (-0.008, 0.008),
            "no change", shhs),
        one("awake after sleep onset, per decade", "min", per_decade(waso, good), (4.9, 14.6),
            "9.7 [6.9, 12.4]", "10.1016/S2213-2600(19)30057-8, healthy adults"),
    ]  # fmt: skip


def heart_statistics(nights: Sequence[Measured]) -> list[Statistic]:
    """Heart rate and its variability, of the cohort and by stage."""
    healthy = [night for night in nights if night.healthy]
    rate, rmssd = _of(nights, "heart_rate"), _of(nights, "rmssd")

    def one(name: str, unit: str, value: float, *rest: Any) -> Statistic:
        return Statistic("heart", name, unit, value, None, *rest)

    rows = [
        _row("heart", "heart rate, mean of people", "bpm", rate, (57.0, 68.0), "62 ± 9",
             "unsourced", middle=np.mean),
        one("heart rate, SD between people", "bpm", float(np.std(rate)), (7.0, 11.0), "9",
            "unsourced"),
        _row("heart", "RMSSD, median", "ms", rmssd, (18.0, 32.0),
             "25 asleep; at rest, 55-65 years 22, quartiles 15-32",
             "unsourced; Heart 1998;80:156"),
        one("RMSSD, SD of its log between people", "", float(np.std(np.log(rmssd))), (0.4, 0.65),
            "0.5; from quartiles 0.57", "unsourced; Heart 1998;80:156"),
    ]  # fmt: skip
    relative = (
        ("heart_rate_by", "heart rate", {
            Stage.WAKE: (1.06, (1.02, 1.10)), Stage.LIGHT: (0.98, (0.95, 1.01)),
            Stage.DEEP: (0.99, (0.96, 1.02))},
         PENZEL, "another cohort finds no difference (PMC5914741)"),
        ("sdnn_by", "SD of RR in 5 min", {
            Stage.WAKE: (1.15, (0.95, 1.35)), Stage.LIGHT: (0.97, (0.82, 1.12)),
            Stage.DEEP: (0.93, (0.78, 1.08))},
         PENZEL, "what the study calls heart rate variability"),
        ("hf_by", "HF power", {
            Stage.WAKE: (0.81, (0.56, 1.10)), Stage.LIGHT: (1.77, (0.95, 2.4)),
            Stage.DEEP: (1.88, (0.95, 2.5))},
         f"{PENZEL}, square of RSA", OLDER),
    )  # fmt: skip
    for key, name, figures, source, note in relative:
        for stage, (said, published) in figures.items():
            rows.append(
                _row("heart", f"{name}, {STAGE_NAMES[stage]} against REM", "",
                     _against_rem(healthy, key, stage), published, f"{said}", source, note)
            )  # fmt: skip
    ratio = {
        Stage.WAKE: (2.0, (1.0, 3.0), "at rest, awake, 55-65 years 2.1 (Heart 1998;80:156)"),
        Stage.REM: (2.2, (1.0, 3.0), "near 1 in Wake and REM (10.1007/BF01997720)"),
        Stage.LIGHT: (1.3, (0.8, 1.9), "falls from stage 1 to 4 (10.1007/BF01997720)"),
        Stage.DEEP: (0.6, (0.4, 1.0), "falls from stage 1 to 4 (10.1007/BF01997720)"),
    }
    for stage, (said, published, note) in ratio.items():
        rows.append(
            _row("heart", f"LF/HF, {STAGE_NAMES[stage]}", "", _of(nights, "lf_hf_by")[:, stage],
                 published, f"{said}", "unsourced", note)
        )  # fmt: skip
    exponents = {
        Stage.WAKE: ("about 1, as in REM", (0.80, 1.15)), Stage.REM: ("0.85", (0.75, 1.0)),
        Stage.LIGHT: ("0.5-0.6, no memory above breathing", (0.45, 0.72)),
        Stage.DEEP: ("0.5-0.6, no memory", (0.45, 0.70)),
    }  # fmt: skip
    for stage, (text, published) in exponents.items():
        rows.append(
            _row("heart", f"DFA exponent, {STAGE_NAMES[stage]}", "",
                 _of(healthy, "dfa_by")[:, stage], published, text,
                 "10.1103/PhysRevLett.85.3736; figures from elsewhere",
                 "second order, 20-75 beats")
        )  # fmt: skip
    explained = variance_by_stage(nights)
    rows.append(
        one("variance of heart and breath features that stage explains, mean", "",
            float(np.mean(list(explained.values()))), (0.0, 0.20),
            "physiology between and within people: more than 80 % of it", "10.1155/2015/583620",
            ", ".join(f"{name} {share:.2f}" for name, share in explained.items()))
    )  # fmt: skip
    return rows


def variance_by_stage(nights: Sequence[Measured]) -> dict[str, float]:
    """Share of each feature's variance, over all 5-min pieces of all people, between stages."""
    nights = [night for night in nights if "pieces" in night.numbers]
    kind = np.concatenate([night.numbers["pieces"][0] for night in nights])
    heart = np.concatenate([night.numbers["pieces"][1] for night in nights])
    breath = np.concatenate([night.numbers["breath_pieces"] for night in nights])
    features = {
        "rate": heart[:, 0], "SD of RR": heart[:, 1], "LF/HF": heart[:, 2] - heart[:, 3],
        "HF": heart[:, 3], "breathing rate": breath[:, 0], "its CV": breath[:, 1],
    }  # fmt: skip
    out = {}
    for name, values in features.items():
        good = np.isfinite(values)
        x, k = values[good], kind[good]
        means = np.array([x[k == stage].mean() if (k == stage).any() else 0.0 for stage in Stage])
        size = np.bincount(k, minlength=NUM_STAGES)
        out[name] = float((size * (means - x.mean()) ** 2).sum() / ((x - x.mean()) ** 2).sum())
    return out


def recorded_statistics(young: Sequence[Measured]) -> list[Statistic]:
    """Simulated nights of young people against recorded ones."""
    names = {
        "rr_p1": ("RR, 1st percentile", "s"), "rr_p99": ("RR, 99th percentile", "s"),
        "rmssd": ("RMSSD", "ms"), "slope": ("spectrum slope, 0.001-0.02 Hz", ""),
    }  # fmt: skip
    notes = {
        "rr_p1": "the recordings begin in the evening and end after getting up: they hold faster"
        " hearts than a night in bed, and none was added for it",
    }
    return [
        _row("recorded", f"{name}, at {YOUNG_Y:.0f} years", unit, _of(young, key),
             REAL_NIGHTS[key], "10th-90th percentile of 20 nights",
             "Scientific Data 2024, overnight RR, 22-26 years",
             notes.get(key, "young, healthy, at home"))
        for key, (name, unit) in names.items()
    ]  # fmt: skip


def breath_statistics(nights: Sequence[Measured]) -> list[Statistic]:
    """Breathing, RSA and cardio-respiratory synchronisation."""
    healthy = [night for night in nights if night.healthy]
    rate = _of(nights, "breaths")
    rows = [
        _row("breathing", "rate, mean of people", "1/min", rate, (13.0, 16.5),
             "15 ± 2.5; 14.4 ± 1.5 at 32 years", "unsourced; PMC6167474", middle=np.mean),
        Statistic("breathing", "rate, SD between people", "1/min", float(np.std(rate)), None,
                  (1.5, 3.0), "2.5; 1.5", "unsourced; PMC6167474"),
    ]  # fmt: skip
    relative = (
        ("breaths_by", "rate", {
            Stage.WAKE: (1.02, (0.98, 1.06)), Stage.LIGHT: (0.95, (0.92, 0.98)),
            Stage.DEEP: (0.92, (0.89, 0.95))}, ""),
        ("rsa_by", "RSA", {
            Stage.WAKE: (0.90, (0.75, 1.05)), Stage.LIGHT: (1.33, (1.05, 1.45)),
            Stage.DEEP: (1.37, (1.05, 1.50))}, OLDER),
    )  # fmt: skip
    for key, name, figures, note in relative:
        for stage, (said, published) in figures.items():
            rows.append(
                _row("breathing", f"{name}, {STAGE_NAMES[stage]} against REM", "",
                     _against_rem(healthy, key, stage), published, f"{said}", PENZEL, note)
            )  # fmt: skip
    rows += [
        _row("breathing", name, unit, _of(healthy, key), published, said, RSA_PHASE, RSA_NOTE)
        for name, unit, key, published, said in (
            ("RR with the chest, correlation at lag 0", "", "rsa_correlation", (-1.0, 0.0),
             "negative: RR shortens as the chest expands"),
            ("RR shortest after the chest's peak by", "s", "rsa_lag_s", (-0.5, 1.0),
             "about the end of inspiration"),
            ("RR behind the chest, breaths below 12/min", "degrees", "rsa_behind_slow",
             (-60.0, 15.0), "in phase, or ahead"),
            ("RR behind the chest, breaths above 16/min", "degrees", "rsa_behind_fast",
             (10.0, 75.0), "behind"),
        )
    ]  # fmt: skip
    bound = np.nanmean(_of(healthy, "sync_by"), axis=0)
    for stage, said, published in (
        (Stage.WAKE, 1.6, (1.1, 2.2)), (Stage.LIGHT, 2.7, (1.9, 3.6)),
        (Stage.DEEP, 4.2, (2.8, 5.6)),
    ):  # fmt: skip
        rows.append(
            Statistic("breathing", f"synchronisation, {STAGE_NAMES[stage]} against REM", "",
                      float(bound[stage] / bound[Stage.REM]), None, published,
                      f"{said}; Wake 1.6 %, REM 0.6 %, NREM 3.8 % of the time",
                      f"{PENZEL}; 10.1103/PhysRevLett.98.054102",
                      f"{100 * bound[stage]:.1f} % of the time here, by a laxer criterion")
        )  # fmt: skip
    for stage, said, published in (
        (Stage.WAKE, 0.25, (0.15, 0.35)), (Stage.REM, 0.18, (0.12, 0.24)),
        (Stage.LIGHT, 0.10, (0.06, 0.14)), (Stage.DEEP, 0.06, (0.03, 0.09)),
    ):  # fmt: skip
        rows.append(
            _row("breathing", f"CV of breath intervals, {STAGE_NAMES[stage]}", "",
                 _of(nights, "breath_cv_by")[:, stage], published, f"{said}", "unsourced",
                 "in 5 min of the stage")
        )  # fmt: skip
    return rows


def movement_statistics(nights: Sequence[Measured]) -> list[Statistic]:
    """Large movements, asleep and by stage."""
    source = "PMC10424171, 100 healthy people"
    rows = [
        _row("movement", "large movements asleep, median", "1/h", _of(nights, "movements_asleep"),
             (4.5, 10.8), "6.8, quartiles 4.5-10.8", source),
        _row("movement", "their length, median of means", "s", _of(nights, "movement_s"),
             (10.7, 14.4), "12.4, quartiles 10.7-14.4", source),
    ]  # fmt: skip
    for stage, said, published in (
        (Stage.WAKE, "30-60", (27.0, 60.0)), (Stage.REM, "7", (3.5, 10.5)),
        (Stage.LIGHT, "N1 15, N2 5", (4.0, 10.0)), (Stage.DEEP, "1-2", (0.5, 4.0)),
    ):  # fmt: skip
        rows.append(
            _row("movement", f"large movements, {STAGE_NAMES[stage]}", "1/h",
                 _of(nights, "movements_by")[:, stage], published, said, "unsourced")
        )  # fmt: skip
    return rows
