"""A person of an SHHS-like cohort: what stays from night to night.

Middle-aged and older people of both sexes, recorded at home in a night that is the first with
sensors on. Sources in brackets: [SHHS-parents] PMC10354680, table 1 (ARIC, CHS and FHS, three of
SHHS's parent cohorts); [SHHS-2] Chronobiology in Medicine 2023;5(2), table of
2,363 SHHS nights; [Walsleben] 10.1093/sleep/27.2.293, 470 healthy people of SHHS; [Sinnreich]
Heart 1998;80:156-162, five minutes at rest, awake; [Mehra] PMC2662909, arrhythmia in SHHS;
[Viola] J Sleep Res 2003;12(3), HRV by stage at 65 years; "unsourced" marks common knowledge.
"""

from __future__ import annotations

import dataclasses

import numpy as np

AGE_Y = (62.2, 10.4)  # mean, SD [SHHS-2]
MEN = 0.447  # share [SHHS-2]

# Share of sleep that is Deep: median 17-18 %, quartiles 8-10 and 26 % [SHHS-parents]; 6.7 points
# more in women, 1.9 points a decade less in men alone [Walsleben].
DEEP_SHARE = 0.175  # of a man and a woman of the mean age
DEEP_OF_WOMEN = 0.075  # before what a night has no room for
DEEP_PER_DECADE_OF_MEN = -0.019
DEEP_SD = 0.085

WAKE_PER_DECADE = 0.15  # log; WASO +9.7 min a decade in healthy adults (Boulos 2019), of some 79

# log(RMSSD / ms) at rest: 3.49 at 40 years, 3.08 at 60, quartiles 2.69-3.46 [Sinnreich]; that
# asleep, median 25 ms over the night, is unsourced.
RMSSD_S = 0.025
RMSSD_LOG_SD = 0.5
RMSSD_LOG_PER_Y = -0.020

# Events per hour of sleep: 45-61 % of people have five or more, 17-26 % fifteen [SHHS-parents].
APNOEA_PER_H = 5.4  # median
APNOEA_LOG_SD = 1.15
APNOEA_CYCLE_S = (25.0, 60.0)  # Guilleminault 1984: cyclic variation of heart rate; as in DOMAIN

AF_SHARE = ((30.0, 0.048), (5.0, 0.02), (0.0, 0.009))  # by events per hour, at least [Mehra]
BETA_BLOCKER_SHARE = 0.14  # unsourced
ECTOPIC_SHARE = 0.4  # of people with ectopic beats enough to count, unsourced


@dataclasses.dataclass(frozen=True)
class Subject:
    """What stays with a person from night to night.

    Attributes:
      age_y: years.
      male: sex.
      heart_rate_bpm: mean of a REM window early in the night.
      rsa_s: amplitude of respiratory sinus arrhythmia in REM.
      breaths_per_min: in REM.
      breath_cv_factor: on the irregularity of breathing.
      ectopic_per_h: premature beats.
      stage_response: how strongly mean heart rate follows the stage; 0 in some people.
      tone_response: how strongly variability follows the stage; less with age.
      lf_hf_factor: on the ratio of the cohort.
      deep_share: of sleep.
      rem_factor: on the length of REM episodes.
      wake_factor: on the rate of awakenings.
      apnoea_per_h: apnoeas and hypopnoeas per hour of sleep.
      apnoea_cycle_s: from one event to the next within a run of them.
      fibrillation: share of the night in atrial fibrillation; 0 in nearly everyone.
      beta_blocker: slows the heart and damps its responses.
    """

    age_y: float
    male: bool
    heart_rate_bpm: float
    rsa_s: float
    breaths_per_min: float
    breath_cv_factor: float
    ectopic_per_h: float
    stage_response: float
    tone_response: float
    lf_hf_factor: float
    deep_share: float
    rem_factor: float
    wake_factor: float
    apnoea_per_h: float
    apnoea_cycle_s: float
    fibrillation: float
    beta_blocker: bool


def draw_subject(rng: np.random.Generator, age_y: float | None = None) -> Subject:
    """A person of the cohort, or of a given age.

    Args:
      rng: the person's own.
      age_y: years; None draws it.
    """
    drawn = float(np.clip(rng.normal(*AGE_Y), 39.0, 90.0))
    age = drawn if age_y is None else age_y
    decades = (age - AGE_Y[0]) / 10.0
    male = bool(rng.random() < MEN)
    deep = DEEP_SHARE + (0.5 - male) * DEEP_OF_WOMEN + DEEP_SD * rng.normal()
    deep += decades * DEEP_PER_DECADE_OF_MEN if male else 0.0
    apnoea = APNOEA_PER_H * np.exp(
        APNOEA_LOG_SD * rng.normal() + (0.35 if male else -0.28) + 0.15 * decades
    )
    af_share = next(share for least, share in AF_SHARE if apnoea >= least)
    fibrillates = rng.random() < af_share * np.exp(0.5 * decades)  # with age: unsourced size
    persistent = rng.random() < 0.5  # unsourced
    beta_blocker = bool(rng.random() < BETA_BLOCKER_SHARE * np.exp(0.3 * decades))
    rmssd_s = RMSSD_S * np.exp(
        RMSSD_LOG_SD * rng.normal() + RMSSD_LOG_PER_Y * 10.0 * max(decades, -4.0)
    )
    ectopic = float(np.exp(rng.normal(2.0, 1.2)))
    return Subject(
        age_y=age,
        male=male,
        # 62 ± 9 bpm, unsourced; women's hearts beat some 3 bpm faster, unsourced.
        heart_rate_bpm=float(
            np.clip(rng.normal(66.0 - 3.0 * male - 6.0 * beta_blocker, 8.5), 42.0, 95.0)
        ),
        # A sinusoid of amplitude A at a quarter of the heart rate has an RMSSD of about A; RSA
        # in NREM is larger than in REM, and slow variability adds to it.
        rsa_s=float(np.clip(rmssd_s / 1.3, 0.003, 0.12)),
        breaths_per_min=float(np.clip(rng.normal(15.0, 2.3), 9.0, 22.0)),  # 15 ± 2.5, unsourced
        breath_cv_factor=float(np.exp(rng.normal(0.0, 0.40))),  # unsourced, see autonomic.WANDER
        ectopic_per_h=ectopic if rng.random() < ECTOPIC_SHARE else 0.0,
        # Among 165 people another study finds no stage difference in mean rate (PMC5914741).
        stage_response=float(np.clip(rng.normal(0.9, 0.5), 0.0, 2.0)),
        # [Viola]: at 65 no difference between stages in any power; Penzel's figures are of
        # healthy people from 20 to 90 years.
        tone_response=float(np.clip(rng.normal(0.62 - 0.08 * decades, 0.35), 0.0, 1.8)),
        lf_hf_factor=float(np.exp(rng.normal(0.0, 0.45)) * (0.8 if beta_blocker else 1.0)),
        deep_share=float(np.clip(deep, 0.005, 0.40)),
        rem_factor=float(np.exp(rng.normal(0.0, 0.22))),  # REM 20.7 ± 5.8 % [SHHS-parents]
        wake_factor=float(np.exp(rng.normal(0.0, 0.30) + WAKE_PER_DECADE * decades)),
        apnoea_per_h=float(min(apnoea, 80.0)),
        apnoea_cycle_s=float(rng.uniform(*APNOEA_CYCLE_S)),
        fibrillation=(1.0 if persistent else float(rng.uniform(0.05, 0.8))) if fibrillates else 0.0,
        beta_blocker=beta_blocker,
    )
