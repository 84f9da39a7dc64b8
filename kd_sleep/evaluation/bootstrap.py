"""Draws of subjects and training runs, for the intervals of every figure.

Windows of one person resemble each other, so what is resampled is the subject, with all of their
recordings (the cluster bootstrap of Field & Welsh 2007,
https://doi.org/10.1111/j.1467-9868.2007.00593.x). Confusion counts add up, so a draw is a weighted
sum of the subjects' counts, and all draws are one matrix product. Every system meets the same
draws: differences between systems are paired.

A system may be several training runs: draws of its labelled nights x seeds. Its score is the mean
over runs, and its interval covers subjects, draws and seeds. Percentiles of a resampling of m = 5
runs are too narrow, by sqrt((m - 1) / m) and because m values hardly know their spread. So the
draws of a bootstrap add, for each kind of run,

    sum_i w_i (x_i - mean x),   w_i = e_i / sqrt(m (m - 1)) * sqrt((m - 1) / chi2_(m - 1)),

with e_i standard normal: given x this is Student's t of m - 1 degrees of freedom times the standard
error s / sqrt(m). Systems share the weights, so differences are paired by draw and by seed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import SupportsFloat

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kd_sleep.config import EvaluationConfig
from kd_sleep.datasets.nights import Nights
from kd_sleep.errors import DatasetError
from kd_sleep.evaluation.results import Interval, Sampling
from kd_sleep.stages import NUM_STAGES, UNSCORED

FEW_SUBJECTS = 20  # below, percentile intervals are visibly too narrow


@dataclasses.dataclass(frozen=True)
class ScoredNights:
    """What was scored by hand: one entry per recording, in one order.

    Attributes:
      recording_ids: unique names.
      subject_ids: one per recording; visits of one person share it.
      labels: int arrays [N_r], the stage of each window, -1 where nobody scored it.
    """

    recording_ids: Sequence[str]
    subject_ids: Sequence[str]
    labels: Sequence[NDArray[np.integer]]

    def __post_init__(self) -> None:
        if not len(self.recording_ids) == len(self.subject_ids) == len(self.labels) > 0:
            raise ValueError(
                f"expected at least one night and equal lengths, got {len(self.recording_ids)}"
                f" recordings, {len(self.subject_ids)} subjects, {len(self.labels)} label arrays"
            )
        if len(set(self.recording_ids)) != len(self.recording_ids):
            raise ValueError("recording_ids: a recording occurs twice")
        for recording, labels in zip(self.recording_ids, self.labels, strict=True):
            if labels.ndim != 1 or not labels.size or labels.dtype.kind not in "iu":
                raise ValueError(
                    f"{recording}: expected integer labels [N], N > 0,"
                    f" got {labels.dtype}{list(labels.shape)}"
                )
            if labels.min() < UNSCORED or labels.max() >= NUM_STAGES:
                raise ValueError(f"{recording}: labels outside {UNSCORED}..{NUM_STAGES - 1}")

    @classmethod
    def of(cls, nights: Nights) -> ScoredNights:
        """Those of a split."""
        return cls(nights.recording_ids, nights.subject_ids, nights.labels())


@dataclasses.dataclass(frozen=True)
class Bootstrap:
    """The draws of subjects that every score, system and difference shares.

    Attributes:
      scored: [R] whether a night has any label. The other nights, and subjects who have no scored
        night, would add nothing but noise to the draws and are in none.
      subject: [number of scored nights] which of the U subjects each belongs to.
      weights_DU: how often each draw takes each subject; no draws (D = 0) from one subject.
      confidence: coverage of the intervals.
      seed: of the draws.
    """

    scored: NDArray[np.bool_]
    subject: NDArray[np.intp]
    weights_DU: NDArray[np.float64]
    confidence: float
    seed: int

    @classmethod
    def of(cls, nights: ScoredNights, config: EvaluationConfig) -> Bootstrap:
        """The draws for these nights: the same nights and seed give the same draws.

        Raises:
          DatasetError: if no window of any night is scored.
        """
        scored = np.array([bool((labels >= 0).any()) for labels in nights.labels])
        if not scored.any():
            raise DatasetError("These nights have no scored window, so there is nothing to score.")
        names, subject = np.unique(np.asarray(nights.subject_ids)[scored], return_inverse=True)
        subjects = len(names)
        draws = config.bootstrap_draws if subjects > 1 else 0
        rng = np.random.default_rng(config.bootstrap_seed)
        weights = rng.multinomial(subjects, np.full(subjects, 1 / subjects), size=draws)
        seed = config.bootstrap_seed
        return cls(scored, subject, weights.astype(np.float64), config.confidence, seed)

    @classmethod
    def of_windows(
        cls, subjects_N: ArrayLike, config: EvaluationConfig
    ) -> tuple[list[str], NDArray[np.intp], Bootstrap]:
        """The same draws for figures of windows.

        Args:
          subjects_N: [N] whose window it is, N > 0.
          config: draws, coverage and seed.

        Returns:
          Names of the U subjects, the number of each window's subject [N], and the draws.
        """
        ids = np.asarray(subjects_N)
        # Windows of a night lie together, and sorting a million texts is slow.
        starts = np.flatnonzero(np.append(True, ids[1:] != ids[:-1]))
        names, of_run = np.unique(ids[starts].astype(str), return_inverse=True)
        subject = np.repeat(of_run, np.diff(starts, append=len(ids)))
        # A subject stands for one night of one window: all that is asked for is the draws.
        nights = ScoredNights(names.tolist(), names.tolist(), [np.zeros(1, np.int8)] * len(names))
        return names.tolist(), subject, cls.of(nights, config)

    @property
    def subjects(self) -> int:
        """How many there are to draw from."""
        return self.weights_DU.shape[1]

    def sampling(self, config: EvaluationConfig) -> Sampling:
        """What was drawn, for the results."""
        return Sampling(
            self.subjects,
            config.bootstrap_draws,
            config.confidence,
            config.bootstrap_seed,
            _note(self.subjects),
        )

    def by_subject(self, sums_R: NDArray) -> NDArray[np.float64]:
        """Sums over each subject's scored nights, [R, ...] -> [U, ...]."""
        sums_U = np.zeros((self.subjects, *sums_R.shape[1:]))
        np.add.at(sums_U, self.subject, sums_R[self.scored])
        return sums_U

    def draw(self, sums_U: NDArray) -> NDArray[np.float64]:
        """Sums over the subjects of each draw, [U, ...] -> [D, ...]."""
        return np.tensordot(self.weights_DU, sums_U, axes=1)

    def interval(self, value: SupportsFloat, draws_D: NDArray[np.float64]) -> Interval:
        """Percentile interval; low and high are None where the percentiles are not known.

        That is so with one subject, and where too many draws lack what the value is made of.
        """
        defined = draws_D[np.isfinite(draws_D)]
        if not math.isfinite(value) or defined.size < max(1, self.confidence * draws_D.size):
            return Interval(number(value))
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(defined, [tail, 1 - tail])
        return Interval(float(value), float(low), float(high))

    def run_weights(self, runs: int, kind: int) -> NDArray[np.float64]:
        """[D, runs] the w of this module's equation; 0 for a single run.

        Args:
          runs: how many of a kind.
          kind: 0 for draws of labelled nights, 1 for seeds; their weights are independent.
        """
        if runs == 1:
            return np.zeros((len(self.weights_DU), 1))
        rng = np.random.default_rng([self.seed, kind, runs])
        normal = rng.standard_normal((len(self.weights_DU), runs))
        chi2 = rng.chisquare(runs - 1, (len(self.weights_DU), 1))
        return normal / np.sqrt(runs * chi2)


def number(value: SupportsFloat) -> float | None:
    """A number for JSON, None where it is not defined."""
    return float(value) if math.isfinite(value) else None


def _note(subjects: int) -> str | None:
    if subjects == 1:
        return "One subject: there is nothing to resample, so no interval is given."
    if subjects < FEW_SUBJECTS:
        return (
            f"Only {subjects} subjects: the intervals are too narrow. A nominal 95 % interval of a"
            " mean covers about 84 % with 5 subjects and 90 % with 10."
        )
    return None
