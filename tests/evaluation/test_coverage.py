"""Do intervals of a gain cover it as often as they claim? By simulation of whole studies.

A study: 60 test subjects; students on hard labels and distilled, each from five draws of the
labelled nights x five seeds. The chance of a right stage has parts of the subject, of the draw (in
part shared by both students), of the seed, of draw and seed together, and of subject and run. The
true gain is the one over all subjects, draws and seeds.
"""

import numpy as np
import pytest

from kd_sleep.config import EvaluationConfig
from kd_sleep.evaluation import scores
from kd_sleep.evaluation.bootstrap import Bootstrap, ScoredNights

SUBJECTS, DRAWS, SEEDS, WINDOWS = 60, 5, 5, 400
GAIN = 0.04
CONFIG = EvaluationConfig(bootstrap_draws=400)
# Standard deviations of accuracy: those of draws and seeds as measured with six labelled nights.
MEASURED = {"draw": 0.04, "shared_draw": 0.03, "seed": 0.017, "run": 0.01}
SUBJECTS_ALONE = {"draw": 0.0, "shared_draw": 0.0, "seed": 0.0, "run": 0.0}
SEEDS_ALONE = {"draw": 0.0, "shared_draw": 0.0, "seed": 0.03, "run": 0.01}


def simulated(rng, draw, shared_draw, seed, run, draws=DRAWS, seeds=SEEDS):
    """Counts of right and wrong [L, S, U, K, K] of both students; only Wake is ever scored."""
    shape = (draws, seeds, SUBJECTS)
    subject = 0.08 * rng.standard_normal(SUBJECTS)
    shared = shared_draw * rng.standard_normal((draws, 1, 1))
    found = []
    for mean in (0.6 + GAIN, 0.6):
        chance = (
            mean + subject + shared
            + 0.03 * rng.standard_normal(SUBJECTS)  # of a subject with this loss
            + draw / np.sqrt(2) * rng.standard_normal((draws, 1, 1))
            + seed / np.sqrt(2) * rng.standard_normal((1, seeds, 1))
            + run * rng.standard_normal((draws, seeds, 1))
            + 0.02 * rng.standard_normal(shape)
        )  # fmt: skip
        right = rng.binomial(WINDOWS, np.clip(chance, 0, 1))
        counts = np.zeros((*shape, 4, 4), np.int64)
        counts[..., 0, 0], counts[..., 0, 1] = right, WINDOWS - right
        found.append(scores.Runs(counts, []))
    return found


def coverage(studies, **parts):
    """Share of the studies whose interval of the gain in accuracy holds the true one."""
    rng = np.random.default_rng(0)
    names = [f"s{n}" for n in range(SUBJECTS)]
    nights = ScoredNights(names, names, [np.zeros(1, np.int8)] * SUBJECTS)
    covered = 0
    for number in range(studies):
        config = EvaluationConfig(CONFIG.bootstrap_draws, bootstrap_seed=number)
        bootstrap = Bootstrap.of(nights, config)
        distilled, baseline = (runs.drawn(bootstrap) for runs in simulated(rng, **parts))
        found = scores.gain(bootstrap, distilled, baseline, None).differences.accuracy
        covered += found.low <= GAIN <= found.high
    return covered / studies


@pytest.mark.slow
@pytest.mark.parametrize("parts", [MEASURED, SUBJECTS_ALONE, SEEDS_ALONE])
def test_nominal_95_percent_intervals_cover_at_least_93(parts):
    assert coverage(600, **parts) >= 0.93


def test_intervals_of_few_runs_cover():
    assert coverage(40, **MEASURED) >= 0.875
