"""The simulator against the literature: one statistic a row, inside its published range or not.

`literature.csv` holds what is published of each: the range that counts as agreeing, the figures in
words, the source with DOI or PMC number (or `unsourced`), and how the statistic is taken from the
simulated nights. Its columns:

  measure, stage, per  a name of `measures`, at a stage, divided by the same at stage `per`
  people               all, healthy (who a study of healthy sleepers would take), young; sensors for
                       `sensor_measures`, whose name is the statistic's; none for `_pooled`
  summary              over nights: mean, median, lower quartile, sd, log sd, ratio of means; value
                       where there is one for all

A range is what published cohorts or studies span. Where one study alone has a figure it is that
figure with some 15 % of a mean, 30 % of a ratio or an exponent, or a factor of 1.6 for chances of
change, on either side: as far as studies of other people lie from each other. A statistic outside
it is mended in the physiology, or its row says why; none is ever fitted to what a model makes of
the nights.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_sleep import metrics
from kd_sleep.parallel import map_nights
from kd_sleep.simulation import hypnogram, measures, sensor_measures
from kd_sleep.simulation.physiology import Drive, Physiology, draw_subject, simulate_night
from kd_sleep.simulation.subject import Subject
from kd_sleep.stages import NUM_STAGES, STAGE_NAMES, Stage

HOURS = (8.2, 0.5)  # of a recording: 475 min in bed (2,363 nights of SHHS), and until sensors off
YOUNG_Y = 23.0  # of the people of the overnight RR recordings, 22-26
YOUNG_NIGHTS = 120
SENSOR_NIGHTS = 12  # of which ECG and BCG are made: the slowest part
BEDS = ("film", "load_cell")
PEOPLE = 4000  # drawn for shares of people: more than nights, since they take little time
SUMMARIES: dict[str, Callable[[NDArray], Any]] = {
    "mean": np.mean,
    "median": np.median,
    "lower quartile": lambda values: np.percentile(values, 25),
    "sd": np.std,
    "log sd": lambda values: np.std(np.log(values)),
    "ratio of means": np.mean,
    "value": np.mean,
}
_WITH_SPREAD = ("mean", "median", "lower quartile")


@dataclasses.dataclass(frozen=True)
class Statistic:
    """One row of the validation table.

    Attributes:
      group: such as `stages`, `heart`, `breathing`, `movement`, `scorers`, `ecg`, `bcg`.
      name: what is measured, in words.
      unit: of the values; "" for a share or a ratio.
      value: on the simulated nights.
      p5, p95: percentiles over nights or people; None where it is one figure for all.
      low, high: smallest and largest value that counts as agreeing.
      published: mean and SD, population, in words.
      source: with DOI or PMC number; `unsourced` for common knowledge without a source.
      note: why it lies outside, or what differs between the populations.
    """

    group: str
    name: str
    unit: str
    value: float
    p5: float | None
    p95: float | None
    low: float
    high: float
    published: str
    source: str
    note: str = ""

    @property
    def inside(self) -> bool:
        """Whether the simulated value lies in the published range."""
        return self.low <= self.value <= self.high


@dataclasses.dataclass(frozen=True)
class Measured:
    """A simulated night and what was measured in it."""

    subject: Subject
    scored: NDArray[np.int8]
    again: NDArray[np.int8]  # by a second scorer
    numbers: measures.Numbers

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
    """Simulates one night and measures it; heart figures leave out atrial fibrillation."""
    subject, night = draw_night(seed, number, age_y)
    numbers = measures.of_stages(night.scored) | measures.of_movement(night)
    numbers |= measures.of_breath(night)
    if subject.fibrillation == 0.0:
        numbers |= measures.of_heart(night)
    again = hypnogram.score(np.random.default_rng([seed, number, 1]), night.latent)
    numbers["scorers_agree"] = float(np.mean(night.scored == again))
    return Measured(subject, night.scored, again, numbers)


def simulate(nights: int, workers: int = 0, seed: int = 0) -> tuple[list[Measured], list[Measured]]:
    """Measured nights of the cohort, and of young people to compare with recorded nights.

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


def statistics(
    nights: Sequence[Measured],
    young: Sequence[Measured],
    drives: Sequence[Drive] = (),
    people: int = PEOPLE,
    seed: int = 0,
) -> list[Statistic]:
    """Every row of the table.

    Args:
      nights: of the cohort.
      young: nights of the young.
      drives: nights to make ECG and BCG of; with none, their rows are left out.
      people: drawn for what concerns people rather than nights.
      seed: of the sensors.
    """
    groups = {
        "all": list(nights),
        "healthy": [night for night in nights if night.healthy],
        "young": list(young),
    }
    pooled = _pooled(nights) | _of_people(people)
    by_sensor = _sensed(drives, np.random.default_rng(seed)) if drives else {}
    rows: list[Statistic] = []
    text = resources.files(__package__).joinpath("literature.csv").read_text(encoding="utf-8")
    entries = list(csv.DictReader(text.splitlines()))
    for entry in entries:
        if entry["people"] == "sensors":
            continue
        if entry["people"]:
            values = _over_nights(entry, groups[entry["people"]])
        else:
            values = np.atleast_1d(pooled[f"{entry['measure']} {entry['stage']}".strip()])
        rows.append(_row(entry, values, entry["name"]))
    for sensor, found in by_sensor.items():
        for entry in entries:
            if entry["name"] in found:
                label = f"{entry['name']} ({sensor.replace('_', ' ')})" if sensor else entry["name"]
                rows.append(_row(entry, found[entry["name"]], label))
    return rows


