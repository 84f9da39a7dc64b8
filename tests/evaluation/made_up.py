"""Results of a made-up study: noise about invented stages, measured by the real functions."""

import dataclasses

import numpy as np

from kd_sleep.config import EvaluationConfig
from kd_sleep.datasets.nights import Nights
from kd_sleep.evaluation import report, results, scores, selective
from kd_sleep.evaluation.bootstrap import ScoredNights
from kd_sleep.evaluation.calibration import calibration
from kd_sleep.evaluation.information import Ladder
from kd_sleep.evaluation.results import Interval
from kd_sleep.evaluation.sleep_measures import agreement
from kd_sleep.features.inputs import SCOPES
from kd_sleep.study.conclusions import article_table, conclusions

CONFIG = EvaluationConfig(bootstrap_draws=50)
SKILLS = {"teacher": 0.9, "student_distilled": 0.6, "student_hard_labels": 0.3}
AMOUNTS = [(41, "all"), (20, "20 nights"), (6, "a handful"), (0, "none")]


def hypnogram(rng, windows, stages=4):
    """Bouts that last some minutes."""
    found = []
    while len(found) < windows:
        found += [int(rng.integers(stages))] * int(rng.geometric(0.08))
    return np.array(found[:windows])


def probabilities(rng, labels, skill):
    """[N, K] that know the stage by so much, subject by subject a little different."""
    flat = rng.dirichlet(np.ones(4), size=len(labels))
    skill = np.clip(skill + rng.normal(0, 0.1), 0.02, 0.95)
    truth = np.where(rng.random(len(labels)) < 0.4 + 0.6 * skill, labels, rng.integers(0, 4))
    mixed = flat * (1 - skill) + np.eye(4)[truth] * skill
    return mixed / mixed.sum(-1, keepdims=True)


def evaluated(subjects=6, stages=4, windows=60):
    """(nights, systems, results) of one evaluation."""
    rng = np.random.default_rng(1)
    labels = [hypnogram(rng, windows, stages) for _ in range(subjects)]
    names = [f"{kind}{n}" for kind in "ns" for n in range(subjects)]
    nights = ScoredNights(names[:subjects], names[subjects:], labels)
    systems = {
        name: [probabilities(rng, n, skill) for n in labels] for name, skill in SKILLS.items()
    }
    systems["time_of_night"] = scores.time_of_night_probs(labels, nights)
    systems["majority"] = scores.majority_probs(labels, nights)
    logits = {name: [np.log(p) for p in probs] for name, probs in systems.items()}
    found = dataclasses.replace(
        scores.score(nights, systems, CONFIG),
        sleep_measures=agreement(nights, systems, CONFIG),
        calibration=calibration(nights, logits, CONFIG, (nights, logits)),
        data=results.Data(
            split="test", subjects=subjects, recordings=subjects, windows=windows * subjects,
            cohort="a cohort of numbers", bcg_source="simulated", simulated=True, left_out=[],
            seeds=[0], training_nights=41, labelled_nights=6, validation_nights=4,
        ),
        provenance={"versions": {"kd_sleep": "0.1"}, "seed": 5},
    )  # fmt: skip
    return nights, systems, found


def study_of(nights, found, seeds=(0, 1, 2), shapes=("context", "single_window")):
    """A study, with its ablations and conclusions."""
    rng = np.random.default_rng(2)
    cells, gains = [], []
    for shape in shapes:
        for number, (labelled_nights, labelled) in enumerate(AMOUNTS):
            pair = {
                "student_distilled": 0.65 - 0.02 * number - 0.15 * (shape == "single_window"),
                "student_hard_labels": 0.6 - 0.17 * number - 0.15 * (shape == "single_window"),
                "teacher": 0.9,
            }
            systems = {
                name: [probabilities(rng, n, skill) for n in nights.labels]
                for name, skill in pair.items()
            }
            scored = scores.score(nights, systems, CONFIG)
            place = {"student": shape, "labelled": labelled, "labelled_nights": labelled_nights}
            for loss in (scores.DISTILLED, scores.HARD_LABELS)[: 2 if labelled_nights else 1]:
                pooled = scored.systems[loss].pooled
                runs = [
                    results.RunScore(
                        seed, seed, pooled.accuracy.value + rng.normal(0, 0.02), pooled.kappa.value
                    )
                    for seed in seeds
                ]
                alpha = 0.3 if loss == scores.DISTILLED else 1.0
                settings = (loss, alpha, 4.0, 0.003, 0.1, 12, 0.31)
                cells.append(results.StudyCell(*place.values(), *settings, pooled, runs))
            if labelled_nights:
                gains.append(results.StudyGain(**vars(scored.distillation), **place))
    of = found.systems
    rows = [
        results.AblationRow(
            name, f"{name}, in words", of["student_distilled"].pooled,
            change := Interval(value, value - 0.02, value + 0.02), change, scores.verdict(change),
        )
        for name, value in (("as it is", 0.0), ("without T²", -0.03), ("reverse KL", 0.01))
    ]  # fmt: skip
    study = results.Study(
        True, len(nights.labels), list(seeds), list(seeds), of["teacher"].pooled,
        {name: of[name].pooled for name in ("time_of_night", "majority")}, cells, gains,
        results.Ablations("context", "a handful", 6, 0.3, 4.0, rows),
    )  # fmt: skip
    return dataclasses.replace(study, conclusions=conclusions(study), article=article_table(study))


