"""What an evaluation or a study finds: the types behind results.json.

`plain_json` turns any of them into JSON and back. A number that is not defined is None. Gains are
distilled - hard labels; shares, kappa and F1 are fractions, not percent.
"""

from __future__ import annotations

import dataclasses
from typing import Any

ByStage = dict[str, "Interval"]


@dataclasses.dataclass(frozen=True)
class Interval:
    """A value with its bootstrap interval."""

    value: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def scaled(self, factor: float) -> Interval:
        """The same in another unit; `factor` > 0."""
        parts = (self.value, self.low, self.high)
        return Interval(*(None if part is None else factor * part for part in parts))


@dataclasses.dataclass(frozen=True)
class Sampling:
    """What the bootstrap drew."""

    subjects: int
    draws: int
    confidence: float
    seed: int
    note: str | None


@dataclasses.dataclass(frozen=True)
class Scores:
    """Of one system on all windows, or the difference of two."""

    accuracy: Interval
    kappa: Interval
    macro_f1: Interval
    recall: ByStage
    precision: ByStage
    f1: ByStage


@dataclasses.dataclass(frozen=True)
class NightScore:
    """Of one recording; `confusion` [K, K] has the scored stages in its rows."""

    recording_id: str
    subject_id: str
    windows: int
    accuracy: float | None
    kappa: float | None
    confusion: list[list[int]]


@dataclasses.dataclass(frozen=True)
class RunScore:
    """Of one training run: `label_seed` drew its labelled nights."""

    seed: int
    label_seed: int
    accuracy: float | None
    kappa: float | None


@dataclasses.dataclass(frozen=True)
class SystemScores:
    """`pooled` is the mean over `runs`; `confusion` and `per_recording` are of the first run."""

    pooled: Scores
    confusion: list[list[int]]
    per_recording: list[NightScore]
    runs: list[RunScore]


@dataclasses.dataclass(frozen=True)
class Recovered(Interval):
    """Share of the teacher's lead over hard labels, in accuracy; `reason` where there is none."""

    reason: str | None = None


@dataclasses.dataclass(frozen=True)
class Gain:
    """What distillation changed; `conclusion` is on accuracy."""

    differences: Scores
    conclusion: str
    teacher_lead_recovered: Recovered


@dataclasses.dataclass(frozen=True)
class Agreement:
    """System - scorer for one sleep measure: `lower` and `upper` are the 95 % limits of agreement.

    `undefined` counts the scored nights where one of the two hypnograms lacks the measure.
    """

    bias: Interval
    lower: Interval
    upper: Interval
    mean_absolute_error: Interval
    sd: float | None
    nights: int
    undefined: int


@dataclasses.dataclass(frozen=True)
class NightMeasures:
    """Sleep measures of one recording, by the scorer and by each system."""

    recording_id: str
    scorer: dict[str, float | None]
    systems: dict[str, dict[str, float | None]]


@dataclasses.dataclass(frozen=True)
class SleepMeasures:
    """By measure; `scorer`: means; `distillation`: change of the mean absolute error."""

    scorer: dict[str, Interval]
    systems: dict[str, dict[str, Agreement]]
    distillation: dict[str, Interval] | None
    per_recording: list[NightMeasures]


@dataclasses.dataclass(frozen=True)
class Bin:
    """Windows of like prediction: its mean, and the share that came true."""

    windows: int
    predicted: float
    observed: Interval


@dataclasses.dataclass(frozen=True)
class CalibrationScores:
    """NLL in nats, Brier score in [0, 2], expected calibration error as a fraction."""

    nll: Interval
    brier: Interval
    ece: Interval
    reliability: list[Bin]


@dataclasses.dataclass(frozen=True)
class SystemCalibration:
    """Before and after its temperature; `note` says why there is none, or what is odd about it."""

    temperature: float | None
    note: str | None
    before: CalibrationScores
    after: CalibrationScores | None


@dataclasses.dataclass(frozen=True)
class Calibration:
    """`distillation`: change of NLL, Brier and ECE, after the temperature where there is one.

    `validation_nights` and `validation_windows` fitted the temperatures; 0 without any.
    """

    bins: int
    validation_nights: int
    validation_windows: int
    systems: dict[str, SystemCalibration]
    distillation: dict[str, Interval] | None


@dataclasses.dataclass(frozen=True)
class Area:
    """Under a risk-coverage curve; less is better.

    `against_baseline` is score - baseline, `way_to_oracle` the share of the way from the baseline
    to the oracle.
    """

    area: Interval
    against_baseline: Interval
    way_to_oracle: Interval