def _row(entry: Mapping[str, str], values: NDArray, name: str) -> Statistic:
    """A row from one value per night; those that a night does not have are left out."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    value = float(SUMMARIES[entry["summary"]](values)) if len(values) else float("nan")
    low = high = None
    if entry["summary"] in _WITH_SPREAD and len(values):
        low, high = (float(v) for v in np.percentile(values, [5, 95]))
    return Statistic(
        entry["group"], name, entry["unit"], value, low, high, float(entry["low"]),
        float(entry["high"]), entry["published"], entry["source"], entry["note"],
    )  # fmt: skip


def _over_nights(entry: Mapping[str, str], nights: Sequence[Measured]) -> NDArray[np.float64]:
    """One value per night that has the measure."""
    key = entry["measure"] + ("_by" if entry["stage"] else "")
    values = np.array([night.numbers[key] for night in nights if key in night.numbers], float)
    if not entry["stage"] or not len(values):
        return values
    if entry["summary"] == "ratio of means":
        values = np.nanmean(values, axis=0, keepdims=True)
    at = values[:, STAGE_NAMES.index(entry["stage"])]
    return at / values[:, STAGE_NAMES.index(entry["per"])] if entry["per"] else at


def _sensed(
    drives: Sequence[Drive], rng: np.random.Generator
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Sensor ("" for the ECG) -> statistic -> [nights]."""

    def stacked(nights: list[dict[str, float]]) -> dict[str, NDArray[np.float64]]:
        return {name: np.array([night[name] for night in nights]) for name in nights[0]}

    out = {"": stacked([sensor_measures.of_ecg(drive, rng) for drive in drives])}
    for bed in BEDS:
        out[bed] = stacked([sensor_measures.of_bcg(drive, rng, bed) for drive in drives])
    return out


def _pooled(nights: Sequence[Measured]) -> dict[str, Any]:
    """What is taken over all nights at once."""
    found: dict[str, Any] = {
        "wake_exponent": wake_exponent(
            np.concatenate([night.numbers["wake_within"] for night in nights])
        ),
        "time_of_night_kappa": time_of_night_kappa(nights),
        "explained_by_stage": float(np.mean(list(explained_by_stage(nights).values()))),
    }
    transitions = np.sum([night.numbers["transitions"] for night in nights], axis=0)
    chance = transitions / transitions.sum(1, keepdims=True)
    counts = np.zeros((NUM_STAGES, NUM_STAGES), np.int64)
    for night in nights:
        counts += metrics.confusion_counts(night.scored, night.again, NUM_STAGES)
    found["scorers_kappa"] = float(metrics.kappa(counts))
    for k, stage in enumerate(STAGE_NAMES):
        lengths = [night.numbers["bouts"][k] for night in nights]
        found[f"bout_windows {stage}"] = np.concatenate(lengths)
        both, one, other = counts[k, k], counts[k].sum(), counts[:, k].sum()
        rest = counts.sum() - one - other + both
        found[f"scorers_kappa {stage}"] = float(
            metrics.kappa([[both, one - both], [other - both, rest]])
        )
        for j, after in enumerate(STAGE_NAMES):
            found[f"chance {stage} to {after}"] = float(chance[k, j])
    return found


def wake_exponent(lengths: NDArray) -> float:
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


def explained_by_stage(nights: Sequence[Measured]) -> dict[str, float]:
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


def _of_people(people: int) -> dict[str, float]:
    """Shares of people with apnoea and fibrillation; effects of sex and age on the stages."""
    rng = np.random.default_rng(0)
    drawn = [draw_subject(rng) for _ in range(people)]
    windows = round(HOURS[0] * 120)
    slept = [
        measures.of_stages(hypnogram.score(rng, hypnogram.draw_stages(rng, subject, windows)))
        for subject in drawn
    ]
    apnoea = np.array([subject.apnoea_per_h for subject in drawn])
    male = np.array([subject.male for subject in drawn])
    decade = np.array([subject.age_y for subject in drawn]) / 10.0
    deep = np.array([night["deep_share"] for night in slept])
    waso = np.array([night["waso_min"] for night in slept])
    good = np.isfinite(deep) & np.isfinite(waso)

    def per_decade(values: NDArray, who: NDArray) -> float:
        return float(np.polyfit(decade[who], values[who], 1)[0])

    return {
        "apnoea_5": float((apnoea >= 5).mean()),
        "apnoea_15": float((apnoea >= 15).mean()),
        "fibrillation": float(np.mean([subject.fibrillation > 0 for subject in drawn])),
        "deep_women_less_men": float(deep[good & ~male].mean() - deep[good & male].mean()),
        "deep_per_decade_men": per_decade(deep, good & male),
        "deep_per_decade_women": per_decade(deep, good & ~male),
        "waso_per_decade": per_decade(waso, good),
    }