def ladder_of(nights):
    """A ladder of two seeds on each rung."""
    rng = np.random.default_rng(3)
    names = {
        "time of night": 0.15, "RR from ECG": 0.7, "JJ, every beat": 0.65,
        "JJ found in the BCG": 0.35, "+ breath and movement": 0.5,
    }  # fmt: skip
    rungs = {
        name: np.stack(
            [np.log(np.concatenate([soft(rng, n, skill) for n in nights.labels])) for _ in "ab"]
        )
        for name, skill in names.items()
    }
    labels = np.concatenate(nights.labels)
    subjects = np.repeat(nights.subject_ids, [len(n) for n in nights.labels])
    prior = np.log(np.full(4, 0.25))
    ladder = Ladder(labels, subjects, prior, rungs, "RR from ECG", ["+ breath and movement"])
    found = ladder.measure(CONFIG)
    causes = ["", "", "sensor timing", "detector and noise", "breath and movement"]
    return dataclasses.replace(
        found,
        rungs=[
            dataclasses.replace(rung, cause=cause, text="what it is" if cause else "")
            for rung, cause in zip(found.rungs, causes, strict=True)
        ],
        sensor=Interval(-0.3, -0.4, -0.2),
        seeds=[0, 1],
        about=["Simulated: the sensor's noise can be switched off here, as no real one can."],
    )


def soft(rng, labels, skill):
    """[N, K] calibrated by construction: the stage gets `skill` in so many windows."""
    sure = np.clip(skill + rng.normal(0, 0.03), 0.05, 0.9)
    right = rng.random(len(labels)) < sure + (1 - sure) / 4
    given = np.where(right, labels, (labels + rng.integers(1, 4, len(labels))) % 4)
    return np.eye(4)[given] * sure + (1 - sure) / 4


def sqi_of(nights, systems):
    """(the learned SQI judged, and itself for each night)."""
    rng = np.random.default_rng(4)
    student = np.concatenate(systems["student_distilled"])
    teacher = np.concatenate(systems["teacher"])
    labels = np.concatenate(nights.labels)
    counts = [len(n) for n in nights.labels]
    subjects = np.repeat(nights.subject_ids, counts)
    gap = np.sum(teacher * np.log2((teacher + 1e-9) / (student + 1e-9)), -1)
    kept = 2.0**-gap
    learned = 1 / (1 + np.exp(-(2.5 * kept - 0.6 + rng.normal(0, 0.7, len(kept)))))
    found = {
        "learned": learned,
        "best_feature": rng.normal(0, 1, len(kept)) - (labels == 0) + 0.3 * kept,
        "entropy": np.sum(student * np.log(student + 1e-12), -1),
    }
    losses = {"gap": gap, "error": (student.argmax(-1) != labels).astype(float)}
    judged = {
        kind: selective.judge(loss, subjects, found, CONFIG, "entropy")
        for kind, loss in losses.items()
    }
    flag = float(np.quantile(learned, 0.2))
    flags = selective.flagged(learned < flag, labels, losses["error"], gap, subjects, CONFIG)
    conclusions = ["The learned SQI comes nearer to the oracle than entropy does."]
    sqi = results.Sqi("student_distilled", flag, 0.2, judged, flags, conclusions)
    return sqi, np.split(learned, np.cumsum(counts)[:-1])


def dataset_of(nights):
    """The same nights as a dataset has them, without samples."""
    rng = np.random.default_rng(5)
    windows = np.array([len(n) for n in nights.labels])
    total = int(windows.sum())
    missing = np.zeros(total, np.float32)
    missing[10:13] = 1
    snr = np.where(missing > 0, np.nan, 6 + rng.normal(0, 4, total))
    empty = np.zeros((total, 0), np.float32)
    ids = tuple(nights.recording_ids)
    return Nights(
        recording_ids=ids,
        subject_ids=tuple(nights.subject_ids),
        windows=windows,
        label=np.concatenate(nights.labels).astype(np.int8),
        tachogram=empty,
        tachogram_valid=empty.astype(bool),
        hrv=empty,
        **dict.fromkeys(("jj", "beat_confidence", "breath", "movement"), empty),
        **{f"summary_{scope}": empty for scope in SCOPES},
        rr_missing=missing,
        bcg=None,
        bcg_scale=np.full(total, 1e-3, np.float32),
        bcg_missing=missing,
        bcg_snr_db=snr.astype(np.float32),
        teacher_digest=ids,
        bcg_digest=ids,
        places=(None,) * len(ids),
        cohort="a cohort of numbers",
        bcg_source="simulated",
    )


def curves():
    """As training logs them."""
    rows = [{"step": s, "loss": 2.0 / (s + 1), "validation_kappa": None} for s in range(5)]
    rows.append({"step": 4, "validation_kappa": 0.4})
    return {"teacher": rows, "student_distilled": rows}


def everything(subjects=6, stages=4):
    """(results, nights, curves) as `write_report` takes them, with a study, a ladder and an SQI."""
    nights, systems, found = evaluated(subjects, stages)
    sqi, of_night = sqi_of(nights, systems)
    found = dataclasses.replace(
        found, study=study_of(nights, found), ladder=ladder_of(nights), sqi=sqi
    )
    drawn = report.report_nights(found, dataset_of(nights), systems, of_night, sqi.flag_below)
    return found, drawn, curves()