@dataclasses.dataclass(frozen=True)
class Judged:
    """Confidence scores against one loss.

    Attributes:
      baseline: the score that others are compared with.
      aurc, augrc: score -> area.
      curves: score -> coverage, and risk of the windows kept.
    """

    baseline: str
    aurc: dict[str, Area]
    augrc: dict[str, Area]
    curves: dict[str, tuple[list[float], list[float]]]


@dataclasses.dataclass(frozen=True)
class Flagged:
    """Share of windows that a flag falls on; share of errors and bits lost, before and after."""

    share: Interval
    by_stage: ByStage
    errors_all: Interval
    errors_kept: Interval
    bits_all: Interval
    bits_kept: Interval


@dataclasses.dataclass(frozen=True)
class Sqi:
    """The learned SQI judged by two losses: "gap" (bits lost) and "error" (wrong stage).

    `flagged_on_validation`: share of the validation windows below `flag_below`.
    """

    student: str
    flag_below: float
    flagged_on_validation: float
    judged: dict[str, Judged]
    flagged: Flagged
    conclusions: list[str]


@dataclasses.dataclass(frozen=True)
class Rung:
    """Usable information on a rung of the ladder, bits per window, and the step to it.

    Attributes:
      change, change_by_stage: difference to the rung before; of the first, to the prior.
      expected: "gain" or "loss"; contrary: the step goes the other way; note: why it may.
      cause, text: what the step changes; "" up to the top rung.
    """

    name: str
    bits: Interval
    by_stage: ByStage
    change: Interval
    change_by_stage: ByStage
    expected: str
    contrary: bool
    note: str | None
    cause: str = ""
    text: str = ""


@dataclasses.dataclass(frozen=True)
class LadderResult:
    """The information ladder; `gap` is the change from `top` to the last rung.

    Attributes:
      sensor: from the ECG to the beats found in the BCG; network: its own step, None without one.
      inferred: whether the noise-free BCG was rendered from an inferred drive.
    """

    top: str
    rungs: list[Rung]
    gap: Interval
    sensor: Interval = Interval()
    network: Interval | None = None
    inferred: bool = False
    seeds: list[int] = dataclasses.field(default_factory=list)
    about: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class StudyCell:
    """One student of a study: `labelled` names the amount `labelled_nights`."""

    student: str
    labelled: str
    labelled_nights: int
    loss: str
    alpha: float
    temperature: float
    learning_rate: float
    label_smoothing: float
    tried: int
    validation_kappa: float
    scores: Scores
    runs: list[RunScore]


@dataclasses.dataclass(frozen=True)
class StudyGain(Gain):
    """Of one student at one amount of labels."""

    student: str
    labelled: str
    labelled_nights: int


@dataclasses.dataclass(frozen=True)
class AblationRow:
    """A student with one part of the loss changed, and its difference to the first row."""

    name: str
    text: str
    scores: Scores
    accuracy_change: Interval
    kappa_change: Interval
    conclusion: str


@dataclasses.dataclass(frozen=True)
class Ablations:
    """`rows`: the loss as it is, then each change."""

    student: str
    labelled: str
    labelled_nights: int
    alpha: float
    temperature: float
    rows: list[AblationRow]


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim of the article beside what was found here."""

    claim: str
    here: str
    verdict: str


@dataclasses.dataclass(frozen=True)
class Study:
    """Students by shape, amount of labels and loss, on the same test subjects."""

    simulated: bool
    subjects: int
    seeds: list[int]
    label_seeds: list[int]
    teacher: Scores
    floors: dict[str, Scores]
    cells: list[StudyCell]
    gains: list[StudyGain]
    ablations: Ablations
    conclusions: list[str] = dataclasses.field(default_factory=list)
    article: list[Claim] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Data:
    """What was scored. `left_out` lists nights without an ECG or BCG that was needed."""

    split: str
    subjects: int
    recordings: int
    windows: int
    cohort: str
    bcg_source: str
    simulated: bool
    left_out: list[str]
    seeds: list[int]
    training_nights: int
    labelled_nights: int
    validation_nights: int


@dataclasses.dataclass(frozen=True)
class Results:
    """What results.json holds.

    Attributes:
      bootstrap: what was drawn.
      unscored_recordings: ids of nights without any label; they enter no score.
      systems: name -> scores.
      distillation: None without both students.
      sleep_measures, calibration, sqi, study, ladder: None where not measured.
      data: what was scored.
      provenance: settings and versions.
    """

    bootstrap: Sampling
    unscored_recordings: list[str]
    systems: dict[str, SystemScores]
    distillation: Gain | None
    sleep_measures: SleepMeasures | None = None
    calibration: Calibration | None = None
    sqi: Sqi | None = None
    study: Study | None = None
    ladder: LadderResult | None = None
    data: Data | None = None
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)
